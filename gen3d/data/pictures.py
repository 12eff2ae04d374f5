"""The picture files of a scene: what a scene says about one, and what is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from core2d.media.pictures import read_header, read_image
from gen3d.data.lenses import Lens

Split = Literal["train", "val", "test"]
BLACK = (0, 0, 0)


@dataclass(frozen=True)
class Frame:
    """A picture as its scene describes it; nothing is checked yet.

    Attributes:
        path: of the picture.
        source: the file that says so.
        camera_to_world: (4, 4) float64, OpenGL camera axes.
        lens: makes the lens for a picture of (width, height).
        size: (width, height) that the scene states, if it does.
        mask: its pixels of value 0 are not to be learned from.
        split: what the view is for, if the scene says so.
    """

    path: Path
    source: Path
    camera_to_world: np.ndarray
    lens: Callable[[int, int], Lens]
    size: tuple[int, int] | None = None
    mask: Path | None = None
    split: Split | None = None


@dataclass(frozen=True)
class Description:
    """What the files of a scene say.

    Attributes:
        frames: of all its pictures.
        points: (n, 3) float64 on its surfaces, if known.
        bounds: distances from the cameras between which everything lies, if known.
    """

    frames: list[Frame]
    points: np.ndarray | None = None
    bounds: tuple[float, float] | None = None


def read_picture(path: Path, upright: bool = True) -> tuple[np.ndarray, bool]:
    """A picture as uint8 (h, w, 4), and whether its file has transparency; where not, alpha is 255.

    Raises:
        UnreadablePicture, InputError: as `read_image`, which says what is read and how.
    """
    pixels = read_image(path, upright=upright)
    if pixels.shape[2] == 4:
        return pixels, True
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2), False


def picture_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of a picture upright and as stored; it is decoded to the end, so that a later read cannot fail.

    Raises:
        UnreadablePicture, InputError: as `read_image`.
    """
    read_image(path)
    header = read_header(path)
    return header.size, header.stored


def read_mask(path: Path, upright: bool = True) -> np.ndarray:
    """Read a mask as bool (h, w): where the picture is not black, and not transparent.

    Raises:
        UnreadablePicture, InputError: as `read_image`.
    """
    return read_image(path, BLACK, upright).max(axis=2) > 0


def shrink(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Average `factor` x `factor` pixels of (h, w, 4) uint8 into one, colours weighted by alpha.

    What is left over on the right and below is cut off. Where all is transparent the colours are averaged evenly.
    """
    if factor == 1:
        return pixels
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    cells = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 4)
    cells = cells.swapaxes(1, 2).reshape(height, width, factor * factor, 4).astype(np.float32)  # (h', w', f f, 4)
    alpha = cells[..., 3:]
    weight = np.where(alpha.any(axis=2, keepdims=True), alpha, 1)
    colors = (cells[..., :3] * weight).sum(2) / weight.sum(2)
    return np.rint(np.concatenate([colors, alpha.mean(2)], axis=2)).astype(np.uint8)


def shrink_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """(h, w) bool made smaller like its picture: one pixel that is not to be learned from spoils the average."""
    height, width = mask.shape[0] // factor, mask.shape[1] // factor
    cells = mask[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return cells.min(axis=(1, 3))
