"""Poses whose drawings by published code are known by their hashes, and how those were made.

    python tests/helpers/published_skeletons.py controlnet_aux/dwpose/util.py > tests/helpers/published_skeletons.json

draws `cases()` with `draw_bodypose`, `draw_handpose` and `draw_facepose` of that file (controlnet_aux 0.0.10,
which has it from DWPose), under opencv-python-headless 4.11.0.86 and matplotlib. None of these is
needed to run the tests.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genvideo.pose.keypoints import SEEN, Poses

SIZES = ((512, 512), (768, 512), (512, 1024), (256, 256))
COUNT = 50


def cases() -> Iterator[Poses]:
    """50 pictures of one to three people with hands and faces, some joints unseen, some beyond the edge."""
    for number in range(COUNT):
        random = np.random.default_rng(number)
        (height, width), people = SIZES[number % len(SIZES)], 1 + number % 3
        size = np.array([width, height])

        def points(middle: np.ndarray, spread: float, *shape: int) -> np.ndarray:
            places = (middle + spread * (random.random((1, people, *shape, 2)) - 0.5)) * size  # noqa: B023
            confidence = random.random((1, people, *shape, 1)) + SEEN / 2  # noqa: B023
            return np.concatenate(
                [np.round(places * 4) / 4, confidence], -1
            )  # quarters of a pixel: no ties of rounding

        body = points(np.full(2, 0.5), 1.06, 18)
        hands = points(random.random((1, people, 2, 1, 2)), 0.2, 2, 21)
        face = points(random.random((1, people, 1, 2)), 0.2, 68)
        yield Poses(body, height, width, hands, face)


def hashed(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _published(poses: Poses, code) -> np.ndarray:
    size = np.array([poses.width, poses.height])
    body = poses.body[0]
    numbers = np.where(body[..., 2] >= SEEN, np.arange(body[..., 2].size).reshape(body.shape[:2]), -1)

    def shares(points: np.ndarray) -> np.ndarray:
        return np.where(points[..., 2:] >= SEEN, points[..., :2] / size, -1)

    canvas = np.zeros((poses.height, poses.width, 3), np.uint8)
    canvas = code.draw_bodypose(canvas, (body[..., :2] / size).reshape(-1, 2), numbers)
    assert poses.hands is not None and poses.face is not None
    canvas = code.draw_handpose(canvas, shares(poses.hands[0]).reshape(-1, 21, 2))
    return code.draw_facepose(canvas, shares(poses.face[0]))


if __name__ == "__main__":
    file = Path(sys.argv[1])
    specification = importlib.util.spec_from_file_location("published", file)
    assert specification and specification.loader
    code = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(code)
    sys.stdout.write(json.dumps([hashed(_published(poses, code)) for poses in cases()], indent=0) + "\n")
