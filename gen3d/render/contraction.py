"""All of space in a ball of radius 2 (mip-NeRF 360, 2111.12077, equation 10), and rays without end through it.

What lies within 1 of the origin stays where it is; what lies at distance r beyond goes to 2 - 1 / r. A hash grid and an
occupancy grid over the cube [-2, 2]^3 then hold a scene without bounds, finer where it is nearer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gen3d.fields.hash_grid_field import HashGridField
from gen3d.kernels.compositing import ray_indices
from gen3d.render.marching import Samples, offsets_of
from gen3d.render.occupancy import OccupancyGrid

BOUND = 2.0  # half the side of the cube around contracted space
NEAR, FAR = 0.05, 1e3  # in units of the ball that stays as it is
PIECE = 1 << 20  # samples looked up together


def contract(x: Tensor) -> Tensor:
    """(..., d) anywhere to (..., d) of norm below 2 (in float32 at most 2); differentiable."""
    distance = x.norm(dim=-1, keepdim=True).clamp(min=1)
    return x * ((2 - 1 / distance) / distance)


def uncontract(y: Tensor) -> Tensor:
    """The inverse of `contract`: (..., d) of norm below 2 to (..., d) anywhere; a norm of 2 or more gives infinity."""
    norm = y.norm(dim=-1, keepdim=True).clamp(1, 2)
    return y / (norm * (2 - norm))


class Contracted(nn.Module):
    """A hash grid over contracted space as a field of all of space: a `gen3d.fields.contract.Field`.

    Args:
        grid: with a bound of 2.
    """

    def __init__(self, grid: HashGridField) -> None:
        super().__init__()
        if grid.config.bound != BOUND:
            raise ValueError(f"contracted space needs a field with a bound of {BOUND}; this has {grid.config.bound}")
        self.grid = grid

    def forward(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (n,) and colour (n, 3) at x (n, 3), seen along directions (n, 3)."""
        return self.grid(contract(x), directions)

    def density(self, x: Tensor) -> Tensor:
        """(n,) per metre of space, not of contracted space."""
        return self.grid.density(contract(x))

    def color(self, x: Tensor, directions: Tensor) -> Tensor:
        """(n, 3) RGB in [0, 1]."""
        return self.grid.color(contract(x), directions)

    def normal(self, x: Tensor) -> Tensor:
        """(n, 3) unit normals: those of the grid, turned by the (symmetric) Jacobian of the contraction."""
        distance = x.norm(dim=1, keepdim=True).clamp(min=1)  # (n, 1)
        across, along = (2 - 1 / distance) / distance, distance**-2  # what lengths shrink to, (n, 1) each
        normal, outward = self.grid.normal(contract(x)), normalize(x, dim=1)  # (n, 3) each
        radial = (normal * outward).sum(1, keepdim=True) * outward
        return normalize(across * normal + (along - across) * radial, dim=1)

    def contracted_density(self, y: Tensor) -> Tensor:
        """(n,) per unit of contracted space at its points y (n, 3), along the ray from the origin: what an occupancy
        grid has to hold against its threshold, since a sample far away stands for many metres. 0 outside the ball.
        """
        norm = y.norm(dim=1)
        metres = (2 - norm.clamp(1, 2 - 1 / FAR)) ** -2  # per unit
        return torch.where(norm < 2, self.grid.density(y) * metres, 0)


@torch.no_grad()
def march_unbounded(
    origins: Tensor,
    directions: Tensor,
    occupancy: OccupancyGrid,
    count: int,
    near: float = NEAR,
    far: float = FAR,
    generator: torch.Generator | None = None,
    spread: float = 1.0,
) -> Samples:
    """Sample rays from near to far, in the occupied cells of contracted space.

    The intervals are evenly long when distance from the place where the ray comes nearest to the origin is contracted:
    even in metres as far as `spread` from there, even in disparity beyond it, on both sides. A ray that passes the
    unit ball at a distance is even for longer, in proportion. Rays through the origin are sampled evenly in contracted
    space. Within the ball, intervals are never longer than 4 spread / count.

    Args:
        origins: (r, 3) metres.
        directions: (r, 3) unit vectors.
        occupancy: over the contracted cube, with a bound of 2.
        count: intervals of a ray; each is one sample, where its cell is occupied.
        near, far: metres along the ray, 0 <= near < far.
        generator: of one jitter in [0, 1) a ray; without one, samples stand in the (contracted) middle of an interval.
        spread: metres, above 0.

    Returns:
        Samples whose delta is the length of their interval.
    """
    if origins.ndim != 2 or origins.shape[1] != 3 or directions.shape != origins.shape:
        shapes = f"{tuple(origins.shape)} and {tuple(directions.shape)}"
        raise ValueError(f"march_unbounded needs origins and directions (r, 3); got {shapes}")
    if count < 1 or not 0 <= near < far or not spread > 0:
        raise ValueError(f"march_unbounded cannot take {count} samples from {near} to {far} with spread {spread}")
    if occupancy.bound != BOUND:
        raise ValueError(f"contracted space needs an occupancy grid with a bound of {BOUND}, not {occupancy.bound}")
    origins, directions = origins.detach().float(), directions.detach().float()
    jitter = origins.new_full((len(origins),), 0.5)
    if generator is not None:
        jitter = torch.rand(len(origins), generator=generator, device=generator.device).to(origins)
    rays = max(1, PIECE // count)
    parts = [
        _kept(start, along, occupancy, *intervals(start, along, part, count, near, far, spread))
        for start, along, part in zip(origins.split(rays), directions.split(rays), jitter.split(rays), strict=True)
    ]
    t, delta, counts = (torch.cat(part) for part in zip(*parts, strict=True))
    ray_offsets = offsets_of(counts)
    return Samples(t, delta, ray_indices(ray_offsets, len(t)), ray_offsets)


def intervals(
    origins: Tensor, directions: Tensor, jitter: Tensor, count: int, near: float, far: float, spread: float
) -> tuple[Tensor, Tensor]:
    """Samples and lengths (r, count) of the intervals of `march_unbounded`, in metres, with a jitter (r,) in [0, 1]."""
    nearest = -(origins * directions).sum(1, keepdim=True)  # (r, 1) metres along the ray
    passes = (origins + nearest * directions).norm(dim=1, keepdim=True)  # (r, 1) at this distance from the origin
    scale = spread * passes.clamp(min=1)  # (r, 1)
    first, end = (contract((limit - nearest) / scale) for limit in (near, far))  # (r, 1) each in (-2, 2)

    def metres(k: Tensor) -> Tensor:  # (1 or r, m) of intervals to (r, m)
        return nearest + scale * uncontract(torch.lerp(first, end, k / count)[..., None])[..., 0]

    index = torch.arange(count, device=origins.device, dtype=origins.dtype)[None]  # (1, count)
    edges = torch.cat([torch.full_like(nearest, near), metres(index[:, 1:]), torch.full_like(nearest, far)], dim=1)
    return metres(index + jitter[:, None]), edges.diff(dim=1)


def _kept(
    origins: Tensor, directions: Tensor, occupancy: OccupancyGrid, t: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """t (n,) and delta (n,) of samples in occupied cells, of (r, count), and how many of them each ray has (r,)."""
    points = contract(origins[:, None] + t[..., None] * directions[:, None])  # (r, count, 3)
    cells = ((points + BOUND) * (occupancy.resolution / (2 * BOUND))).long()
    x, y, z = cells.clamp(0, occupancy.resolution - 1).unbind(-1)  # (r, count) each
    kept = occupancy.mask[x, y, z]
    return t[kept], delta[kept], kept.sum(1)
