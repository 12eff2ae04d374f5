"""Filled shapes on a grid of whole pixels, with hard edges.

Maps that published pose models were trained on were drawn by OpenCV, without smoothing. What is here covers the same
pixels: corners on whole pixels, outlines as Bresenham's lines (IBM Systems Journal 4, 1965) from their left end, an
ellipse as a polygon with a corner a degree, a disc as the midpoint circle, sides of polygons in 16 bits of a pixel.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

Pixel = tuple[int, int]
Color = tuple[int, int, int]

# Seven decimals, as in a printed table: where a corner of an ellipse is rounded to is decided by them.
SINES = np.round(np.sin(np.radians(np.arange(361))), 7).astype(np.float32).astype(np.float64)  # of whole degrees
COSINES = SINES[(90 - np.arange(361)) % 360]
SUBPIXELS, HALF = 1 << 16, 1 << 15  # a pixel, and half of one, in fixed-point numbers


def fill_ellipse(canvas: np.ndarray, middle: Pixel, half: tuple[int, int], degrees: int, color: Color) -> None:
    """Fill an ellipse on `canvas` (h, w, 3), in place.

    Args:
        middle: pixel (x, y).
        half: pixels from the middle to the edge, along and across.
        degrees: from the x axis towards the y axis (clockwise, as pictures are seen) to the long axis.
    """
    along, across = half[0] * COSINES, half[1] * SINES  # (361,)
    cos, sin = COSINES[degrees % 360], SINES[degrees % 360]
    corners = np.stack([middle[0] + along * cos - across * sin, middle[1] + along * sin + across * cos], 1)
    corners = np.rint(corners).astype(np.int64)  # (361, 2); the last is the first
    if (corners == corners[0]).all():
        corners[:] = middle
    _put_lines(canvas, corners[:-1], corners[1:], color)
    _fill_polygon(canvas, corners[:-1] * SUBPIXELS, color)


def fill_disc(canvas: np.ndarray, middle: Pixel, radius: int, color: Color) -> None:
    """Fill a disc around a pixel (x, y) of `canvas` (h, w, 3), in place."""
    halves = _disc_rows(radius)
    _fill_rows(canvas, middle[1] - radius, middle[0] - halves, middle[0] + halves, color)


def draw_thick_line(canvas: np.ndarray, start: Pixel, end: Pixel, color: Color) -> None:
    """A line two pixels thick with round ends on `canvas` (h, w, 3), in place."""
    if start != end:
        x, y = end[0] - start[0], end[1] - start[1]
        length = math.hypot(x, y)
        side = np.rint(np.array([-y / length, x / length]) * SUBPIXELS).astype(np.int64)  # (2,) one pixel across
        first, last = np.array(start) * SUBPIXELS, np.array(end) * SUBPIXELS
        corners = np.stack([first - side, first + side, last + side, last - side])
        for corner, after in zip(np.roll(corners, 1, 0), corners, strict=True):
            seen = _clipped(corner, after, canvas.shape[1] * SUBPIXELS, canvas.shape[0] * SUBPIXELS)
            if seen:
                _put(canvas, _fine_line(*seen), color)
        _fill_polygon(canvas, corners, color)
    for middle in (start, end):
        fill_disc(canvas, middle, 1, color)


def _fill_polygon(canvas: np.ndarray, corners: np.ndarray, color: Color) -> None:
    """Fill a convex polygon, of which the outline is drawn: from its top, its two sides are followed down row by row.

    Args:
        corners: (n, 2) in `SUBPIXELS`.
    """
    start = int(corners[:, 1].argmin())
    around = np.roll(corners, -start, 0)  # (n, 2) from the top on
    rows = (around[:, 1] + HALF) // SUBPIXELS  # (n,)
    top, bottom = int(rows[0]), int(rows.max())
    sides = [_side(around[order, 0], rows[order], bottom) for order in (slice(None), np.arange(0, -len(around), -1))]
    spans = (np.sort(np.stack(sides), 0) + HALF) // SUBPIXELS  # (2, bottom - top + 1)
    _fill_rows(canvas, top, spans[0], spans[1], color)


def _side(x: np.ndarray, rows: np.ndarray, bottom: int) -> np.ndarray:
    """Where a side of a polygon is in each row from the first corner's to `bottom`, in `SUBPIXELS`.

    Args:
        x, rows: (n,) of its corners, from the top one on. Corners that do not lead further down are passed by.
    """
    starts, slopes, lengths = [], [], []
    now, corners = int(rows[0]), list(zip(x.tolist(), rows.tolist(), strict=True))
    for (here, _), (there, row) in pairwise(corners):
        if row > now:
            starts.append(here)
            slopes.append(_quotient(2 * (there - here) + row - now, 2 * (row - now)))
            lengths.append(row - now)
            now = row
        if now == bottom:
            break
    if not starts:
        return x[:1]
    lengths[-1] += 1  # the last row, too
    k = np.arange(sum(lengths)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # rows from a corner on
    return np.repeat(starts, lengths) + k * np.repeat(slopes, lengths)


def _fill_rows(canvas: np.ndarray, top: int, left: np.ndarray, right: np.ndarray, color: Color) -> None:
    """Fill pixels from `left` to `right` (n,) in each row from `top` on, as far as they are on the canvas."""
    height, width = canvas.shape[:2]
    first, stop = max(0, -top), max(0, height - top)
    left, right = left[first:stop, None], right[first:stop, None]
    if not len(left):
        return
    begin, end = max(int(left.min()), 0), min(int(right.max()) + 1, width)
    x = np.arange(begin, max(begin, end))
    part = canvas[top + first : top + first + len(left), begin : max(begin, end)]
    part[(x >= left) & (x <= right)] = color


def _put(canvas: np.ndarray, pixels: np.ndarray, color: Color) -> None:
    """Colour pixels (n, 2) that are on the canvas."""
    inside = ((pixels >= 0) & (pixels < canvas.shape[1::-1])).all(1)
    x, y = pixels[inside].T
    canvas[y, x] = color


def _put_lines(canvas: np.ndarray, starts: np.ndarray, ends: np.ndarray, color: Color) -> None:
    """Draw lines between whole pixels (n, 2); those that leave the canvas are cut first."""
    height, width = canvas.shape[:2]
    inside = ((starts >= 0) & (ends >= 0) & (np.maximum(starts, ends) < (width, height))).all(1)
    _put(canvas, _lines(starts[inside], ends[inside]), color)
    for start, end in zip(starts[~inside], ends[~inside], strict=True):
        seen = _clipped(start, end, width, height)
        if seen:
            _put(canvas, _lines(seen[0][None], seen[1][None]), color)


def _lines(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Pixels (m, 2) of lines between whole pixels (n, 2): of two that are as near, the one nearer to the left end."""
    turned = (ends[:, 0] < starts[:, 0])[:, None]
    starts, ends = np.where(turned, ends, starts), np.where(turned, starts, ends)
    steps = ends - starts  # (n, 2)
    long = (np.abs(steps[:, 1]) > steps[:, 0]).astype(np.int64)  # 1 where a line is steep
    line = np.arange(len(steps))
    major, minor = np.abs(steps[line, long]), np.abs(steps[line, 1 - long])  # (n,)
    which = np.repeat(line, major + 1)
    k = np.arange(len(which)) - np.repeat(np.cumsum(major + 1) - major - 1, major + 1)  # steps from the line's start
    aside = -((major[which] - 2 * minor[which] * k) // np.maximum(2 * major[which], 1))  # rounded, halves down
    pixels = starts[which]
    row = np.arange(len(which))
    sign = np.sign(steps)[which]
    pixels[row, long[which]] += k * sign[row, long[which]]
    pixels[row, 1 - long[which]] += aside * sign[row, 1 - long[which]]
    return pixels


def _clipped(start: np.ndarray, end: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The part of a line between whole points (2,) whose x is below `width` and y below `height`, None of one outside.

    Cut at top and bottom first, then at the sides, to whole points again: that can move the rest a little.
    """
    ends = [start.copy(), end.copy()]
    for axis, last in ((1, height - 1), (0, width - 1)):
        beyond = [max(min(int(point[axis]), 0), int(point[axis]) - last) for point in ends]
        if beyond[0] * beyond[1] > 0:
            return None
        for point, other, over in ((*ends, beyond[0]), (*ends[::-1], beyond[1])):
            if over:
                slope = float(-over) * float(other[1 - axis] - point[1 - axis]) / float(other[axis] - point[axis])
                point[1 - axis] += int(slope)
                point[axis] -= over
    return ends[0], ends[1]


def _fine_line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Pixels (m, 2) of a line between points (2,) in `SUBPIXELS`."""
    steps = end - start
    long = int(abs(steps[0]) <= abs(steps[1]))  # the axis along which there is a pixel a step
    if steps[long] < 0:
        start, end, steps = end, start, -steps
    slope = _quotient(int(steps[1 - long]) * SUBPIXELS, abs(int(steps[long])) | 1)
    k = np.arange((int(end[long] - start[long]) // SUBPIXELS) + 1)
    pixels = np.empty((len(k) + 1, 2), np.int64)
    pixels[:-1, long] = ((start[long] + HALF) // SUBPIXELS) + k
    pixels[:-1, 1 - long] = (start[1 - long] + HALF + k * slope) // SUBPIXELS
    pixels[-1] = (end + HALF) // SUBPIXELS
    return pixels


def _quotient(number: int, divisor: int) -> int:
    """Rounded towards zero; `divisor` is positive."""
    return abs(number) // divisor * (1 if number >= 0 else -1)


def _disc_rows(radius: int) -> np.ndarray:
    """(2 r + 1,) pixels to either side of the middle in each row of a disc, by the midpoint circle."""
    halves = np.zeros(2 * radius + 1, np.int64)
    x, y, error = radius, 0, 0
    while x >= y:
        for row, half in ((y, x), (x, y)):
            halves[[radius - row, radius + row]] = np.maximum(halves[radius + row], half)
        error += 2 * y + 1
        if error > 0:
            error -= 2 * x - 1
            x -= 1
        y += 1
    return halves
