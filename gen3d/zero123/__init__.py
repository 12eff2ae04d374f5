"""Zero-1-to-3 (Liu et al. 2023, 2303.11328): what one picture shows, seen from elsewhere."""
