"""Compositing on CUDA: one warp per ray, a block of samples at a time; the thickness before each is a running sum.

Floors for n samples of c values: 4 n (c + 2) bytes forward, 8 n (c + 1) + 4 n backward (what its first pass reads, the
second finds in the cache); a few FLOP a byte: bound by memory. Not yet timed on a device.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from gen3d.kernels.compositing import torch_twin

BLOCK = 32  # samples of a ray looked at together: few rays have many, and what lies behind the early stop is skipped
OPAQUE = tl.constexpr(torch_twin.OPAQUE)


def forward(thickness: Tensor, values: Tensor, ray_offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `torch_twin.blend`; float32, contiguous."""
    rays, columns = len(ray_offsets) - 1, values.shape[1]
    blended = values.new_empty(rays, columns)
    opacity = values.new_empty(rays)
    weights = torch.zeros_like(thickness)
    with _device(thickness):
        if rays:
            _forward[(rays,)](thickness, values, ray_offsets, blended, opacity, weights, **_options(columns))
    return blended, opacity, weights


def backward(
    grad_blended: Tensor, grad_opacity: Tensor, grad_weights: Tensor, thickness: Tensor, values: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to thickness (n,) and values (n, c)."""
    grad_thickness, grad_values = torch.zeros_like(thickness), torch.zeros_like(values)
    with _device(thickness):
        if len(offsets) > 1:
            _backward[(len(offsets) - 1,)](
                grad_blended, grad_opacity, grad_weights, thickness, values, offsets, grad_thickness, grad_values,
                **_options(values.shape[1]),
            )  # fmt: skip
    return grad_thickness, grad_values


def _device(tensor: Tensor) -> torch.cuda.device_of:
    if not tensor.is_cuda and not knobs.runtime.interpret:
        raise ValueError(f"triton compositing needs CUDA tensors; one is on {tensor.device}")
    return torch.cuda.device_of(tensor)


def _options(columns: int) -> dict[str, Any]:
    return {
        "COLUMNS": columns,
        "COLUMN_BLOCK": triton.next_power_of_2(columns),
        "BLOCK": BLOCK,
        "num_warps": 1,
        "enable_fp_fusion": True,
    }


@triton.jit
def _weigh(thickness, i, real, passed):
    """Of a block of samples: the light that comes through them, their weights, whether they come before the stop."""
    tau = tl.load(thickness + i, real, 0.0)
    upto = passed + tl.cumsum(tau, 0)
    transmittance = tl.exp(tau - upto)
    through = transmittance * tl.exp(-tau)
    active = real & (upto - tau <= OPAQUE)
    return through, tl.where(active, transmittance - through, 0.0), active, passed + tl.sum(tau, 0)


@triton.jit
def _gain(grad_row, grad_opacity, grad_weights, values, i, real, COLUMNS: tl.constexpr, columns):
    """What the loss gains with the weight of each sample; see `numba_kernel._backward`."""
    inside = real[:, None] & (columns < COLUMNS)[None, :]
    value = tl.load(values + i[:, None] * COLUMNS + columns[None, :], inside, 0.0)  # (BLOCK, columns)
    return tl.sum(value * grad_row[None, :], 1) + grad_opacity + tl.load(grad_weights + i, real, 0.0)


@triton.jit
def _forward(
    thickness, values, offsets, blended, opacity, weights,
    COLUMNS: tl.constexpr, COLUMN_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0)
    columns = tl.arange(0, COLUMN_BLOCK)
    start, end = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    total = tl.zeros((COLUMN_BLOCK,), tl.float32)
    seen = 0.0
    passed = 0.0
    while (start < end) & (passed <= OPAQUE):
        i = start + tl.arange(0, BLOCK)
        real = i < end
        _, weight, _, passed = _weigh(thickness, i, real, passed)
        inside = real[:, None] & (columns < COLUMNS)[None, :]
        value = tl.load(values + i[:, None] * COLUMNS + columns[None, :], inside, 0.0)  # (BLOCK, columns)
        total += tl.sum(weight[:, None] * value, 0)
        seen += tl.sum(weight, 0)  # pyright: ignore
        tl.store(weights + i, weight, real)
        start += BLOCK
    tl.store(blended + ray.to(tl.int64) * COLUMNS + columns, total, columns < COLUMNS)
    tl.store(opacity + ray, seen)


@triton.jit
def _backward(
    grad_blended, grad_opacity, grad_weights, thickness, values, offsets, grad_thickness, grad_values,
    COLUMNS: tl.constexpr, COLUMN_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0)
    columns = tl.arange(0, COLUMN_BLOCK)
    first, end = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    grad_row = tl.load(grad_blended + ray.to(tl.int64) * COLUMNS + columns, columns < COLUMNS, 0.0)
    grad_seen = tl.load(grad_opacity + ray)

    behind = 0.0  # sum of weight times gain, first of all samples, then of those still to come
    passed = 0.0
    start = first
    while (start < end) & (passed <= OPAQUE):
        i = start + tl.arange(0, BLOCK)
        real = i < end
        _, weight, _, passed = _weigh(thickness, i, real, passed)
        gain = _gain(grad_row, grad_seen, grad_weights, values, i, real, COLUMNS, columns)
        behind += tl.sum(weight * gain, 0)  # pyright: ignore
        start += BLOCK

    passed = 0.0
    start = first
    while (start < end) & (passed <= OPAQUE):
        i = start + tl.arange(0, BLOCK)
        real = i < end
        through, weight, active, passed = _weigh(thickness, i, real, passed)
        gain = _gain(grad_row, grad_seen, grad_weights, values, i, real, COLUMNS, columns)
        after = behind - tl.cumsum(weight * gain, 0)
        tl.store(grad_thickness + i, tl.where(active, through * gain - after, 0.0), real)
        inside = real[:, None] & (columns < COLUMNS)[None, :]
        at = grad_values + i[:, None] * COLUMNS + columns[None, :]
        tl.store(at, weight[:, None] * grad_row[None, :], inside)
        behind -= tl.sum(weight * gain, 0)  # pyright: ignore
        start += BLOCK
