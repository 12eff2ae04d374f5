"""The few pictures of a subject as people have them: photographs of any size, or cut-outs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core2d.app.errors import InputError
from core2d.media.colors import on_color
from core2d.media.pictures import WHITE, pictures_in, read_image

MASK = ".mask"  # ends the stem of a mask's name: that of mug.jpg is mug.mask.png
LEAST = 4  # a picture that is this many times smaller than what a model draws shows too little of a subject


def subject_files(folder: Path) -> dict[Path, Path | None]:
    """The pictures in a folder, by name, and the mask beside each; None where there is none.

    Raises:
        InputError: there are no pictures.
    """
    files = pictures_in(folder)
    masks = {file.with_suffix("").with_suffix(""): file for file in files if Path(file.stem).suffix == MASK}
    pictures = [file for file in files if file not in masks.values()]
    if not pictures:
        raise InputError(f"{folder} holds no pictures: put some of the subject there, as PNG, JPEG or WebP")
    return {file: masks.get(file.with_suffix("")) for file in pictures}


def read_subject(folder: Path, size: int, flip: bool = False) -> Tensor:
    """(n, 3, size, size) in [0, 1] of all pictures in a folder; with their mirror images if `flip`.

    Of a photograph the middle is taken, as large a square as it holds; a cut-out is laid on white and kept whole.

    Raises:
        InputError: no pictures, one that cannot be read, is of one colour or far smaller than `size`, or a mask of
            another size.
    """
    pictures = np.stack([_read(file, mask, size) for file, mask in subject_files(folder).items()])  # (n, s, s, 3)
    found = torch.from_numpy(pictures).movedim(-1, 1).float() / 255
    return torch.cat([found, found.flip(-1)]) if flip else found


def _read(file: Path, mask: Path | None, size: int) -> np.ndarray:
    pixels = read_image(file)  # (h, w, 3 or 4)
    height, width = pixels.shape[:2]
    if mask is not None:
        pixels = np.dstack([pixels[..., :3], _opacity(mask, file, height, width)])
    if min(height, width) * LEAST < size:
        drawn = f"the model draws {size} x {size}"
        raise InputError(f"{file} has {width} x {height} pixels, and {drawn}: give a larger one")
    is_cut_out = pixels.shape[2] == 4 and pixels[..., 3].min() < 255
    square = _padded(on_color(pixels, WHITE)) if is_cut_out else _middle(pixels[..., :3])
    if (square == square[0, 0]).all():
        raise InputError(f"{file} is of one colour where the subject should be: leave it out")
    return np.array(Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS))


def _opacity(mask: Path, file: Path, height: int, width: int) -> np.ndarray:
    """(h, w) uint8 of a mask that is white where the subject is."""
    seen = read_image(mask, (0, 0, 0))
    if seen.shape[:2] != (height, width):
        sizes = f"{seen.shape[1]} x {seen.shape[0]} pixels, and {file.name} {width} x {height}"
        raise InputError(f"the mask {mask} has {sizes}: make it as large")
    return np.array(Image.fromarray(seen).convert("L"))


def _padded(pixels: np.ndarray) -> np.ndarray:
    """A picture in the middle of a white square."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _middle(pixels: np.ndarray) -> np.ndarray:
    """The largest square in the middle of a picture."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
