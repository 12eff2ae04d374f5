"""Training an IP-Adapter beside a frozen prior (Ye et al. 2023, 2308.06721, section 3.2.2, equation 6).

Latents and what the image tower sees are cached. What a picture is seen by may be another picture of the same thing:
then what it is carries over, and not where it stands.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from core2d.adapters.ip_adapter import IPAdapter, IPAdapterModel, put_into
from core2d.prior.base import LatentPrior
from core2d.prior.condition import Condition, Inputs
from core2d.training.latent_diffusion import LatentDiffusion
from core2d.training.log import tell_measured
from core2d.training.task import Losses, step_generator

IMAGE = "image"  # what the picture is called in the conditions of a training
EMPTY = -1  # the row that has no prompt


@dataclass
class ImagePromptTask:
    """Trains an IP-Adapter on cached latents and embeddings; the prior stays as it is.

    Words, pictures and both are dropped in shares of their own, so that guidance has a row that hears nothing, and
    either can be heard alone. The paper drops 5 % each. Where captions tell all that a picture shows there is nothing
    left for the image prompt to tell, and it is not learned: then `drop_words` is to be a good half.

    Attributes:
        model: begun by `core2d.adapters.ip_adapter.fresh_ip_adapter`.
        prior: frozen, on the device of the training.
        mean, deviation: (count, c, h, w) of each picture's latent posterior, scaled.
        seen: (count, references, e) or (count, references, p, d), what the tower sees in references of each picture.
        nothing: (e,) or (p, d), what a dropped picture is.
        told: what the prior is told of rows (n,); of `EMPTY` no prompt.
        drop_words, drop_picture, drop_both: shares of rows.
        measure: how well pictures are carried, as numbers by name; None tells nothing.
        snr_floor: see `LatentDiffusion`.
    """

    model: IPAdapterModel
    prior: LatentPrior
    mean: Tensor
    deviation: Tensor
    seen: Tensor
    nothing: Tensor
    told: Callable[[Tensor], Condition]
    drop_words: float = 0.05
    drop_picture: float = 0.05
    drop_both: float = 0.05
    measure: Callable[[IPAdapterModel], Mapping[str, float]] | None = None
    snr_floor: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop_words + self.drop_picture + self.drop_both <= 1:
            raise ValueError("the shares of what is dropped are together more than all")
        self.listening = self.prior.with_adapters(_Listening())  # whose network is a copy that shares its tensors

    @property
    def objective(self) -> LatentDiffusion:
        """What is minimised."""
        return LatentDiffusion(self.prior.schedule, self.snr_floor)

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Noisy latents, their noise and time, what is seen (or nothing), and the rows whose prompts are told."""
        generator = step_generator(self.seed, step)
        rows = torch.randint(len(self.mean), (batch_size,), generator=generator)
        sample, noise = torch.randn((2, batch_size, *self.mean.shape[1:]), generator=generator)
        timesteps = self.objective.timesteps(batch_size, generator)
        reference = torch.randint(self.seen.shape[1], (batch_size,), generator=generator)
        draw = torch.rand(batch_size, generator=generator)
        wordless = (draw < self.drop_words) | (draw >= 1 - self.drop_both)
        blind = (draw >= self.drop_words) & (draw < self.drop_words + self.drop_picture) | (draw >= 1 - self.drop_both)
        latents = self.mean[rows].float() + self.deviation[rows].float() * sample
        seen = self.seen[rows, reference].float()  # (n, ...)
        batch = self.objective.noisy(latents, noise, timesteps)
        batch |= {
            "asked": torch.where(wordless, EMPTY, rows),
            IMAGE: torch.where(blind.view(-1, *[1] * self.nothing.ndim), self.nothing.to(seen), seen),
        }
        return {name: value[positions] for name, value in batch.items()}

    def loss(self, model: IPAdapterModel, batch: dict[str, Tensor]) -> Losses:
        """min-SNR weighted mean squared error of the prior's prediction, which hears the picture."""
        condition = self.told(batch["asked"]).telling(**{IMAGE: batch[IMAGE]})
        inputs = self.listening.inputs(batch["noisy"], batch["timesteps"], condition, frames=1)
        predicted = self.listening.answer(IPAdapter(model, IMAGE)(inputs, condition))  # (n, c, h, w)
        return self.objective.loss(predicted, batch)

    def preview(self, model: IPAdapterModel, folder: Path, step: int) -> None:
        """Measure what is carried with the averaged weights, into `folder`/step-NNNNNN.json and on stderr."""
        if self.measure is not None:
            # a prior freezes the adapters that it is given
            tell_measured(self.measure(copy.deepcopy(model)), folder, step)


class _Listening:
    """Lets a network listen to pictures; what it hears goes with each call."""

    def __call__(self, inputs: Inputs, condition: Condition) -> Inputs:
        return inputs

    def change(self, network: nn.Module) -> None:
        put_into(network)
