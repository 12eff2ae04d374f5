"""Text to image by latent diffusion (Rombach et al. 2022, 2112.10752)."""
