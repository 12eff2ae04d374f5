"""The hash encoding on CPU.

Forward and the gradient to the points run over blocks of points in parallel; inside a block the levels come one after
the other, so that one level's table stays in the cache. The gradient to the table runs over levels in parallel: each
thread owns its levels' rows, which needs no atomics and gives the same sum whatever the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from core2d.kernels.numba_cache import njit
from gen3d.kernels.hash_grid.layout import PRIME_Y, PRIME_Z, HashGridLayout

BLOCK = 512  # points: their encodings stay in the first-level cache while the levels pass
HALF, ONE = np.float32(0.5), np.float32(1)  # plain numbers would turn the arithmetic to float64


def forward(x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """(n, 3) and (e, f) to (n, l * f), all float32 and contiguous."""
    out = np.empty((len(x), layout.outputs), np.float32)
    _forward(_array(x), _array(table), *_levels(layout), _width(layout), out)
    return torch.from_numpy(out)


def backward_table(grad: Tensor, x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Gradient (e, f) to the table, of the gradient (n, l * f) to the encodings."""
    out = np.zeros(tuple(table.shape), np.float32)
    # threads take runs of levels: dealt out in turn, each gets coarse ones (quick, cached) and fine ones
    threads = numba.get_num_threads()
    order = np.concatenate([np.arange(first, layout.levels, threads) for first in range(threads)])
    _backward_table(_array(grad), _array(x), *_levels(layout), _width(layout), order, out)
    return torch.from_numpy(out)


def backward_points(grad: Tensor, x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Gradient (n, 3) to the points."""
    out = np.zeros((len(x), 3), np.float32)
    _backward_points(_array(grad), _array(x), _array(table), *_levels(layout), _width(layout), out)
    return torch.from_numpy(out)


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise ValueError(f"the numba hash grid needs tensors on the CPU; one is on {tensor.device}")
    return tensor.numpy()


def _levels(layout: HashGridLayout) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return layout.scales, layout.resolutions, layout.offsets, layout.hashed


def _width(layout: HashGridLayout) -> tuple[int, ...]:
    """A tuple as long as an entry: its length is part of its type, so the compiler can unroll loops over features."""
    return (0,) * layout.features


@njit(error_model="numpy")
def _row(x, y, z, resolution, first, size, hashed):
    """The row of one vertex; see `layout`. The low 32 bits are the same in 64-bit arithmetic."""
    if hashed:
        return first + ((x ^ (y * PRIME_Y) ^ (z * PRIME_Z)) & (size - 1))
    index = x + resolution * (y + resolution * z)
    if index < 0 or index >= size:  # only at the far faces and outside of the cube: a division is slow
        index = (index & 0xFFFFFFFF) % size
    return first + index


@njit(error_model="numpy")
def _corners(cell, resolution, first, size, hashed):
    """The rows of the eight vertices of a cell, the first axis fastest."""
    x, y, z = cell
    return (
        _row(x, y, z, resolution, first, size, hashed),
        _row(x + 1, y, z, resolution, first, size, hashed),
        _row(x, y + 1, z, resolution, first, size, hashed),
        _row(x + 1, y + 1, z, resolution, first, size, hashed),
        _row(x, y, z + 1, resolution, first, size, hashed),
        _row(x + 1, y, z + 1, resolution, first, size, hashed),
        _row(x, y + 1, z + 1, resolution, first, size, hashed),
        _row(x + 1, y + 1, z + 1, resolution, first, size, hashed),
    )


@njit(error_model="numpy")
def _weights(fraction):
    """What each of the eight vertices counts."""
    x, y, z = fraction
    p, q, r = ONE - x, ONE - y, ONE - z
    pq, xq, py, xy = p * q, x * q, p * y, x * y
    return pq * r, xq * r, py * r, xy * r, pq * z, xq * z, py * z, xy * z


@njit(error_model="numpy")
def _locate(x, i, scale):
    """The cell that point i lies in, and where inside it."""
    a, b, c = x[i, 0] * scale + HALF, x[i, 1] * scale + HALF, x[i, 2] * scale + HALF
    u, v, w = np.floor(a), np.floor(b), np.floor(c)
    return (np.int64(u), np.int64(v), np.int64(w)), (a - u, b - v, c - w)


@njit(parallel=True, error_model="numpy")
def _forward(x, table, scales, resolutions, offsets, hashed, width, out):
    count = len(x)
    for block in numba.prange((count + BLOCK - 1) // BLOCK):
        for level in range(len(scales)):
            first, size = offsets[level], offsets[level + 1] - offsets[level]
            for i in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
                cell, fraction = _locate(x, i, scales[level])
                r = _corners(cell, resolutions[level], first, size, hashed[level])
                w = _weights(fraction)
                for f in range(len(width)):
                    out[i, level * len(width) + f] = (
                        w[0] * table[r[0], f] + w[1] * table[r[1], f] + w[2] * table[r[2], f] + w[3] * table[r[3], f]
                    ) + (w[4] * table[r[4], f] + w[5] * table[r[5], f] + w[6] * table[r[6], f] + w[7] * table[r[7], f])


@njit(parallel=True, error_model="numpy")
def _backward_table(grad, x, scales, resolutions, offsets, hashed, width, order, out):
    for k in numba.prange(len(order)):
        level = order[k]
        first, size = offsets[level], offsets[level + 1] - offsets[level]
        for i in range(len(x)):
            cell, fraction = _locate(x, i, scales[level])
            r = _corners(cell, resolutions[level], first, size, hashed[level])
            w = _weights(fraction)
            for f in range(len(width)):
                g = grad[i, level * len(width) + f]
                out[r[0], f] += w[0] * g
                out[r[1], f] += w[1] * g
                out[r[2], f] += w[2] * g
                out[r[3], f] += w[3] * g
                out[r[4], f] += w[4] * g
                out[r[5], f] += w[5] * g
                out[r[6], f] += w[6] * g
                out[r[7], f] += w[7] * g


@njit(parallel=True, error_model="numpy")
def _backward_points(grad, x, table, scales, resolutions, offsets, hashed, width, out):
    count = len(x)
    for block in numba.prange((count + BLOCK - 1) // BLOCK):
        for level in range(len(scales)):
            scale, first, size = scales[level], offsets[level], offsets[level + 1] - offsets[level]
            for i in range(block * BLOCK, min(count, (block + 1) * BLOCK)):
                cell, (u, v, w) = _locate(x, i, scale)
                r = _corners(cell, resolutions[level], first, size, hashed[level])
                p, q, s = ONE - u, ONE - v, ONE - w
                for f in range(len(width)):
                    g = grad[i, level * len(width) + f] * scale
                    a, b, c, d = table[r[0], f], table[r[1], f], table[r[2], f], table[r[3], f]
                    h, j, k, m = table[r[4], f], table[r[5], f], table[r[6], f], table[r[7], f]
                    out[i, 0] += g * (s * (q * (b - a) + v * (d - c)) + w * (q * (j - h) + v * (m - k)))
                    out[i, 1] += g * (s * (p * (c - a) + u * (d - b)) + w * (p * (k - h) + u * (m - j)))
                    out[i, 2] += g * (q * (p * (h - a) + u * (j - b)) + v * (p * (k - c) + u * (m - d)))
