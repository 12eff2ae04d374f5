"""Compositing in plain torch: the readable definition that the fast kernels are held against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EARLY_STOP = 1e-4  # of the light: where less gets through, a ray ends
OPAQUE = -math.log(EARLY_STOP)  # the optical thickness that lets that much through


def blend(thickness: Tensor, values: Tensor, ray_offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums of values (n, c) by the optical thickness (n,): blended (r, c), opacity (r,), weights (n,)."""
    rays = len(ray_offsets) - 1
    ray = ray_indices(ray_offsets, len(thickness))  # (n,)
    passed = _passed(thickness, ray_offsets)  # (n,)
    alpha = -torch.expm1(-thickness)  # (n,)
    transmittance = torch.where(passed <= OPAQUE, torch.exp(-passed), 0).to(thickness)  # (n,)
    weights = transmittance * alpha  # (n,)
    blended = values.new_zeros(rays, values.shape[1]).index_add(0, ray, weights[:, None] * values)  # (r, c)
    return blended, weights.new_zeros(rays).index_add(0, ray, weights), weights


def visible(thickness: Tensor, ray_offsets: Tensor) -> Tensor:
    """(n,) bool: samples before the early stop. Those after it count nothing, so they need not be evaluated."""
    return _passed(thickness, ray_offsets) <= OPAQUE


def ray_indices(ray_offsets: Tensor, samples: int) -> Tensor:
    """(n,) int64: the ray of each packed sample."""
    rays = torch.arange(len(ray_offsets) - 1, device=ray_offsets.device)  # (r,)
    return torch.repeat_interleave(rays, ray_offsets.diff(), output_size=samples)


def _passed(thickness: Tensor, ray_offsets: Tensor) -> Tensor:
    """(n,) float64: optical thickness between the ray's origin and each sample.

    One running sum over all rays, less its value where the ray begins: in float32 the difference would lose what
    one ray adds to thousands of others.
    """
    before = thickness.double().cumsum(0) - thickness  # (n,)
    start = ray_offsets[:-1][ray_indices(ray_offsets, len(thickness))]  # (n,)
    return before - before[start]
