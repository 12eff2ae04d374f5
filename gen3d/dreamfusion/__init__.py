"""DreamFusion (Poole et al. 2022, 2209.14988): a sentence to a textured mesh."""
