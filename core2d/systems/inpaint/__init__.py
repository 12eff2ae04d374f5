"""Parts of pictures drawn anew, and pictures drawn on beyond their edges (Rombach et al. 2022, 2112.10752, s4.5)."""
