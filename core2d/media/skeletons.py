"""Skeletons of OpenPose's 18 joints, drawn as the maps that published pose models were trained on.

Limbs are ellipses and joints discs, in fixed colours that tell right from left; limbs are dimmed to 60 %, so that
joints stand out (1812.08008; the drawing of 2302.05543 and 2311.17117). At 512 pixels both are 4 pixels thick on
either side; smaller maps are drawn as thick in proportion, but never thinner than a pixel.
"""

from __future__ import annotations

import numpy as np

LIMBS = (  # pairs of joints, in the order in which they are drawn
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
COLORS = (  # of joints; a limb has that of its own number
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255),
    (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
LIMB_SHARE = 0.6  # of their colour that limbs keep
THICKNESS, THICKNESS_SIDE = 4.0, 512  # pixels from the middle to the edge, at this shorter side


def draw_skeleton(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """One skeleton on black, with smooth edges: float32 (height, width, 3) in [0, 1].

    Args:
        joints: (18, 2) pixels (x, y) in OpenPose's order, pixel centres at halves; NaN where one is not seen.

    Raises:
        ValueError: another shape.
    """
    joints = np.asarray(joints, np.float32)
    if joints.shape != (18, 2):
        raise ValueError(f"a skeleton has (18, 2) joints, not {joints.shape}")
    thickness = max(1.0, THICKNESS * min(height, width) / THICKNESS_SIDE)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5  # (h, w) each
    canvas = np.zeros((height, width, 3), np.float32)
    for (first, second), color in zip(LIMBS, COLORS, strict=False):
        ends = joints[[first, second]]
        if np.isfinite(ends).all():
            _lay_on(canvas, _ellipse(x, y, ends, thickness), color)
    canvas *= LIMB_SHARE
    for joint, color in zip(joints, COLORS, strict=True):
        if np.isfinite(joint).all():
            distance = np.hypot(x - joint[0], y - joint[1])  # (h, w)
            _lay_on(canvas, thickness - distance, color)
    return canvas


def _ellipse(x: np.ndarray, y: np.ndarray, ends: np.ndarray, thickness: float) -> np.ndarray:
    """(h, w) about how far inside an ellipse each pixel lies; its long axis leads from one end to the other."""
    middle, along = ends.mean(0), (ends[1] - ends[0]) / 2
    half = max(float(np.hypot(*along)), 1e-6)
    cos, sin = along / half
    u, v = (x - middle[0]) * cos + (y - middle[1]) * sin, (y - middle[1]) * cos - (x - middle[0]) * sin
    return (1 - np.hypot(u / half, v / thickness)) * min(half, thickness)


def _lay_on(canvas: np.ndarray, inside: np.ndarray, color: tuple[int, int, int]) -> None:
    """Lay a colour over what is there, as far as pixels lie inside (h, w): half of one whose centre is on the edge."""
    share = np.clip(inside + 0.5, 0, 1)[..., None]  # (h, w, 1)
    canvas += share * (np.array(color, np.float32) / 255 - canvas)
