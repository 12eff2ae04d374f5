"""People found in ordinary pictures by BlazePose (2006.10204): a detector, then 33 points of each person.

The models are mediapipe's of version 0.10.21 (`core2d models get pose`), run by LiteRT (the extra `photos`); nothing of
mediapipe is needed. The detector sees the whole picture at 224 pixels and says where hips and head are; from them each
person is cut out upright, 256 pixels wide, and the second model finds the points. Its own refinement by heatmaps is
left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core2d.app.errors import InputError
from core2d.files.wheels import fetched
from genvideo.pose.keypoints import Poses, from_coco

DETECTOR_SIDE, LANDMARK_SIDE = 224, 256  # pixels that the models see
PRESENT = 0.5  # score of a person who is there, for both models
OVERLAP = 0.3  # share of the union of two boxes above which they are of one person
MARGIN = 1.25  # of the square that is cut out, over the circle around the hips through the head
MOST_PEOPLE = 8
OF_33 = np.array((0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28))  # COCO's joints among the 33


class PeopleReader:
    """Finds people in pictures.

    Raises:
        InputError: LiteRT or the models are not on this machine.
    """

    def __init__(self) -> None:
        self._detector, self._landmarks = (_Model(file) for file in fetched("pose"))
        self._anchors = _anchors()

    def read(self, frames: Iterable[np.ndarray], fps: Fraction | None = None) -> Poses:
        """People in frames, uint8 (h, w, 3) each; the confidence of a joint is the model's for its being seen."""
        people, height, width = [], 0, 0
        for frame in frames:
            height, width = frame.shape[:2]
            people.append(self.people(frame))
        body = np.zeros((len(people), max(map(len, people), default=0), 18, 3))
        for frame, those in enumerate(people):
            body[frame, : len(those)] = those
        return Poses(body, height, width, fps=fps)

    def people(self, pixels: np.ndarray) -> np.ndarray:
        """(n, 18, 3) joints of the people in a picture, uint8 (h, w, 3), the surest first."""
        found = []
        for hips, head in self._detected(pixels):
            points = self._points(pixels, hips, head)
            if points is not None:
                body = from_coco(points[OF_33])
                inside = ((body[:, :2] >= 0) & (body[:, :2] < pixels.shape[1::-1])).all(1)
                body[:, 2] *= inside  # the model also guesses where the rest of half a person would be
                found.append(body)
        return np.array(found).reshape(-1, 18, 3)

    def _detected(self, pixels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each person the middle of the hips, and a point whose distance from it is half the person's height."""
        height, width = pixels.shape[:2]
        side = max(height, width)
        corner = np.array([(width - side) / 2, (height - side) / 2])
        seen = _cut(pixels, corner, np.array([side, 0.0]), np.array([0.0, side]), DETECTOR_SIDE)
        boxes, scores = self._detector(seen * 2 - 1)
        scores = 1 / (1 + np.exp(-scores[0, :, 0].astype(float).clip(-100, 100)))  # (2254,)
        sure = np.flatnonzero(scores >= PRESENT)
        boxes, scores = boxes[0, sure].reshape(-1, 6, 2) / DETECTOR_SIDE, scores[sure]
        boxes[:, (0, 2, 3, 4, 5)] += self._anchors[sure, None]  # middle, size, then four points
        return [tuple(corner + side * boxes[one, 2:4]) for one in _kept(boxes[:, 0], boxes[:, 1], scores)]  # pyright: ignore

    def _points(self, pixels: np.ndarray, hips: np.ndarray, head: np.ndarray) -> np.ndarray | None:
        """(33, 3) points of one person in pixels of the picture, None where there is none."""
        up = head - hips
        half = float(np.hypot(*up)) * MARGIN
        if half < 1:
            return None
        down = -up / np.hypot(*up)
        right = np.array([down[1], -down[0]])
        corner = hips - half * (right + down)
        outputs = self._landmarks(_cut(pixels, corner, 2 * half * right, 2 * half * down, LANDMARK_SIDE))
        if float(outputs[1][0, 0]) < PRESENT:
            return None
        points = outputs[0].reshape(39, 5)[:33].astype(float)  # x, y, z, visible, present; the latter as logits
        x, y = points[:, :2].T[:, :, None] / LANDMARK_SIDE  # (33, 1) each
        confidence = 1 / (1 + np.exp(-points[:, 3:].min(1)))
        return np.concatenate([corner + 2 * half * (x * right + y * down), confidence[:, None]], 1)


class _Model:
    """A model of LiteRT with one input, pictures in (h, w, 3), and its outputs in the order that it names them."""

    def __init__(self, file: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError("people in ordinary films are found by LiteRT, which is not installed: "
                             "pip install 'liftkit[photos]'") from error  # fmt: skip
        self._interpreter: Any = Interpreter(str(file), num_threads=1)
        self._interpreter.allocate_tensors()

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], picture[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(one["index"]) for one in self._interpreter.get_output_details()]


def _cut(pixels: np.ndarray, corner: np.ndarray, across: np.ndarray, down: np.ndarray, side: int) -> np.ndarray:
    """A square part of a picture, float32 (side, side, 3) in [0, 1], black outside; `corner` is its upper left one.

    Args:
        across, down: its upper and its left edge, (x, y) pixels of the picture.
    """
    row = [(across[0], down[0], corner[0]), (across[1], down[1], corner[1])]
    affine = [value / divisor for x, y, at in row for value, divisor in ((x, side), (y, side), (at, 1))]
    shrink = max(1, int(np.hypot(*across) / side))  # by whole pixels first: the resampling sees four of them
    picture = Image.fromarray(pixels)
    if shrink > 1:
        picture = picture.reduce(shrink)
        affine = [value / shrink for value in affine]
    part = picture.transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.asarray(part, np.float32) / 255


def _anchors() -> np.ndarray:
    """(2254, 2) middles of the detector's boxes in [0, 1]: two a cell of 8 and of 16 pixels, six a cell of 32."""
    found = []
    for stride, boxes in ((8, 2), (16, 2), (32, 6)):
        cells = DETECTOR_SIDE // stride
        y, x = (np.mgrid[:cells, :cells] + 0.5) / cells
        found.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, 0))
    return np.concatenate(found)


def _kept(middles: np.ndarray, sizes: np.ndarray, scores: np.ndarray) -> list[int]:
    """The surest of boxes that overlap, surest first: non-maximum suppression."""
    low, high, kept = middles - sizes / 2, middles + sizes / 2, []
    for one in np.argsort(-scores):
        if len(kept) < MOST_PEOPLE and all(_overlap(low, high, one, other) <= OVERLAP for other in kept):
            kept.append(int(one))
    return kept


def _overlap(low: np.ndarray, high: np.ndarray, one: int, other: int) -> float:
    """Intersection over union of two boxes."""
    common = np.clip(np.minimum(high[one], high[other]) - np.maximum(low[one], low[other]), 0, None).prod()
    both = (high[one] - low[one]).prod() + (high[other] - low[other]).prod() - common
    return float(common / max(both, 1e-9))
