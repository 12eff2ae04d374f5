"""What is seen where a ray meets nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gen3d.fields.config import BackgroundConfig
from gen3d.fields.directions import spherical_harmonics
from gen3d.fields.mlp import MLP


class Background(nn.Module):
    """A colour for each direction, by a network too small to paint an object on the sky.

    Args:
        config: its shape.
        generator: draws the first parameters.
    """

    def __init__(self, config: BackgroundConfig | None = None, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config = BackgroundConfig() if config is None else config
        self.network = MLP(config.degree**2, 3, config.width, config.layers, generator)

    def forward(self, directions: Tensor) -> Tensor:
        """RGB in [0, 1] (..., 3) for unit vectors (..., 3)."""
        return torch.sigmoid(self.network(spherical_harmonics(directions, self.config.degree)))
