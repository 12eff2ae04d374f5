"""Toybox in space: how its models of 3D are trained and how meshes and views of it are scored."""
