"""Pictures in and out, whole or absent; videos are in `core2d.media.videos`.

In memory a picture is an array `(h, w, 3 or 4)` of uint8, or a tensor `(c, h, w)` of floats in [0, 1].
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, atomic_path, check_output

if TYPE_CHECKING:
    import torch

LARGEST_PICTURE = 64_000_000  # pixels; more is refused when read
READABLE = ("PNG", "JPEG", "WEBP")
WRITE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
}


# -- pictures ------------------------------------------------------------------------------------------


def to_uint8(images: "torch.Tensor") -> np.ndarray:
    """Floats `(..., c, h, w)` to bytes `(..., h, w, c)`: clamped to [0, 1], rounded to the nearest of 256.

    Raises:
        ValueError: the values are no floats, or some are not finite.
    """
    if not images.is_floating_point() or not images.isfinite().all():
        raise ValueError(f"images must be finite floats in [0, 1], not {images.dtype} with NaN or infinity")
    scaled = images.detach().float().clamp(0, 1).mul(255).round()  # (..., c, h, w)
    return scaled.movedim(-3, -1).byte().cpu().numpy()  # (..., h, w, c)


def image_grid(images: "torch.Tensor | np.ndarray", columns: int | None = None) -> np.ndarray:
    """Put pictures side by side, row after row; what stays empty is white (and opaque).

    Args:
        images: floats `(b, c, h, w)` in [0, 1], or uint8 `(b, h, w, c)`.
        columns: pictures in a row; by default about as many as rows.

    Returns:
        uint8 `(rows * h, columns * w, c)`.
    """
    pictures = images if isinstance(images, np.ndarray) else to_uint8(images)  # (b, h, w, c)
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or not len(pictures):
        raise ValueError(f"a grid takes (b, h, w, c) of uint8 with b > 0, not {_describe(pictures)}")
    count, height, width, channels = pictures.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = pictures
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)  # (rows, h, columns, w, c)
    return grid.reshape(rows * height, columns * width, channels)


def save_image(path: str | Path, image: "torch.Tensor | np.ndarray", text: Mapping[str, Any] | None = None) -> Path:
    """Write one picture, or a batch as a grid, in the format that the name ends in.

    Args:
        path: .png, .jpg (quality 95, full colour resolution) or .webp (lossless).
        image: uint8 `(h, w, 3 or 4)`, or floats `(c, h, w)` or `(b, c, h, w)` in [0, 1].
        text: what a PNG says about itself, such as prompt and seed; other formats do not carry it.

    Returns:
        `path`.

    Raises:
        InputError: unknown suffix, a place where nothing can be written, transparency in a JPEG.
    """
    path = check_output(path, IMAGE_SUFFIXES)
    if not isinstance(image, np.ndarray):
        image = image_grid(image) if image.ndim == 4 else to_uint8(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"a picture is (h, w, 3 or 4) of uint8, not {_describe(image)}")
    options = dict(WRITE_OPTIONS[path.suffix.lower()])
    if options["format"] == "JPEG" and image.shape[2] == 4:
        raise InputError(f"cannot write {path}: JPEG has no transparency; write a .png or .webp")
    if options["format"] == "PNG" and text:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for name, value in text.items():
            options["pnginfo"].add_itxt(name, str(value))
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, **options)
    return path


def read_image(path: str | Path) -> np.ndarray:
    """Read a PNG, JPEG or WebP as uint8 `(h, w, 3)`, or `(h, w, 4)` where it has transparency.

    A turned photograph is set upright; of an animation the first frame is read.

    Raises:
        InputError: no such file, not one of these formats, damaged, or more than 64 million pixels.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=READABLE) as image:
            if image.width * image.height > LARGEST_PICTURE:
                raise InputError(f"{path} has {image.width} x {image.height} pixels: more than 64 million")
            upright = ImageOps.exif_transpose(image)
            return np.array(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    except FileNotFoundError as error:
        raise InputError(f"no picture at {path}") from error
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what decoders raise
        raise InputError(f"{path} cannot be read as PNG, JPEG or WebP: {error}") from error


def read_image_text(path: str | Path) -> dict[str, str]:
    """What `save_image` wrote into a PNG."""
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        return {str(name): str(value) for name, value in image.info.items() if isinstance(value, str)}


def _describe(array: np.ndarray) -> str:
    return f"{tuple(array.shape)} of {array.dtype}"
