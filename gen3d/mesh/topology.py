"""How triangles hang together: merged positions, edges, parts, volumes. NumPy only, vertices (v, 3), faces (f, 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from trimesh.graph import connected_component_labels


@dataclass(frozen=True)
class Edges:
    """The undirected edges of a mesh.

    Attributes:
        ends: (e, 2) vertices, the smaller one first.
        uses: (e,) how many faces have the edge: 2 inside a closed surface, 1 at a border.
        turns: (e,) uses from the smaller end to the larger one minus uses the other way: 0 where two faces agree.
        of_face: (f, 3) rows of `ends`: the edges after each corner.
    """

    ends: np.ndarray
    uses: np.ndarray
    turns: np.ndarray
    of_face: np.ndarray


def merge_positions(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make vertices at exactly the same place one: undoes what UV seams split.

    Returns:
        vertices (m, 3), faces (f, 3), and for each old vertex its new row (v,).
    """
    order = np.lexsort(vertices.T)  # equal positions become neighbours
    first = np.ones(len(vertices), bool)
    first[1:] = (vertices[order][1:] != vertices[order][:-1]).any(1)
    rows = np.empty(len(vertices), np.int32)
    rows[order] = np.cumsum(first) - 1
    return vertices[order][first], rows[faces], rows


def drop_unused(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out vertices that no face has."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used, dtype=np.int32) - 1)[faces]


def edges(faces: np.ndarray) -> Edges:
    """The undirected edges of `faces`."""
    start, end = faces.ravel().astype(np.int64), np.roll(faces, -1, axis=1).ravel().astype(np.int64)
    scale = int(faces.max(initial=0)) + 1
    keys, of_face, uses = np.unique(
        np.minimum(start, end) * scale + np.maximum(start, end), return_inverse=True, return_counts=True
    )
    turns = np.bincount(of_face, np.where(start < end, 1, -1), len(keys)).astype(int)
    return Edges(np.stack(np.divmod(keys, scale), 1), uses, turns, of_face.reshape(-1, 3))


def parts(faces: np.ndarray) -> np.ndarray:
    """(f,) which part each face belongs to, from 0: faces that share an edge are of one part."""
    of_face = edges(faces).of_face
    order = np.argsort(of_face.ravel(), kind="stable")  # uses of one edge become neighbours
    same = np.flatnonzero(np.diff(of_face.ravel()[order]) == 0)
    links = np.stack([order[same] // 3, order[same + 1] // 3], 1)  # pairs of faces
    return np.asarray(connected_component_labels(links, node_count=len(faces)))


def areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(f,) square metres."""
    return np.linalg.norm(_crosses(vertices, faces), axis=1) / 2


def volumes(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(f,) signed volumes of the tetrahedra from a point inside the bounds to each face.

    Over a closed surface they add up to its volume in cubic metres, positive where its faces look outward.
    """
    corners = vertices[faces].astype(np.float64)  # (f, 3, 3)
    corners = corners - corners.reshape(-1, 3).mean(0) if len(corners) else corners
    return np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6


def normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(v, 3) unit float32 normals, the mean over faces by area; vertices at one place share theirs, seams or not."""
    positions, merged, rows = merge_positions(vertices, faces)
    cross = _crosses(positions, merged)
    total = np.stack(
        [np.bincount(merged.ravel(), np.repeat(cross[:, axis], 3), len(positions)) for axis in range(3)], 1
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    total = np.where(length > 0, total / np.maximum(length, 1e-300), [0.0, 0.0, 1.0])
    return total[rows].astype(np.float32)


def _crosses(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces].astype(np.float64)  # (f, 3, 3)
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
