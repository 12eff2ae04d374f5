"""The autoencoder of toybox-sd: AutoencoderKL, 8 times smaller latents with 4 channels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import CLIPModel

from core2d.bundled.world import picture_rows
from core2d.files.loading import load_model
from core2d.toybox.dataset import Pictures
from core2d.toybox.judge import as_seen
from core2d.training.autoencoder import AutoencoderTask
from core2d.training.loop import TrainingRecipe

CHANNELS = (24, 48, 64, 64)
RECIPE = TrainingRecipe(
    steps=3200, batch_size=24, learning_rate=1.5e-3, warmup_steps=100, ema_decay=0.995, checkpoint_every=200
)


def build(size: int) -> AutoencoderKL:
    """A fresh autoencoder for pictures of `size` pixels."""
    levels = len(CHANNELS)
    blocks: dict[str, Any] = {  # diffusers types these tuples as of one entry
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": CHANNELS,
    }
    return AutoencoderKL(
        **blocks,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=size,
        mid_block_add_attention=False,
    )


def only_decoder(model: AutoencoderKL) -> AutoencoderKL:
    """Let the decoder learn and nothing else; the same model. What was trained on its latents still fits it."""
    model.requires_grad_(True)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)  # pyright: ignore[reportOptionalMemberAccess]
    return model


def eyes_in(folder: Path, device: torch.device) -> CLIPModel | None:
    """The CLIP in a folder, if one has been trained yet, on the device of the training: the loop does not move it."""
    if not folder.is_dir():
        return None
    return load_model(CLIPModel, folder, torch.float32).to(device)  # pyright: ignore[reportArgumentType]


def task(
    model: AutoencoderKL, pictures: Pictures, clip: CLIPModel | None = None, latent_noise: float = 0.0
) -> AutoencoderTask:
    """Train `model` on `pictures`; with a trained `clip`, its image tower says what a difference looks like."""

    def features(shown: Tensor) -> Sequence[Tensor]:  # clip's own normalisation is [-1, 1] too
        return clip.vision_model(pixel_values=as_seen(shown), output_hidden_states=True).hidden_states[1:]  # pyright: ignore

    return AutoencoderTask(
        model, partial(picture_rows, pictures), len(pictures), body_weight=4.0, features=features if clip else None,
        latent_noise=latent_noise, seed=11,
    )  # fmt: skip
