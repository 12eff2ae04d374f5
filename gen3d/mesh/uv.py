"""Unwrapping: every triangle gets its place in a square picture."""

from __future__ import annotations

import numpy as np
import xatlas

from gen3d.mesh import topology

GAP = 4  # texels between charts, so that blended texels of one never reach the next
LEAST_AREA = float(np.finfo(np.float32).eps)  # xatlas gives a smaller face no place, whatever its unit is
NEGLIGIBLE = 1e-6  # of the area: a sliver or two that nobody sees
SIDE = 64.0  # what the longest side becomes where faces are too small; float32 has room above and below


def unwrap(vertices: np.ndarray, faces: np.ndarray, size: int = 1024) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a surface into charts and pack them (xatlas). The surface may have any size.

    Args:
        vertices: (v, 3) in metres.
        faces: (f, 3).
        size: texels along the side of the picture that will be painted.

    Returns:
        rows (n,): the vertex that each new vertex is a copy of; vertices are split along seams.
        faces (f, 3) int32: the same faces in the same order, over the new vertices.
        uv (n, 2) float32 in [0, 1], from the top left corner of the picture.
    """
    atlas = xatlas.Atlas()
    atlas.add_mesh(_large_enough(vertices, faces).astype(np.float32), faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding = size, GAP
    atlas.generate(pack_options=packing)
    rows, indices, uv = atlas.get_mesh(0)
    return rows.astype(np.int32), indices.astype(np.int32), uv.clip(0, 1)


def _large_enough(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The vertices (v, 3) at a scale where xatlas sees every face.

    A mesh that it takes whole keeps its own scale: another one moves a few charts, and what was made before should be
    made again to the byte.
    """
    area = topology.areas(vertices, faces)
    if area[area <= LEAST_AREA].sum() <= NEGLIGIBLE * area.sum():
        return vertices
    used = vertices[np.unique(faces)].astype(np.float64)
    low, high = used.min(0), used.max(0)
    return (vertices - (low + high) / 2) * (SIDE / (high - low).max())
