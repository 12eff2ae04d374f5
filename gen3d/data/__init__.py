"""Scenes that others have photographed: Blender, nerfstudio, COLMAP and LLFF folders; lenses, pixels, placement."""
