"""Poses drawn: pixel for pixel as published code draws them, and found back from the drawings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.published_skeletons import cases, hashed

from core2d.media.videos import read_frames, read_video, write_video
from genvideo.pose.drawing import draw_frame, draw_poses
from genvideo.pose.keypoints import Poses
from genvideo.pose.reading_back import is_skeleton, read_skeleton, read_skeletons

STANDING = np.array([  # a person in front view, shares of the picture
    (0.50, 0.15), (0.50, 0.28), (0.41, 0.28), (0.36, 0.42), (0.33, 0.55), (0.59, 0.28), (0.64, 0.42), (0.67, 0.55),
    (0.45, 0.55), (0.44, 0.73), (0.44, 0.91), (0.55, 0.55), (0.56, 0.73), (0.56, 0.91), (0.47, 0.12), (0.53, 0.12),
    (0.43, 0.14), (0.57, 0.14),
])  # fmt: skip


def people(places: np.ndarray, height: int, width: int) -> Poses:
    """Poses of (frames, people, 18, 2) shares of the picture, all of them seen."""
    points = places * (width, height)
    return Poses(np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1), height, width)


def moved(count: int, seed: int = 0) -> np.ndarray:
    """(count, 1, 18, 2) the standing person, each joint moved at random by up to 4 % of the picture."""
    return STANDING + (np.random.default_rng(seed).random((count, 1, 18, 2)) - 0.5) * 0.08


def test_drawings_are_those_of_published_code() -> None:
    """How the hashes were made stands in `helpers/published_skeletons.py`."""
    published = json.loads(Path("tests/helpers/published_skeletons.json").read_text())
    assert [hashed(draw_frame(poses, 0)) for poses in cases()] == published


def test_what_is_not_seen_is_not_drawn() -> None:
    poses = people(STANDING[None, None], 512, 512)
    poses.body[..., 2] = 0.29
    assert not draw_frame(poses, 0).any()
    poses.body[0, 0, 1, 2] = 0.3  # a neck alone: a disc of 49 pixels
    assert (draw_frame(poses, 0) == (255, 85, 0)).all(-1).sum() == 49


def test_joints_are_found_back_in_own_drawings() -> None:
    """The pixel that a joint was drawn in is found: at most half a pixel off in each direction; 98 % of joints."""
    poses = people(moved(50), 512, 512)
    found = read_skeletons(draw_poses(poses))
    assert found.people == 1
    there = found.body[:, 0, :, 2] > 0
    apart = np.abs(found.body[:, 0, :, :2] - poses.body[:, 0, :, :2])[there]  # (n, 2)
    assert there.mean() >= 0.98
    assert (apart <= 0.5 + 1e-9).all(-1).mean() >= 0.98
    assert np.hypot(*apart.T).mean() <= 0.5


def test_joints_are_found_back_in_films_and_smaller_pictures(tmp_path: Path) -> None:
    poses = people(moved(4, seed=1), 512, 384)
    write_video(tmp_path / "drawn.mp4", draw_poses(poses), fps=8)
    found = read_skeletons(read_frames(tmp_path / "drawn.mp4"))
    there = found.body[:, 0, :, 2] > 0
    apart = np.hypot(*np.moveaxis(found.body[:, 0, :, :2] - poses.body[:, 0, :, :2], -1, 0))
    assert there.mean() >= 0.95
    assert np.median(apart[there]) <= 1
    assert (apart[there] <= 3).mean() >= 0.97


def test_nobody_two_people_and_half_a_person() -> None:
    assert read_skeleton(np.zeros((64, 64, 3), np.uint8)).shape == (0, 18, 3)
    assert read_skeletons([np.zeros((64, 64, 3), np.uint8)]).people == 0

    two = people(np.stack([STANDING * (0.5, 1), STANDING * (0.5, 0.9) + (0.5, 0.05)])[None], 512, 768)
    found = read_skeleton(draw_frame(two, 0))
    assert len(found) == 2 and (found[..., 2] > 0).all()
    found = found[found[:, 1, 0].argsort()]
    assert np.abs(found[..., :2] - two.body[0, ..., :2]).max() <= 0.5 + 1e-9

    half = people((STANDING * 1.6 - (0.3, 0.0))[None, None], 512, 512)  # below the hips nothing is in the picture
    inside = (half.body[0, 0, :, 1] < 505) & (half.body[0, 0, :, 1] > 5)
    (body,) = read_skeleton(draw_frame(half, 0))
    assert ((body[:, 2] > 0) == inside).all()
    assert np.abs(body[inside, :2] - half.body[0, 0, inside, :2]).max() <= 0.5 + 1e-9


def test_skeletons_are_told_from_pictures() -> None:
    random = np.random.default_rng(0)
    assert is_skeleton(draw_frame(people(STANDING[None, None], 512, 512), 0))
    assert not is_skeleton(np.zeros((64, 64, 3), np.uint8))
    assert not is_skeleton(random.integers(0, 256, (64, 64, 3), np.uint8))
    photograph = pytest.importorskip("skimage.data").astronaut()
    assert not is_skeleton(photograph)


def test_a_published_skeleton_clip_is_read() -> None:
    """The clip hides nose and eyes of most frames under the points of the face; all else is found in nearly all."""
    film = Path(os.environ.get("LIFTKIT_DATA", "../shared/data")) / "pose/anyone-video-2_kps.mp4"
    if not film.is_file():
        pytest.skip("the skeleton clip is not in the folder LIFTKIT_DATA")
    frames, _ = read_video(film)
    assert is_skeleton(frames[0])
    found = read_skeletons(frames[::17])
    assert found.people == 1
    limbs = found.body[:, 0, 1:14]  # neck to ankles
    assert (limbs[..., 2] > 0).mean() >= 0.96
    assert (limbs[..., 1].argmax(1) >= 9).all()  # a foot or a knee is lowest
