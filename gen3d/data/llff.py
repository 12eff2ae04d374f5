"""The captures of LLFF: poses_bounds.npy, whose rows belong to the pictures in images/ by the order of their names.

Source: Local Light Field Fusion (1905.00889), the README on poses_bounds.npy: a row is the 3 x 5 matrix
[down, right, back | position | height, width, focal length], then the distances of the nearest and farthest point.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from core2d.app.errors import InputError
from core2d.media.pictures import pictures_in
from core2d.prior.cameras import llff_to_opengl
from gen3d.data.files import refuse_pointer
from gen3d.data.lenses import Lens
from gen3d.data.pictures import Description, Frame

DESCRIBED_IN = ("poses_bounds.npy",)  # beside the pictures, in the folder of a scene

NAME = "poses_bounds.npy"


def is_here(folder: Path) -> bool:
    """Whether a folder has this format."""
    return (folder / NAME).is_file()


def read(folder: Path) -> Description:
    """Read poses_bounds.npy; the bounds are the medians of those of the views.

    Raises:
        InputError: not a plain array (n, 17), or not as many pictures as rows.
    """
    path = folder / NAME
    rows = _read_array(path)
    pictures = pictures_in(folder / "images")
    if len(pictures) != len(rows):
        raise InputError(
            f"{path} has poses of {len(rows)} pictures, but {folder / 'images'} holds {len(pictures)}: "
            "put all there, no more and no less, since they are matched by the order of their names"
        )
    matrices = rows[:, :15].reshape(-1, 3, 5)
    poses = llff_to_opengl(torch.from_numpy(matrices[:, :, :4])).numpy()
    frames = []
    for picture, pose, (height, width, focal) in zip(pictures, poses, matrices[:, :, 4].tolist(), strict=True):
        if not (1 <= width < 1e6 and 1 <= height < 1e6):
            raise InputError(f"{path}: the row of {picture.name} has a size of {width:g} x {height:g} pixels")
        size = round(width), round(height)
        lens = Lens(*size, focal, focal, size[0] / 2, size[1] / 2)
        frames.append(Frame(picture, path, pose, lens.scaled, size))
    near, far = np.median(rows[:, 15:], axis=0).tolist() if len(rows) else (0, 0)
    return Description(frames, bounds=(near, far) if 0 < near < far < np.inf else None)


def _read_array(path: Path) -> np.ndarray:
    """(n, 17) float64."""
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise InputError(
            f"{path} is not a plain .npy array of numbers (pickled ones are never opened): "
            "save it anew with np.save(path, poses.astype(float))"
        ) from error
    if array.ndim != 2 or array.shape[1] != 17 or array.dtype.kind not in "fiu":
        found = f"{array.shape} of {array.dtype}"
        raise InputError(f"{path} must hold numbers of shape (n, 17), not {found}: make it anew with LLFF")
    return np.ascontiguousarray(array, np.float64)
