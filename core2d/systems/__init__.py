"""The systems of the literature in two dimensions, one folder each."""
