"""What changes a prior without being trained into it: low-rank layers, control maps, image prompts."""
