"""Equal compute: a prior that counts what its network is asked, and how many steps a guidance gets of a budget.

The unit is a row: one picture at one noise level through the denoiser. Rows that a guidance's own layers are trained on
count like others; what their gradient costs beside that is seen in the seconds alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.prior.base import Prior
from core2d.prior.condition import Condition
from gen3d.dreamfusion.recipe import DreamFusionConfig
from gen3d.dreamfusion.task import Distill, DreamFusionTask
from gen3d.shaping.model import Model


@dataclass
class Tally:
    """Rows so far."""

    rows: int = 0


class Counting(Prior):
    """Beside the class of any prior: counts the rows of its network, and of those that are made from it."""

    tally: Tally

    def network(self, x_t: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        self.tally.rows += len(x_t)
        return super().network(x_t, t, condition)


def counted(prior: Prior) -> tuple[Prior, Tally]:
    """The same prior, which counts; the one that is given does not."""
    counting = copy.copy(prior)
    counting.__class__ = type(f"Counting{type(prior).__name__}", (Counting, type(prior)), {})
    counting.tally = Tally()  # pyright: ignore[reportAttributeAccessIssue]
    return counting, counting.tally  # pyright: ignore[reportAttributeAccessIssue]


def rows_of_a_step(distill: Distill, prior: Prior, prompt: str, config: DreamFusionConfig) -> int:
    """How many rows a guidance asks for in a step, found by taking one."""
    counting, tally = counted(prior)
    task = DreamFusionTask(Model(0).to(prior.device), counting, prompt, replace(config, steps=1), distill=distill)
    batch = task.batch(0, torch.arange(config.views), config.views)
    task.loss(task.model, {name: values.to(prior.device) for name, values in batch.items()})
    return tally.rows


def steps_for(budget: int, rows: int, name: str) -> int:
    """The most steps that a budget of rows pays for.

    Raises:
        InputError: not one.
    """
    if budget < rows:
        raise InputError(f"a budget of {budget} evaluations is not one step of {name}, which takes {rows}: give more")
    return budget // rows
