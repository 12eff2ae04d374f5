"""Camera paths: the cameras that a film is taken with, one a frame.

Two kinds of file are read. nerfstudio's viewer saves `{"camera_path": [{"camera_to_world": 16 numbers, "fov": degrees},
...], "render_width": ..., "render_height": ..., "fps": ..., "seconds": ...}`; and any transforms.json has frames with
poses and intrinsics (`gen3d.data.nerfstudio`), whose pictures need not be there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.media.pictures import LARGEST_PICTURE
from gen3d.data.lenses import Lens
from gen3d.data.nerfstudio import frames_of, read_json
from gen3d.data.pictures import Frame, picture_sizes
from gen3d.data.scene import ROTATION_TOLERANCE

FPS = 24.0  # frames a second where nobody says
SLOWEST, FASTEST = 1.0, 240.0  # frames a second
CAMERA_TYPES = ("perspective", "fisheye")  # of nerfstudio's: those that are a lens

Camera = tuple[np.ndarray, Lens]  # camera-to-world (4, 4) float64, not checked yet


@dataclass(frozen=True)
class CameraPath:
    """n cameras, in the order of the film.

    Attributes:
        camera_to_world: (n, 4, 4) float32, OpenGL camera axes.
        lenses: n of them.
        fps: frames a second.

    Raises:
        ValueError: no camera, or not one lens for each.
    """

    camera_to_world: Tensor
    lenses: tuple[Lens, ...]
    fps: float

    def __post_init__(self) -> None:
        n = len(self.lenses)
        if n == 0 or self.camera_to_world.shape != (n, 4, 4):
            shape = tuple(self.camera_to_world.shape)
            raise ValueError(f"a CameraPath needs matrices (n, 4, 4) and n lenses, n > 0; got {shape} and {n}")

    def __len__(self) -> int:
        return len(self.lenses)


def read_path(path: str | Path) -> CameraPath:
    """Read a camera path of nerfstudio, or the cameras of a transforms.json in the order of its frames.

    They are taken as they stand. A path that nerfstudio's viewer saved is in the coordinates of nerfstudio's own model,
    which are those of the scene only if nothing was centred, turned or scaled (see its dataparser_transforms.json).
    Where fps is not said, it is the number of cameras over `seconds`, or else 24.

    Raises:
        InputError: the file is neither; it has no camera; a pose is not a rotation and a position; a lens, a size or a
            rate cannot be; the sizes differ, of which a film has one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no camera path at {path}: name a camera path of nerfstudio, or a transforms.json")
    data = read_json(path)
    if isinstance(data.get("camera_path"), list):
        cameras = _cameras_of_path(path, data)
    elif isinstance(data.get("frames"), list):
        cameras = _cameras_of_frames(path, data)
    else:
        raise InputError(f"{path} is no camera path: it must have a list camera_path, or frames as in transforms.json")
    if not cameras:
        raise InputError(f"{path} has no cameras: a film needs at least one")
    for index, camera in enumerate(cameras):
        _check(f"{path}: camera {index}", *camera)
    sizes = {(lens.width, lens.height) for _, lens in cameras}
    if len(sizes) > 1:
        raise InputError(f"{path} has cameras of {len(sizes)} sizes: a film has one, give all the same w and h")
    matrices = np.stack([matrix for matrix, _ in cameras])
    lenses = tuple(lens for _, lens in cameras)
    return CameraPath(torch.from_numpy(matrices).float(), lenses, _rate(path, data, len(lenses)))


def _cameras_of_path(path: Path, data: Mapping[str, Any]) -> list[Camera]:
    """Of nerfstudio's JSON. Pixels are square there too: what it says of `aspect` follows from the size."""
    try:
        width, height = int(data["render_width"]), int(data["render_height"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path} must have numbers render_width and render_height: the size of the film") from error
    kind = data.get("camera_type", "perspective")
    if kind not in CAMERA_TYPES:
        raise InputError(f"{path} has the camera_type {kind}: only {' and '.join(CAMERA_TYPES)} can be filmed")
    cameras = []
    for index, entry in enumerate(data["camera_path"]):
        try:
            matrix = np.array(entry["camera_to_world"], np.float64).reshape(4, 4)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: camera {index} must have 16 numbers camera_to_world, row after row") from error
        try:
            fov = math.radians(float(entry["fov"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: camera {index} must have a number fov: vertical degrees") from error
        if not 0 < fov < math.pi:
            raise InputError(f"{path}: camera {index} has a fov of {entry['fov']}: give degrees between 0 and 180")
        cameras.append((matrix, lens_of_view(fov, width, height, fisheye=kind == "fisheye")))
    return cameras


def _cameras_of_frames(path: Path, data: Mapping[str, Any]) -> list[Camera]:
    """Of the frames of transforms.json, whose pictures are asked only for the size that it does not state."""
    named = [
        {**entry, "file_path": entry.get("file_path") or f"frame {index}"} if isinstance(entry, dict) else entry
        for index, entry in enumerate(data["frames"])
    ]
    frames = frames_of(path, {**data, "frames": named})
    return [(frame.camera_to_world, frame.lens(*_size(path, frame))) for frame in frames]


def _size(path: Path, frame: Frame) -> tuple[int, int]:
    if frame.size is not None:
        return frame.size
    if not frame.path.is_file():
        raise InputError(f"{path}: {frame.path.stem} has no w and h, and there is no picture to take them from")
    return picture_sizes(frame.path)[0]


def lens_of_view(fov_y: float, width: int, height: int, fisheye: bool = False) -> Lens:
    """With square pixels and its axis in the middle; nerfstudio gives a fisheye the focal length of a pinhole.

    Args:
        fov_y: vertical field of view in radians, between 0 and pi.
        width, height: of the pictures, in pixels.
    """
    focal = height / (2 * math.tan(fov_y / 2))
    lens = Lens(width, height, focal, focal, width / 2, height / 2)
    return replace(lens, model="fisheye", distortion=(0.0,) * 4) if fisheye else lens


def _check(where: str, matrix: np.ndarray, lens: Lens) -> None:
    """Refuse what no camera can have."""
    if not np.isfinite(matrix).all():
        raise InputError(f"{where} has a pose with numbers that are not finite: leave it out or give another one")
    rotation = matrix[:3, :3]
    difference = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if difference > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0 or (matrix[3] != (0, 0, 0, 1)).any():
        raise InputError(f"{where} has a pose that is not a rotation and a position: remove its scale or mirror")
    if min(lens.width, lens.height) < 1 or lens.width * lens.height > LARGEST_PICTURE:
        raise InputError(f"{where} has {lens.width} x {lens.height} pixels: give 1 to 64 million")
    if not lens.usable:
        raise InputError(f"{where} has a focal length or other intrinsics that cannot be: the focal must be positive")


def _rate(path: Path, data: Mapping[str, Any], count: int) -> float:
    """Frames a second."""
    fps, seconds = data.get("fps"), data.get("seconds")
    try:
        rate = float(fps) if fps is not None else FPS if seconds is None else count / float(seconds)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{path}: fps and seconds must be positive numbers") from error
    if not SLOWEST <= rate <= FASTEST:
        raise InputError(f"{path} has {rate:g} frames a second: give an fps of {SLOWEST:g} to {FASTEST:g}")
    return rate
