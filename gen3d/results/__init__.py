"""What becomes of a run or a mesh: other formats, pictures, turntables, a check."""
