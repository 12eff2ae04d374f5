"""Masks of what is drawn anew: read from files, seen by latents, and made up for training.

A mask is an array (H, W) of bool, True where is drawn, or a tensor (n, 1, H, W) of 1 and 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from core2d.app.errors import InputError
from core2d.media.pictures import read_image

BLACK = (0, 0, 0)
FULL = 0.25  # share of training masks that cover all: the published recipe of Stable Diffusion's inpainting models
STROKES = 0.6  # share of the others that are strokes; the rest are boxes
LARGEST_BOXES = 3  # of one mask
LARGEST_STROKES, LARGEST_CORNERS = 4, 6


def read_mask(path: Path, height: int, width: int) -> np.ndarray:
    """The mask in a picture file: white is drawn anew, from half of the brightness on; what is transparent is black.

    Raises:
        InputError: it cannot be read, has another size, or marks nothing.
    """
    pixels = read_image(path, BLACK)  # (h, w, 3)
    if pixels.shape[:2] != (height, width):
        has = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise InputError(f"the mask {path} has {has} pixels and the picture {width} x {height}: give one of that size")
    mask = pixels.mean(2) >= 127.5
    if not mask.any():
        raise InputError(f"the mask {path} has no white: paint white what is to be drawn anew")
    return mask


def scaled(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width): a pixel is masked where any masked pixel lies in it, however little."""
    if mask.shape == (height, width):
        return mask
    shares = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(shares) > 0


def on_latents(mask: Tensor, factor: int) -> Tensor:
    """(n, 1, H, W) -> (n, 1, H / factor, W / factor): a latent is masked where any masked pixel is in it.

    So no thin stroke is lost. Where masks end at latents it is what stock pipelines make of them by nearest pixels.
    """
    return F.max_pool2d(mask, factor)


# -- for training --------------------------------------------------------------------------------------------------


def training_masks(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(count, 1, height, width): a quarter covers all, the others strokes as of LaMa (2109.07161 s2.3) and boxes."""
    masks = []
    for _ in range(count):
        random = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        kind = random.random()
        if kind < FULL:
            mask = np.ones((height, width), bool)
        else:
            draw = strokes if kind < FULL + STROKES * (1 - FULL) else boxes
            mask = draw(height, width, random)
        masks.append(torch.from_numpy(mask))
    return torch.stack(masks)[:, None].float()


def strokes(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """(height, width) of one or several bent strokes with round corners."""
    image = Image.new("1", (width, height))
    pen, side = ImageDraw.Draw(image), min(height, width)
    for _ in range(random.integers(1, LARGEST_STROKES + 1)):
        point, angle = random.random(2) * (width, height), random.random() * 2 * np.pi
        thickness = side * random.uniform(0.05, 0.25)
        for _ in range(random.integers(1, LARGEST_CORNERS + 1)):
            angle += random.uniform(-np.pi / 2, np.pi / 2)
            onward = point + side * random.uniform(0.1, 0.4) * np.array([np.cos(angle), np.sin(angle)])
            pen.line([*point, *onward], 1, max(1, round(thickness)))
            for x, y in (point, onward):
                pen.ellipse([x - thickness / 2, y - thickness / 2, x + thickness / 2, y + thickness / 2], 1)
            point = np.clip(onward, 0, (width, height))
    mask = np.array(image)
    return mask if mask.any() else boxes(height, width, random)


def boxes(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """(height, width) of one or several boxes, each with sides from a fifth of the picture on."""
    mask = np.zeros((height, width), bool)
    for _ in range(random.integers(1, LARGEST_BOXES + 1)):
        tall, wide = (max(1, round(side * random.uniform(0.2, 0.7))) for side in (height, width))
        top, left = random.integers(height - tall + 1), random.integers(width - wide + 1)
        mask[top : top + tall, left : left + wide] = True
    return mask
