"""Files of poses: JSON of OpenPose and of COCO, a folder with a file a frame, and ours, OpenPose's with a clock.

OpenPose writes a file a frame: `{"people": [{"pose_keypoints_2d": [x, y, confidence, ...], ...}]}` with 18 or 25
joints, 21 a hand and 70 points of the face (the last two, the pupils, are left out here). Its editors add
`canvas_width` and `canvas_height`; numbers of at most 1 are shares of the picture. COCO keeps pictures and people
apart; a joint of it is labelled (1, 2) or not (0), or has a score in [0, 1].
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from core2d.app.errors import InputError
from core2d.app.outputs import write_json
from genvideo.pose.keypoints import Poses, from_body_25, from_coco, from_whole_body

FORMAT = "liftkit poses 1"
BODIES = {17: from_coco, 18: lambda points: points, 25: from_body_25}  # by number of joints
PARTS = {"hand_left_keypoints_2d": (21,), "hand_right_keypoints_2d": (21,), "face_keypoints_2d": (68, 70)}
COCO_PARTS = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}  # in the order of the 133
LARGEST_SIDE, LARGEST_FILE = 16384, 1 << 28  # pixels, bytes


def read_poses(path: Path, size: tuple[int, int] | None = None) -> Poses:
    """Poses of a clip: JSON of OpenPose (a frame or a list of them), of COCO or of ours, or a folder of the first.

    Args:
        size: height and width of the picture, where the file tells none (OpenPose's own).

    Raises:
        InputError: it cannot be read, holds something else, tells no size, or pictures of several sizes.
    """
    if not path.is_dir():
        return _read(path, _load(path), size)
    frames = [(file, _load(file)) for file in _files_of_frames(path)]
    for file, frame in frames:
        _expect(isinstance(frame, dict) and "people" in frame, file, 'it holds no list of "people"')
    return _joined([_openpose(file, [frame], size) for file, frame in frames], path)


def read_coco(path: Path) -> dict[str, Poses]:
    """The people of each picture in a file of COCO's annotations, by the picture's name.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    found = _load(path)
    _expect(isinstance(found, dict) and "annotations" in found, path, 'it holds no "annotations"')
    return _coco(path, found)


def write_poses(path: Path, poses: Poses) -> None:
    """Write our own JSON, whole or not at all."""
    people = range(poses.people)
    frames = [{"people": [_person(poses, frame, person) for person in people]} for frame in range(poses.frames)]
    write_json(path, {
        "format": FORMAT, "canvas_width": poses.width, "canvas_height": poses.height,
        "fps": None if poses.fps is None else str(poses.fps), "frames": frames,
    })  # fmt: skip


def _person(poses: Poses, frame: int, person: int) -> dict[str, list[float]]:
    parts = {"pose_keypoints_2d": poses.body[frame, person]}
    if poses.hands is not None:
        parts |= dict(zip(PARTS, poses.hands[frame, person], strict=False))
    if poses.face is not None:
        parts["face_keypoints_2d"] = poses.face[frame, person]
    return {name: np.round(points, 4).ravel().tolist() for name, points in parts.items()}


def _read(path: Path, found: Any, size: tuple[int, int] | None) -> Poses:
    """What a JSON file holds, by the names in it."""
    if isinstance(found, list) or (isinstance(found, dict) and "people" in found):
        frames = found if isinstance(found, list) else [found]
        _expect(bool(frames), path, "it holds no frame")
        return _joined([_openpose(path, [frame], size) for frame in frames], path)
    _expect(isinstance(found, dict), path, "it holds no object")
    if "annotations" in found:
        pictures = _coco(path, found)
        return _joined([pictures[name] for name in sorted(pictures)], path)
    _expect(found.get("format") == FORMAT and isinstance(found.get("frames"), list) and bool(found["frames"]), path,
            'it has neither "people" (OpenPose) nor "annotations" (COCO)')  # fmt: skip
    return _openpose(path, found["frames"], _canvas(path, found), _rate(path, found.get("fps")))


# -- OpenPose ----------------------------------------------------------------------------------------------------------


def _openpose(path: Path, frames: Sequence[Any], size: tuple[int, int] | None, fps: Fraction | None = None) -> Poses:
    """Frames of one size."""
    for frame in frames:
        _expect(isinstance(frame, dict) and isinstance(frame.get("people"), list), path, 'it holds no list of "people"')
    told = _canvas(path, frames[0])
    if not (told or size):
        raise InputError(f"{path} does not tell the size of its picture: give --height and --width")
    height, width = told or size or (0, 0)
    people = [[_openpose_person(path, person) for person in frame["people"]] for frame in frames]
    points = [part for frame in people for person in frame for part in person.values()]
    largest = max((float(np.abs(part[..., :2]).max()) for part in points), default=0.0)
    scale = np.array([width, height, 1.0]) if 0 < largest <= 1 else np.ones(3)
    most = max(map(len, people))

    def gathered(name: str, count: int) -> np.ndarray:
        found = np.zeros((len(frames), most, count, 3))
        for frame, those in enumerate(people):
            for person, parts in enumerate(those):
                if name in parts:
                    found[frame, person] = parts[name] * scale
        return found

    has = {name for frame in people for person in frame for name in person}
    left, right, face = PARTS
    hands = np.stack([gathered(left, 21), gathered(right, 21)], 2) if has & {left, right} else None
    return Poses(gathered("body", 18), height, width, hands, gathered(face, 68) if face in has else None, fps)


def _openpose_person(path: Path, person: Any) -> dict[str, np.ndarray]:
    """The parts of one person that there are, by name."""
    _expect(isinstance(person, dict), path, "a person in it is no object")
    body = _points(path, person.get("pose_keypoints_2d"), tuple(BODIES), "pose_keypoints_2d")
    parts = {"body": BODIES[len(body)](body)}
    for name, counts in PARTS.items():
        if person.get(name):  # OpenPose leaves an empty list where it did not look
            parts[name] = _points(path, person[name], counts, name)[: counts[0]]
    return parts


# -- COCO --------------------------------------------------------------------------------------------------------------


def _coco(path: Path, found: Mapping[str, Any]) -> dict[str, Poses]:
    images: Any = found.get("images")
    _expect(isinstance(images, list) and isinstance(found["annotations"], list), path, 'it has no list of "images"')
    people: dict[Any, list[tuple[np.ndarray, np.ndarray, np.ndarray] | np.ndarray]] = {}
    for one in found["annotations"]:
        _expect(isinstance(one, dict) and "image_id" in one, path, 'an annotation in it has no "image_id"')
        if "keypoints" in one:
            people.setdefault(one["image_id"], []).append(_coco_person(path, one))
    poses: dict[str, Poses] = {}
    for image in images:
        _expect(isinstance(image, dict) and {"id", "file_name"} <= image.keys(), path, "an image in it has no name")
        size = _size(path, image.get("height"), image.get("width"))
        poses[str(image["file_name"])] = _coco_picture(people.pop(image["id"], []), *size)
    _expect(not people, path, f"an annotation is of image {next(iter(people), None)}, which is not in it")
    _expect(bool(poses), path, "it holds no picture")
    return poses


def _coco_picture(people: Sequence[Any], height: int, width: int) -> Poses:
    if not people:
        return Poses(np.zeros((1, 0, 18, 3)), height, width)
    points = np.stack(people)[None]  # (1, people, 17 or 133, 3)
    if points.shape[2] == 17:
        return Poses(from_coco(points), height, width)
    body, hands, face = from_whole_body(points)
    return Poses(body, height, width, hands, face)


def _coco_person(path: Path, one: Mapping[str, Any]) -> np.ndarray:
    """(17 or 133, 3) points, their confidence at most 1."""
    points = _points(path, one["keypoints"], (17, 133), "keypoints")
    if len(points) == 17 and COCO_PARTS.keys() & one.keys():
        rest = [_points(path, one.get(name), (count,), name) for name, count in COCO_PARTS.items()]
        points = np.concatenate([points, *rest])
    points[:, 2] = points[:, 2].clip(0, 1)
    return points


# -- what files hold ---------------------------------------------------------------------------------------------------


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path} has more than {LARGEST_FILE >> 20} MB: these are no poses of one clip")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no JSON that can be read: give a file of OpenPose or COCO") from error


