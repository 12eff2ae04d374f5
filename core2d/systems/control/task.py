"""Training a ControlNet beside a frozen prior (Zhang et al. 2023, 2302.05543, section 3).

Whether a map is followed shows late and suddenly, and the loss does not tell (section 3.3: "sudden convergence"). So
the task is given a measure of the true control error, and tells it at each checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from core2d.adapters.controlnet import ControlNet
from core2d.prior.base import LatentPrior
from core2d.prior.condition import Condition
from core2d.training.latent_diffusion import LatentDiffusion
from core2d.training.log import tell_measured
from core2d.training.task import Losses, step_generator

MAP = "map"  # what the map is called in the conditions of a training
EMPTY = -1  # the row that has no prompt


@dataclass
class ControlTask:
    """Trains a ControlNet on cached latents; the prior stays as it is.

    Half of the prompts are dropped, so that the ControlNet reads the map where no words tell what it shows
    (section 3.3).

    Attributes:
        model: begun by `core2d.adapters.controlnet.fresh_controlnet`.
        prior: frozen, on the device of the training.
        mean, deviation: (count, c, h, w) of each picture's latent posterior, scaled.
        maps: (n, 3, H, W) in [0, 1] of rows (n,), as large as the pictures.
        told: what the prior is told of rows (n,); of `EMPTY` no prompt.
        drop: share of prompts that are dropped.
        measure: the true control error of a ControlNet, as numbers by name: what is drawn by maps that are not trained
            on, compared with what they show. None tells nothing.
        snr_floor: see `LatentDiffusion`.
    """

    model: ControlNetModel
    prior: LatentPrior
    mean: Tensor
    deviation: Tensor
    maps: Callable[[Tensor], Tensor]
    told: Callable[[Tensor], Condition]
    drop: float = 0.5
    measure: Callable[[ControlNetModel], Mapping[str, float]] | None = None
    snr_floor: float = 0.3
    seed: int = 0

    @property
    def objective(self) -> LatentDiffusion:
        """What is minimised."""
        return LatentDiffusion(self.prior.schedule, self.snr_floor)

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Noisy latents, their noise and time, maps, and the rows whose prompts are told (some dropped)."""
        generator = step_generator(self.seed, step)
        rows = torch.randint(len(self.mean), (batch_size,), generator=generator)
        sample, noise = torch.randn((2, batch_size, *self.mean.shape[1:]), generator=generator)
        timesteps = self.objective.timesteps(batch_size, generator)
        dropped = torch.rand(batch_size, generator=generator) < self.drop
        latents = self.mean[rows].float() + self.deviation[rows].float() * sample
        batch = self.objective.noisy(latents, noise, timesteps) | {"asked": torch.where(dropped, EMPTY, rows)}
        return {name: value[positions] for name, value in batch.items()} | {MAP: self.maps(rows[positions])}

    def loss(self, model: ControlNetModel, batch: dict[str, Tensor]) -> Losses:
        """min-SNR weighted mean squared error of the prior's prediction, which hears the ControlNet."""
        condition = self.told(batch["asked"]).telling(**{MAP: batch[MAP]})
        inputs = self.prior.inputs(batch["noisy"], batch["timesteps"], condition, frames=1)
        predicted = self.prior.answer(ControlNet(model, MAP)(inputs, condition))  # (n, c, h, w)
        return self.objective.loss(predicted, batch)

    def preview(self, model: ControlNetModel, folder: Path, step: int) -> None:
        """Measure the true control error with the averaged weights, into `folder`/step-NNNNNN.json and on stderr."""
        if self.measure is not None:
            # a prior freezes the adapters that it is given
            tell_measured(self.measure(copy.deepcopy(model)), folder, step)
