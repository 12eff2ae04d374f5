"""Finding what a scene is of: the visual hull of transparent pictures, COLMAP's points, or what the cameras look at."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from gen3d.data.lenses import Lenses
from gen3d.data.photographs import Photographs
from gen3d.data.placement import Placement
from gen3d.data.scene import CapturedScene

HULL_CELLS = 48  # along a side
HULL_VIEWS = 100  # more tell nothing new
MASK_SIDE = 256  # pixels; larger masks are made smaller
MARGIN = 1.05
OPAQUE = 13  # of 255, 5 %: less is taken for a trace of smoothing
NEAREST = 1.2  # from the centre to the nearest camera, so that no camera stands inside what is modelled
PARALLEL = math.cos(math.radians(25))  # cameras whose axes differ less from their mean face forward


def place(scene: CapturedScene, photographs: Photographs) -> Placement:
    """Find what a scene is of.

    With transparent pictures it is the box of their visual hull; with points of COLMAP the middle 90 % of those;
    otherwise what the cameras look at.

    Args:
        scene: for its points and bounds.
        photographs: views of it, not moved yet.
    """
    focus, reach = _focus(scene, photographs)
    if photographs.has_alpha and (box := _hull_box(photographs, focus, reach)) is not None:
        center, half = (box[0] + box[1]) / 2, float((box[1] - box[0]).max()) / 2 * MARGIN
        return _placement(center, 1 / half, unbounded=False)
    if scene.points is not None:
        low, high = np.quantile(scene.points, (0.05, 0.95), axis=0)
        if (half := float((high - low).max()) / 2) > 0:
            return _placement((low + high) / 2, 1 / half, unbounded=True)
    return _placement(focus, NEAREST / reach, unbounded=True)


def _placement(center: np.ndarray, scale: float, unbounded: bool) -> Placement:
    x, y, z = center.tolist()
    return Placement((x, y, z), float(scale), unbounded)


# -- what the cameras look at ------------------------------------------------------------------------------------


def _focus(scene: CapturedScene, photographs: Photographs) -> tuple[np.ndarray, float]:
    """The point that the cameras look at, and a distance from it: of the nearest camera, where they look inward."""
    poses = np.stack([view.camera_to_world for view in photographs.views])
    positions, forward = poses[:, :3, 3], -poses[:, :3, 2]
    middle, mean = positions.mean(0), forward.mean(0)
    spread = float(np.linalg.norm(positions - middle, axis=1).max())
    axis = mean / max(float(np.linalg.norm(mean)), 1e-12)
    if (forward @ axis).min() > PARALLEL:
        distance = _depth_ahead(scene, positions, forward, axis, spread)
        focus = middle + distance * axis
    else:
        focus = _nearest_to_axes(positions, forward)
        if np.median(((focus - positions) * forward).sum(1)) <= 0:  # outward: model what is around the cameras
            return middle, 2 * NEAREST * spread or 1.0
    distances = np.linalg.norm(positions - focus, axis=1)
    return focus, float(max(distances.min(), 1e-3 * np.median(distances))) or 1.0


def _depth_ahead(
    scene: CapturedScene, positions: np.ndarray, forward: np.ndarray, axis: np.ndarray, spread: float
) -> float:
    """How far ahead of cameras that face forward their subject is."""
    if scene.bounds is not None:
        return math.sqrt(scene.bounds[0] * scene.bounds[1])
    depth = float((_nearest_to_axes(positions, forward) - positions.mean(0)) @ axis)
    return depth if spread < depth < 100 * spread else 4 * spread or 1.0


def _nearest_to_axes(positions: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """The point with the least sum of squared distances to all optical axes."""
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]  # (n, 3, 3) away from each axis
    middle = positions.mean(0)  # the solution nearest to it, where axes are parallel
    right = np.einsum("nij,nj->i", across, positions - middle)
    return middle + np.linalg.lstsq(across.sum(0), right, rcond=1e-9)[0]


# -- the visual hull -----------------------------------------------------------------------------------------------


def _hull_box(photographs: Photographs, focus: np.ndarray, reach: float) -> np.ndarray | None:
    """(2, 3) corners of a box around what all silhouettes allow, or None where that is nothing."""
    chosen = np.unique(np.linspace(0, len(photographs) - 1, min(len(photographs), HULL_VIEWS)).astype(int)).tolist()
    silhouettes = [_distance_to_silhouette(photographs, index) for index in chosen]
    distances = np.linalg.norm([photographs.views[index].camera_to_world[:3, 3] - focus for index in chosen], axis=1)
    lenses = [photographs.lenses[index] for index in chosen]
    slope = max(max(lens.width / lens.fx, lens.height / lens.fy) / 2 for lens in lenses)
    half = float(np.median(distances)) * min(1.0, slope)
    for size in (half, 2 * half, 4 * half):
        cube = np.stack([focus - size, focus + size])
        box = _carve(photographs, chosen, silhouettes, cube)
        if box is None or (np.abs(box - cube) > 1e-6 * size).all():
            break
    return None if box is None else _carve(photographs, chosen, silhouettes, box)


def _distance_to_silhouette(photographs: Photographs, index: int) -> tuple[np.ndarray, int]:
    """(h, w) distances in pixels to the nearest that is not clear, of the picture made smaller by the second number."""
    height, width = photographs.size_of(index)
    mask = photographs.pixels[photographs.rows_of(index), 3].view(height, width) >= OPAQUE
    factor = math.ceil(max(height, width) / MASK_SIDE)
    mask = torch.nn.functional.max_pool2d(mask.float()[None], factor, ceil_mode=True)[0].numpy() > 0
    if not mask.any():
        return np.full(mask.shape, np.inf), factor
    return np.asarray(distance_transform_edt(~mask)), factor


def _carve(
    photographs: Photographs, chosen: list[int], silhouettes: list[tuple[np.ndarray, int]], box: np.ndarray
) -> np.ndarray | None:
    """The box of the cells of a box that may hold something.

    A cell stays if in every view that sees its middle the silhouette comes as near to that as the cell is large;
    so what is thinner than a cell is not lost. At least two views must see it.
    """
    size = (box[1] - box[0]) / HULL_CELLS
    steps = (np.arange(HULL_CELLS) + 0.5) / HULL_CELLS
    axes = [low + steps * (high - low) for low, high in box.T]
    cells = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3))  # (c, 3)
    radius = float(np.linalg.norm(size)) / 2
    seen = torch.zeros(len(cells), dtype=torch.int32)
    for index, (distance, factor) in zip(chosen, silhouettes, strict=True):
        pose = torch.from_numpy(photographs.views[index].camera_to_world)
        local = (cells - pose[:3, 3]) @ pose[:3, :3]
        lens = photographs.lenses[index]
        pixels = Lenses.of([lens]).project(local)
        x, y = pixels.nan_to_num(-1.0).unbind(1)
        visible = (x >= 0) & (x < lens.width) & (y >= 0) & (y < lens.height)
        near = torch.from_numpy(distance)[
            (y[visible] / factor).long().clamp(max=distance.shape[0] - 1),
            (x[visible] / factor).long().clamp(max=distance.shape[1] - 1),
        ]
        distance_to = torch.maximum(-local[visible, 2], local[visible].norm(dim=1) / 2).clamp(min=1e-12)
        footprint = radius * max(lens.fx, lens.fy) / distance_to / factor + 1
        stays = torch.ones(len(cells), dtype=torch.bool)
        stays[visible] = near <= footprint
        seen += visible.int()
        cells, seen = cells[stays], seen[stays]
    cells = cells[seen >= 2]
    if not len(cells):
        return None
    low, high = cells.amin(0).numpy() - size / 2, cells.amax(0).numpy() + size / 2
    return np.stack([low, high])
