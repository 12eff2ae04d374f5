"""Motions moved onto other figures: dolls whose joints are known."""

from __future__ import annotations

import numpy as np
import pytest

from core2d.app.errors import InputError
from core2d.media.skeletons import LIMBS
from core2d.toybox.doll import JOINTS, Pose, joints_of, pose_of
from genvideo.pose.keypoints import Poses
from genvideo.pose.retarget import retarget

ANKLES = (10, 13)


def doll(motion: str, frames: int, size: float, place: tuple[float, float]) -> Poses:
    """One doll from its front, `size` pixels tall, its feet's ground at `place`."""
    poses = [pose_of(motion, frame / frames) if motion else Pose() for frame in range(frames)]
    joints = np.array([[joints_of(pose)[name] for name in JOINTS] for pose in poses])  # (t, 18, 3) metres
    x, y = place[0] + size * joints[..., 1], place[1] - size * joints[..., 2]
    return Poses(np.stack([x, y, np.ones_like(x)], -1)[:, None], 512, 512)


@pytest.mark.parametrize("motion", ["waving", "jumping"])
def test_onto_itself_nothing_moves(motion: str) -> None:
    driving = doll(motion, 8, 300, (256, 480))
    reference = Poses(driving.body[:1], 512, 512)
    assert np.allclose(retarget(driving, reference).body, driving.body)


@pytest.mark.parametrize("motion", ["waving", "jumping"])
def test_a_larger_doll_elsewhere_does_what_it_would_do_there(motion: str) -> None:
    """Seen from the front these motions turn no limb towards the camera: what is right is known exactly."""
    driving, reference = doll(motion, 8, 200, (150, 300)), doll("", 1, 380, (300, 500))
    wanted = doll(motion, 8, 380, (300, 500)).body
    found = retarget(driving, reference).body
    ankle = driving.body[0, 0, 10, 1]
    assert ankle < 300  # the ground of ankles is above that of feet, in both alike
    assert np.abs(found[..., :2] - wanted[..., :2]).max() < 1e-6


def test_limbs_are_as_long_as_those_of_the_reference() -> None:
    driving, reference = doll("waving", 8, 200, (150, 300)), doll("", 1, 300, (300, 500))
    neck = reference.body[0, 0, 1].copy()
    for joint in (3, 4, 6, 7):  # arms longer by a half
        reference.body[0, 0, joint, :2] = neck[:2] + 1.5 * (reference.body[0, 0, joint, :2] - neck[:2])
    found = retarget(driving, reference)
    length = {limb: np.hypot(*(reference.body[0, 0, a] - reference.body[0, 0, b])[:2])
              for limb in LIMBS for a, b in [limb]}  # fmt: skip
    for a, b in [(2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10)]:
        assert np.allclose(np.hypot(*(found.body[:, 0, a] - found.body[:, 0, b])[:, :2].T), length[a, b])


def test_feet_stay_on_the_ground() -> None:
    driving, reference = doll("squatting", 8, 200, (150, 300)), doll("", 1, 380, (300, 500))
    found = retarget(driving, reference).body[:, 0]
    lowest = found[:, ANKLES, 1].max(1)
    assert np.allclose(lowest, reference.body[0, 0, ANKLES, 1].max())


def test_what_is_not_seen_stays_away() -> None:
    driving, reference = doll("waving", 4, 200, (150, 300)), doll("", 1, 380, (300, 500))
    driving.body[1, 0, 3] = 0  # an elbow: what hangs on it is not known either
    found = retarget(driving, reference).body[:, 0]
    assert not found[1, (3, 4)].any() and found[0, (3, 4), 2].all() and found[1, (0, 7, 10), 2].all()
    driving.body[:, 0, 1] = 0
    with pytest.raises(InputError, match="neck"):
        retarget(driving, reference)
