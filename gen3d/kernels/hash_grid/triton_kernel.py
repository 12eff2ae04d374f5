"""The hash encoding on CUDA: a program per block of points and level; table gradients are added atomically.

Atomic sums depend on the order of threads: gradients vary in the last bits from run to run.

Floors for n points, l levels, f features: 12 n l bytes read, 4 n l f written, and 32 n l f gathered, from the L2 cache
at best. So that they are found there, levels are the slow axis of the launch: the 4 MB of one level (2^19 entries of
two features) stay, where those of 16 levels and the points would push each other out. Backward adds as many bytes
atomically. Not yet timed on a device.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from gen3d.kernels.hash_grid import layout as layouts
from gen3d.kernels.hash_grid.layout import HashGridLayout

BLOCK = 256  # points of a program
# tiny-cuda-nn, too, finds a point's place in the grid with one fused multiply-add
OPTIONS = {"BLOCK": BLOCK, "num_warps": 4, "enable_fp_fusion": True}
PRIME_Y = tl.constexpr(layouts.PRIME_Y)
PRIME_Z = tl.constexpr(layouts.PRIME_Z)


def forward(x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """(n, 3) and (e, f) to (n, l * f), all float32 and contiguous."""
    out = x.new_empty(len(x), layout.outputs)
    with _device(x):
        if len(x):
            grid = (triton.cdiv(len(x), BLOCK), layout.levels)
            _forward[grid](x, table, *_levels(layout, x.device), out, len(x), **_options(layout))
    return out


def backward_table(grad: Tensor, x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Gradient (e, f) to the table, of the gradient (n, l * f) to the encodings."""
    out = torch.zeros_like(table)
    with _device(x):
        if len(x):
            grid = (triton.cdiv(len(x), BLOCK), layout.levels)
            _backward_table[grid](grad, x, *_levels(layout, x.device), out, len(x), **_options(layout))
    return out


