"""How a field is optimised, whoever judges its pictures. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ShapingConfig:
    """How a field is optimised, whoever judges its pictures."""

    steps: int = 500
    """Optimisation steps."""
    views: int = 2
    """Cameras a step, spread evenly around the object."""
    coarse_size: int = 32
    """Pixels of a side until `refine_at`; after that it is the model's own size, or 64 if that is larger."""
    refine_at: float = 0.3
    """Fraction of the steps after which pictures have full size."""
    guidance_scale: float | None = None
    """Classifier-free guidance, instead of the prior's own."""
    learning_rate: float = 0.03
    """Of Adam, for the grid and the networks."""
    opacity_weight: float = 0.008
    """Keeps empty space empty (mean opacity of rays, against the mean over a latent of the distillation)."""
    entropy_weight: float = 0.02
    """Makes rays decide between empty and opaque, growing over the steps."""
    orientation_weight: float = 0.008
    """Against surfaces that face away from the camera that sees them, in pictures that are lit."""
