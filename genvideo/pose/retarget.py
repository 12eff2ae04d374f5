"""A driving sequence of poses moved onto the figure of a reference: its limbs, its place, its ground.

From the neck outwards each joint is put where its limb points in the driving frame, as long as the limb is in the
reference (forward kinematics in the picture). How much shorter than usual a limb looks in a frame, because it points
towards the camera, is kept. The neck moves as in the driving clip, scaled with the figure, and the lower foot stays as
far above the ground, scaled too, as it is there; so feet that stand go on standing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from core2d.app.errors import InputError
from core2d.media.skeletons import LIMBS
from genvideo.pose.keypoints import NECK, SEEN, Poses

MIRRORED = {2: 5, 3: 6, 4: 7, 8: 11, 9: 12, 10: 13, 14: 15, 16: 17}  # right joints, and the left ones opposite
ANKLES = (10, 13)
WHOLE = 90  # percentile of a limb's lengths over a clip that counts as its whole length


def retarget(driving: Poses, reference: Poses) -> Poses:
    """The motion of one person on the figure of another.

    Args:
        driving: one person over some frames.
        reference: one person in one frame, standing more or less upright.

    Returns:
        Bodies in the reference's picture, with the driving clip's rate. Joints that are missing in a driving frame are
        missing there; a limb that the reference does not show is as long as its opposite, or as in the driving clip,
        scaled. Hands and faces are left out.

    Raises:
        InputError: several people, or no neck and hip in one of them.
    """
    for name, poses in (("the driving clip", driving), ("the reference", reference)):
        if poses.people != 1:
            raise InputError(f"{name} has {poses.people} people: choose one of them")
    source, target = driving.body[:, 0], reference.body[0, 0]  # (t, 18, 3), (18, 3)
    lengths, own = whole_lengths(source), whole_lengths(target[None])
    scale = _scale(lengths, own)
    limbs = [_first_known(own[i], own[_opposite(i)], scale * lengths[i]) for i in range(len(LIMBS))]
    ground, origin = _ground(source), _beginning(source[:, NECK])
    stands = _ground(target[None])

    found = np.zeros_like(source)
    found[:, NECK, :2] = target[NECK, :2] + scale * (source[:, NECK, :2] - origin)
    found[:, NECK, 2] = source[:, NECK, 2]
    for (parent, joint), whole, limb in zip(LIMBS, lengths, limbs, strict=True):
        there = (source[:, parent, 2] >= SEEN) & (source[:, joint, 2] >= SEEN) & (found[:, parent, 2] >= SEEN)
        along = source[:, joint, :2] - source[:, parent, :2]  # (t, 2)
        found[:, joint, :2] = found[:, parent, :2] + along * (limb / max(whole, 1e-6) if np.isfinite(whole) else scale)
        found[:, joint, 2] = np.where(there, source[:, joint, 2], 0.0)
    if np.isfinite(ground) and np.isfinite(stands):
        feet, lower = _lowest(source), _lowest(found)  # (t,)
        lift = stands + scale * (feet - ground) - lower
        found[..., 1] += np.where(np.isfinite(lift), lift, 0.0)[:, None]
    found[found[..., 2] < SEEN] = 0.0
    return replace(reference, body=found[:, None], hands=None, face=None, fps=driving.fps)


def whole_lengths(body: np.ndarray) -> np.ndarray:
    """(17,) pixels of `LIMBS` over frames (t, 18, 3), NaN of one that is never seen."""
    found = np.full(len(LIMBS), np.nan)
    for number, ends in enumerate(LIMBS):
        seen = (body[:, ends, 2] >= SEEN).all(1)
        if seen.any():
            found[number] = np.percentile(np.hypot(*(body[seen, ends[0], :2] - body[seen, ends[1], :2]).T), WHOLE)
    return found


def _scale(driving: np.ndarray, reference: np.ndarray) -> float:
    """How much larger the reference is, by the limbs of torso and legs that both show."""
    large = [i for i, (_, joint) in enumerate(LIMBS) if joint in (8, 9, 10, 11, 12, 13)]
    both = [i for i in large if np.isfinite(driving[i]) and np.isfinite(reference[i]) and driving[i] > 1]
    if not both:
        raise InputError("driving clip and reference have no limb of torso or legs in common: show neck and hips")
    return float(reference[both].sum() / driving[both].sum())


def _opposite(number: int) -> int:
    """The limb on the other side of the body."""
    both = MIRRORED | {left: right for right, left in MIRRORED.items()}
    return LIMBS.index(tuple(both.get(joint, joint) for joint in LIMBS[number]))


def _first_known(*lengths: float) -> float:
    return next((length for length in lengths if np.isfinite(length)), 0.0)


def _lowest(body: np.ndarray) -> np.ndarray:
    """(t,) y of the lower ankle in each frame, NaN where none is seen."""
    y = np.where(body[:, ANKLES, 2] >= SEEN, body[:, ANKLES, 1], -np.inf).max(1)
    return np.where(np.isfinite(y), y, np.nan)


def _ground(body: np.ndarray) -> float:
    """y of the ground: of the lowest ankle of all frames."""
    lowest = _lowest(body)
    return float(np.nanmax(lowest)) if np.isfinite(lowest).any() else float("nan")


def _beginning(points: np.ndarray) -> np.ndarray:
    """(x, y) of the first of points (t, 3) that was seen."""
    seen = np.flatnonzero(points[:, 2] >= SEEN)
    if not len(seen):
        raise InputError("the driving clip never shows a neck: it cannot be moved onto another figure")
    return points[seen[0], :2]
