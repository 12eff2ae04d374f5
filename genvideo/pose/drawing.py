"""Poses drawn as DWPose and controlnet_aux draw them, pixel for pixel: what published pose models were trained on.

Limbs are ellipses 4 pixels to either side and dimmed to 60 %, joints discs of radius 4 in full colours; then hands,
their bones two pixels thick in the colours of a rainbow, their joints blue; then faces, white discs of radius 3
(2302.05543, 2307.15880). All of it has that size in pictures of any size. Edges are hard, and a joint lies in the pixel
that holds it.

`core2d.media.skeletons` draws the same skeleton with smooth edges and in proportion, for pictures of 64 pixels.
"""

from __future__ import annotations

import math

import numpy as np

from core2d.media.skeletons import COLORS, LIMB_SHARE, LIMBS
from genvideo.pose.keypoints import SEEN, Poses
from genvideo.pose.strokes import Color, draw_thick_line, fill_disc, fill_ellipse

RADIUS, FACE_RADIUS = 4, 3  # pixels
HAND_BONES = tuple((0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21))  # five fingers from the wrist
HAND_COLORS: tuple[Color, ...] = (  # of the bones: hues of a twentieth of a turn each
    (255, 0, 0), (255, 77, 0), (255, 153, 0), (255, 229, 0), (204, 255, 0), (128, 255, 0), (51, 255, 0),
    (0, 255, 25), (0, 255, 102), (0, 255, 179), (0, 255, 255), (0, 178, 255), (0, 102, 255), (0, 25, 255),
    (51, 0, 255), (128, 0, 255), (204, 0, 255), (255, 0, 230), (255, 0, 153), (255, 0, 77),
)  # fmt: skip
HAND_JOINT: Color = (0, 0, 255)
FACE: Color = (255, 255, 255)


def draw_poses(poses: Poses) -> np.ndarray:
    """All frames of a clip: uint8 (frames, height, width, 3)."""
    return np.stack([draw_frame(poses, frame) for frame in range(poses.frames)])


def draw_frame(poses: Poses, frame: int) -> np.ndarray:
    """Everybody in a frame on black: uint8 (height, width, 3)."""
    canvas = np.zeros((poses.height, poses.width, 3), np.uint8)
    draw_bodies(canvas, poses.body[frame])
    if poses.hands is not None:
        for hand in poses.hands[frame].reshape(-1, 21, 3):
            draw_hand(canvas, hand)
    if poses.face is not None:
        for face in poses.face[frame]:
            draw_face(canvas, face)
    return canvas


def draw_bodies(canvas: np.ndarray, bodies: np.ndarray) -> None:
    """Draw people (n, 18, 3) on `canvas` (h, w, 3), in place: the limbs of all, then the joints of all."""
    for (first, second), color in zip(LIMBS, COLORS, strict=False):
        for body in bodies:
            if min(body[first, 2], body[second, 2]) >= SEEN:
                _draw_limb(canvas, body[first, :2], body[second, :2], color)
    canvas[:] = canvas * LIMB_SHARE
    for joint, color in enumerate(COLORS):
        for x, y, confidence in bodies[:, joint]:
            if confidence >= SEEN:
                fill_disc(canvas, (int(x), int(y)), RADIUS, color)


def draw_hand(canvas: np.ndarray, hand: np.ndarray) -> None:
    """Draw the 21 joints (21, 3) of a hand on `canvas` (h, w, 3), in place."""
    pixels = _pixels(hand)
    for (first, second), color in zip(HAND_BONES, HAND_COLORS, strict=True):
        start, end = pixels[first], pixels[second]
        if start and end:
            draw_thick_line(canvas, start, end, color)
    for pixel in filter(None, pixels):
        fill_disc(canvas, pixel, RADIUS, HAND_JOINT)


def draw_face(canvas: np.ndarray, face: np.ndarray) -> None:
    """Draw the 68 points (68, 3) of a face on `canvas` (h, w, 3), in place."""
    for pixel in filter(None, _pixels(face)):
        fill_disc(canvas, pixel, FACE_RADIUS, FACE)


def _draw_limb(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, color: Color) -> None:
    x, y = (start + end) / 2
    along = start - end
    half_length = int(math.hypot(*along) / 2)
    degrees = int(math.degrees(math.atan2(along[1], along[0])))
    fill_ellipse(canvas, (int(x), int(y)), (half_length, RADIUS), degrees, color)


def _pixels(points: np.ndarray) -> list[tuple[int, int] | None]:
    """The pixel of each point (n, 3) that was seen; as drawn elsewhere, none in the first row and column."""
    pixels = [(int(x), int(y)) if confidence >= SEEN else None for x, y, confidence in points]
    return [pixel if pixel and min(pixel) > 0 else None for pixel in pixels]
