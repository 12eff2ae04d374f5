"""Where the subject of a picture is: by a mask, its transparency, a plain background, or a matting net."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from core2d.app.errors import InputError
from core2d.media.colors import on_color
from core2d.media.pictures import to_uint8
from gen3d.data.pictures import read_picture

Foreground = Literal["auto", "alpha", "mask", "plain", "rembg"]
Matting = Callable[[Tensor], Tensor]

TOLERANCE = 12  # of 255, in each channel: as far as the noise of a JPEG takes a plain background
STRONG = 3 * TOLERANCE  # no noise
PLAIN_SHARE = 0.8  # of the border must agree: a subject may touch it
SPECK = 1e-3  # of the area of the largest part: what is smaller is dust
EDGE = 2  # pixels that lens, drawing and JPEG mix with the background
OPAQUE = 250  # of 255
SOFT = 0.015  # of the longer side: as wide as nets make the edges of what they cut out
MATTING_SIDE = 1024  # pixels of the longer side that a matting net is shown
BLOCK = np.ones((3, 3), bool)
AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
WAYS = "cut the subject out to a PNG with transparency, give a --mask, or `pip install liftkit[matting]`"


def find(
    path: Path, pixels: np.ndarray, has_alpha: bool, mask: Path | None, foreground: Foreground, matting: Matting | None
) -> tuple[np.ndarray, str]:
    """The subject of pixels (h, w, 4) uint8, with what lies outside of it clear, and how it was found.

    Arguments as for `gen3d.data.single_picture.read_subject`; `path` is for messages.
    """
    if mask is not None or foreground == "mask":
        if mask is None:
            raise InputError("--foreground mask needs a --mask")
        return _by_mask(path, pixels, mask), "mask"
    if foreground in ("auto", "alpha") and has_alpha and pixels[..., 3].min() < 255:
        return pixels, "alpha"
    if foreground == "alpha":
        raise InputError(f"{path} has no transparency, which --foreground alpha needs; {WAYS}")
    pixels = np.dstack([on_color(pixels), np.full(pixels.shape[:2], 255, np.uint8)])
    if foreground in ("auto", "plain") and (cut := by_plain_background(pixels)) is not None:
        return cut, "plain background"
    if foreground == "plain":
        raise InputError(f"{path} has no plain background: its border is of several colours; {WAYS}")
    if foreground == "auto" and matting is not None:
        cut = _with_alpha(pixels, _by_net(pixels, matting))
        if foreground_box(cut[..., 3]) and not covers(cut[..., 3]):
            return cut, "matting net"
    if (alpha := _by_rembg(path, pixels)) is not None:
        return _with_alpha(pixels, alpha), "rembg"
    if foreground == "rembg":
        raise InputError("--foreground rembg needs rembg: `pip install liftkit[matting]`")
    raise InputError(f"{path}: no subject was found, it has neither transparency nor a plain background; {WAYS}")


def covers(alpha: np.ndarray) -> bool:
    """Whether no pixel is background."""
    return bool((alpha > alpha.max() / 2).all())


def _by_mask(path: Path, pixels: np.ndarray, mask: Path) -> np.ndarray:
    shape, (height, width) = (grey := read_picture(mask)[0]).shape, pixels.shape[:2]
    if shape[:2] != (height, width):
        raise InputError(f"{mask} is {shape[1]} x {shape[0]} pixels, {path} is {width} x {height}: make them the same")
    alpha = grey[..., :3].max(2) * (grey[..., 3] / 255)
    if not alpha.any():
        raise InputError(f"{mask} is empty: make it white where the subject is")
    alpha = np.rint(alpha * (255 / alpha.max())).astype(np.uint8)  # some masks count 0 and 1
    return _with_alpha(pixels, np.minimum(alpha, pixels[..., 3]))


def by_plain_background(pixels: np.ndarray) -> np.ndarray | None:
    """Take away the one colour around a subject; None where the border of the picture is of several colours.

    Background is what has that colour and is joined to the border by more of it: white parts inside a body stay, and
    so does what is seen through a ring. At the edge, colour = alpha x subject + (1 - alpha) x background is solved
    with the subject's colour from further inside.

    Args:
        pixels: (h, w, 4) uint8; alpha is not looked at.

    Returns:
        (h, w, 4) uint8, on the background again the same picture as before but for noise. Alpha is 0 everywhere where
        nothing stands out.
    """
    colors = pixels[..., :3]
    border = np.concatenate([colors[0], colors[-1], colors[:, 0], colors[:, -1]])
    background = np.median(border, axis=0).astype(np.uint8)
    if (_difference(border, background) <= TOLERANCE).mean() < PLAIN_SHARE:
        return None
    differs = np.pad(_difference(colors, background), 1)
    parts = _parts(differs <= TOLERANCE)
    inside = parts != parts[0, 0]
    faint = (differs > TOLERANCE) & (differs <= STRONG)
    inside &= _opened(inside) | ~faint  # what is thin and faint is the noise of a JPEG
    inside = _without_specks(inside)[1:-1, 1:-1]
    cut = np.dstack([colors, np.where(inside, 255, 0).astype(np.uint8)])
    if (box := foreground_box(cut[..., 3])) is not None:
        left, top, right, bottom = box
        window = np.s_[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
        cut[window] = _unmix(cut[window], background)
    return cut


def _difference(colors: np.ndarray, background: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 to (...): the largest of the channels."""
    return (np.maximum(colors, background) - np.minimum(colors, background)).max(-1)


