"""Where a scene stands in the coordinates of its model: what is to be modelled lies in [-1, 1]^3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """A shift and a scale: model = (world - center) * scale.

    Attributes:
        center: in the world of the scene.
        scale: model units per unit of the scene, above 0.
        unbounded: whether there is more to see outside [-1, 1]^3, which a model has to contract.
    """

    center: tuple[float, float, float]
    scale: float
    unbounded: bool

    def apply_cameras(self, camera_to_world: Tensor) -> Tensor:
        """Poses (n, 4, 4) in the coordinates of the model; rotations stay as they are."""
        moved = camera_to_world.clone()
        moved[:, :3, 3] = self.to_model(camera_to_world[:, :3, 3])
        return moved

    def to_model(self, points: Tensor) -> Tensor:
        """(..., 3) from the world of the scene to the model."""
        return (points - points.new_tensor(self.center)) * self.scale

    def to_world(self, points: Tensor) -> Tensor:
        """(..., 3) from the model to the world of the scene."""
        return points / self.scale + points.new_tensor(self.center)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"center": list(self.center), "scale": self.scale, "unbounded": self.unbounded}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Placement:
        """The inverse of `to_json`.

        Raises:
            ValueError: it is not what `to_json` gives.
        """
        try:
            x, y, z = (float(value) for value in data["center"])
            placement = Placement((x, y, z), float(data["scale"]), bool(data["unbounded"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a placement: {data}") from error
        if not (math.isfinite(x + y + z) and 0 < placement.scale < math.inf):
            raise ValueError(f"not a placement: {data}")
        return placement
