"""Orders of joints, files of poses, and what is said of files that cannot be read."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core2d.app.errors import InputError
from genvideo.pose.formats import read_coco, read_poses, write_poses
from genvideo.pose.keypoints import (
    Poses,
    from_body_25,
    from_coco,
    from_whole_body,
    to_body_25,
    to_coco,
    to_whole_body,
)

COCO = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip
BODY_25 = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "middle hip", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye",
    "left eye", "right ear", "left ear",
)  # fmt: skip


def poses(seed: int, frames: int = 3, people: int = 2) -> Poses:
    random = np.random.default_rng(seed)

    def points(*shape: int) -> np.ndarray:
        return np.round(np.concatenate([random.random((frames, people, *shape, 2)) * (640, 480),
                                        random.random((frames, people, *shape, 1))], -1), 4)  # fmt: skip

    return Poses(points(18), 480, 640, points(2, 21), points(68), Fraction(30000, 1001))


def assert_same(found: Poses, wanted: Poses) -> None:
    assert (found.height, found.width, found.fps) == (wanted.height, wanted.width, wanted.fps)
    for one, other in ((found.body, wanted.body), (found.hands, wanted.hands), (found.face, wanted.face)):
        assert (one is None) == (other is None)
        assert one is None or other is None or np.array_equal(one, other)


def test_orders_agree_by_the_names_of_joints() -> None:
    from core2d.toybox.doll import JOINTS

    numbers = np.arange(17.0)
    found = from_coco(np.stack([numbers, numbers, np.ones(17)], 1))
    for joint, name in enumerate(JOINTS):
        if name != "neck":
            assert COCO[int(found[joint, 0])] == name
    assert found[1].tolist() == [5.5, 5.5, 1.0]  # between the shoulders
    numbers = np.arange(25.0)
    found = from_body_25(np.stack([numbers] * 3, 1))
    assert [BODY_25[int(x)] for x in found[:, 0]] == list(JOINTS)


@pytest.mark.parametrize(("left", "right", "neck"), [(0.31, 0.9, 1.0), (0.3, 0.9, 0.0), (0.9, 0.0, 0.0)])
def test_a_neck_needs_both_shoulders(left: float, right: float, neck: float) -> None:
    points = np.ones((17, 3))
    points[5, 2], points[6, 2] = left, right
    assert from_coco(points)[1, 2] == neck


@given(st.integers(0, 1000))
def test_orders_come_back(seed: int) -> None:
    one = poses(seed, 2, 1)
    without_neck = [joint for joint in range(18) if joint != 1]
    assert np.array_equal(from_coco(to_coco(one.body))[..., without_neck, :], one.body[..., without_neck, :])
    assert np.array_equal(from_body_25(to_body_25(one.body)), one.body)
    body, hands, face = from_whole_body(to_whole_body(one))
    assert np.array_equal(body[..., without_neck, :], one.body[..., without_neck, :])
    assert one.hands is not None and one.face is not None
    assert np.array_equal(hands, one.hands) and np.array_equal(face, one.face)


def test_our_files_come_back(tmp_path: Path) -> None:
    for one in (poses(0), Poses(poses(1).body, 480, 640), Poses(np.zeros((2, 0, 18, 3)), 48, 64)):
        write_poses(tmp_path / "poses.json", one)
        assert_same(read_poses(tmp_path / "poses.json"), one)


def openpose(one: Poses, frame: int, order: int = 18) -> dict[str, Any]:
    turned = {18: lambda body: body, 25: to_body_25}[order]
    assert one.hands is not None
    people = []
    for body, hands in zip(one.body[frame], one.hands[frame], strict=True):
        left, right = (hand.ravel().tolist() for hand in hands)
        person = {"pose_keypoints_2d": turned(body).ravel().tolist(), "face_keypoints_2d": []}
        people.append(person | {"hand_left_keypoints_2d": left, "hand_right_keypoints_2d": right})
    return {"version": 1.3, "people": people}


@pytest.mark.parametrize("order", [18, 25])
def test_a_folder_of_openpose(tmp_path: Path, order: int) -> None:
    one = poses(3)
    wanted = Poses(one.body, one.height, one.width, one.hands)
    for frame in range(3):  # 9, 10, 11: sorted as numbers
        (tmp_path / f"clip_{frame + 9}_keypoints.json").write_text(json.dumps(openpose(one, frame, order)))
    assert_same(read_poses(tmp_path, (480, 640)), wanted)
    with pytest.raises(InputError, match="--height and --width"):
        read_poses(tmp_path)
    (tmp_path / "clip_10_keypoints.json").unlink()
    with pytest.raises(InputError, match="missing"):
        read_poses(tmp_path, (480, 640))


def test_shares_of_a_canvas(tmp_path: Path) -> None:
    one = poses(4, 1)
    small = one.resized(1, 1)
    found = openpose(small, 0) | {"canvas_width": 640, "canvas_height": 480}
    (tmp_path / "one.json").write_text(json.dumps([found]))
    assert np.allclose(read_poses(tmp_path / "one.json").body, one.body)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON"), ("[]", "no frame"), ("{}", "neither"), ("3", "no object"), ('{"people": 3}', '"people"'),
        ('{"people": [3], "canvas_width": 8, "canvas_height": 8}', "no object"),
        ('{"people": [], "canvas_width": 8}', "8 x None"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}], "canvas_width": 8, "canvas_height": 8}', "17 or 18 or 25"),
        ('{"people": [{"pose_keypoints_2d": [%s]}], "canvas_width": 8, "canvas_height": 8}' % ("NaN," * 53 + "1"),
         "finite"),
        ('{"annotations": [], "images": []}', "no picture"), ('{"annotations": [{}], "images": []}', "image_id"),
        ('{"annotations": [], "images": [{"id": 1, "file_name": "a", "height": 0, "width": 9}]}', "9 x 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(InputError, match=said) as error:
        read_poses(tmp_path / "wrong.json")
    assert "\n" not in str(error.value)


def test_real_annotations_of_whole_bodies() -> None:
    file = Path(os.environ.get("LIFTKIT_DATA", "../shared/data")) / "pose/test_coco_wholebody.json"
    if not file.is_file():
        pytest.skip("the annotations are not in the folder LIFTKIT_DATA")
    raw = json.loads(file.read_text())
    found = read_coco(file)
    assert len(found) == len(raw["images"]) and sum(one.people for one in found.values()) == len(raw["annotations"])
    man = found["000000000785.jpg"]
    (annotation,) = [one for one in raw["annotations"] if one["image_id"] == 785]
    assert (man.height, man.width, man.people) == (425, 640, 1)
    assert man.body[0, 0, 0].tolist() == [367, 81, 1]  # its nose
    assert man.hands is not None and man.face is not None
    assert man.hands[0, 0, 1].ravel().tolist() == annotation["righthand_kpts"]
    assert man.hands[0, 0, 0, :, 2].max() == 0  # the left one is not labelled
    assert np.allclose(man.face[0, 0, :, :2].ravel(), np.reshape(annotation["face_kpts"], (68, 3))[:, :2].ravel())
    shoulders = np.reshape(annotation["keypoints"], (17, 3))[5:7]
    assert man.body[0, 0, 1, :2].tolist() == shoulders[:, :2].mean(0).tolist()
    with pytest.raises(InputError, match="several sizes"):
        read_poses(file)


def test_people_are_followed_and_the_largest_is_taken() -> None:
    small = np.ones((18, 3)) * (100, 100, 1) + np.arange(18)[:, None] * (1, 2, 0)
    large = np.ones((18, 3)) * (400, 100, 1) + np.arange(18)[:, None] * (2, 9, 0)
    body = np.stack([[small, large], [large, small], [small, large]])  # the rows change places
    one = Poses(body, 480, 640)
    assert (one.person().body == large).all() and (one.person(1).body == small).all()
    with pytest.raises(InputError, match="2 people"):
        one.person(3)
    with pytest.raises(InputError, match="nobody"):
        Poses(np.zeros((2, 1, 18, 3)), 480, 640).person()
