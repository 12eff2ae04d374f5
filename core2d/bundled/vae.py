"""The autoencoder of toybox-sd: AutoencoderKL, 8 times smaller latents with 4 channels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import CLIPModel

from core2d.autoencoder import AutoencoderTask
from core2d.bundled.world import picture_rows
from core2d.toybox.dataset import Pictures
from core2d.training import TrainingRecipe

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


def task(model: AutoencoderKL, pictures: Pictures, clip: CLIPModel | None = None) -> AutoencoderTask:
    """Train `model` on `pictures`; with a trained `clip`, its image tower says what a difference looks like."""

    def features(shown: Tensor) -> Sequence[Tensor]:  # clip's own normalisation is [-1, 1] too
        return clip.vision_model(pixel_values=shown, output_hidden_states=True).hidden_states[1:]  # pyright: ignore

    return AutoencoderTask(
        model, partial(picture_rows, pictures), len(pictures), body_weight=4.0, features=features if clip else None,
        seed=11,
    )  # fmt: skip
