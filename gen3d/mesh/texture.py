"""Baking: the colour of the field, written into the unwrapped picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from core2d.app.errors import InputError
from core2d.kernels.raster import Fragments, interpolate, rasterize
from gen3d.mesh import topology

Color = Callable[[Tensor], Tensor]  # points (n, 3) to sRGB colours (n, 3) in [0, 1]

CHUNK = 1 << 18  # points that are asked for together
NO_PLACE = 1e-9  # of the picture: less is a point or a line
NEXT = 1.5  # texels: the eight around a painted texel show its colour


def bake(
    color: Color,
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    size: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, float]:
    """Paint the picture: ask the field for the colour at the centre of every texel that a triangle covers.

    Args:
        color: points (n, 3) to colours (n, 3) in [0, 1]; called without gradients on `device`.
        vertices: (v, 3) in metres.
        faces: (f, 3).
        uv: (v, 2) in [0, 1] from the top left.
        size: texels along a side.

    Returns:
        uint8 (size, size, 3), and the share of the area that was painted (see `coverage`).

    Raises:
        InputError: the field gives colours that are not finite.
    """
    pixels, distance = paint(color, vertices, faces, uv, size, device)
    return pixels, coverage(vertices, faces, uv, distance)


def paint(
    color: Color,
    attributes: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    size: int,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Paint the picture by whatever the vertices carry, which `color` is asked about blended to each texel.

    All other texels take the colour of the nearest painted one, so that no blending ever meets an empty texel.

    Args:
        color: blended attributes (n, c) to colours (n, 3) in [0, 1].
        attributes: (v, c).
        faces, uv, size, device: as of `bake`.

    Returns:
        uint8 (size, size, 3), and how far the nearest painted texel is from each, in texels (size, size).

    Raises:
        InputError: as `bake`.
    """
    fragments = draw_uv(uv, faces, size)
    places = interpolate(torch.from_numpy(attributes).float(), torch.from_numpy(faces), fragments)[0]  # (h, w, c)
    painted = fragments.mask[0]  # (h, w)
    if not painted.any():
        raise ValueError("no texel is covered: the texture coordinates have no area")
    texture = torch.zeros(size, size, 3)
    with torch.no_grad():
        found = [color(points.to(device)).float().cpu() for points in places[painted].split(CHUNK)]
    colors = torch.cat(found)  # (n, 3)
    if colors.shape != (int(painted.sum()), 3):
        raise ValueError(f"color must give (n, 3), not {tuple(found[0].shape)}")
    if not colors.isfinite().all():
        raise InputError("the field is broken: its colours are NaN or infinite; go back to an earlier checkpoint")
    texture[painted] = colors
    distance, nearest = to_painted(painted.numpy())
    filled = texture.numpy()[nearest[0], nearest[1]]  # (h, w, 3)
    return np.rint(filled.clip(0, 1) * 255).astype(np.uint8), distance


def draw_uv(uv: np.ndarray, faces: np.ndarray, size: int) -> Fragments:
    """Which triangle covers the centre of each texel: fragments of (1, size, size)."""
    flat = torch.from_numpy(uv).float()
    clip = torch.stack(
        [flat[:, 0] * 2 - 1, 1 - flat[:, 1] * 2, torch.zeros(len(flat)), torch.ones(len(flat))], 1
    )  # (v, 4): the picture seen straight on
    return rasterize(clip, torch.from_numpy(faces).int(), torch.tensor([0, len(faces)]).int(), size, size)


def to_painted(painted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the nearest painted texel is from each, in texels (h, w), and its row and column (2, h, w)."""
    found: Any = distance_transform_edt(~painted, return_indices=True)
    return found


def coverage(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, distance: np.ndarray) -> float:
    """Share of the area that shows its own paint, in [0, 1].

    Looked at in four points of every face, weighted by area: the texel there must be painted, or be next to a painted
    one (charts have edges that run between texel centres). Faces without a place in the picture do not count.

    Args:
        vertices, faces, uv: as of `bake`.
        distance: (h, w) texels to the nearest painted texel.
    """
    weights = np.full((4, 3), 1 / 6)
    weights[:3][np.eye(3, dtype=bool)] = 2 / 3
    weights[3] = 1 / 3  # (4, 3): near each corner, and in the middle
    height, width = distance.shape
    corners = uv[faces].astype(np.float64)  # (f, 3, 2)
    points = np.einsum("pk,fkc->fpc", weights, corners)  # (f, 4, 2)
    column = (points[..., 0] * width).astype(int).clip(0, width - 1)
    row = (points[..., 1] * height).astype(int).clip(0, height - 1)
    along, across = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    placed = np.abs(along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0]) > NO_PLACE  # (f,)
    shown = (distance[row, column] <= NEXT).mean(1) * placed  # (f,)
    area = topology.areas(vertices, faces)
    return float((shown * area).sum() / area.sum()) if area.sum() > 0 else 0.0
