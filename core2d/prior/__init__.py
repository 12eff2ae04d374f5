"""One frozen diffusion prior: what it is told, how it is asked, and its exact twin, the oracle."""
