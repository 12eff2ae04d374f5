"""Reconstructions of COLMAP, text and binary.

Source: COLMAP's documentation, "Output Format" and "Camera Models". Poses there map the world to camera axes like
OpenCV's; the world's axes are arbitrary and are kept.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core2d.app.errors import InputError
from core2d.prior.cameras import colmap_to_opengl
from gen3d.data.files import PictureFinder, read_text, refuse_pointer
from gen3d.data.lenses import Lens
from gen3d.data.pictures import Description, Frame

DESCRIBED_IN = tuple(
    f"{place}{part}.*" for place in ("", "sparse/", "sparse/*/") for part in ("cameras", "images", "points3D")
)  # beside the pictures, in the folder of a scene

# by number: name and how many parameters
MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
}
OTHERS = ("FULL_OPENCV", "FOV", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE")  # from 6 on
Image = tuple[list[float], list[float], int, str]  # quaternion, translation, camera, name


def model_folders(folder: Path) -> list[Path]:
    """Where in a scene reconstructions lie: sparse/0, sparse/1 and so on, or else sparse, or the folder itself.

    COLMAP writes several where it could not join the pictures to one.
    """
    numbered = [path for path in (folder / "sparse").glob("*") if path.name.isdecimal()]
    found = [path for path in sorted(numbered, key=lambda path: int(path.name)) if _suffix(path)]
    return found or [path for path in (folder / "sparse", folder) if _suffix(path)][:1]


def is_here(folder: Path) -> bool:
    """Whether a folder has this format."""
    return bool(model_folders(folder))


def read(folder: Path) -> Description:
    """Read cameras, images and points; pictures are in images/.

    Of several reconstructions, which share no world, that of most images is read; the others are named on stderr.

    Raises:
        InputError: a file is damaged, or a camera has a model that is not supported.
    """
    place = _largest(folder, model_folders(folder))
    suffix = _suffix(place)
    read_cameras, read_images, read_points = _READERS[suffix]
    cameras = _guarded(read_cameras, place / f"cameras{suffix}")
    source = place / f"images{suffix}"
    images: list[Image] = _guarded(read_images, source)
    quaternions = torch.tensor([image[0] for image in images], dtype=torch.float64).reshape(-1, 4)
    translations = torch.tensor([image[1] for image in images], dtype=torch.float64).reshape(-1, 3)
    poses = colmap_to_opengl(quaternions, translations).numpy()
    frames, finder = [], PictureFinder(folder / "images")
    for (_, _, camera, name), pose in zip(images, poses, strict=True):
        if camera not in cameras:
            raise InputError(f"{source}: {name} has camera {camera}, which cameras{suffix} does not: export both anew")
        lens = cameras[camera]
        frames.append(Frame(finder.find(name), source, pose, lens.scaled, (lens.width, lens.height)))
    cloud = place / f"points3D{suffix}"
    points = _guarded(read_points, cloud) if cloud.is_file() else np.empty((0, 3))
    points = points[np.isfinite(points).all(axis=1)]
    return Description(frames, points if len(points) else None)


def _suffix(place: Path) -> str:
    """.bin or .txt, whichever a reconstruction has; empty where there is none."""
    whole = (end for end in _READERS if all((place / f"{name}{end}").is_file() for name in ("cameras", "images")))
    return next(whole, "")


def _largest(folder: Path, places: list[Path]) -> Path:
    """The place with the most images, the first of several; the others are said."""
    if len(places) == 1:
        return places[0]
    counts = {place: _count_images(place) for place in places}
    largest = max(places, key=lambda place: counts[place])
    said = {place: f"{place.relative_to(folder).as_posix()} ({counts[place]})" for place in places}
    others = ", ".join(words for place, words in said.items() if place != largest)
    sys.stderr.write(
        f"{folder} holds {len(places)} reconstructions that COLMAP could not join: the one with most images is used, "
        f"{said[largest]}; left out: {others}\n"
    )
    return largest


def _count_images(place: Path) -> int:
    if _suffix(place) == ".txt":
        return len(_guarded(_images_text, place / "images.txt"))
    with (place / "images.bin").open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _guarded(reader: Any, path: Path) -> Any:
    refuse_pointer(path)
    try:
        return reader(path)
    except InputError:
        raise
    except (ValueError, IndexError, struct.error, OverflowError, MemoryError) as error:
        raise InputError(f"{path} is damaged or cut short: export the reconstruction anew") from error


def _lens(path: Path, camera: int, model: str, width: int, height: int, numbers: list[float]) -> Lens:
    counts = dict(MODELS.values())
    if model not in counts:
        known = ", ".join(counts)
        raise InputError(f"{path}: camera {camera} has the model {model}; undistort the pictures to one of {known}")
    if len(numbers) != counts[model] or width < 1 or height < 1:
        raise ValueError("wrong number of parameters, or no size")
    if model in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE"):
        fx, fy, cx, cy, *bends = numbers
    else:
        fx, cx, cy, *bends = numbers
        fy = fx
    if model.endswith("PINHOLE"):
        return Lens(width, height, fx, fy, cx, cy)
    if model == "OPENCV_FISHEYE":
        return Lens(width, height, fx, fy, cx, cy, "fisheye", tuple(bends))
    return Lens(width, height, fx, fy, cx, cy, "opencv", (*bends, 0.0, 0.0, 0.0)[:4])  # k1, k2, p1, p2


# -- text ------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[str]:
    for line in read_text(path).splitlines():
        if not line.startswith("#"):
            yield line.strip()


def _cameras_text(path: Path) -> dict[int, Lens]:
    cameras = {}
    for line in filter(None, _lines(path)):
        number, model, width, height, *rest = line.split()
        cameras[int(number)] = _lens(path, int(number), model, int(width), int(height), [float(word) for word in rest])
    return cameras


def _images_text(path: Path) -> list[Image]:
    """Two lines an image, of which the second, its keypoints, may be empty."""
    images, lines = [], _lines(path)
    for line in lines:
        if line:
            _, *pose, camera, name = line.split(maxsplit=9)
            numbers = [float(word) for word in pose]
            images.append((numbers[:4], numbers[4:], int(camera), name))
            if len(numbers) != 7:
                raise ValueError("a pose has seven numbers")
            next(lines, None)
    return images


def _points_text(path: Path) -> np.ndarray:
    points = []
    for line in filter(None, _lines(path)):
        _, x, y, z, _, _, _, _, *_ = line.split()  # number, position, colour, error, track
        points.append([float(x), float(y), float(z)])
    return np.array(points).reshape(-1, 3)


# -- binary: little endian ---------------------------------------------------------------------------------------


class _Bytes:
    """The contents of a file, taken piece by piece."""

    def __init__(self, path: Path):
        self.data, self.at = path.read_bytes(), 0

    def take(self, format: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + format, self.data, self.at)
        self.at += struct.calcsize("<" + format)
        return values

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        start, self.at = self.at, end + 1
        return self.data[start:end].decode("utf-8")

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise ValueError("the file ends early")


def _cameras_binary(path: Path) -> dict[int, Lens]:
    data, cameras = _Bytes(path), {}
    for _ in range(data.take("Q")[0]):
        number, kind, width, height = data.take("iiQQ")
        if kind not in MODELS:
            name = OTHERS[kind - len(MODELS)] if 0 <= kind - len(MODELS) < len(OTHERS) else f"number {kind}"
            _lens(path, number, name, width, height, [])
        model, count = MODELS[kind]
        cameras[number] = _lens(path, number, model, width, height, list(data.take(f"{count}d")))
    return cameras


def _images_binary(path: Path) -> list[Image]:
    data, images = _Bytes(path), []
    for _ in range(data.take("Q")[0]):
        _, *pose, camera = data.take("i7di")
        images.append((pose[:4], pose[4:], camera, data.text()))
        data.skip(24 * data.take("Q")[0])  # keypoints: x, y, number of the point
    return images


def _points_binary(path: Path) -> np.ndarray:
    data, points = _Bytes(path), []
    for _ in range(data.take("Q")[0]):
        _, *values, length = data.take("Q3d3BdQ")  # number, position, colour, error, length of the track
        points.append(values[:3])
        data.skip(8 * length)
    return np.array(points).reshape(-1, 3)


_READERS: dict[str, tuple[Any, Any, Any]] = {
    ".bin": (_cameras_binary, _images_binary, _points_binary),
    ".txt": (_cameras_text, _images_text, _points_text),
}
