"""A scene: posed pictures in a folder, in any of four formats, checked before anything is learned from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core2d.app.errors import InputError
from core2d.media.pictures import UnreadablePicture, pictures_in, read_header
from gen3d.data import blender, colmap, llff, nerfstudio
from gen3d.data.lenses import Lens
from gen3d.data.pictures import Description, Frame, Split, picture_sizes, read_mask

READERS = {"blender": blender, "nerfstudio": nerfstudio, "colmap": colmap, "llff": llff}
LOOKED_FOR = "transforms_train.json, transforms.json, cameras and images (.bin or .txt) in sparse/0, poses_bounds.npy"
ROTATION_TOLERANCE = 1e-3  # of the entries of R^T R


@dataclass(frozen=True)
class CapturedView:
    """One picture of a scene.

    Attributes:
        path: of the picture.
        camera_to_world: (4, 4) float64, OpenGL camera axes, in the units and the world of the scene.
        lens: for the picture as it will be used: upright where `upright`, and made smaller by `downscale`.
        mask: a picture that is black where this one is not to be learned from.
        split: what the view is for.
        upright: whether the picture is to be turned as its EXIF orientation says.
        downscale: so many pixels of the file, squared, are averaged into one.
    """

    path: Path
    camera_to_world: np.ndarray
    lens: Lens
    mask: Path | None
    split: Split
    upright: bool = True
    downscale: int = 1


@dataclass(frozen=True)
class CapturedScene:
    """Posed pictures.

    Attributes:
        folder: where the scene is.
        kind: "blender", "nerfstudio", "colmap" or "llff".
        views: as the files list them; sorted by name where the format gives no split.
        points: (n, 3) float64 on its surfaces, from COLMAP.
        skipped: the pictures that were left out, and why.
        bounds: distances from the cameras between which everything lies, from LLFF.
    """

    folder: Path
    kind: str
    views: tuple[CapturedView, ...]
    points: np.ndarray | None
    skipped: tuple[str, ...]
    bounds: tuple[float, float] | None = None

    def of(self, split: Split) -> list[CapturedView]:
        """The views of a split."""
        return [view for view in self.views if view.split == split]


def load_scene(folder: Path, *, skip_missing: bool = False, downscale: int = 1, hold_every: int = 8) -> CapturedScene:
    """Read and check a scene; every picture is decoded once, one at a time, and not kept.

    Args:
        folder: the scene; the format is found out (`LOOKED_FOR`, in this order).
        skip_missing: leave out pictures that are missing, damaged or Git LFS pointers, instead of refusing the scene.
        downscale: average so many pixels, squared, into one; where images_N holds such pictures, those are used.
        hold_every: where the format gives no split, each `hold_every`-th view by name, from the first on, is for the
            test; 0 for none.

    Raises:
        InputError: something in the scene cannot be used; the file is named.
    """
    folder = Path(folder)
    if downscale < 1 or hold_every < 0:
        raise InputError(f"downscale must be at least 1 and hold_every at least 0, not {downscale} and {hold_every}")
    kind, description = _describe(folder)
    frames = _with_splits(description.frames, hold_every)
    for frame in frames:
        _check_pose(frame)
    if not skip_missing:
        _refuse_missing(folder, frames)
    copies = _smaller_copies(folder, downscale)
    views, skipped = [], []
    for frame in frames:
        try:
            views.append(_view(frame, downscale, copies.get(frame.path)))
        except UnreadablePicture as error:
            if not skip_missing:
                raise InputError(f"{error}, or leave it out with --skip-missing") from error
            skipped.append(f"{_name(folder, frame.path)} ({error.what})")
    scene = CapturedScene(folder, kind, tuple(views), description.points, tuple(skipped), description.bounds)
    _check_count(scene)
    return scene


def _describe(folder: Path) -> tuple[str, Description]:
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}: name the folder of a scene")
    for kind, module in READERS.items():
        if module.is_here(folder):
            return kind, module.read(folder)
    raise InputError(f"{folder} is no scene: none of these is in it: {LOOKED_FOR}")


def _with_splits(frames: Sequence[Frame], hold_every: int) -> list[Frame]:
    if all(frame.split for frame in frames):
        return list(frames)
    ordered = sorted(frames, key=lambda frame: str(frame.path))
    held = range(0, len(ordered), hold_every) if hold_every else ()
    return [replace(frame, split="test" if index in held else "train") for index, frame in enumerate(ordered)]


def _check_pose(frame: Frame) -> None:
    """Refuse what no camera can have."""
    pose = frame.camera_to_world
    rotation = pose[:3, :3]
    where = f"{frame.source}: the pose of {frame.path.name}"
    if not np.isfinite(pose).all():
        raise InputError(f"{where} has numbers that are not finite: leave the frame out or compute its pose anew")
    difference = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if difference > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0 or (pose[3] != (0, 0, 0, 1)).any():
        raise InputError(f"{where} is not a rotation and a position: remove its scale or mirror, or leave it out")


def _refuse_missing(folder: Path, frames: Sequence[Frame]) -> None:
    files = [path for frame in frames for path in (frame.path, frame.mask) if path is not None]
    missing = [_name(folder, path) for path in dict.fromkeys(files) if not path.is_file()]
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise InputError(
            f"{folder} lacks {len(missing)} of {len(files)} pictures ({', '.join(missing[:3])}{more}): "
            "put them there, or leave them out with --skip-missing"
        )


def _check_count(scene: CapturedScene) -> None:
    training = len(scene.of("train"))
    if not scene.views:
        raise InputError(f"{scene.folder} has no views that can be used: at least 2 for training are needed")
    if training < 2:
        count = "a single view" if training == 1 else "no view"
        raise InputError(f"{scene.folder} has {count} for training: at least 2 are needed")


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


# -- pictures and their sizes ------------------------------------------------------------------------------------


def _view(frame: Frame, downscale: int, copy: Path | None) -> CapturedView:
    """The view of a frame whose picture can be read and fits what is said about it."""
    path = frame.path
    if copy is not None and frame.mask is None and _is_smaller(copy, path, downscale):
        path, downscale = copy, 1
    size, upright = _fitting_size(frame, path)
    lens = frame.lens(*size)
    if not lens.usable:
        raise InputError(
            f"{frame.source}: {frame.path.name} has a focal length of {lens.fx:g} x {lens.fy:g} pixels, or other "
            "intrinsics that cannot be: they must be finite, and the focal length positive"
        )
    if frame.mask is not None and (found := read_mask(frame.mask, upright).shape[::-1]) != size:
        raise InputError(f"{frame.mask} is {_times(found)} pixels, but its picture {path.name} is {_times(size)}")
    if downscale > min(size):
        raise InputError(f"{path} is {_times(size)} pixels, of which a downscale by {downscale} leaves none")
    assert frame.split is not None
    return CapturedView(
        path, frame.camera_to_world, lens.shrunk(downscale), frame.mask, frame.split, upright, downscale
    )


def _fitting_size(frame: Frame, path: Path) -> tuple[tuple[int, int], bool]:
    """(width, height) of a picture, and whether it is to be set upright for that.

    Some programs compute poses from pictures as they are stored: then the stated size fits those only.
    """
    upright, stored = picture_sizes(path)
    if frame.size is None or _same_shape(upright, frame.size):
        return upright, True
    if _same_shape(stored, frame.size):
        return stored, False
    raise InputError(
        f"{path} is {_times(upright)} pixels, but {frame.source} is about {_times(frame.size)}: "
        "put the pictures there that the poses were computed from, whole and not stretched"
    )


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size is the other times a number, up to rounding to whole pixels."""
    return abs(size[0] * other[1] - size[1] * other[0]) < max(*size, *other)


def _smaller_copies(folder: Path, downscale: int) -> dict[Path, Path]:
    """Pictures in images/ -> the same in images_N/, by name without suffix, or else by order."""
    if downscale == 1:
        return {}
    places = folder / "images", folder / f"images_{downscale}"
    whole, small = (pictures_in(place) for place in places)
    by_name = {path.relative_to(places[1]).with_suffix(""): path for path in small}
    found = {path: by_name.get(path.relative_to(places[0]).with_suffix("")) for path in whole}
    if not any(found.values()) and len(whole) == len(small):
        return dict(zip(whole, small, strict=True))
    return {path: copy for path, copy in found.items() if copy is not None}


def _is_smaller(copy: Path, path: Path, factor: int) -> bool:
    """Whether the headers say that a picture is another one made smaller."""
    try:
        sizes = zip(read_header(copy).size, read_header(path).size, strict=True)
    except InputError:
        return False
    return all(abs(less * factor - more) < factor for less, more in sizes)


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
