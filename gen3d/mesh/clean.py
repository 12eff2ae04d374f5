"""From a raw surface to one that programs like: one body, no holes, smooth, few faces, outward winding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from fast_simplification import simplify

from core2d.app.errors import InputError
from gen3d.mesh import topology

SHRINK, GROW = 0.5, -0.53  # Taubin's lambda and mu: frequencies below 1 / 0.5 - 1 / 0.53 = 0.11 keep their size
GENTLER = 1.25  # factor on the face budget each time that fewer faces would break the surface
HASTE = (5, 2)  # how fast the error that is allowed grows from pass to pass; the library's own is 7
VOLUME_KEPT = 0.02  # largest relative change of volume that decimation may make


@dataclass(frozen=True)
class Cleaning:
    """What `clean` did.

    Attributes:
        dropped_parts: bodies beside the main one that were left out.
        dropped_share: their share of the volume of all bodies, in [0, 1].
        filled_cavities: closed hollows inside the bodies that were made solid.
        filled_holes: whether an open border had to be closed.
        faces_before: faces of the main body before decimation.
    """

    dropped_parts: int
    dropped_share: float
    filled_cavities: int
    filled_holes: bool
    faces_before: int


def clean(
    vertices: np.ndarray, faces: np.ndarray, face_budget: int = 20_000, smoothing: int = 10
) -> tuple[np.ndarray, np.ndarray, Cleaning]:
    """Keep the main body, fill, smooth, and decimate it.

    Args:
        vertices: (v, 3) in metres.
        faces: (f, 3).
        face_budget: most faces wanted; more stay where fewer would not be watertight.
        smoothing: steps of Taubin's filter; 0 leaves positions as they are.

    Returns:
        vertices (v, 3) float32, faces (f, 3) int32 counter-clockwise from outside, and what was done.

    Raises:
        InputError: no face, or none with an area.
    """
    if face_budget < 4:
        raise ValueError(f"a closed surface has at least 4 faces; face_budget is {face_budget}")
    vertices, faces = _tidy(vertices, faces)
    if not len(faces):
        raise InputError("the mesh is empty: it has no face with an area")
    vertices, faces, dropped, share, cavities = main_body(vertices, faces)
    vertices, faces, filled = _close(vertices, faces)
    before = len(faces)
    vertices = taubin(vertices, faces, smoothing)
    vertices, faces = decimate(vertices, faces, face_budget)
    return vertices, faces, Cleaning(dropped, share, cavities, filled, before)


def main_body(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, float, int]:
    """The part with the largest volume, without cavities.

    Returns:
        vertices, faces, the number of other bodies, their share of the volume, the number of cavities.
    """
    part = topology.parts(faces)
    volume = np.bincount(part, topology.volumes(vertices, faces))
    if abs(volume.min()) > volume.max():
        faces, volume = faces[:, ::-1], -volume  # inside out as a whole
    main = int(volume.argmax())
    solid = volume[volume >= 0]  # a negative volume is the wall of a cavity
    share = float(1 - volume[main] / solid.sum()) if solid.sum() > 0 else 0.0
    vertices, faces = topology.drop_unused(vertices, faces[part == main])
    return vertices, faces, len(solid) - 1, share, len(volume) - len(solid)


def taubin(vertices: np.ndarray, faces: np.ndarray, steps: int) -> np.ndarray:
    """Smooth without shrinking (Taubin, "A signal processing approach to fair surface design", 1995).

    Each step moves vertices (v, 3) toward the mean of their neighbours, then a little further back.
    """
    first, second = topology.edges(faces).ends.T
    count = len(vertices)
    degree = np.bincount(first, minlength=count) + np.bincount(second, minlength=count)
    smooth = vertices.astype(np.float64)
    for factor in (SHRINK, GROW) * steps:
        total = np.stack(
            [np.bincount(first, x[second], count) + np.bincount(second, x[first], count) for x in smooth.T], 1
        )
        smooth += factor * (total / np.maximum(degree, 1)[:, None] - smooth)
    return smooth.astype(np.float32)


def decimate(vertices: np.ndarray, faces: np.ndarray, face_budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Collapse edges of least quadric error (Garland and Heckbert 1997) until the budget is met.

    A result that is no longer closed and whole is thrown away and tried again: less hastily, then with a budget a
    quarter larger.
    """
    target = float(face_budget)
    whole, volume = is_closed(faces), abs(topology.volumes(vertices, faces).sum())
    while target < len(faces):
        for haste in HASTE:
            points, triangles = simplify(vertices, faces, target_count=round(target), agg=haste)[:2]
            points, triangles = _tidy(np.asarray(points), np.asarray(triangles))
            change = abs(abs(topology.volumes(points, triangles).sum()) - volume)
            if len(triangles) and (not whole or (is_closed(triangles) and change <= VOLUME_KEPT * volume)):
                return points, triangles
        target *= GENTLER
    return vertices, faces


def is_closed(faces: np.ndarray) -> bool:
    """Whether every edge has two faces that agree about the outside, and all faces are of one part."""
    edges = topology.edges(faces)
    return bool((edges.uses == 2).all() and (edges.turns == 0).all() and topology.parts(faces).max(initial=0) == 0)


def _tidy(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge equal positions, in float32; drop faces that have lost a corner by it, and vertices that have no face."""
    vertices, faces, _ = topology.merge_positions(vertices.astype(np.float32), faces)
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    return topology.drop_unused(vertices, faces)


def _close(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Fill holes and make the winding agree, where that is needed."""
    if is_closed(faces):
        return vertices, faces, False
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    holes = bool((topology.edges(faces).uses == 1).any())
    trimesh.repair.fix_winding(mesh)
    trimesh.repair.fill_holes(mesh, use_fan=True)
    trimesh.repair.fix_normals(mesh)
    return *_tidy(np.asarray(mesh.vertices), np.asarray(mesh.faces)), holes