def backward_points(grad: Tensor, x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Gradient (n, 3) to the points."""
    out = torch.empty_like(x)
    with _device(x):
        if len(x):
            _backward_points[(triton.cdiv(len(x), BLOCK),)](
                grad, x, table, *_levels(layout, x.device), out, len(x), **_options(layout)
            )
    return out


def _device(x: Tensor) -> torch.cuda.device_of:
    if not x.is_cuda and not knobs.runtime.interpret:
        raise ValueError(f"the triton hash grid needs CUDA tensors; x is on {x.device}")
    return torch.cuda.device_of(x)


def _options(layout: HashGridLayout) -> dict[str, Any]:
    return {"LEVELS": layout.levels, "FEATURES": layout.features, **OPTIONS}


@functools.cache
def _levels(layout: HashGridLayout, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scales, resolutions, offsets (levels + 1), hashed: copied to each device once."""
    scales = torch.from_numpy(layout.scales).to(device)
    whole = (layout.resolutions, layout.offsets, layout.hashed)
    resolutions, offsets, hashed = (torch.from_numpy(array).to(device, torch.int32) for array in whole)
    return scales, resolutions, offsets, hashed


@triton.jit
def _row(x, y, z, resolution, size, hashed):
    """The row of vertices inside their level, in 32 unsigned bits; see `layout`."""
    dense = x + resolution * (y + resolution * z)
    mixed = x ^ (y * PRIME_Y) ^ (z * PRIME_Z)
    return tl.where(hashed != 0, mixed, dense) % size


@triton.jit
def _locate(x, i, axis, mask, scale):
    """Along one axis: the cells that points lie in, and where inside them."""
    position = tl.load(x + i * 3 + axis, mask, 0.0) * scale + 0.5
    cell = tl.floor(position)
    return cell.to(tl.int32).to(tl.uint32), position - cell


@triton.jit
def _level(resolutions, offsets, hashed, level):
    first = tl.load(offsets + level)
    size = (tl.load(offsets + level + 1) - first).to(tl.uint32)
    return tl.load(resolutions + level).to(tl.uint32), first, size, tl.load(hashed + level)


@triton.jit
def _forward(
    x, table, scales, resolutions, offsets, hashed, out, count,
    LEVELS: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    f = tl.arange(0, FEATURES)[None, :]
    scale = tl.load(scales + level)
    resolution, first, size, is_hashed = _level(resolutions, offsets, hashed, level)
    cx, u = _locate(x, i, 0, mask, scale)
    cy, v = _locate(x, i, 1, mask, scale)
    cz, w = _locate(x, i, 2, mask, scale)
    total = tl.zeros((BLOCK, FEATURES), tl.float32)
    for corner in tl.static_range(8):  # pyright: ignore
        a, b, c = corner & 1, (corner >> 1) & 1, corner >> 2
        row = _row(cx + a, cy + b, cz + c, resolution, size, is_hashed)
        weight = (1 - a + (2 * a - 1) * u) * (1 - b + (2 * b - 1) * v) * (1 - c + (2 * c - 1) * w)
        at = table + (first + row.to(tl.int32))[:, None] * FEATURES + f
        total += weight[:, None] * tl.load(at, mask[:, None], 0.0)
    tl.store(out + i[:, None] * (LEVELS * FEATURES) + level * FEATURES + f, total, mask[:, None])


@triton.jit
def _backward_table(
    grad, x, scales, resolutions, offsets, hashed, out, count,
    LEVELS: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    f = tl.arange(0, FEATURES)[None, :]
    scale = tl.load(scales + level)
    resolution, first, size, is_hashed = _level(resolutions, offsets, hashed, level)
    cx, u = _locate(x, i, 0, mask, scale)
    cy, v = _locate(x, i, 1, mask, scale)
    cz, w = _locate(x, i, 2, mask, scale)
    g = tl.load(grad + i[:, None] * (LEVELS * FEATURES) + level * FEATURES + f, mask[:, None], 0.0)
    for corner in tl.static_range(8):  # pyright: ignore
        a, b, c = corner & 1, (corner >> 1) & 1, corner >> 2
        row = _row(cx + a, cy + b, cz + c, resolution, size, is_hashed)
        weight = (1 - a + (2 * a - 1) * u) * (1 - b + (2 * b - 1) * v) * (1 - c + (2 * c - 1) * w)
        at = out + (first + row.to(tl.int32))[:, None] * FEATURES + f
        tl.atomic_add(at, weight[:, None] * g, mask[:, None], sem="relaxed")


@triton.jit
def _backward_points(
    grad, x, table, scales, resolutions, offsets, hashed, out, count,
    LEVELS: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    f = tl.arange(0, FEATURES)[None, :]
    along_x = tl.zeros((BLOCK,), tl.float32)
    along_y = tl.zeros((BLOCK,), tl.float32)
    along_z = tl.zeros((BLOCK,), tl.float32)
    for level in range(LEVELS):
        scale = tl.load(scales + level)
        resolution, first, size, is_hashed = _level(resolutions, offsets, hashed, level)
        cx, u = _locate(x, i, 0, mask, scale)
        cy, v = _locate(x, i, 1, mask, scale)
        cz, w = _locate(x, i, 2, mask, scale)
        g = tl.load(grad + i[:, None] * (LEVELS * FEATURES) + level * FEATURES + f, mask[:, None], 0.0) * scale
        for corner in tl.static_range(8):  # pyright: ignore
            a, b, c = corner & 1, (corner >> 1) & 1, corner >> 2
            row = _row(cx + a, cy + b, cz + c, resolution, size, is_hashed)
            at = table + (first + row.to(tl.int32))[:, None] * FEATURES + f
            slope = tl.sum(g * tl.load(at, mask[:, None], 0.0), 1)  # of the encoding by this vertex's weight
            p, q, r = 1 - a + (2 * a - 1) * u, 1 - b + (2 * b - 1) * v, 1 - c + (2 * c - 1) * w
            along_x += (2 * a - 1) * q * r * slope
            along_y += (2 * b - 1) * p * r * slope
            along_z += (2 * c - 1) * p * q * slope
    tl.store(out + i * 3, along_x, mask)
    tl.store(out + i * 3 + 1, along_y, mask)
    tl.store(out + i * 3 + 2, along_z, mask)
