"""Joints of people over time, in OpenPose's order of 18, and how other orders of them are turned into it and back.

Orders (of the body, a number of joints each): OpenPose's 18 with a neck; COCO's 17 without one (1405.0312);
COCO-WholeBody's 133, which adds feet, face and hands to those (2007.11858); OpenPose's BODY-25 with neck, middle of the
hips and feet (1812.08008). A point is (x, y, confidence): pixels with their centres at halves, and confidence in
[0, 1], 0 where it was not found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from scipy.optimize import linear_sum_assignment

from core2d.app.errors import InputError

SEEN = 0.3  # confidence of what is drawn, and of shoulders between which there is a neck (DWPose)
NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP = 1, 2, 5, 8, 11  # in OpenPose's order
OF_COCO = np.array((0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3))  # a joint of the 18 among COCO's
OF_BODY_25 = np.array((*range(8), *range(9, 19)))  # the same of BODY-25's
MIDDLE_HIP = 8  # in BODY-25's order
FACE, LEFT_HAND, RIGHT_HAND = slice(23, 91), slice(91, 112), slice(112, 133)  # of the 133


@dataclass(frozen=True)
class Poses:
    """People in the frames of a clip, or in one picture.

    Attributes:
        body: float (frames, people, 18, 3) points in OpenPose's order; a person who is not in a frame has confidence 0.
        height, width: pixels of the picture.
        hands: (frames, people, 2, 21, 3), left before right, None where nobody looked for them.
        face: (frames, people, 68, 3), None where nobody looked for it.
        fps: frames a second, None of pictures.
    """

    body: np.ndarray
    height: int
    width: int
    hands: np.ndarray | None = None
    face: np.ndarray | None = None
    fps: Fraction | None = None

    def __post_init__(self) -> None:
        if self.body.ndim != 4 or self.body.shape[2:] != (18, 3):
            raise ValueError(f"bodies are (frames, people, 18, 3), not {self.body.shape}")
        for name, part, points in (("hands", self.hands, (2, 21, 3)), ("a face", self.face, (68, 3))):
            if part is not None and part.shape != self.body.shape[:2] + points:
                raise ValueError(f"{name} here are {self.body.shape[:2] + points}, not {part.shape}")

    @property
    def frames(self) -> int:
        return len(self.body)

    @property
    def people(self) -> int:
        return self.body.shape[1]

    def of_people(self, people: list[int]) -> Poses:
        """Only these people, by their numbers from 0."""
        hands = None if self.hands is None else self.hands[:, people]
        face = None if self.face is None else self.face[:, people]
        return replace(self, body=self.body[:, people], hands=hands, face=face)

    def person(self, number: int | None = None) -> Poses:
        """One person over all frames, whatever their place among the others is in each.

        Args:
            number: from 1; None takes the largest, by the mean area of the box around what was seen of them.

        Raises:
            InputError: there is nobody, or nobody with that number.
        """
        if not (self.people and (self.body[..., 2] >= SEEN).any()):
            raise InputError("there is nobody in these poses: give others")
        linked = follow_people(self)
        if number is None:
            return linked.of_people([int(_areas(linked.body).mean(0).argmax())])
        if not 1 <= number <= self.people:
            raise InputError(f"--person {number}: there are {self.people} people, numbered from 1")
        return linked.of_people([number - 1])

    def resized(self, height: int, width: int) -> Poses:
        """The same in a picture of another size."""
        scale = np.array([width / self.width, height / self.height, 1.0])
        hands = None if self.hands is None else self.hands * scale
        face = None if self.face is None else self.face * scale
        return replace(self, body=self.body * scale, height=height, width=width, hands=hands, face=face)


def follow_people(poses: Poses) -> Poses:
    """People in the order of the first frame in all frames: nearest to where each was seen last, summed over all."""
    frames, people = poses.body.shape[:2]
    if people < 2:
        return poses
    order = np.tile(np.arange(people), (frames, 1))
    last = poses.body[0].copy()  # (people, 18, 3), each joint where it was seen last
    for frame in range(1, frames):
        now = poses.body[frame]
        both = np.minimum(last[:, None, :, 2], now[None, ..., 2]) >= SEEN  # (people, people, 18)
        apart = np.hypot(*np.moveaxis(last[:, None, :, :2] - now[None, ..., :2], -1, 0))  # (people, people, 18)
        cost = (apart * both).sum(-1) / np.maximum(both.sum(-1), 1)
        cost[~both.any(-1)] = np.hypot(poses.height, poses.width)  # nothing in common: any other is better
        order[frame] = linear_sum_assignment(cost)[1]
        now = now[order[frame]]
        last = np.where(now[..., 2:] >= SEEN, now, last)
    row = np.arange(frames)[:, None]
    hands = None if poses.hands is None else poses.hands[row, order]
    face = None if poses.face is None else poses.face[row, order]
    return replace(poses, body=poses.body[row, order], hands=hands, face=face)


def _areas(body: np.ndarray) -> np.ndarray:
    """(frames, people) areas of the boxes around the joints that were seen."""
    seen: np.ndarray = body[..., 2:] >= SEEN  # (frames, people, 18, 1)
    low, high = np.where(seen, body[..., :2], np.inf).min(2), np.where(seen, body[..., :2], -np.inf).max(2)
    return np.where(np.any(seen, 2)[..., 0], np.clip(high - low, 0, None).prod(-1, where=np.isfinite(high - low)), 0.0)


# -- orders ------------------------------------------------------------------------------------------------------------


def from_coco(points: np.ndarray) -> np.ndarray:
    """(..., 17 or more, 3) in COCO's order, or COCO-WholeBody's -> (..., 18, 3).

    The neck is the middle of the shoulders, with confidence 1 where both have more than 0.3 and else 0 (DWPose).
    """
    found = points[..., OF_COCO, :].astype(float)
    shoulders = found[..., (RIGHT_SHOULDER, LEFT_SHOULDER), :]
    found[..., NECK, :2] = shoulders[..., :2].mean(-2)
    found[..., NECK, 2] = (shoulders[..., 2] > SEEN).all(-1)
    return found


def to_coco(body: np.ndarray) -> np.ndarray:
    """(..., 18, 3) -> (..., 17, 3) in COCO's order: all but the neck."""
    found = np.zeros((*body.shape[:-2], 17, 3))
    there = OF_COCO >= 0
    found[..., OF_COCO[there], :] = body[..., there, :]
    return found


