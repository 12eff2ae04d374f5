"""A field known in closed form, to judge renderers by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


class SphereField(torch.nn.Module):
    """A sphere of almost uniform density, coloured by where its surface faces."""

    def __init__(self, radius: float = 0.5, center: tuple[float, float, float] = (0, 0, 0), density: float = 300.0):
        super().__init__()
        self.density_inside = torch.nn.Parameter(torch.tensor(density))
        self.radius = radius
        self.center = torch.tensor(center)

    def density(self, x: Tensor) -> Tensor:
        return self.density_inside * torch.sigmoid((self.radius - (x - self.center).norm(dim=1)) * 1000)

    def color(self, x: Tensor, directions: Tensor) -> Tensor:
        return 0.5 + 0.5 * self.normal(x)

    def normal(self, x: Tensor) -> Tensor:
        return normalize(x - self.center, dim=1)

    def forward(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(x), self.color(x, directions)

    def hit(self, origins: Tensor, directions: Tensor) -> Tensor:
        """(r,) distance at which rays meet the sphere, inf where they miss it."""
        toward = self.center - origins
        along = (toward * directions).sum(1)
        half_chord = self.radius**2 - (toward.square().sum(1) - along**2)
        return torch.where(half_chord > 0, along - half_chord.clamp(min=0).sqrt(), torch.inf)