def _parts(there: np.ndarray, structure: np.ndarray | None = None) -> np.ndarray:
    """(h, w) bool to the number of the connected part that each pixel belongs to; 0 where False."""
    parts = np.empty(there.shape, np.int32)
    ndimage.label(there, structure, output=parts)
    return parts


def _opened(inside: np.ndarray) -> np.ndarray:
    """Without what is too thin for a square that reaches EDGE pixels to all sides."""
    size = 2 * EDGE + 1
    return ndimage.maximum_filter(ndimage.minimum_filter(inside, size, mode="nearest"), size, mode="nearest")


def _without_specks(inside: np.ndarray) -> np.ndarray:
    parts = _parts(inside, BLOCK)
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    return (areas > SPECK * areas.max())[parts]


def _unmix(cut: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Soften the edges of (h, w, 4) uint8 that is opaque or transparent, and take the background (3,) out of them.

    It goes outwards from pixels that are pure, rim by rim; each rim learns the subject's colour from the one before.
    """
    cut = np.pad(cut, ((1, 1), (1, 1), (0, 0)), mode="edge")  # the border of a picture is no edge of its subject
    inside = cut[..., 3] > 0
    pure = _pure(inside)
    while (rim := _rim(pure, inside)).any():
        _unmix_rim(cut, rim, pure, background)
        pure |= rim
    _unmix_rim(cut, _rim(inside, ~inside), inside, background)
    return cut[1:-1, 1:-1]


def _pure(inside: np.ndarray) -> np.ndarray:
    """Pixels deeper inside than edges are mixed; of thin parts those in the middle."""
    pure = np.zeros_like(inside)
    for depth in range(EDGE, -1, -1):
        size = 2 * depth + 1
        deep = ndimage.minimum_filter(inside, size, mode="nearest")
        pure |= np.greater(deep, ndimage.maximum_filter(pure, 2 * EDGE + 3, mode="nearest"))  # and not near others
    return pure


def _rim(pure: np.ndarray, within: np.ndarray) -> np.ndarray:
    """The pixels around, but not those of the outermost frame."""
    rim = ndimage.binary_dilation(pure, BLOCK) & within & ~pure
    rim[[0, -1]] = False
    rim[:, [0, -1]] = False
    return rim


def _unmix_rim(cut: np.ndarray, rim: np.ndarray, pure: np.ndarray, background: np.ndarray) -> None:
    """Alpha and colour of the pixels of a rim, from the mean of their pure neighbours; changes `cut` (h, w, 4)."""
    rows, columns = np.nonzero(rim)
    total, count = np.zeros((len(rows), 3)), np.zeros((len(rows), 1))
    for down, right in AROUND:
        known = pure[rows + down, columns + right, None]
        total += cut[rows + down, columns + right, :3] * known
        count += known
    subject = total / count - background  # (n, 3) as seen from the background
    mixed = cut[rows, columns, :3] - background.astype(float)
    alpha = (mixed * subject).sum(1) / (subject**2).sum(1).clip(1)
    alpha = alpha.clip(0, 1)[:, None]
    off = np.abs(mixed - alpha * subject)  # a mixture lies between the two, but for noise
    sure = ((off > TOLERANCE) & (np.abs(mixed) > STRONG)).any(1) | (np.abs(subject) <= TOLERANCE).all(1)
    alpha = np.where(sure[:, None], cut[rows, columns, 3:] / 255, alpha)
    own = alpha >= 0.5  # of fainter pixels the own colour is mostly noise
    colors = np.where(own, mixed / np.where(own, alpha, 1), subject) + background
    cut[rows, columns] = np.rint(np.concatenate([colors.clip(0, 255), 255 * alpha], axis=1)).astype(np.uint8)


def _with_alpha(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give pixels (h, w, 4) an alpha (h, w) uint8; soft ones near opaque ones take on their colour, without a halo."""
    cut = np.dstack([pixels[..., :3], alpha])
    opaque = alpha >= OPAQUE
    soft = (alpha > 0) & (alpha < OPAQUE)
    if soft.any() and opaque.any():
        distance, (rows, columns) = ndimage.distance_transform_edt(alpha < OPAQUE, return_indices=True)  # type: ignore[misc]
        near = soft & (distance <= max(EDGE + 1, SOFT * max(alpha.shape)))
        cut[near, :3] = pixels[rows[near], columns[near], :3]
    return cut


def _by_net(pixels: np.ndarray, matting: Matting) -> np.ndarray:
    """Alpha (h, w) uint8 of pixels (h, w, 4)."""
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels).convert("RGB")
    image.thumbnail((MATTING_SIDE, MATTING_SIDE), Image.Resampling.BILINEAR)
    shown = torch.from_numpy(np.array(image)).movedim(2, 0)[None].float() / 255  # (1, 3, h', w')
    with torch.no_grad():
        alpha = matting(shown)
    if alpha.shape != (1, 1, *shown.shape[2:]):
        raise ValueError(f"a matting net maps {tuple(shown.shape)} to one channel, not to {tuple(alpha.shape)}")
    grey = Image.fromarray(to_uint8(alpha)[0, ..., 0])
    return np.array(grey.resize((width, height), Image.Resampling.BILINEAR))


