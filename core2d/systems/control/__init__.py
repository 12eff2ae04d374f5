"""Pictures whose layout follows a map, by a ControlNet (Zhang et al. 2023, 2302.05543)."""
