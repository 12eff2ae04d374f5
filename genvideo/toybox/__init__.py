"""Toybox in time: how its models of clips are trained and how clips of it are scored."""
