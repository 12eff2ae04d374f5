"""How a task is trained: the numbers of a recipe, and what follows from them at a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core2d.app.errors import InputError

FREE_FIELDS = {"minutes", "checkpoint_every", "log_every"}  # a resume may change these, not what is learned


@dataclass(frozen=True)
class TrainingRecipe:
    """How a task is trained: everything but the task and the starting weights."""

    steps: int  # optimiser steps of the whole schedule
    batch_size: int = 64  # rows of one step, over all processes together
    learning_rate: float = 1e-3  # at the end of the warm-up
    warmup_steps: int = 100
    final_learning_rate_fraction: float = 0.02  # of learning_rate, where the cosine ends
    weight_decay: float = 0.01  # of matrices and kernels; biases, norms and scalars are not decayed
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8  # of AdamW; hash grids, whose gradients are tiny, want 1e-15
    gradient_clip: float = 1.0  # largest global norm; 0 = none
    ema_decay: float = 0.999  # reached slowly, see `ema_decay`; 0 = no average
    precision: Literal["auto", "bf16", "no"] = "auto"  # of autocast: bf16 where it is fast; weights stay
    seed: int = 0  # of dropout and the like; the data's seed is the task's
    minutes: float | None = None  # a call stops (and saves) after this long
    anneal: Literal["steps", "minutes"] = "steps"  # what the schedule counts; minutes are those of all calls together
    checkpoint_every: int = 200  # steps
    log_every: int = 20  # steps

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.anneal == "minutes" and self.minutes is None:
            raise InputError("a schedule that counts minutes needs to know how many: give minutes")


def learning_rate(recipe: TrainingRecipe, step: int, seconds: float = 0.0) -> float:
    """Rate of the update from `step` to `step + 1`: a linear warm-up, then half a cosine down.

    `seconds` have passed before it, which a schedule that counts minutes goes by.
    """
    count = step + 1
    if count <= recipe.warmup_steps:
        return recipe.learning_rate * count / recipe.warmup_steps
    progress = (count - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)  # (0, 1]
    if recipe.anneal == "minutes" and recipe.minutes is not None:
        progress = max(progress, min(1.0, seconds / max(60 * recipe.minutes, 1e-9)))
    floor = recipe.final_learning_rate_fraction
    return recipe.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def ema_decay(recipe: TrainingRecipe, step: int) -> float:
    """Share of the old average that is kept after `step`: small at first, so that the start is forgotten."""
    return min(recipe.ema_decay, (1 + step) / (10 + step))
