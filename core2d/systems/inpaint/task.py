"""Training an inpainting model that begins as a prior (Rombach et al. 2022, 2112.10752, section 4.5).

    begun = fresh_inpainter(prior)               # core2d.systems.inpaint.formats; says what the prior says
    prior, layers = low_rank(begun, rank)        # or whole_copy(begun)
    task = InpaintTask(layers, prior, mean, deviation, pictures, words)
    train(task, recipe, run)

The model is told the mask and the latents of the picture without what is masked, as `Inpaint` tells it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from core2d.prior.backbone import Backbone
from core2d.prior.condition import Condition
from core2d.systems.inpaint.masks import training_masks
from core2d.systems.inpaint.pipeline import told
from core2d.training.latent_diffusion import LatentDiffusion
from core2d.training.log import tell_measured
from core2d.training.task import Losses, step_generator

EMPTY = -1  # the row that has no prompt


@dataclass
class InpaintTask:
    """Trains an inpainting model on cached latents.

    Attributes:
        model: what learns: layers of the denoiser of `prior`.
        prior: an inpainting model that speaks with what learns, on the device of the training.
        mean, deviation: (count, c, h, w) of each picture's latent posterior, scaled.
        pictures: (n, 3, H, W) in [0, 1] of rows (n,).
        words: what the prior is told of rows (n,); of `EMPTY` no prompt.
        drop: share of prompts that are dropped, for guidance (2207.12598 section 3.2).
        measure: errors by name of what is drawn into masks that nothing learns from, with what has learned so far.
            None tells nothing.
        snr_floor: see `LatentDiffusion`.
    """

    model: nn.Module
    prior: Backbone
    mean: Tensor
    deviation: Tensor
    pictures: Callable[[Tensor], Tensor]
    words: Callable[[Tensor], Condition]
    drop: float = 0.1
    measure: Callable[[], Mapping[str, float]] | None = None
    snr_floor: float = 0.3
    seed: int = 0

    @property
    def objective(self) -> LatentDiffusion:
        """What is minimised."""
        return LatentDiffusion(self.prior.schedule, self.snr_floor)

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Noisy latents, their noise and time, pictures, masks, and the rows whose prompts are told (some dropped)."""
        generator = step_generator(self.seed, step)
        rows = torch.randint(len(self.mean), (batch_size,), generator=generator)
        sample, noise = torch.randn((2, batch_size, *self.mean.shape[1:]), generator=generator)
        timesteps = self.objective.timesteps(batch_size, generator)
        dropped = torch.rand(batch_size, generator=generator) < self.drop
        height, width = (self.prior.vae_scale_factor * length for length in self.mean.shape[2:])
        masks = training_masks(batch_size, height, width, generator)
        latents = self.mean[rows].float() + self.deviation[rows].float() * sample
        batch = self.objective.noisy(latents, noise, timesteps)
        batch |= {"asked": torch.where(dropped, EMPTY, rows), "masks": masks}
        return {name: value[positions] for name, value in batch.items()} | {"pictures": self.pictures(rows[positions])}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Losses:
        """min-SNR weighted mean squared error of the prediction, of the whole picture: at sampling all is drawn."""
        with torch.no_grad():
            channels = told(self.prior, batch["pictures"], batch["masks"])
        condition = replace(self.words(batch["asked"]), channels=channels)
        inputs = self.prior.inputs(batch["noisy"], batch["timesteps"], condition, frames=1)
        return self.objective.loss(self.prior.answer(inputs), batch)

    def preview(self, model: nn.Module, folder: Path, step: int) -> None:
        """Measure with the averaged weights, which are in place now, into `folder`/step-NNNNNN.json and on stderr."""
        if self.measure is not None:
            tell_measured(self.measure(), folder, step)
