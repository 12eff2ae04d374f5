"""Poses of people over time: files of them, drawings of them, and films in which they are found."""
