"""Volume rendering of fields: rays, occupancy, compositing, whole pictures."""
