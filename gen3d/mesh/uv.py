"""Unwrapping: every triangle gets its place in a square picture."""

from __future__ import annotations

import numpy as np
import xatlas

GAP = 4  # texels between charts, so that blended texels of one never reach the next


def unwrap(vertices: np.ndarray, faces: np.ndarray, size: int = 1024) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a surface into charts and pack them (xatlas).

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
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding = size, GAP
    atlas.generate(pack_options=packing)
    rows, indices, uv = atlas.get_mesh(0)
    return rows.astype(np.int32), indices.astype(np.int32), uv.clip(0, 1)
