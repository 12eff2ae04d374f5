"""Joints found back from drawn skeletons, by their colours: from the drawings of `drawing`, also compressed or scaled.

A joint is a bright disc in its own colour, a limb is darker (60 %). Discs of later joints, hands and faces may lie over
a disc, anything darker contradicts one. From the neck outwards joints are put together as people wherever the pixels
between two of them have the colour of the limb that belongs there, much as OpenPose's affinity fields do (1812.08008).
Bodies are read; hands and faces, whose points share their colours, are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.ndimage import find_objects, label, maximum_filter

from core2d.media.skeletons import COLORS, LIMB_SHARE, LIMBS
from genvideo.pose.keypoints import NECK, Poses

JOINT_COLORS, LIMB_COLORS = np.array(COLORS, np.float32), np.array(COLORS[: len(LIMBS)], np.float32) * LIMB_SHARE
BRIGHT, DARK = 204, 50  # of 255: limbs reach 153, joints 255
NEAR = 60  # distance of a colour from the one that was drawn, of 442: films blur colours
NOTHING, COVER = -1, 99  # classes of pixels beside those of joints (0 to 17)
FEWEST = 0.12  # of a disc that has to be seen
CONTRADICTED = 0.5  # of what is seen of a disc: more makes it none
FOLLOWED = 0.6  # of the pixels between two joints that have their limb's colour, or are covered
LARGEST_RADIUS = 24  # pixels
MOST_DISCS = 100  # of a colour that are looked at: hands have 42 in that of a knee


def read_skeletons(frames: Iterable[np.ndarray], fps: Fraction | None = None) -> Poses:
    """People in drawn skeletons, uint8 (h, w, 3) each; frames without anybody have no joint with confidence.

    A joint's confidence is the share of its disc that agrees with what is seen there.
    """
    people, height, width = [], 0, 0
    for frame in frames:
        height, width = frame.shape[:2]
        people.append(read_skeleton(frame))
    body = np.zeros((len(people), max(map(len, people), default=0), 18, 3))
    for frame, those in enumerate(people):
        body[frame, : len(those)] = those
    return Poses(body, height, width, fps=fps)


def read_skeleton(pixels: np.ndarray) -> np.ndarray:
    """The people (n, 18, 3) in one drawing, uint8 (h, w, 3)."""
    there = find_objects((pixels.max(-1) >= DARK).astype(np.int8))
    if not there:
        return np.zeros((0, 18, 3))
    joints, limbs = (np.pad(part, LARGEST_RADIUS, constant_values=NOTHING) for part in _classes(pixels[there[0]]))
    radius = _radius(joints)
    if radius is None:
        return np.zeros((0, 18, 3))
    discs = [_discs(joints, joint, radius) for joint in range(18)]
    people = _people(discs, joints, limbs, radius)
    corner = [there[0][1].start - LARGEST_RADIUS, there[0][0].start - LARGEST_RADIUS, 0.0]
    return people + corner * (people[..., 2:] > 0)


def is_skeleton(pixels: np.ndarray) -> bool:
    """Whether a picture, uint8 (h, w, 3), looks like drawn skeletons: colours of theirs on black."""
    brightest = pixels.max(-1)
    there = brightest > BRIGHT
    if (brightest < DARK).mean() < 0.5 or there.sum() < 20:
        return False
    strong = pixels[there].astype(np.int32)
    pure = (strong.min(-1) < NEAR) | (strong.min(-1) > BRIGHT)  # a full colour, or the white of faces
    joints, limbs = _classes(pixels)
    drawn = (limbs != NOTHING).sum() + ((joints != NOTHING) & (joints != COVER)).sum()
    return bool(pure.mean() > 0.8 and drawn > 0.5 * (brightest > 2 * DARK).sum() - there.sum())


def _classes(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each pixel belongs to: (h, w) numbers of joints, `COVER` for other bright ones; (h, w) numbers of limbs."""
    brightest = pixels.max(-1)
    joints, limbs = np.full(pixels.shape[:2], NOTHING), np.full(pixels.shape[:2], NOTHING)
    bright, dim = brightest >= BRIGHT - 10, (brightest >= DARK) & (brightest < BRIGHT)
    near, distance = _nearest(pixels[bright], JOINT_COLORS)
    joints[bright] = np.where(distance < NEAR, near, COVER)
    near, distance = _nearest(pixels[dim], LIMB_COLORS)
    limbs[dim] = np.where(distance < NEAR, near, NOTHING)
    return joints, limbs


