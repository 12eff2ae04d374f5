"""What the kernels of all packages share."""
