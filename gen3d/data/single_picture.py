"""One picture as people have it, made ready for Zero-1-to-3: its subject found, cut out and centred."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage, sparse
from torch import Tensor

from core2d.app.errors import InputError
from core2d.media.pictures import read_header
from gen3d.data.foreground import WAYS, Foreground, Matting, covers, find, foreground_box
from gen3d.data.pictures import read_picture

MARGIN = 28 / 256  # the demo of Zero-1-to-3 lets a subject fill 200 of 256 pixels (`load_and_preprocess`)
SMALLEST = 8  # pixels of the longer side
MOST_ELONGATED = 64  # times as long as wide


@dataclass(frozen=True)
class Subject:
    """What a picture shows, without its background.

    Attributes:
        rgba: (4, size, size) float32 in [0, 1]; colours are not multiplied by alpha and go on where all is clear.
        found_by: "alpha", "mask", "plain background", "matting net" or "rembg".
        scale: pixels of the picture for each of ours.
        box: of the foreground (more than half as opaque as its most opaque pixel) in pixels of the upright picture:
            left, top, right, bottom; right and bottom are not included.
    """

    rgba: Tensor
    found_by: str
    scale: float
    box: tuple[int, int, int, int]


def read_subject(
    path: Path,
    size: int,
    mask: Path | None = None,
    foreground: Foreground = "auto",
    margin: float = MARGIN,
    recentre: bool = True,
    matting: Matting | None = None,
) -> Subject:
    """Read a picture, find its subject and put it into the middle of a square.

    Args:
        path: PNG, JPEG, WebP, TIFF or BMP of one frame, of any size and kind; EXIF turns are followed.
        size: pixels of a side of the square.
        mask: a picture of the same size, white where the subject is; its grey is alpha.
        foreground: how the subject is found. "auto" takes the first that applies: the mask; the transparency of the
            file; a plain background; `matting`; rembg, where it is installed with its model file.
        margin: share of the square that stays free on both sides of the longer side of the foreground.
        recentre: whether the foreground is centred and scaled; otherwise the whole picture fills the square.
        matting: maps (1, 3, h, w) in [0, 1] to alpha (1, 1, h, w) in [0, 1]; larger pictures are shown to it reduced.

    Raises:
        InputError: a picture that cannot be used, or in which no subject is found: the message says what to do.
        ValueError: a size or a margin that is not possible, or a matting net whose output has another shape.

    Source: Zero-1-to-3 (2303.11328), the preprocessing of its demo.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin is a share of the picture from 0 to below 0.5, not {margin}")
    if mask is not None and foreground not in ("auto", "mask"):
        raise InputError(f"--mask {mask} is not used with --foreground {foreground}: leave one of them out")
    _check(path, size)
    pixels, has_alpha = read_picture(path)
    cut, found_by = find(path, pixels, has_alpha, mask, foreground, matting)
    box = foreground_box(cut[..., 3])
    if box is None:
        raise InputError(f"{path}: nothing but background was found ({found_by}); {WAYS}")
    if covers(cut[..., 3]):
        raise InputError(f"{path}: all of it was taken for the subject ({found_by}), no background; {WAYS}")
    height, width = cut.shape[:2]
    left, top, right, bottom = box if recentre else (0, 0, width, height)
    scale = max(right - left, bottom - top) / size / (1 - 2 * margin if recentre else 1)
    start = ((left + right - size * scale) / 2, (top + bottom - size * scale) / 2)
    return Subject(torch.from_numpy(resample(cut, start, scale, size)), found_by, scale, box)


def on_background(rgba: Tensor, color: float | Tensor = 1.0) -> Tensor:
    """Lay (..., 4, h, w), colours not multiplied by alpha, on a grey value or a colour (3,): (..., 3, h, w)."""
    behind = torch.as_tensor(color, dtype=rgba.dtype, device=rgba.device).reshape(-1, 1, 1)
    alpha = rgba[..., 3:, :, :]
    return rgba[..., :3, :, :] * alpha + behind * (1 - alpha)


def resample(pixels: np.ndarray, start: tuple[float, float], scale: float, size: int) -> np.ndarray:
    """Cut a square out of a picture and bring it to a size, antialiased, colours weighted by alpha.

    The filter is a triangle as wide as the coarser pixel, as in the training of Zero-1-to-3. It has no negative parts:
    no rings, and colours between those that were there. Outside the picture all is transparent.

    Args:
        pixels: (h, w, 4) uint8, colours not multiplied by alpha.
        start: x and y of the square's corner in pixels; may lie between pixels or outside.
        scale: pixels of the picture for each of the result.
        size: of the result.

    Returns:
        (4, size, size) float32 in [0, 1], the same pixels where nothing has to be moved. Transparent places have the
        colour of the nearest that is not.
    """
    columns, across = _weights(pixels.shape[1], start[0], scale, size)
    rows, down = _weights(pixels.shape[0], start[1], scale, size)
    pixels = pixels[rows, columns]
    alpha = pixels[..., 3].astype(np.float32) / 255
    layers = [alpha, *(pixels[..., channel] * (alpha / 255) for channel in range(3))]
    alpha, *colors = (down @ layer @ across.T for layer in layers)  # (size, size) each
    empty = alpha <= 0
    rgb = np.stack(colors) / np.where(empty, 1, alpha)
    if empty.any() and not empty.all():
        nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
        rgb = rgb[:, nearest[0], nearest[1]]  # type: ignore[index]
    return np.concatenate([rgb, alpha[None]]).clip(0, 1).astype(np.float32)


def _weights(count: int, start: float, scale: float, size: int) -> tuple[slice, Any]:
    """The pixels of one axis that count, and their weights as a sparse (size, pixels)."""
    width = max(scale, 1.0)
    centers = start + (np.arange(size)[:, None] + 0.5) * scale  # (size, 1)
    reach = int(np.ceil(width)) + 1
    taps = np.floor(centers).astype(int) + np.arange(-reach, reach + 1)  # (size, taps)
    weights = np.maximum(0, 1 - np.abs(taps + 0.5 - centers) / width)
    weights /= weights.sum(1, keepdims=True)
    there = (weights > 0) & (taps >= 0) & (taps < count)
    rows = np.broadcast_to(np.arange(size)[:, None], taps.shape)[there]
    first, last = (int(taps[there].min()), int(taps[there].max()) + 1) if there.any() else (0, 1)
    data = (weights[there].astype(np.float32), (rows, taps[there] - first))
    return slice(first, last), sparse.csr_array(data, shape=(size, last - first))


# -- reading -----------------------------------------------------------------------------------------------------


def _check(path: Path, size: int) -> None:
    """Refuse by its header what cannot be used, before anything is decoded."""
    header = read_header(path)
    kind, (width, height) = header.kind, header.size
    frames = 1 if kind == "MPO" else header.frames  # phones add previews to a JPEG
    if frames > 1:
        raise InputError(f"{path} has {frames} frames: save the one that is meant as a picture of its own")
    if kind == "GIF":
        raise InputError(f"{path} is a GIF: save it as a PNG")
    longer, shorter = max(width, height), min(width, height)
    if longer < SMALLEST:
        raise InputError(f"{path} is {width} x {height} pixels: nothing can be seen in it, give at least {SMALLEST}")
    if longer > MOST_ELONGATED * shorter:
        left = f"hardly a line would be left of it in {size} x {size}"
        times = f"{longer // shorter} times as long as wide"
        raise InputError(f"{path} is {width} x {height} pixels, {times}: {left}; crop it")