def _by_rembg(path: Path, pixels: np.ndarray) -> np.ndarray | None:
    """Alpha (h, w) uint8, or None where rembg is not installed.

    Its U2-Net is opened as a model of one's own (`u2net_custom`), which rembg never downloads.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            rembg: Any = import_module("rembg")
    except SystemExit:  # it leaves the process where onnxruntime is missing
        raise InputError(f"{path}: rembg cannot start without onnxruntime: `pip install liftkit[matting]`") from None
    except ImportError:
        return None
    home = Path(os.getenv("U2NET_HOME", os.path.join(os.getenv("XDG_DATA_HOME", "~"), ".u2net"))).expanduser()  # noqa: PTH118
    places = (home / "u2net.onnx", Path("~/.rembg/models/u2net/u2net.onnx").expanduser())  # newer ones keep it there
    model = next((place for place in places if place.is_file()), None)
    if model is None:
        raise InputError(f"{path}: rembg has no model at {places[0]}: fetch it with `rembg d u2net`, or {WAYS}")
    try:
        session = rembg.new_session("u2net_custom", model_path=str(model))
        found = rembg.remove(Image.fromarray(pixels).convert("RGB"), session=session, only_mask=True)
    except Exception as error:
        raise InputError(f"{path}: rembg fails with {model}: {error}") from error
    return np.array(found.convert("L"))


def foreground_box(alpha: np.ndarray) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of what is more than half as opaque as the most opaque pixel of (h, w)."""
    if not alpha.any():
        return None
    solid = alpha > alpha.max() / 2
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
