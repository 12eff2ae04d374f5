"""DreamBooth (Ruiz et al. 2022, 2208.12242): a prior learns a subject from a few pictures, under a rare word.

    prior, layers = low_rank(prior, rank=8)              # LoRA (2106.09685), or: prior, layers = whole_copy(prior)
    subject = encoded(prior, pictures)                   # (n, 3, H, W) -> latents
    kept = drawn(prior, ["a mug"] * 64)                  # by the prior as it was: section 3.3
    task = DreamBoothTask(layers, prior, subject, kept, prior.encode_text(["a sks mug", *["a mug"] * 64]))
    train(task, recipe, run)
    write_lora(path, lora_of(prior.denoiser, NAME))

What is minimised is equation 2: the error of the subject's pictures under its name, and beside it that of pictures that
the prior drew of the subject's kind (the paper's class noun), under the name of the kind. So the rare word alone learns
what is special, and the kind stays as varied as it was. Other prompts can be kept in the same way; the paper keeps the
kind alone, and what a small model draws of everything else changes with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.media.pictures import image_grid, save_image
from core2d.prior.backbone import Backbone
from core2d.prior.condition import Condition
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.training.latent_diffusion import LatentDiffusion
from core2d.training.task import Losses, step_generator

SUBJECT = 0  # row of what is told; those after it are of what is kept
ENCODED_AT_ONCE = 8
PREVIEWS = 4  # pictures of each in a preview


@dataclass
class DreamBoothTask:
    """Rows of even number show the subject, the others what is kept: as many of the one as of the other.

    Attributes:
        model: what learns: the denoiser of `prior` (`whole_copy`), or low-rank layers in it (`low_rank`).
        prior: that speaks with what learns.
        subject: (n, c, h, w) latents of the subject's pictures.
        kept: (m, c, h, w) latents that the prior drew of its kind, and of all else that is to stay as it is; of none
            (0, c, h, w) all rows show the subject.
        told: what the prior is told of the subject, and of each that is kept: 1 + m rows.
        preservation: weight of what is kept, lambda in equation 2.
        called: names of the subject and of its kind, for previews; without names there are none.
        snr_floor: see `LatentDiffusion`.
    """

    model: nn.Module
    prior: Backbone
    subject: Tensor
    kept: Tensor
    told: Condition
    preservation: float = 1.0
    called: tuple[str, ...] = ()
    snr_floor: float = 0.3
    seed: int = 0
    objective: LatentDiffusion = field(init=False)

    def __post_init__(self) -> None:
        self.objective = LatentDiffusion(self.prior.schedule, self.snr_floor)
        if len(self.told) != 1 + len(self.kept):
            raise ValueError(f"{len(self.told)} rows are told of a subject and {len(self.kept)} that are kept")

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Noisy latents, their noise and time, and which row is told of them."""
        generator = step_generator(self.seed, step)
        is_kept = torch.arange(batch_size) % 2 if len(self.kept) else torch.zeros(batch_size, dtype=torch.long)  # (b,)
        counts = torch.tensor([len(self.subject), len(self.kept)])[is_kept]  # (b,)
        chosen = (torch.rand(batch_size, generator=generator) * counts).long()  # (b,) within either
        latents = torch.cat([self.subject, self.kept])[chosen + is_kept * len(self.subject)]  # (b, c, h, w)
        noise = torch.randn(latents.shape, generator=generator)
        rows = self.objective.noisy(latents, noise, self.objective.timesteps(batch_size, generator))
        # A weight a row: the mean over any share of the rows is what one process would see.
        rows["weight"] = rows["weight"] * torch.where(is_kept == 1, self.preservation, 1.0)
        told = torch.where(is_kept == 1, 1 + chosen, SUBJECT)  # (b,)
        return {name: value[positions] for name, value in (rows | {"told": told}).items()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Losses:
        """min-SNR weighted mean squared error of the prediction, of the subject and of what is kept (equation 2)."""
        inputs = self.prior.inputs(batch["noisy"], batch["timesteps"], self.told[batch["told"]], frames=1)
        return self.objective.loss(self.prior.answer(inputs), batch)

    def preview(self, model: nn.Module, folder: Path, step: int) -> None:
        """Draw the subject and its kind, from the same noise every time."""
        if not self.called:
            return
        pictures: Any = TextToImage(self.prior)(
            list(self.called), num_images_per_prompt=PREVIEWS, seed=self.seed, output_type="pt"
        ).images
        if pictures.isfinite().all():  # or the next loss says so
            grid = image_grid(pictures, PREVIEWS)  # a row of each
            save_image(folder / f"step-{step:06d}.png", grid, {"prompts": " | ".join(self.called)})


# -- what learns ---------------------------------------------------------------------------------------------------


def whole_copy(prior: Backbone) -> tuple[Backbone, nn.Module]:
    """The same prior with a denoiser of its own, in float32, all of which learns; `prior` stays as it is."""
    network = copy.deepcopy(prior.denoiser).float().requires_grad_(True)
    return prior.with_denoiser(network), network


# -- what it learns from -------------------------------------------------------------------------------------------


@torch.no_grad()
def encoded(prior: Backbone, pictures: Tensor) -> Tensor:
    """(n, c, h, w) latents of pictures (n, 3, H, W) in [0, 1], on the CPU."""
    parts = [prior.encode_images(part).float().cpu() for part in pictures.split(ENCODED_AT_ONCE)]
    return _finite(torch.cat(parts))


def drawn(
    prior: Backbone, prompts: Sequence[str], seed: int = 0, on_step: Callable[[int], None] | None = None
) -> Tensor:
    """(m, c, h, w) latents of what the prior draws of m prompts before it learns (section 3.3), on the CPU.

    Args:
        on_step: called with the number of pictures that took a denoising step.
    """

    def advance(_pipeline: TextToImage, _step: int, _t: Any, tensors: dict[str, Tensor]) -> None:
        if on_step is not None:
            on_step(len(tensors["latents"]))

    latents: Any = TextToImage(prior)(
        list(prompts), generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompts))],
        output_type="latent", callback_on_step_end=advance,
    ).images  # fmt: skip
    return _finite(latents.float().cpu())


def _finite(latents: Tensor) -> Tensor:
    if not latents.isfinite().all():
        raise InputError("the model gave numbers that are not finite: its weights are damaged, or try --dtype float32")
    return latents
