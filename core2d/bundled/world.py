"""The pictures that the bundled generators learn from: one folder of Toybox renders, drawn once and shared."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from core2d.toybox import world
from core2d.toybox.dataset import Pictures, draw, mixed_scene

SEED = 0  # of `world.GENERATOR_SEEDS`: without the held-out pairs and motions


def training_pictures(cache: Path, count: int, size: int) -> Pictures:
    """`count` mixed stills and clip frames of `size` pixels, kept under `cache`."""
    return draw(cache / f"v{world.VERSION}-generators-{size}px-{count}", partial(mixed_scene, SEED), count, size)


def picture_rows(pictures: Pictures, rows: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 pictures (n, 3, h, w) and masks (n, h, w) of `rows` (n,)."""
    order = rows.numpy()
    return torch.from_numpy(pictures.rgb[order]), torch.from_numpy(pictures.mask[order])
