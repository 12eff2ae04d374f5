"""The files that a mesh names: found however their names were written, read as pictures, missed aloud."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

# AVIF comes last: not every build of Pillow has it. Formats that start other programs (EPS) are left out.
FORMATS = ("PNG", "JPEG", "WEBP", "TGA", "BMP", "DIB", "TIFF", "GIF", "DDS", "PPM", "PCX", "SGI", "AVIF")


def say(path: Path, message: str) -> None:
    """Tell on stderr what of a mesh could not be taken over."""
    sys.stderr.write(f"{path}: {message}\n")


def find_beside(folder: Path, name: str) -> Path | None:
    """The file that a mesh in `folder` names, or None.

    Names come from other machines: backslashes separate folders as slashes do, letter case may differ, and where the
    folders do not exist here, the last part is looked for beside the mesh.
    """
    plain = name.strip().strip('"').replace("\\", "/")
    for wanted in dict.fromkeys((plain, PurePosixPath(plain).name)):
        try:
            if wanted and (found := _in_any_case(folder, wanted)) is not None:
                return found
        except (OSError, ValueError):  # a name that no file system takes, or a folder that may not be listed
            continue
    return None


def read_pixels(content: bytes) -> np.ndarray:
    """A picture as (h, w, 3) uint8 sRGB; transparency is left out.

    Raises:
        ValueError: no picture, damaged, or of a format that is not read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.mode.startswith("I;16"):  # Pillow would clip 16 bits of grey to 8, not scale them
                return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, KeyError, Image.DecompressionBombError) as error:  # what decoders raise
        raise ValueError("it is damaged, or no picture") from error


def picture_beside(path: Path, name: str) -> np.ndarray | None:
    """The picture (h, w, 3) uint8 that the mesh at `path` names; None, and a word on stderr, where there is none."""
    file = find_beside(path.parent, name)
    if file is None:
        say(path, f"its texture {name} was not found")
        return None
    try:
        return read_pixels(file.read_bytes())
    except (OSError, ValueError) as error:
        say(path, f"its texture {name} cannot be read: {error}")
        return None


def _in_any_case(folder: Path, name: str) -> Path | None:
    if (folder / name).is_file():
        return folder / name
    place = folder
    for piece in PurePosixPath(name).parts:
        if piece in ("/", ".."):
            place = place / piece
            continue
        alike = sorted(entry for entry in place.iterdir() if entry.name.casefold() == piece.casefold())
        if not alike:
            return None
        place = next((entry for entry in alike if entry.name == piece), alike[0])
    return place if place.is_file() else None
