"""Diffusion transformers: their blocks, DiT (2212.09748), PixArt (2310.00426, 2403.04692), and their files."""