def _files_of_frames(folder: Path) -> list[Path]:
    """The JSON files of a folder by the last number in their names (before `_keypoints`), of which none is missing."""
    files = [file for file in folder.iterdir() if file.suffix.lower() == ".json" and not file.name.startswith(".")]
    numbers = {file: re.findall(r"\d+", file.stem) for file in files}
    if not files or not all(numbers.values()):
        raise InputError(f"{folder} holds no poses: give a folder of JSON files with a number each, such as 0001.json")
    files.sort(key=lambda file: int(numbers[file][-1]))
    for before, after in pairwise(int(numbers[file][-1]) for file in files):
        if after != before + 1:
            raise InputError(f"{folder}: a frame is missing or there twice after number {before} (then comes {after})")
    return files


def _joined(pictures: Sequence[Poses], path: Path) -> Poses:
    """One clip of pictures of one size, everybody's rows filled up to the most people."""
    sizes = sorted({(one.width, one.height) for one in pictures})
    if len(sizes) > 1:
        said = ", ".join(f"{width} x {height}" for width, height in sizes[:3])
        raise InputError(f"{path} holds pictures of several sizes ({said}), and a clip has one: give them singly")
    most = max(one.people for one in pictures)

    def rows(part: np.ndarray | None, one: Poses, points: tuple[int, ...]) -> np.ndarray:
        filled = np.zeros((one.frames, most, *points, 3))
        if part is not None:
            filled[:, : one.people] = part
        return filled

    body = np.concatenate([rows(one.body, one, (18,)) for one in pictures])
    hands = face = None
    if any(one.hands is not None for one in pictures):
        hands = np.concatenate([rows(one.hands, one, (2, 21)) for one in pictures])
    if any(one.face is not None for one in pictures):
        face = np.concatenate([rows(one.face, one, (68,)) for one in pictures])
    return Poses(body, pictures[0].height, pictures[0].width, hands, face, pictures[0].fps)


