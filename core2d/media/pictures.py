"""Pictures in and out, whole or absent; videos are in `core2d.media.videos`.

In memory a picture is an array `(h, w, 3 or 4)` of uint8, or a tensor `(c, h, w)` of floats in [0, 1].
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, atomic_path, check_output
from core2d.media.colors import WHITE as WHITE
from core2d.media.colors import Color, UnknownPixels, on_color, srgb_pixels

if TYPE_CHECKING:
    import torch

LARGEST_PICTURE = 64_000_000  # pixels; more is refused when read
READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
KINDS = "PNG, JPEG, WebP, TIFF or BMP"
READABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
ORIENTATION = 0x0112  # of EXIF: how a picture is to be turned, by these numbers
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNS_BACK = TURNS | {6: TURNS[8], 8: TURNS[6]}
SIDEWAYS = 5  # from this number on width and height change places
WRITE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True, "exact": True},  # colours under full transparency too
}


# -- writing -------------------------------------------------------------------------------------------


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


# -- reading -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureHeader:
    """What a picture file says before its pixels.

    Attributes:
        kind: "PNG", "JPEG", "WEBP", "TIFF", "BMP", "MPO" (a JPEG with previews, as of phones) or "GIF".
        size: (width, height) upright.
        stored: (width, height) before it is turned as its EXIF orientation says.
        frames: how many pictures are in it.
    """

    kind: str
    size: tuple[int, int]
    stored: tuple[int, int]
    frames: int


class UnreadablePicture(InputError):
    """A picture is missing, damaged or a Git LFS pointer; `what` says which."""

    def __init__(self, what: str, message: str):
        super().__init__(message)
        self.what = what


def read_image(path: str | Path, background: Color | None = None, upright: bool = True) -> np.ndarray:
    """Read a PNG, JPEG, WebP, TIFF or BMP; every command reads its pictures here.

    Of an animation the first frame is read. Grey, palettes, CMYK, 16 bits and ICC profiles become sRGB of 8 bits.

    Args:
        path: of the picture.
        background: the colour that is seen where the picture is transparent; None keeps transparency.
        upright: turn it as its EXIF orientation says.

    Returns:
        uint8 (h, w, 3); without a background (h, w, 4) where the file has transparency, colours not multiplied by it.

    Raises:
        UnreadablePicture: no such file, not one of these formats, damaged, or a Git LFS pointer.
        InputError: more than 64 million pixels, or pixels that are no bytes and cannot be made ones.
    """
    with _opened(path, READABLE) as image:
        turned = image.format == "TIFF"  # Pillow turns these itself while it loads them, and forgets how
        number = _orientation(image) if turned else 1
        pixels = srgb_pixels(image)
        number = number if turned else _orientation(image)  # of a PNG it may stand behind the pixels
    turn = None if turned == upright else (TURNS if upright else TURNS_BACK).get(number)
    if turn is not None:
        pixels = np.array(Image.fromarray(pixels).transpose(turn))
    return pixels if background is None else on_color(pixels, background)


def read_header(path: str | Path) -> PictureHeader:
    """What a picture, or a GIF, says before its pixels.

    Raises:
        UnreadablePicture, InputError: as `read_image`, as far as that can be told.
    """
    with _opened(path, (*READABLE, "GIF")) as image:
        size, kind = image.size, image.format or ""
        other = (size[1], size[0]) if _orientation(image) >= SIDEWAYS else size
        size, stored = (size, other) if kind == "TIFF" else (other, size)
        return PictureHeader(kind, size, stored, getattr(image, "n_frames", 1))


def is_pointer(path: str | Path) -> bool:
    """Whether Git LFS left a pointer in the place of a file."""
    with Path(path).open("rb") as file:
        return file.read(64).startswith(b"version https://git-lfs")


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and those below, by name; hidden files and folders do not count."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.rglob("*") if path.suffix.lower() in READABLE_SUFFIXES)
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))


def is_litter(path: Path) -> bool:
    """Whether a file is what file managers leave in every folder that they show."""
    return path.name.startswith("._") or path.name in (".DS_Store", "Thumbs.db", "desktop.ini")


def read_image_text(path: str | Path) -> dict[str, str]:
    """What `save_image` wrote into a PNG."""
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        return {str(name): str(value) for name, value in image.info.items() if isinstance(value, str)}


@contextlib.contextmanager
def _opened(path: str | Path, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """An image whose header is read; what goes wrong with it is said in our words."""
    try:
        if is_pointer(path):
            said = f"{path} is a Git LFS pointer: fetch the file itself with `git lfs pull`"
            raise UnreadablePicture("a Git LFS pointer", said)
        # As a file, not by its name: of that Pillow maps a plain grey or RGBA TIFF at the wrong width if it is turned.
        with (
            warnings.catch_warnings(action="ignore"),
            Path(path).open("rb") as file,
            Image.open(file, formats=formats) as image,
        ):
            if image.width * image.height > LARGEST_PICTURE:
                large = f"{path} has {image.width} x {image.height} pixels: more than 64 million"
                raise InputError(f"{large}, make it smaller")
            yield image
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UnreadablePicture("missing", f"no picture at {path}") from error
    except InputError:
        raise
    except UnknownPixels as error:
        raise InputError(f"{path} {error}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} has more than 64 million pixels: make it smaller") from error
    except Exception as error:  # decoders fail in every way on damaged files
        said = f"{path} cannot be read as {KINDS}: it is damaged or cut short, or of another kind; replace it"
        raise UnreadablePicture("damaged or cut short", said) from error


def _orientation(image: Image.Image) -> int:
    """The number of EXIF's orientation; 1, as it stands, where there is none that can be read."""
    with contextlib.suppress(Exception):  # a damaged EXIF does not make the picture unreadable
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def _describe(array: np.ndarray) -> str:
    return f"{tuple(array.shape)} of {array.dtype}"
