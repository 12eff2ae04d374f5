"""Marching on CPU: rays in parallel, and of each ray only what lies in the box around the occupied cells."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from core2d.kernels.numba_cache import njit
from gen3d.render.occupancy import OccupancyGrid

SLACK = 2  # steps looked at before and after the occupied box, whose ends are rounded differently from samples


def march_rays(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    enter: Tensor,
    leave: Tensor,
    jitter: Tensor,
    step: float,
    occupancy: OccupancyGrid,
) -> tuple[Tensor, Tensor]:
    """Samples between near and far, which only lie between enter and leave. Returns t (n,) and counts (r,)."""
    longest = float((torch.minimum(far, leave) - torch.maximum(near, enter)).amax()) if len(near) else 0.0
    room = max(0, int(longest / step) + 2 * SLACK + 2)  # samples that a ray can have
    found = np.empty((len(origins), room), np.float32)  # rows are filled from the left; the rest stays untouched
    counts = np.zeros(len(origins), np.int64)
    scale = np.float32(occupancy.resolution / (2 * occupancy.bound))
    mask = occupancy.mask.numpy()
    _march(
        origins.numpy(), directions.numpy(), near.numpy(), far.numpy(), enter.numpy(), leave.numpy(), jitter.numpy(),
        np.float32(step), mask, np.float32(occupancy.bound), scale, found, counts,
    )  # fmt: skip
    t = np.empty(counts.sum(), np.float32)
    _pack(found, counts, counts.cumsum(), t)
    return torch.from_numpy(t), torch.from_numpy(counts)


@njit(parallel=True, error_model="numpy")
def _march(origins, directions, near, far, enter, leave, jitter, step, mask, bound, scale, found, counts):
    for ray in numba.prange(len(origins)):
        if leave[ray] > enter[ray]:
            first = max(np.int64(0), np.int64((enter[ray] - near[ray]) / step) - SLACK)
            end = min(far[ray], leave[ray] + np.float32(SLACK) * step)
            count = 0
            for k in range(first, first + found.shape[1]):
                t = near[ray] + (np.float32(k) + jitter[ray]) * step
                if t >= end:
                    break
                x = _cell(origins[ray, 0] + t * directions[ray, 0], bound, scale, mask.shape[0])
                y = _cell(origins[ray, 1] + t * directions[ray, 1], bound, scale, mask.shape[1])
                z = _cell(origins[ray, 2] + t * directions[ray, 2], bound, scale, mask.shape[2])
                if mask[x, y, z]:
                    found[ray, count] = t
                    count += 1
            counts[ray] = count


@njit(error_model="numpy")
def _cell(position, bound, scale, cells):
    return min(max(np.int64(np.floor((position + bound) * scale)), 0), cells - 1)


@njit(parallel=True, error_model="numpy")
def _pack(found, counts, ends, t):
    for ray in numba.prange(len(counts)):
        t[ends[ray] - counts[ray] : ends[ray]] = found[ray, : counts[ray]]
