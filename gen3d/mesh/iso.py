"""From a density field to a closed surface: where it becomes opaque, found without being told a level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import label
from skimage.filters import threshold_otsu
from skimage.measure import marching_cubes
from torch import Tensor

from core2d.app.errors import InputError

Density = Callable[[Tensor], Tensor]  # points (n, 3) to densities (n,) in 1 / metre

CHUNK = 1 << 18  # points that are asked for together
COARSE = 64  # points along the longest side of the first look
EMPTY = 0.5  # optical thickness: even the densest point, all along the box, would let most light through
FULL = 0.98  # share of the box: above it there is no outside
OPAQUE = 64 * math.log(2)  # optical thickness of the box at which a 64th of it hides half of the light
MARGIN = 0.1  # of the occupied box, on each side
BISECTIONS = 5  # of a grid edge, to find the surface on it
DETACHED = 0.02  # share of the inside that may lie beside the main body before a lower level is tried
LEVELS = 0.85 ** np.arange(20)  # tried in turn, as parts of the first one: the last is a 22nd of it


@dataclass(frozen=True)
class Surface:
    """A closed triangle surface.

    Attributes:
        vertices: (v, 3) float32 in metres.
        faces: (f, 3) int32, counter-clockwise seen from outside.
        level: the density, in 1 / metre, that it goes along.
        spacing: metres between grid points: what is finer than that was not seen.
    """

    vertices: np.ndarray
    faces: np.ndarray
    level: float
    spacing: float


def extract_surface(density: Density, bounds: Tensor, resolution: int = 128, level: float | None = None) -> Surface:
    """Find the surface of a density field by marching cubes (Lewiner et al. 2003), closed at the bounds.

    A coarse look finds the level and the occupied box; the fine grid fills only that box and a margin of 10 %.

    Args:
        density: points (n, 3) to densities (n,); called without gradients on the device of `bounds`.
        bounds: (2, 3) low and high corner in metres.
        resolution: grid points along the longest side of the occupied box.
        level: density of the surface; by default found by `automatic_level` and `connecting_level`.

    Raises:
        InputError: the field is empty, full, or not finite.
        ValueError: shapes do not fit.
    """
    bounds = bounds.float()
    if bounds.shape != (2, 3) or not (bounds[1] > bounds[0]).all():
        raise ValueError(f"bounds must be (2, 3), low corner before high corner, not {bounds.tolist()}")
    if resolution < 8:
        raise ValueError(f"resolution must be at least 8, not {resolution}")
    side = float((bounds[1] - bounds[0]).max())
    coarse, spacing = _sample(density, bounds, COARSE)
    automatic = level is None
    level = automatic_level(coarse, side) if level is None else level
    box = _occupied(coarse > level / 4, bounds, spacing)
    values, spacing = _sample(density, box, resolution)
    if automatic:
        level = connecting_level(values, level)
    if _cut_off(values > level, box, bounds):
        box = bounds
        values, spacing = _sample(density, box, resolution)
    if not (values > level).any():
        raise InputError(
            f"the field is nowhere denser than {level:.3g} per metre on a grid of {float(spacing.max()):.2g} m: "
            "there is no surface; name a lower level or train for longer"
        )
    return _march(density, values, level, box[0], spacing)


def automatic_level(density: np.ndarray, side: float) -> float:
    """The density at which a field becomes opaque, from samples (any shape) in a box of `side` metres.

    Otsu's threshold on log density tells inside from outside. The level is half of the typical density inside, which
    is where a soft step has its middle, but not more than `OPAQUE`: a field may be far denser than it needs to be.

    Raises:
        InputError: nothing in the box would be seen, or nothing but the box.
    """
    thickness = density.ravel() * side  # optical thickness of a box filled with it
    if thickness.max() < EMPTY:
        hidden = -100 * math.expm1(-float(thickness.max()))
        raise InputError(
            f"the field is empty: its densest point, filling the whole box, would hide {hidden:.2g} % of the light; "
            "train it for longer or from another seed"
        )
    logarithm = np.log(thickness.clip(0.1, 1000))
    inside = density.ravel()[logarithm >= min(threshold_otsu(logarithm), math.log(OPAQUE))]
    level = min(float(np.median(inside)) / 2, OPAQUE / side)
    if (density > level).mean() > FULL:
        raise InputError(
            "the field has no surface: it is dense in the whole box; train it for longer or from another seed"
        )
    return level


def connecting_level(values: np.ndarray, level: float) -> float:
    """The highest density up to `level` at which what is inside hangs together, or does so most.

    Only one body is kept, and a part that hangs on a thin, soft neck would be lost with it.

    Args:
        values: (x, y, z) densities on a grid.
        level: where to begin.
    """
    best, least = level, 1.0
    for part in LEVELS:
        share = detached_share(values > level * part)
        if share < least:
            best, least = float(level * part), share
        if least <= DETACHED:
            break
    return best


def detached_share(inside: np.ndarray) -> float:
    """Share of the cells that are `inside` (x, y, z) beside the largest body, in [0, 1]."""
    bodies, count = label(inside)  # pyright: ignore[reportGeneralTypeIssues]
    sizes = np.bincount(bodies.ravel(), minlength=count + 1)[1:]
    return float(1 - sizes.max() / sizes.sum()) if count else 0.0


def _sample(density: Density, box: Tensor, count: int) -> tuple[np.ndarray, Tensor]:
    """Densities (x, y, z) on a grid from corner to corner, `count` points along the longest side; its spacing (3,)."""
    extent = box[1] - box[0]
    shape = [max(2, round(float(side) * (count - 1)) + 1) for side in extent / extent.max()]
    ends = zip(*box.tolist(), shape, strict=True)
    axes = [torch.linspace(low, high, steps, device=box.device) for low, high, steps in ends]
    total = math.prod(shape)
    values = np.empty(total, np.float32)
    for start in range(0, total, CHUNK):
        index = torch.arange(start, min(start + CHUNK, total), device=box.device)
        rows = torch.stack(torch.unravel_index(index, shape), 1)  # (n, 3)
        points = torch.stack([axis[row] for axis, row in zip(axes, rows.unbind(1), strict=True)], 1)  # (n, 3)
        values[start : start + len(points)] = _ask(density, points)
    if not np.isfinite(values).all():
        share = 100 * (1 - np.isfinite(values).mean())
        raise InputError(
            f"the field is broken: {share:.3g} % of its densities are NaN or infinite; "
            "its training diverged: go back to an earlier checkpoint or use a lower learning rate"
        )
    return values.reshape(shape), extent / (torch.tensor(shape).to(box) - 1)


def _ask(density: Density, points: Tensor) -> np.ndarray:
    """Densities (n,) of points (n, 3)."""
    with torch.no_grad():
        found = density(points)
    if found.shape != (len(points),):
        raise ValueError(f"density of points {tuple(points.shape)} must be (n,), not {tuple(found.shape)}")
    return found.float().cpu().numpy()


def _occupied(inside: np.ndarray, bounds: Tensor, spacing: Tensor) -> Tensor:
    """(2, 3) box around the grid points that are inside, with a margin, within the bounds."""
    if not inside.any():
        return bounds
    found = np.argwhere(inside)
    low, high = (torch.from_numpy(corner).to(bounds) * spacing for corner in (found.min(0), found.max(0)))
    margin = MARGIN * (high - low) + spacing  # one more step: what lies between two points was not seen
    return torch.stack([torch.maximum(bounds[0] + low - margin, bounds[0]),
                        torch.minimum(bounds[0] + high + margin, bounds[1])])  # fmt: skip


def _cut_off(inside: np.ndarray, box: Tensor, bounds: Tensor) -> bool:
    """Whether the surface leaves the box through a side that is not one of the bounds."""
    for axis in range(3):
        ends = inside.take(0, axis).any(), inside.take(-1, axis).any()
        if any(end and box[k, axis] != bounds[k, axis] for k, end in enumerate(ends)):
            return True
    return False


def _march(density: Density, values: np.ndarray, level: float, low: Tensor, spacing: Tensor) -> Surface:
    """The surface between the grid points (x, y, z) above the level and those below, closed around the grid."""
    padded = np.pad(values, 1)
    # twice the level is as far inside as nothing is outside: a jump to hundreds does not pull the surface outward
    height = padded.clip(0, 2 * level) - level
    height[height == 0] = -1e-6 * level  # a surface exactly through a grid point would have faces without area
    vertices, faces, _, _ = marching_cubes(height, 0.0, gradient_direction="ascent", allow_degenerate=False)
    vertices = _settle(density, vertices, padded > level, level, low, spacing)
    places = (vertices - 1) * spacing.cpu().numpy() + low.cpu().numpy()
    return Surface(places.astype(np.float32), np.ascontiguousarray(faces, np.int32), level, float(spacing.max()))


def _settle(
    density: Density, vertices: np.ndarray, inside: np.ndarray, level: float, low: Tensor, spacing: Tensor
) -> np.ndarray:
    """Move vertices (v, 3), in steps of the grid `inside`, along their grid edges to where the field has the level.

    Marching cubes guesses that place from the two ends; a steep field crosses the level anywhere between them.
    """
    start = np.floor(vertices + 1e-4)
    end = np.ceil(vertices - 1e-4)
    on_edge = (start != end).sum(1) == 1  # the others are at the centre of a cube
    on_edge &= (start > 0).all(1) & (end < np.array(inside.shape) - 1).all(1)  # nor in the padding
    ends = np.stack([start[on_edge], end[on_edge]])  # (2, n, 3)
    first, second = (inside[tuple(corner.astype(int).T)] for corner in ends)
    ends[:, first] = ends[::-1, first]  # from outside to inside
    ends, mixed = ends[:, first != second], np.flatnonzero(on_edge)[first != second]
    for _ in range(BISECTIONS):
        middle = ends.mean(0)
        points = (torch.from_numpy(middle).to(low) - 1) * spacing + low  # (n, 3)
        dense = np.concatenate([_ask(density, part) for part in points.split(CHUNK)]) > level
        ends[1, dense], ends[0, ~dense] = middle[dense], middle[~dense]
    settled = vertices.astype(np.float64)
    settled[mixed] = ends.mean(0)
    return settled
