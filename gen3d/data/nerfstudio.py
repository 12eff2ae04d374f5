"""transforms.json of nerfstudio and instant-ngp.

Source: nerfstudio's documentation, "Data conventions"; camera axes and world (Z up) are ours already.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core2d.app.errors import InputError
from gen3d.data.files import PictureFinder, read_text
from gen3d.data.lenses import Lens, Model
from gen3d.data.pictures import Description, Frame, Split

DESCRIBED_IN = ("transforms.json",)  # beside the pictures, in the folder of a scene

NAME = "transforms.json"
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")
BENT = ("OPENCV", "RADIAL", "SIMPLE_RADIAL")
FISHEYES = ("OPENCV_FISHEYE",)
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def is_here(folder: Path) -> bool:
    """Whether a folder has this format."""
    return (folder / NAME).is_file()


def read(folder: Path) -> Description:
    """Read transforms.json.

    Where it has lists of file names for train, val and test, frames on none of them are left out, and one on several
    is there for each (for test rather than val).

    Raises:
        InputError: not JSON, or not of this format; the file and the frame are named.
    """
    path = folder / NAME
    data = read_json(path)
    frames = frames_of(path, data)
    lists: dict[Split, Any] = {split: names for split in SPLITS if (names := data.get(f"{split}_filenames"))}
    return Description(_split(path, frames, lists) if lists else frames)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: not one.
    """
    try:
        data = json.loads(read_text(path))
    except InputError:  # which is a ValueError
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): mend it or export the scene anew") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} must be a JSON object with a list of frames: export the scene anew")
    return data


def frames_of(path: Path, data: Mapping[str, Any], split: Split | None = None) -> list[Frame]:
    """The frames that the contents of a transforms file describe; names in it are relative to its folder.

    Raises:
        InputError: a part is missing or of another kind.
    """
    entries = data.get("frames")
    if not isinstance(entries, list):
        raise InputError(f"{path} has no list of frames: export the scene anew")
    finder = PictureFinder(path.parent)
    return [_frame(path, data, entry, index, split, finder) for index, entry in enumerate(entries)]


def _frame(
    path: Path, shared: Mapping[str, Any], entry: Any, index: int, split: Split | None, finder: PictureFinder
) -> Frame:
    name = entry.get("file_path") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: frame {index} has no file_path; every frame needs one")
    try:
        pose = np.array(entry["transform_matrix"], np.float64)
        if pose.shape not in ((4, 4), (3, 4)):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: the transform_matrix of {name} must be 4 x 4 numbers") from error
    if len(pose) == 3:
        pose = np.concatenate([pose, [[0.0, 0, 0, 1]]])
    said = {**shared, **entry}
    mask = said.get("mask_path")
    make, size = _lens_of(path, said, name)
    if mask is not None and not isinstance(mask, str):
        raise InputError(f"{path}: the mask_path of {name} must be the name of a file")
    return Frame(finder.find(name), path, pose, make, size, finder.find(mask) if mask else None, split)


def _lens_of(path: Path, said: Mapping[str, Any], name: str) -> tuple[partial[Lens], tuple[int, int] | None]:
    """What makes the lens of a frame, and the size that its intrinsics are for."""
    keys = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")
    keys += ("k1", "k2", "k3", "k4", "p1", "p2")
    try:
        numbers = {key: float(said[key]) for key in keys if said.get(key) is not None}
        size = (int(numbers["w"]), int(numbers["h"])) if "w" in numbers and "h" in numbers else None
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: the intrinsics of {name} must be numbers") from error
    if size is not None and min(size) < 1:
        raise InputError(f"{path}: {name} must have w and h of at least 1 pixel, not {size[0]} x {size[1]}")
    if "fl_x" not in numbers and "camera_angle_x" not in numbers:
        raise InputError(f"{path}: {name} has neither fl_x nor camera_angle_x; a focal length is needed")
    model, distortion = _distortion(path, said, numbers, name)
    return partial(_lens, numbers, size, model, distortion), size


def _lens(
    numbers: Mapping[str, float],
    stated: tuple[int, int] | None,
    model: Model,
    distortion: tuple[float, ...],
    width: int,
    height: int,
) -> Lens:
    w, h = stated or (width, height)
    fx = numbers["fl_x"] if "fl_x" in numbers else _focal(numbers["camera_angle_x"], w)
    if "fl_y" in numbers or "camera_angle_y" not in numbers:
        fy = numbers.get("fl_y", fx)
    else:
        fy = _focal(numbers["camera_angle_y"], h)
    lens = Lens(w, h, fx, fy, numbers.get("cx", w / 2), numbers.get("cy", h / 2), model, distortion)
    return lens.scaled(width, height)


def _focal(angle: float, size: int) -> float:
    """Pixels, of a field of view in radians over `size` pixels; NaN where there is none."""
    return size / 2 / math.tan(angle / 2) if 0 < angle < math.pi else math.nan


def _distortion(
    path: Path, said: Mapping[str, Any], numbers: Mapping[str, float], name: str
) -> tuple[Model, tuple[float, ...]]:
    k1, k2, k3, k4, p1, p2 = (numbers.get(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    model = said.get("camera_model") or ("OPENCV_FISHEYE" if said.get("is_fisheye") else "OPENCV")
    if model in FISHEYES:
        return "fisheye", (k1, k2, k3, k4)
    if model in PINHOLES or (model in BENT and not any((k1, k2, k3, k4, p1, p2))):
        return "pinhole", ()
    if model in BENT:
        if k4:
            raise InputError(f"{path}: {name} has k4, which {model} does not know; undistort the pictures first")
        return "opencv", (k1, k2, p1, p2, k3)
    known = ", ".join(PINHOLES + BENT + FISHEYES)
    raise InputError(f"{path}: {name} has the camera_model {model}; undistort the pictures to one of {known}")


def _split(path: Path, frames: list[Frame], lists: Mapping[Split, Any]) -> list[Frame]:
    """Frames with the splits of the lists of file names."""
    found, finder = {frame.path: frame for frame in frames}, PictureFinder(path.parent)
    chosen: dict[Split, dict[Path, Frame]] = {}
    for split, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: {split}_filenames must be a list of file names")
        paths = [finder.find(name) for name in names]
        unknown = [name for name, known in zip(names, paths, strict=True) if known not in found]
        if unknown:
            raise InputError(f"{path}: {split}_filenames has {unknown[0]}, but no frame has that file_path")
        chosen[split] = {known: replace(found[known], split=split) for known in paths}
    for known in chosen.get("test", {}):
        chosen.get("val", {}).pop(known, None)
    return [frame for split in SPLITS for frame in chosen.get(split, {}).values()]
