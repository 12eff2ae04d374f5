"""Renders of many objects from many sides, in the layout of Zero-1-to-3's Objaverse renders, to learn from.

FOLDER/OBJECT/000.png, 001.png, ... are square pictures with a transparent background; 000.npy, ... beside them hold
the camera: a 3x4 [R | t] that maps the world (Z up) to the camera, x_camera = R x_world + t. The paper's render script
takes R from Blender as it is: camera axes are OpenGL's (x right, y up, looking along -z); cameras look at the origin.
Zero-1-to-3 reads no more of it than the position -R^T t (`get_T` of its data set), which does not depend on the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path
from core2d.media.pictures import UnreadablePicture, is_pointer
from core2d.prior.cameras import look_at
from gen3d.data.pictures import read_picture
from gen3d.data.single_picture import resample

LARGEST_POSE = 4096  # bytes of a file with twelve numbers


@dataclass(frozen=True)
class Renders:
    """n objects, each seen from v sides.

    Attributes:
        rgb: (n, v, 3, s, s) uint8 on white.
        mask: (n, v, s, s) uint8, how opaque the object is.
        position: (n, v, 3) float32 of the cameras in the world, Z up.
        names: of the objects.
        skipped: the objects that were left out, and why.
    """

    rgb: Tensor
    mask: Tensor
    position: Tensor
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n, v, s = len(self.names), *self.rgb.shape[1:2], self.rgb.shape[-1]
        shapes = [tuple(part.shape) for part in (self.rgb, self.mask, self.position)]
        kinds = [part.dtype for part in (self.rgb, self.mask, self.position)]
        if shapes != [(n, v, 3, s, s), (n, v, s, s), (n, v, 3)]:
            raise ValueError(f"Renders needs (n, v, 3, s, s), (n, v, s, s), (n, v, 3) for {n} names, got {shapes}")
        if kinds != [torch.uint8, torch.uint8, torch.float32]:
            raise ValueError(f"Renders needs uint8, uint8 and float32, got {kinds}")

    def __len__(self) -> int:
        return len(self.names)


def read_renders(folder: Path, size: int, views: int | None = None, skip_broken: bool = False) -> Renders:
    """Read a folder of renders, objects by name and views by number; all of it into memory, 4 bytes a pixel twice over.

    Args:
        folder: with one folder an object; those whose names begin with a dot are not looked at.
        size: pixels of a side that the pictures are brought to.
        views: how many are read of each object; by default as many as the object with the most has.
        skip_broken: leave objects out that have fewer views or files that cannot be used; `skipped` names them.

    Raises:
        InputError: nothing to read, or broken objects; the message names them.
    """
    if size < 1 or (views is not None and views < 1):
        raise ValueError(f"size and views must be at least 1, not {size} and {views}")
    if not Path(folder).is_dir():
        raise InputError(f"no folder at {folder}")
    objects = sorted(path for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))
    count = views or max((len(list(path.glob("[0-9][0-9][0-9].png"))) for path in objects), default=0)
    if not objects or not count:
        raise InputError(f"{folder} holds no renders: it needs OBJECT/000.png and OBJECT/000.npy, ...")
    pixels = np.empty((len(objects), count, size, size, 4), np.uint8)
    position = np.empty((len(objects), count, 3), np.float32)
    names, skipped = [], []
    for path in objects:
        row = len(names)
        try:
            for view in range(count):
                pixels[row, view] = _read_view(path / f"{view:03d}.png", size)
                position[row, view] = _read_position(path / f"{view:03d}.npy")
            names.append(path.name)
        except InputError as error:
            skipped.append(f"{path.name} ({error})")
    if skipped and (not skip_broken or not names):
        raise InputError(_broken(Path(folder), skipped, len(objects), count))
    found = torch.from_numpy(pixels[: len(names)]).movedim(4, 2)  # (n, v, 4, s, s)
    places = torch.from_numpy(position[: len(names)].copy())
    return Renders(_on_white(found), found[:, :, 3].contiguous(), places, tuple(names), tuple(skipped))


def write_renders(folder: Path, renders: Renders) -> None:
    """Write renders in the same layout, each object whole or not at all; an object of the same name is replaced.

    The cameras look at the origin. Reading at the same size gives the same bytes again, and the same positions (but for
    components below a hundred-millionth of the radius, which float64 rounds).

    Raises:
        InputError: a file is in the place of the folder.
        ValueError: pictures that are not on white, cameras at the origin, or names that are none of a folder.
    """
    if Path(folder).is_file():
        raise InputError(f"cannot write to {folder}: it is a file, name a folder")
    for rgb, mask in zip(renders.rgb, renders.mask, strict=True):
        if (rgb.int() + mask.int()[:, None] < 255 - 1).any():  # both may have been rounded
            raise ValueError("the pictures are not on white: some pixels are darker than their mask allows")
    if not renders.position.isfinite().all() or (renders.position == 0).all(-1).any():
        raise ValueError("cameras must be at finite places other than the origin")
    for name in renders.names:
        if not name or name.startswith(".") or Path(name).name != name:
            raise ValueError(f"an object cannot be called {name!r}: its name is that of a folder")
    if len(set(renders.names)) < len(renders):
        raise ValueError("two objects have the same name")
    for index, name in enumerate(renders.names):
        with atomic_path(Path(folder) / name) as temporary:
            temporary.mkdir()
            pictures = _off_white(renders.rgb[index], renders.mask[index])
            for view, (picture, matrix) in enumerate(zip(pictures, _matrices(renders.position[index]), strict=True)):
                Image.fromarray(picture).save(temporary / f"{view:03d}.png", format="PNG")
                np.save(temporary / f"{view:03d}.npy", matrix, allow_pickle=False)


def spherical(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Polar angle from +Z, azimuth counter-clockwise from +X, and radius, each (...), of camera positions (..., 3).

    Radians; azimuth in (-pi, pi], and 0 above and below the origin. Source: 2303.11328, section 3.2.
    """
    x, y, z = position.unbind(-1)
    flat = torch.hypot(x, y)
    return torch.atan2(flat, z), torch.atan2(y, x), torch.hypot(flat, z)


