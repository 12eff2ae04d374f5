"""The hash encoding in plain torch: the readable definition that the fast kernels are held against."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from gen3d.kernels.hash_grid.layout import PRIME_Y, PRIME_Z, HashGridLayout

CORNERS = [(i, j, k) for k, j, i in product((0, 1), repeat=3)]  # of a cell, the first axis fastest


def encode(x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """See `gen3d.kernels.hash_grid.encode`; works on any device, in the dtype of `table`."""
    corners = torch.tensor(CORNERS, device=x.device)  # (8, 3)
    return torch.cat([_level(x, table, layout, level, corners) for level in range(layout.levels)], dim=1)


def rows(vertices: Tensor, layout: HashGridLayout, level: int) -> Tensor:
    """Rows of the table (...) at which the vertices (..., 3) int64 of a level keep their features."""
    x, y, z = vertices.unbind(-1)  # (...) each
    first, last = layout.offsets[level : level + 2].tolist()
    resolution = int(layout.resolutions[level])
    if layout.hashed[level]:
        index = x ^ (y * PRIME_Y) ^ (z * PRIME_Z)  # (...)
    else:
        index = x + resolution * (y + resolution * z)  # (...)
    return first + (index & 0xFFFFFFFF) % (last - first)  # (...); the arithmetic is that of 32 unsigned bits


def _level(x: Tensor, table: Tensor, layout: HashGridLayout, level: int, corners: Tensor) -> Tensor:
    position = x * float(layout.scales[level]) + 0.5  # (n, 3) in cells
    cell = position.detach().floor()  # (n, 3)
    fraction = (position - cell)[:, None]  # (n, 1, 3) in [0, 1)
    found = table[rows(cell.long()[:, None] + corners, layout, level)]  # (n, 8, f)
    along = torch.where(corners == 1, fraction, 1 - fraction)  # (n, 8, 3)
    weight = along[..., 0] * along[..., 1] * along[..., 2]  # (n, 8)
    return (weight[..., None] * found).sum(1)  # (n, f)
