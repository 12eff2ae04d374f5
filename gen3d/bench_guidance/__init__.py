"""Guidances side by side: at equal compute, from the same starts, against known truth."""
