"""Which noise levels a guidance looks at, from the first step to the last."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from core2d.app.errors import InputError

Shape = Literal["linear", "sqrt"]
Range = tuple[float, float]


@dataclass(frozen=True)
class TimeRange:
    """Times t are drawn uniformly from a range that moves from `start` to `end` over `steps`, then stays.

    DreamFusion (2209.14988) keeps (0.02, 0.98). MVDream (2308.16512) moves (0.98, 0.98) to (0.02, 0.5). HiFA
    (2305.18766) moves one single time with `sqrt`: (0.98, 0.98) to (0.02, 0.02).

    Attributes:
        start, end: lowest and highest time, as fractions of the schedule; 1 is pure noise.
        steps: how long the way from start to end takes; 0 is at the end from the first step on.
        shape: progress is step / steps, or its square root (fast at first).
    """

    start: Range = (0.02, 0.98)
    end: Range = (0.02, 0.98)
    steps: int = 0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        for low, high in (self.start, self.end):
            if not 0 <= low <= high <= 1:
                raise InputError(f"a range of times from {low} to {high}: give 0 <= lowest <= highest <= 1")
        if self.steps < 0:
            raise InputError(f"times that move over {self.steps} steps: give 0 or more")
        if self.shape not in get_args(Shape):
            raise InputError(f"unknown shape {self.shape!r} of the times: give {' or '.join(get_args(Shape))}")

    def at(self, step: int) -> Range:
        """Lowest and highest time at a step, as fractions."""
        progress = min(step / self.steps, 1.0) if self.steps else 1.0
        if self.shape == "sqrt":
            progress = math.sqrt(progress)
        low, high = ((1 - progress) * a + progress * b for a, b in zip(self.start, self.end, strict=True))
        return low, high

    def draw(self, step: int, rows: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
        """(b,) times in [1, T - 1], ends included: time 0 has no noise to judge by in flow matching."""
        low, high = (min(max(round(part * num_train_timesteps), 1), num_train_timesteps - 1) for part in self.at(step))
        return torch.randint(low, high + 1, (rows,), generator=generator)
