"""Radiance fields: what has a density, a colour and a normal at every point."""
