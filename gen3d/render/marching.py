"""Samples along rays, in occupied cells only, packed one ray after the other.

A ray is sampled at t_near + (k + jitter) step for k = 0, 1, ... up to where it leaves the cube, and keeps the samples
whose cell is occupied. Skipping therefore never moves a sample: what is skipped is what a dense march would have found
empty. Both backends (a torch twin for any device, Numba on the CPU) give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core2d.kernels.dispatch import pick
from gen3d.kernels.compositing import ray_indices
from gen3d.render.occupancy import OccupancyGrid
from gen3d.render.rays import intersect_box

BACKENDS = ("torch", "numba")


@dataclass(frozen=True)
class Samples:
    """n samples of r rays, front to back inside a ray.

    Attributes:
        t: (n,) metres from the ray's origin.
        delta: (n,) metres that a sample stands for.
        ray: (n,) int64 row of its ray.
        ray_offsets: (r + 1,) int64; ray i has samples ray_offsets[i]:ray_offsets[i + 1].
    """

    t: Tensor
    delta: Tensor
    ray: Tensor
    ray_offsets: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def keep(self, chosen: Tensor) -> Samples:
        """Only the samples where `chosen` (n,) bool."""
        ray = self.ray[chosen]
        counts = torch.bincount(ray, minlength=len(self.ray_offsets) - 1)
        return Samples(self.t[chosen], self.delta[chosen], ray, offsets_of(counts))


@torch.no_grad()
def march(
    origins: Tensor,
    directions: Tensor,
    occupancy: OccupancyGrid,
    step: float,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> Samples:
    """Sample rays every `step` metres inside the occupied cells of a cube.

    Args:
        origins: (r, 3) metres.
        directions: (r, 3) unit vectors.
        occupancy: which cells to look at.
        step: metres between samples.
        generator: of one jitter in [0, 1) a ray; without one, each sample stands in the middle of its interval.
        backend: "auto" picks Numba on CPU and torch elsewhere.

    Raises:
        ValueError: a shape does not fit, the step is not positive, or the backend is unknown.
    """
    if origins.ndim != 2 or origins.shape[1] != 3 or directions.shape != origins.shape:
        shapes = f"{tuple(origins.shape)} and {tuple(directions.shape)}"
        raise ValueError(f"march needs origins and directions (r, 3); got {shapes}")
    if not step > 0:
        raise ValueError(f"march needs a positive step; got {step}")
    origins, directions = (tensor.detach().float().contiguous() for tensor in (origins, directions))
    near, far = intersect_box(origins, directions, *_cube(occupancy, origins))
    jitter = torch.full_like(near, 0.5)
    if generator is not None:
        jitter = torch.rand(len(near), generator=generator, device=generator.device).to(near)
    if pick(backend, BACKENDS, origins) == "numba":
        from gen3d.render.numba_march import march_rays

        # a little larger than the occupied cells: rounding must not make this miss a sample that the twin finds
        margin = occupancy.bound / occupancy.resolution
        enter, leave = intersect_box(origins, directions, occupancy.box[0] - margin, occupancy.box[1] + margin)
        t, counts = march_rays(origins, directions, near, far, enter, leave, jitter, step, occupancy)
    else:
        t, counts = _march(origins, directions, near, far, jitter, step, occupancy)
    ray_offsets = offsets_of(counts)
    return Samples(t, torch.full_like(t, step), ray_indices(ray_offsets, len(t)), ray_offsets)


def offsets_of(counts: Tensor) -> Tensor:
    """(r + 1,) int64: where rays of so many samples (r,) begin and end."""
    return torch.nn.functional.pad(counts.long().cumsum(0), (1, 0))


def _cube(occupancy: OccupancyGrid, like: Tensor) -> tuple[Tensor, Tensor]:
    high = torch.full((3,), occupancy.bound).to(like)
    return -high, high


def _march(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    jitter: Tensor,
    step: float,
    occupancy: OccupancyGrid,
) -> tuple[Tensor, Tensor]:
    """The twin: every step of every ray, then those that count. Returns t (n,) and counts (r,)."""
    longest = float((far - near).amax()) if len(near) else 0.0
    k = torch.arange(max(0, int(longest / step) + 2), device=near.device).to(near)  # (k,)
    t = near[:, None] + (k + jitter[:, None]) * step  # (r, k)
    points = origins[:, None] + t[..., None] * directions[:, None]  # (r, k, 3)
    cells = ((points + occupancy.bound) * (occupancy.resolution / (2 * occupancy.bound))).floor()
    cells = cells.clamp(0, occupancy.resolution - 1).long()  # (r, k, 3)
    kept = (t < far[:, None]) & occupancy.mask[cells[..., 0], cells[..., 1], cells[..., 2]]  # (r, k)
    return t[kept], kept.sum(1)