# -- reading -----------------------------------------------------------------------------------------------------


def _read_view(path: Path, size: int) -> np.ndarray:
    """(size, size, 4) uint8, colours not multiplied by alpha."""
    try:
        pixels, has_alpha = read_picture(path)
    except UnreadablePicture as error:
        raise InputError(f"{path.name} is {error.what}") from error
    height, width = pixels.shape[:2]
    if not has_alpha:
        raise InputError(f"{path.name} has no transparency")
    if height != width:
        raise InputError(f"{path.name} is {width} x {height} pixels, no square")
    if width == size:
        return pixels
    return np.rint(resample(pixels, (0, 0), width / size, size) * 255).astype(np.uint8).transpose(1, 2, 0)


def _read_position(path: Path) -> np.ndarray:
    """(3,) float64 of the camera in the world."""
    if not path.is_file():
        raise InputError(f"{path.name} is missing")
    if is_pointer(path):
        raise InputError(f"{path.name} is a Git LFS pointer")
    try:
        if path.stat().st_size > LARGEST_POSE:
            raise ValueError("too large for twelve numbers")
        with path.open("rb") as file:
            matrix = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise InputError(f"{path.name} is no plain .npy array; pickled ones are never opened") from error
    if matrix.shape != (3, 4) or matrix.dtype.kind not in "fiu":
        raise InputError(f"{path.name} holds {matrix.shape} of {matrix.dtype}, not 3 x 4 numbers")
    if not np.isfinite(matrix).all():
        raise InputError(f"{path.name} has numbers that are not finite")
    rotation, translation = matrix[:, :3].astype(np.float64), matrix[:, 3].astype(np.float64)
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise InputError(f"{path.name} does not begin with a rotation")
    if not translation.any():
        raise InputError(f"{path.name} has its camera at the origin")
    return -rotation.T @ translation


def _broken(folder: Path, broken: Sequence[str], total: int, views: int) -> str:
    more = ", ..." if len(broken) > 3 else ""
    listed = ", ".join(broken[:3]) + more
    return f"{len(broken)} of {total} objects in {folder} are broken or have fewer than {views} views: {listed}"


# -- pixels and matrices -----------------------------------------------------------------------------------------


def _on_white(rgba: Tensor) -> Tensor:
    """(n, v, 4, s, s) uint8 to (n, v, 3, s, s) uint8, object by object: the sums need more bytes than the pictures."""
    rgb = torch.empty_like(rgba[:, :, :3], memory_format=torch.contiguous_format)
    for before, after in zip(rgba, rgb, strict=True):
        color, alpha = before[:, :3].int(), before[:, 3:].int()
        after.copy_((color * alpha + 127).div(255, rounding_mode="floor") + 255 - alpha)
    return rgb


def _off_white(rgb: Tensor, mask: Tensor) -> np.ndarray:
    """(v, 3, s, s) on white and (v, s, s) to (v, s, s, 4) that is the same on white again: `_on_white` undone."""
    alpha = mask[:, None].int()
    color = (rgb.int() - 255 + alpha) * 255 / alpha.clamp(min=1)
    color = torch.where(alpha > 0, color.round(), 255).clamp(0, 255)
    return torch.cat([color, alpha], dim=1).byte().movedim(1, 3).contiguous().numpy()


def _matrices(position: Tensor) -> np.ndarray:
    """(v, 3, 4) float64 world-to-camera matrices of cameras at (v, 3) that look at the origin."""
    rotation = look_at(position.double(), torch.zeros(3))[:, :3, :3].mT
    return torch.cat([rotation, -rotation @ position.double()[:, :, None]], dim=2).numpy()
