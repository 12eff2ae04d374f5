"""Scenes and points into files that other programs read, whole or absent.

Sources: nerfstudio's documentation, "Data conventions"; Greg Turk's PLY format, 1.0. Axes and world are left as they
are: OpenGL cameras in the world of the scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gen3d
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, check_output, write_json
from gen3d.data.lenses import Lens
from gen3d.data.nerfstudio import NAME, SPLITS
from gen3d.data.pictures import read_mask, shrink_mask
from gen3d.data.scene import CapturedView

OPENCV, FISHEYE = "OPENCV", "OPENCV_FISHEYE"  # nerfstudio's names; without distortion the first is a pinhole


def write_transforms(folder: str | Path, views: Sequence[CapturedView], pictures: Iterable[np.ndarray]) -> Path:
    """Write a scene for nerfstudio: transforms.json, images/NNNN.png, and masks/NNNN.png where any view has a mask.

    `load_scene` reads back the same cameras, pixels and splits, but for two things that nerfstudio needs: views held
    out for "val" or "test" alone are listed for both, and where all views are for training none is listed, so that
    every reader holds out its own.

    Args:
        folder: a new or an empty one.
        views: n of them, of a lens that fits the picture; masks are read from their files.
        pictures: n of uint8 (h, w, 3) or (h, w, 4), alpha not multiplied in; they are taken one after the other.

    Returns:
        The folder.

    Raises:
        InputError: there is something in the folder, or the format cannot say what the lenses do.
        ValueError: no view, a picture that does not fit its lens, or not as many pictures as views.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"cannot write a scene to {folder}: there is something already; name a new folder")
    check_output(folder / NAME, (".json",))
    if not views:
        raise ValueError("a scene needs at least one view")
    model = _camera_model(views)
    masked = any(view.mask is not None for view in views)  # nerfstudio takes masks of all views or none
    names = [f"{index:0{max(4, len(str(len(views))))}d}.png" for index in range(len(views))]
    lenses = [_intrinsics(view) for view in views]
    shared = lenses[0] if all(lens == lenses[0] for lens in lenses) else {}
    frames = []
    with atomic_path(folder) as temporary:
        for view, name, lens, pixels in zip(views, names, lenses, pictures, strict=True):
            _save(temporary / "images" / name, _fitting(pixels, view.lens))
            if masked:
                _save(temporary / "masks" / name, _mask(view))
            frames.append(_frame(view, name, masked) | ({} if shared else lens))
        lists = _split_lists(views, [f"images/{name}" for name in names])
        write_json(temporary / NAME, {"camera_model": model, **shared, **lists, "frames": frames})
    return folder


def write_point_cloud(
    path: str | Path, points: np.ndarray, colors: np.ndarray, normals: np.ndarray | None = None
) -> Path:
    """Write points as binary little-endian PLY: floats x y z (and nx ny nz), then uchars red green blue.

    Args:
        path: .ply.
        points: (n, 3), in any unit.
        colors: (n, 3) uint8 sRGB.
        normals: (n, 3) unit vectors.

    Returns:
        `path`.

    Raises:
        InputError: another suffix, or a place where nothing can be written.
        ValueError: the shapes do not fit, or colours are not uint8.
    """
    path = check_output(path, (".ply",))
    n = len(points)
    shapes = [array.shape for array in (points, colors, normals) if array is not None]
    if any(shape != (n, 3) for shape in shapes) or colors.dtype != np.uint8:
        raise ValueError(f"a point cloud needs arrays (n, 3) and colours of uint8; got {shapes} and {colors.dtype}")
    columns = {"float": ["x", "y", "z"] + (["nx", "ny", "nz"] if normals is not None else [])}
    columns["uchar"] = ["red", "green", "blue"]
    kinds = {"float": "<f4", "uchar": "u1"}
    rows = np.empty(n, [(name, kinds[kind]) for kind, names in columns.items() for name in names])
    values = np.concatenate([points, *([] if normals is None else [normals]), colors], axis=1)
    for name, column in zip(rows.dtype.names or (), values.T, strict=True):
        rows[name] = column
    lines = ["ply", "format binary_little_endian 1.0", f"comment liftkit {gen3d.__version__}", f"element vertex {n}"]
    lines += [f"property {kind} {name}" for kind, names in columns.items() for name in names]
    header = "\n".join([*lines, "end_header", ""]).encode("ascii")
    with atomic_path(path) as temporary:
        temporary.write_bytes(header + rows.tobytes())
    return path


# -- parts of a scene ------------------------------------------------------------------------------------------


def _camera_model(views: Sequence[CapturedView]) -> str:
    """What transforms.json calls the lenses; it has one word for all of them."""
    fisheyes = [view.lens.model == "fisheye" for view in views]
    if any(fisheyes) and not all(fisheyes):
        raise InputError(
            "transforms.json has one camera_model for all pictures, but some of these are of a fisheye and some are "
            "not: make a scene of each kind"
        )
    return FISHEYE if fisheyes[0] else OPENCV


def _intrinsics(view: CapturedView) -> dict[str, float]:
    """As nerfstudio names them: all, since a reader may take each name from all frames or from none."""
    lens = view.lens
    distortion = dict.fromkeys(("k1", "k2", "k3", "k4", "p1", "p2"), 0.0)
    order = ("k1", "k2", "k3", "k4") if lens.model == "fisheye" else ("k1", "k2", "p1", "p2", "k3")
    if any(lens.distortion[len(order) :]):
        raise InputError(f"transforms.json cannot say k4, k5 and k6 of {view.path.name}: undistort the pictures first")
    distortion |= dict(zip(order, lens.distortion, strict=False))
    size = {"w": lens.width, "h": lens.height}
    return {**size, "fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy, **distortion}


def _frame(view: CapturedView, name: str, masked: bool) -> dict[str, Any]:
    pose = np.asarray(view.camera_to_world, np.float64)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise ValueError(f"the pose of {view.path.name} must be finite and (4, 4), not {pose.shape}")
    mask = {"mask_path": f"masks/{name}"} if masked else {}
    return {"file_path": f"images/{name}", **mask, "transform_matrix": pose.tolist()}


def _fitting(pixels: np.ndarray, lens: Lens) -> np.ndarray:
    size = (lens.height, lens.width)
    if pixels.dtype != np.uint8 or pixels.shape not in ((*size, 3), (*size, 4)):
        raise ValueError(f"the lens needs uint8 {size} with 3 or 4 channels; got {pixels.dtype} {pixels.shape}")
    return pixels


def _mask(view: CapturedView) -> np.ndarray:
    """(h, w) uint8: 0 where not to learn from, for a view without a mask nowhere."""
    if view.mask is None:
        return np.full((view.lens.height, view.lens.width), 255, np.uint8)
    return shrink_mask(read_mask(view.mask, view.upright), view.downscale) * np.uint8(255)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


def _split_lists(views: Sequence[CapturedView], names: Sequence[str]) -> dict[str, list[str]]:
    """File names for train, val and test: nerfstudio wants all three lists or none, and none of them empty."""
    lists = {split: [name for view, name in zip(views, names, strict=True) if view.split == split] for split in SPLITS}
    lists["val"], lists["test"] = lists["val"] or lists["test"], lists["test"] or lists["val"]
    return {f"{split}_filenames": found for split, found in lists.items()} if lists["val"] else {}
