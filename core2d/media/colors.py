"""The colours of a decoded picture as bytes of sRGB, whatever its file counts in: bit depth, palette, profile."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

Color = tuple[int, int, int]

WHITE: Color = (255, 255, 255)
SAME = 2  # of 255: a profile that moves no colour further says what we take for granted
GREY_MODES = ("1", "L", "LA")
# what a profile is about, as ICC writes it: the mode that it is applied in, and the modes of pictures that it may fit
SPACES = {
    "RGB ": ("RGB", (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")),
    "GRAY": ("L", GREY_MODES),
    "CMYK": ("CMYK", ("CMYK",)),
}


class UnknownPixels(ValueError):
    """Pixels that cannot be brought to bytes without guessing; the message goes on after the name of the file."""


def srgb_pixels(image: Image.Image) -> np.ndarray:
    """The pixels of a picture as it was opened.

    Grey of 16 bits is scaled, of colours of 16 bits the upper 8 are kept. A profile of ICC is followed; one that does
    not fit the picture, or is damaged, counts as none. CMYK without a profile becomes colours by plain arithmetic.

    Returns:
        uint8 (h, w, 3), or (h, w, 4) where the file has transparency; colours are not multiplied by alpha, unless the
        file has them so.

    Raises:
        UnknownPixels: pixels that are floating-point numbers, or whole ones whose white is unknown.
    """
    rawmode = _raw_mode(image)
    image.load()
    profile = image.info.get("icc_profile")
    image = _in_eight_bits(image, rawmode)
    alpha = np.array(image.convert("RGBA"))[..., 3:] if image.has_transparency_data else None
    rgb = np.array(_in_srgb(image, profile))
    return rgb if alpha is None else np.concatenate([rgb, alpha], axis=2)


def on_color(pixels: np.ndarray, color: Color = WHITE) -> np.ndarray:
    """Lay pixels on a colour: what is transparent is background, and a colour hidden there is never seen.

    Args:
        pixels: uint8 (..., 3 or 4), colours not multiplied by alpha.
        color: three numbers from 0 to 255.

    Returns:
        uint8 (..., 3), rounded; the same pixels where they are opaque.
    """
    if pixels.shape[-1] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.int32)
    behind = np.array(color, np.int32)
    return ((pixels[..., :3] * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)


# -- bit depth ---------------------------------------------------------------------------------------------------------


def _raw_mode(image: Any) -> str:
    """What the file of a Pillow image counts in, such as `L;4` or `RGB;16B`; known before it is decoded only."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _in_eight_bits(image: Image.Image, rawmode: str) -> Image.Image:
    if image.mode == "F":
        raise UnknownPixels("has floating-point pixels: save it with 8 or 16 bits a channel")
    if image.mode == "I":
        raise UnknownPixels("has pixels of 32 bits, or with a sign: save it with 8 or 16 bits a channel")
    clear = image.info.get("transparency")
    if image.mode.startswith("I;16"):  # Pillow would clip it, and see no transparency in it
        values = np.asarray(image).astype(np.int64)
        grey = Image.fromarray(np.rint(values / 257).astype(np.uint8))
        if isinstance(clear, int):
            grey = Image.merge("LA", [grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))])
        return grey
    if image.mode == "L" and isinstance(clear, int) and (bits := re.fullmatch(r"L;([24])", rawmode)):
        image.info["transparency"] = clear * 255 // (2 ** int(bits[1]) - 1)  # pixels were scaled, this was not
    elif image.mode == "RGB" and isinstance(clear, tuple) and ";16" in rawmode:
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    return image


# -- profiles ----------------------------------------------------------------------------------------------------------


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture of eight bits as mode RGB."""
    if image.mode == "LAB":
        return _moved(image, ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB"))
    transform = _transform_of(profile, image.mode) if profile else None
    return image.convert("RGB") if transform is None else _moved(image, transform)


@lru_cache(maxsize=32)
def _transform_of(profile: bytes, image_mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the colours of a profile to sRGB; None where there is nothing to do, or nothing that can be done."""
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode, fitting = SPACES.get(source.profile.xcolor_space, ("", ()))
        if image_mode not in fitting:
            return None
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return None if _changes_nothing(transform) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    if transform.input_mode == "CMYK":
        return False
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    known = Image.fromarray(colors).convert(transform.input_mode)
    moved = np.asarray(_moved(known, transform)).astype(int)
    return bool(np.abs(moved - np.asarray(known.convert("RGB"))).max() <= SAME)


def _moved(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    moved = ImageCms.applyTransform(image.convert(transform.input_mode), transform)
    assert moved is not None  # it would be, were it done in place
    return moved


def _srgb() -> Any:
    return ImageCms.createProfile("sRGB")
