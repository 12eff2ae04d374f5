"""Where rays enter and leave a box."""

from __future__ import annotations

import torch
from torch import Tensor

PARALLEL = 1e-9  # a smaller component of a direction counts as this much, which moves no point by a nanometre a metre


def intersect_box(origins: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave an axis-aligned box.

    Args:
        origins, directions: (r, 3); inside the box a ray enters at 0.
        low, high: (3,) corners of the box.

    Returns:
        near, far: (r,) each; far <= near where the box is missed or lies behind.
    """
    tiny = torch.where(directions < 0, -PARALLEL, PARALLEL).to(directions)
    slope = torch.where(directions.abs() < PARALLEL, tiny, directions)  # (r, 3)
    one, other = (low - origins) / slope, (high - origins) / slope  # (r, 3) each
    near = torch.minimum(one, other).amax(dim=1).clamp(min=0)
    far = torch.maximum(one, other).amin(dim=1)
    return near, far
