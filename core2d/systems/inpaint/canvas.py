"""The picture around what is drawn: the window that the model sees, and canvases wider than the picture.

A picture is uint8 (h, w, 3 or 4), a mask (h, w) of bool.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from core2d.systems.inpaint.masks import scaled

LONGEST = 4  # sides of the model: no picture is drawn longer
BLUR = 8.0  # pixels: how much is blurred of what a wider canvas begins with


class Window(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def part(self) -> tuple[slice, slice]:
        """By which an array (h, w, ...) is cut."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def window_around(mask: np.ndarray, context: float, least: int) -> Window:
    """The part of a picture that a model is shown: what is masked, and around it.

    Args:
        context: how much around it, in lengths of its longer side.
        least: pixels that each side has at least, as far as the picture has them; nor is one less than half the other.
    """
    spans = []
    for axis, limit in ((1, mask.shape[0]), (0, mask.shape[1])):
        marked = np.flatnonzero(mask.any(axis))
        spans.append((int(marked[0]), int(marked[-1]) + 1, limit))
    margin = round(context * max(high - low for low, high, _ in spans))
    spans = [(max(0, low - margin), min(limit, high + margin), limit) for low, high, limit in spans]
    least = max(least, max(high - low for low, high, _ in spans) // 2)
    (top, height), (left, width) = (_grown(low, high, least, limit) for low, high, limit in spans)
    return Window(top, left, height, width)


def _grown(low: int, high: int, least: int, limit: int) -> tuple[int, int]:
    """Start and length of a span that has at least so many pixels, inside the picture."""
    length = min(limit, max(high - low, least))
    return min(max(0, (low + high - length) // 2), limit - length), length


def drawn_size(window: Window, side: int, factor: int) -> tuple[int, int]:
    """Height and width at which a window is drawn: its shorter side is about as long as the model's pictures.

    Args:
        side: of the model's pictures.
        factor: that both are multiples of.
    """
    shorter, longer = sorted((window.height, window.width))
    scale = min(side / shorter, LONGEST * side / longer)
    height, width = (max(factor, round(length * scale / factor) * factor) for length in (window.height, window.width))
    return height, width


def shown(pixels: np.ndarray, mask: np.ndarray, window: Window, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What the model sees: opaque pixels (h, w, 3) in a window, and the mask there, both scaled to a size."""
    return resized(pixels[window.part], size), scaled(mask[window.part], *size)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) scaled to (height, width, 3)."""
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def widened(pixels: np.ndarray, left: int, right: int, top: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    """A canvas with so many more pixels on each side, and the mask of what is new.

    What is new is opaque and begins as the picture mirrored at its edges and blurred, so that a drawing that begins
    with it (a strength below 1) begins with its colours.
    """
    sides = ((top, bottom), (left, right), (0, 0))
    canvas = np.pad(pixels, sides, mode="symmetric")  # (h, w, 3 or 4)
    mask = np.pad(np.zeros(pixels.shape[:2], bool), sides[:2], constant_values=True)  # (h, w)
    for channel in range(3):
        canvas[..., channel][mask] = ndimage.gaussian_filter(canvas[..., channel], BLUR, output=np.float32)[mask]
    canvas[mask, 3:] = 255
    return canvas, mask
