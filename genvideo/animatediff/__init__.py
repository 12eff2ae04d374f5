"""AnimateDiff (Guo et al. 2023, 2307.04725): a sentence to a clip."""
