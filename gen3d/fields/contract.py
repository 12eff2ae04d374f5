"""What the renderer asks of a field."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Field(Protocol):
    """Anything that fills space. Points (n, 3) in metres, directions (n, 3) unit vectors along the ray of view."""

    def density(self, x: Tensor) -> Tensor:
        """(n,) per metre, not negative."""
        ...

    def color(self, x: Tensor, directions: Tensor) -> Tensor:
        """(n, 3) RGB in [0, 1]."""
        ...

    def normal(self, x: Tensor) -> Tensor:
        """(n, 3) unit vectors against the gradient of density: out of the object."""
        ...

    def __call__(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour together, which costs less than one after the other."""
        ...
