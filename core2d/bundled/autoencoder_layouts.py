"""Layouts of autoencoders that a prior may stand on, and how one begins with the weights of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """An autoencoder of AutoencoderKL's kind.

    Attributes:
        channels: of its levels, from pixels to latents; each level but the last halves the picture.
        latent_channels: of the latents.
        size: pixels of a side of its pictures.
        latent_noise: standard deviation of noise that its decoder has to live with, before scaling.
        nested: its first channels are held to those of the shipped autoencoder (`AutoencoderTask.coarse`).
    """

    channels: tuple[int, ...]
    latent_channels: int
    size: int
    latent_noise: float = 0.0
    nested: bool = False

    def build(self) -> AutoencoderKL:
        """One with fresh weights."""
        levels = len(self.channels)
        blocks: dict[str, Any] = {  # diffusers types these tuples as of one entry
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": self.channels,
        }
        return AutoencoderKL(
            **blocks, layers_per_block=1, latent_channels=self.latent_channels, norm_num_groups=8,
            sample_size=self.size, mid_block_add_attention=False,
        )  # fmt: skip


LAYOUTS = {  # f: pixels to a latent along a side; c: channels of the latents
    "f8c4": Layout((24, 48, 64, 64), 4, 64),
    "f16c16": Layout((16, 24, 48, 64, 64), 16, 128),
    "f16c16-noise": Layout((16, 24, 48, 64, 64), 16, 128, 0.3),
    "f16c16-nested": Layout((16, 24, 48, 64, 64), 16, 128, nested=True),
    "f16c8": Layout((16, 24, 48, 64, 64), 8, 128),
    "f8c16": Layout((24, 48, 64, 64), 16, 64),
}


@torch.no_grad()
def begin_with(model: AutoencoderKL, other: AutoencoderKL) -> int:
    """Copy what fits from an autoencoder with fewer levels or latent channels, counted from the latents outwards.

    Returns:
        How many tensors were taken.
    """
    added = len(model.config["block_out_channels"]) - len(other.config["block_out_channels"])
    known, taken = other.state_dict(), 0
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["encoder", "down_blocks"]:  # levels are added at the pixels, where the encoder begins
            parts[2] = str(int(parts[2]) - added)
        source = known.get(".".join(parts))
        if source is None:
            continue
        if source.shape == value.shape:
            value.copy_(source)
        elif "quant_conv" in name or name.startswith(("encoder.conv_out", "decoder.conv_in")):
            into_channels(name, value, source)
        else:
            continue
        taken += 1
    return taken


def into_channels(name: str, value: Tensor, source: Tensor) -> None:
    """Put the latent channels of `source` before the new ones of `value`, in place.

    Where mean and log-variance stand side by side there are two halves; `quant_conv` has them on both its sides.
    """
    row_halves = 2 if name.startswith(("encoder.conv_out", "quant_conv")) else 1
    column_halves = 2 if name.startswith("quant_conv") else 1
    for new_rows, old_rows in zip(value.chunk(row_halves), source.chunk(row_halves), strict=True):
        if value.ndim == 1:
            new_rows[: len(old_rows)] = old_rows
            continue
        new_parts, old_parts = (rows.chunk(column_halves, dim=1) for rows in (new_rows, old_rows))
        for new, old in zip(new_parts, old_parts, strict=True):
            new[: old.shape[0], : old.shape[1]] = old


@torch.no_grad()
def even_out(model: AutoencoderKL, mean: Tensor, deviation: Tensor, known: int, scaling_factor: float) -> None:
    """Centre the latent channels after the first `known` and bring them to 1 / scaling_factor from it, in place.

    One scaling factor, which is all that stock diffusers read, then fits every channel. What is decoded stays the same:
    the layers on both sides of the latents take it up.

    Args:
        mean, deviation: (n, c, h, w) of posteriors, not scaled.
    """
    first, last = model.quant_conv, model.post_quant_conv
    assert first is not None and last is not None
    shift = mean.float().mean((0, 2, 3))  # (c,)
    spread = (mean.float().var((0, 2, 3)) + deviation.float().square().mean((0, 2, 3))).sqrt()
    gain = 1 / (spread * scaling_factor)
    shift[:known], gain[:known] = 0, 1
    means = first.weight.chunk(2)[0]
    biases, log_variances = first.bias.chunk(2)  # pyright: ignore[reportOptionalMemberAccess]
    means.mul_(gain[:, None, None, None])
    biases.sub_(shift).mul_(gain)
    log_variances.add_(2 * gain.log())
    last.bias.add_(last.weight[..., 0, 0] @ shift)  # pyright: ignore[reportOptionalMemberAccess]
    last.weight.div_(gain[None, :, None, None])
