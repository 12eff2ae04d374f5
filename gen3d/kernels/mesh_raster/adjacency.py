"""Which triangles meet at an edge."""

from __future__ import annotations

import torch
from torch import Tensor


def opposite_corners(faces: Tensor) -> Tensor:
    """Across each edge of each triangle, the corner of the triangle on the other side.

    Args:
        faces: (f, 3) rows of vertices.

    Returns:
        (f, 3) int32: for the edge opposite to a corner, that corner's counterpart, or -1 where no triangle is there, or
        more than one.
    """
    corners = faces.long()  # (f, 3)
    start, end = corners.roll(-1, 1).flatten(), corners.roll(-2, 1).flatten()  # (3f,) of the edge opposite to a corner
    count = int(corners.max()) + 1 if len(corners) else 0
    keys = torch.minimum(start, end) * count + torch.maximum(start, end)  # (3f,)
    ordered, order = keys.sort(stable=True)  # uses of one edge become neighbours
    same = ordered[1:] == ordered[:-1]  # (3f - 1,)
    other = torch.full_like(order, -1)
    alone = torch.nn.functional.pad(same, (1, 1))  # (3f + 1,): whether a use has an equal before it
    before, after = alone[:-1], alone[1:]  # (3f,) each
    third = corners.flatten()[order]  # (3f,) the corner that faces the edge
    # a pair: the first has an equal after it and none before, the second the other way round, and no third follows
    first = (after & ~before).nonzero()[:, 0]
    first = first[~after[first + 1]]
    other[order[first]], other[order[first + 1]] = third[first + 1], third[first]
    return other.view(-1, 3).int()