def from_body_25(points: np.ndarray) -> np.ndarray:
    """(..., 25, 3) -> (..., 18, 3): without the middle of the hips and the feet."""
    return points[..., OF_BODY_25, :].astype(float)


def to_body_25(body: np.ndarray) -> np.ndarray:
    """(..., 18, 3) -> (..., 25, 3): the middle of the hips by the rule of the neck, no feet."""
    found = np.zeros((*body.shape[:-2], 25, 3))
    found[..., OF_BODY_25, :] = body
    hips = body[..., (RIGHT_HIP, LEFT_HIP), :]
    found[..., MIDDLE_HIP, :2] = hips[..., :2].mean(-2)
    found[..., MIDDLE_HIP, 2] = (hips[..., 2] > SEEN).all(-1)
    return found


def from_whole_body(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(..., 133, 3) in COCO-WholeBody's order -> body (..., 18, 3), hands (..., 2, 21, 3), face (..., 68, 3)."""
    hands = np.stack([points[..., LEFT_HAND, :], points[..., RIGHT_HAND, :]], -3).astype(float)
    return from_coco(points), hands, points[..., FACE, :].astype(float)


def to_whole_body(poses: Poses) -> np.ndarray:
    """(frames, people, 133, 3) in COCO-WholeBody's order; no feet, and nothing of what nobody looked for."""
    found = np.zeros((*poses.body.shape[:2], 133, 3))
    found[..., :17, :] = to_coco(poses.body)
    if poses.hands is not None:
        found[..., LEFT_HAND, :], found[..., RIGHT_HAND, :] = poses.hands[:, :, 0], poses.hands[:, :, 1]
    if poses.face is not None:
        found[..., FACE, :] = poses.face
    return found