def _points(path: Path, numbers: Any, counts: tuple[int, ...], name: str) -> np.ndarray:
    """(n, 3) of a flat list; points that were not found are at 0 with confidence 0."""
    said = " or ".join(map(str, counts))
    _expect(isinstance(numbers, list) and len(numbers) in [3 * count for count in counts], path,
            f"{name} is no list of x, y, confidence for {said} points")  # fmt: skip
    _expect(all(type(number) in (int, float) and math.isfinite(number) for number in numbers), path,
            f"{name} holds something else than finite numbers")  # fmt: skip
    points = np.array(numbers, float).reshape(-1, 3)
    _expect(bool((points[:, 2] >= 0).all()), path, f"{name} has a confidence below 0")
    return points


def _canvas(path: Path, found: Mapping[str, Any]) -> tuple[int, int] | None:
    if "canvas_height" not in found and "canvas_width" not in found:
        return None
    return _size(path, found.get("canvas_height"), found.get("canvas_width"))


def _size(path: Path, height: Any, width: Any) -> tuple[int, int]:
    sides = [int(side) if isinstance(side, (int, float)) and math.isfinite(side) else 0 for side in (height, width)]
    _expect(all(1 <= side <= LARGEST_SIDE for side in sides), path, f"its picture is {width} x {height} pixels")
    return sides[0], sides[1]


def _rate(path: Path, said: Any) -> Fraction | None:
    if said is None:
        return None
    try:
        rate = Fraction(str(said))
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    _expect(rate > 0, path, f"it has {said} frames a second")
    return rate


def _expect(right: bool, path: Path, otherwise: str) -> None:
    if not right:
        raise InputError(f"{path} cannot be read as poses: {otherwise}")
