"""The picture files of a scene: what a scene says about one, and what is in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from core2d.app.errors import InputError
from core2d.media.pictures import LARGEST_PICTURE
from gen3d.data.lenses import Lens

Split = Literal["train", "val", "test"]
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
ORIENTATION, TURNED = 0x0112, 5  # the tag of EXIF, and from which value on width and height change places


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


class UnreadablePicture(InputError):
    """A picture is missing, damaged or a Git LFS pointer: the scene may do without it."""

    def __init__(self, path: Path, what: str, remedy: str):
        super().__init__(f"{path} is {what}: {remedy}, or leave it out with --skip-missing")
        self.what = what


def is_pointer(path: Path) -> bool:
    """Whether Git LFS left a pointer in the place of a file."""
    with path.open("rb") as file:
        return file.read(64).startswith(b"version https://git-lfs")


def refuse_pointer(path: Path) -> None:
    """Refuse a pointer of Git LFS.

    Raises:
        InputError: it is one.
    """
    if is_pointer(path):
        raise InputError(f"{path} is a Git LFS pointer: fetch the file itself with `git lfs pull`")


def read_picture(path: Path, upright: bool = True) -> tuple[np.ndarray, bool]:
    """Read a picture as uint8 (h, w, 4), colours not multiplied by alpha unless the file has them so.

    Grey and palette pictures become colours; of 16 bits the upper 8 are kept, rounded for grey ones.

    Args:
        path: a PNG, JPEG, WebP, TIFF or BMP.
        upright: turn it as its EXIF orientation says.

    Returns:
        The pixels, and whether the file has transparency; where not, alpha is 255.

    Raises:
        UnreadablePicture: missing, damaged, or a Git LFS pointer.
        InputError: more than 64 million pixels, or floating-point ones.
    """
    try:
        if is_pointer(path):
            raise UnreadablePicture(path, "a Git LFS pointer", "fetch the file itself with `git lfs pull`")
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > LARGEST_PICTURE:
                raise InputError(f"{path} has {image.width} x {image.height} pixels: more than 64 million")
            image.load()
            return _colors(ImageOps.exif_transpose(image) if upright else image, path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UnreadablePicture(path, "missing", "put it there") from error
    except InputError:
        raise
    except Exception as error:  # decoders fail in every way on damaged files
        raise UnreadablePicture(path, "damaged or cut short", "replace it") from error


def _colors(image: Image.Image, path: Path) -> tuple[np.ndarray, bool]:
    if image.mode == "F":
        raise InputError(f"{path} has floating-point pixels: save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # of 16 bits; Pillow would clip them
        grey = np.rint(np.asarray(image).astype(np.float64).clip(0, 65535) / 257).astype(np.uint8)
        image = Image.fromarray(grey)
    has_alpha = image.has_transparency_data
    return np.array(image.convert("RGBA" if has_alpha else "RGB").convert("RGBA")), has_alpha


def picture_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of a picture upright and as stored; it is decoded to the end, so that a later read cannot fail.

    Raises:
        UnreadablePicture, InputError: as `read_picture`.
    """
    height, width = read_picture(path, upright=False)[0].shape[:2]
    with Image.open(path, formats=FORMATS) as image:
        turned = image.getexif().get(ORIENTATION, 1) >= TURNED
    return ((height, width) if turned else (width, height)), (width, height)


def read_mask(path: Path, upright: bool = True) -> np.ndarray:
    """Read a mask as bool (h, w): where the picture is not black.

    Raises:
        UnreadablePicture, InputError: as `read_picture`.
    """
    return read_picture(path, upright)[0][..., :3].max(axis=2) > 0


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


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and those below, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
