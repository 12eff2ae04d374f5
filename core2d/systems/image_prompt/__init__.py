"""Pictures as prompts, by an IP-Adapter (Ye et al. 2023, 2308.06721)."""
