"""DDIM inversion (2010.02502, section 4.3): from a picture to noise that the prior would draw it from, step by step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from core2d.prior.base import Prior
from core2d.prior.schedule import Prediction

Predict = Callable[[Tensor, Tensor], Prediction]  # of x_t (b, c, h, w) at t (b,)


def invert(prior: Prior, latents: Tensor, t: Tensor, steps: int, predict: Predict) -> tuple[Tensor, Prediction]:
    """What latents become at times t (b,), in as many steps of even length, and what was predicted on the last one.

    A step asks at the time where it begins; the first begins where the schedule has the least noise, at the latents.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"an inversion needs at least one step, not {steps}")
    times = [torch.div(t * step, steps, rounding_mode="floor").clamp(min=1) for step in range(steps + 1)]
    x_t = prior.add_noise(latents, torch.zeros_like(latents), times[0])
    predictions = []
    for here, there in pairwise(times):
        predictions = [predict(x_t, here)]
        x_t = move(prior, predictions[0], there)
    return x_t, predictions[0]


def move(prior: Prior, prediction: Prediction, t: Tensor) -> Tensor:
    """x at times t (b,) with the picture and the noise that were predicted: alpha_t x0 + sigma_t eps."""
    return prior.add_noise(prediction.x0, prediction.eps, t)