def _nearest(pixels: np.ndarray, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest colour (n,) of each pixel (n, 3), and its distance (n,)."""
    apart = np.linalg.norm(pixels[:, None].astype(np.float32) - colors, axis=-1)  # (n, colours)
    return apart.argmin(-1), apart.min(-1, initial=np.inf)


def _radius(joints: np.ndarray) -> int | None:
    """Pixels from the middle of discs to their edge, from the area of those that stand alone; None without any."""
    areas = []
    for joint, place in enumerate(find_objects(joints * (joints != COVER) + 1, 18)):
        if place:
            spots: Any = label(joints[place] == joint)
            areas += np.bincount(spots[0].ravel())[1:].tolist()
    areas = [area for area in areas if area > 4]
    return min(max(round((np.median(areas) / np.pi) ** 0.5), 1), LARGEST_RADIUS) if areas else None


def _discs(joints: np.ndarray, joint: int, radius: int) -> np.ndarray:
    """(n, 3) places and agreement of discs of one joint, the surest first."""
    own = joints == joint
    box = find_objects(own.astype(int))
    if not box:
        return np.zeros((0, 3))
    top, left = (max(0, side.start - radius) for side in box[0])
    place = tuple(slice(start, side.stop + radius) for start, side in zip((top, left), box[0], strict=True))
    offsets = np.argwhere(_disc(radius)) - radius  # (m, 2)
    seen, covered = _counted(own[place], offsets), _counted(joints[place] > joint, offsets)  # COVER is above all
    wrong = np.maximum(len(offsets) - seen - covered, 0)
    sure = seen - wrong
    peaks = (sure == maximum_filter(sure, 2 * radius + 1)) & (seen >= FEWEST * len(offsets))
    peaks &= wrong <= CONTRADICTED * (seen + wrong)
    labelled: Any = label(peaks, np.ones((3, 3)))
    spots, count = labelled
    found = []
    for number in range(1, count + 1):
        y, x = np.nonzero(spots == number)
        agreement = seen[y[0], x[0]] / (seen[y[0], x[0]] + wrong[y[0], x[0]])
        found.append((x.mean() + left + 0.5, y.mean() + top + 0.5, agreement, sure[y[0], x[0]]))
    found.sort(key=lambda one: -one[3])
    return np.array(found[:MOST_DISCS]).reshape(-1, 4)[:, :3]


def _disc(radius: int) -> np.ndarray:
    return np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius + 0.2


def _counted(mask: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(h, w) how many pixels of a mask (h, w) lie at one of the offsets (m, 2) from each pixel."""
    height, width = mask.shape
    places = (np.argwhere(mask)[:, None] + offsets).reshape(-1, 2)
    y, x = places[((places >= 0) & (places < mask.shape)).all(1)].T
    return np.bincount(y * width + x, minlength=height * width).reshape(height, width)


def _people(discs: Sequence[np.ndarray], joints: np.ndarray, limbs: np.ndarray, radius: int) -> np.ndarray:
    """Put discs together from necks outwards; what is left over goes to the only person, if there is one only."""
    free = [list(range(len(found))) for found in discs]
    people = np.zeros((max(1, len(discs[NECK])), 18, 3))
    if len(discs[NECK]):
        people[:, NECK] = discs[NECK]
        free[NECK] = []
    for limb, (first, second) in enumerate(LIMBS):
        pairs = []
        for person, body in enumerate(people):
            if body[first, 2]:
                pairs += [(_followed(body[first], discs[second][other], joints, limbs, limb, radius), person, other)
                          for other in free[second]]  # fmt: skip
        for share, person, other in sorted(pairs, reverse=True):
            if share >= FOLLOWED and other in free[second] and not people[person, second, 2]:
                people[person, second] = discs[second][other]
                free[second].remove(other)
    linked = (people[..., 2] > 0).sum(1) > 1  # a neck alone may be the bone of a hand
    if linked.any():
        people = people[linked]
    if len(people) == 1:
        for joint, left in enumerate(free):
            touched = [disc for disc in discs[joint][left] if _touched(disc, joint, limbs, radius)]
            if touched and not people[0, joint, 2]:
                people[0, joint] = touched[0]
    return people[(people[..., 2] > 0).any(1)]


def _touched(disc: np.ndarray, joint: int, limbs: np.ndarray, radius: int) -> bool:
    """Whether a limb of a joint comes up to its disc; to the bones of hands, some of that colour, none does."""
    x, y = disc[:2].astype(int)
    around = limbs[max(0, y - 2 * radius) : y + 2 * radius + 1, max(0, x - 2 * radius) : x + 2 * radius + 1]
    own = [limb for limb, ends in enumerate(LIMBS) if joint in ends]
    return bool(np.isin(around, own).sum() >= 2 * radius)


def _followed(
    first: np.ndarray, second: np.ndarray, joints: np.ndarray, limbs: np.ndarray, limb: int, radius: int
) -> float:
    """The share of the way between two points that has a limb's colour, or over which something else lies.

    Later limbs and all discs lie over a limb. Where they lie over nearly all of it, nothing speaks for it.
    """
    length = float(np.hypot(*(second[:2] - first[:2])))
    inner = min(radius + 1, 0.4 * length) / max(length, 1e-6)
    t = np.linspace(inner, 1 - inner, max(3, int(length)))[:, None]
    way = (first[:2] + t * (second[:2] - first[:2])).astype(int)
    x, y = way[:, 0].clip(0, joints.shape[1] - 1), way[:, 1].clip(0, joints.shape[0] - 1)
    own, over = limbs[y, x] == limb, (limbs[y, x] > limb) | (joints[y, x] != NOTHING)
    return float((own | over).mean() * (0.5 + 0.5 * own.mean()) + 0.1 * own.any())
