"""A picture to a textured mesh, under Zero-1-to-3 (Liu et al. 2023, 2303.11328, section 3.3)."""
