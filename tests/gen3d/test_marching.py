"""The occupancy grid, and marching through it against dense sampling."""

import math

import pytest
import torch
from helpers.gen3d_cases import normal, points
from torch import Tensor
from torch.nn.functional import normalize

from gen3d.render.marching import march
from gen3d.render.occupancy import OccupancyGrid
from gen3d.render.rays import intersect_box

BACKENDS = pytest.mark.parametrize("backend", ["torch", "numba"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_rays(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """From outside towards the cube, from inside, past it, along the axes and along its faces."""
    origins = normal(seed, count, 3)
    origins[: count // 2] = 3 * normalize(origins[: count // 2], dim=1)
    directions = normalize(0.7 * normal(seed + 1, count, 3) - origins, dim=1)
    special = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, -1, 0], [0, 1, 0]])
    starts = torch.tensor([[0.1, 0.2, -3], [-3, 1.0, 0.3], [0, 0, 0], [0.5, -2, -1.0]])
    return torch.cat([origins, starts]), torch.cat([directions, special])


def test_box() -> None:
    low, high = torch.tensor([-1.0, -2, -3]), torch.tensor([1.0, 2, 3])
    origins = torch.tensor([[-4.0, 0, 0], [0, 0, 0], [0, 5, 0], [4, 0, 0], [-2, -3, 0]])
    root = math.sqrt(0.5)
    directions = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 0, 1], [1, 0, 0], [root, root, 0]])
    near, far = intersect_box(origins, directions, low, high)
    torch.testing.assert_close(near[[0, 1, 4]], torch.tensor([3, 0, math.sqrt(2)]))
    torch.testing.assert_close(far[[0, 1, 4]], torch.tensor([5, 3, 3 * math.sqrt(2)]))
    assert (far <= near)[[2, 3]].all()


@BACKENDS
def test_where_all_is_occupied_sampling_is_dense(backend: str) -> None:
    origins, directions = some_rays(60)
    samples = march(origins, directions, OccupancyGrid(8, 1.0), 0.11, backend=backend)
    near, far = intersect_box(origins, directions, torch.full((3,), -1.0), torch.ones(3))
    seen = 0
    for ray, (start, end) in enumerate(zip(near.tolist(), far.tolist(), strict=True)):
        expected = [start + (k + 0.5) * 0.11 for k in range(1000) if start + (k + 0.5) * 0.11 < end - 1e-5]
        first, last = samples.ray_offsets[ray : ray + 2].tolist()
        assert last - first in (len(expected), len(expected) + 1)
        torch.testing.assert_close(samples.t[first : first + len(expected)], torch.tensor(expected), rtol=0, atol=1e-5)
        assert (samples.ray[first:last] == ray).all()
        seen += last > first
    assert 30 < seen < 64
    assert (samples.delta == samples.delta[0]).all() and float(samples.delta[0]) == pytest.approx(0.11)


@BACKENDS
def test_skipping_only_leaves_out_empty_cells(backend: str) -> None:
    origins, directions = some_rays(60, seed=3)
    occupancy = OccupancyGrid(6, 1.0)
    dense = march(origins, directions, occupancy, 0.03, seeded(1), backend)
    mask = points(4, 72).view(6, 6, 6) < 0.2
    mask[:2] = False  # the box around the occupied cells is smaller than the cube
    occupancy.set_mask(mask)
    samples = march(origins, directions, occupancy, 0.03, seeded(1), backend)
    at = origins[dense.ray] + dense.t[:, None] * directions[dense.ray]
    x, y, z = ((at + 1) * 3).floor().clamp(0, 5).long().unbind(1)
    expected = dense.keep(mask[x, y, z])
    assert 100 < len(samples) < len(dense) / 3
    assert torch.equal(samples.t, expected.t)
    assert torch.equal(samples.ray, expected.ray) and torch.equal(samples.ray_offsets, expected.ray_offsets)


@pytest.mark.parametrize("count", [0, 1, 301])
@pytest.mark.parametrize("share", [0.003, 0.4, 1.0])
def test_numba_equals_the_twin_to_the_bit(count: int, share: float) -> None:
    origins, directions = (part[-count:] if count else part[:0] for part in some_rays(301, seed=5))
    occupancy = OccupancyGrid(9, 1.3)
    occupancy.set_mask(points(6, 243).view(9, 9, 9) < share)
    twin, kernel = (march(origins, directions, occupancy, 0.037, seeded(2), name) for name in ("torch", "numba"))
    assert torch.equal(twin.t, kernel.t)
    assert torch.equal(twin.ray, kernel.ray) and torch.equal(twin.ray_offsets, kernel.ray_offsets)
    assert len(twin.ray_offsets) == count + 1 and (len(twin) > 0) == (count > 0)


def test_jitter_comes_from_the_generator() -> None:
    origins, directions = some_rays(40, seed=7)
    one, other, third = (march(origins, directions, OccupancyGrid(4), 0.1, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.t, other.t) and not torch.equal(one.t[:20], third.t[:20])
    near, _ = intersect_box(origins, directions, torch.full((3,), -1.0), torch.ones(3))
    hit = one.ray_offsets.diff() > 0
    jitter = (one.t[one.ray_offsets[:-1][hit]] - near[hit]) / 0.1
    assert (jitter > -1e-4).all() and (jitter < 1 + 1e-4).all() and float(jitter.std()) > 0.2


def test_updates_find_what_is_there() -> None:
    def density(x: Tensor) -> Tensor:
        return 5.0 * (x.norm(dim=1) < 0.5)

    occupancy = OccupancyGrid(16, 1.0)
    assert occupancy.share == 1
    occupancy.update(density, step=0.02, generator=seeded())
    middle = (torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"), -1) + 0.5) / 8 - 1
    radius = middle.norm(dim=-1)
    reach = math.sqrt(3) / 16  # from the middle of a cell to its corner
    assert occupancy.mask[radius < 0.5 - reach].all() and not occupancy.mask[radius > 0.5 + reach].any()
    torch.testing.assert_close(occupancy.box, torch.tensor([[-0.5] * 3, [0.5] * 3]))
    torch.testing.assert_close(occupancy.thickness[8, 8, 8], torch.tensor(0.1))

    # what went away is forgotten slowly: 0.1 * 0.95^k falls below 0.01 after 45 looks
    for _ in range(44):
        occupancy.update(empty, 0.02)
    assert occupancy.mask[8, 8, 8]
    torch.testing.assert_close(occupancy.thickness[8, 8, 8], torch.tensor(0.1 * 0.95**44))


def empty(x: Tensor) -> Tensor:
    return x.new_zeros(len(x))


def test_thin_media_are_held_against_the_mean() -> None:
    # thickness 0.001 in one half and nothing in the other: 0.01 would call both empty, the mean 0.0005 does not
    occupancy = OccupancyGrid(4, 1.0)
    occupancy.update(lambda x: 0.1 * (x[:, 0] > 0), step=0.01)
    assert occupancy.mask[2:].all() and not occupancy.mask[:2].any()
    occupancy = OccupancyGrid(4, 1.0)
    occupancy.update(empty, step=0.01)
    assert occupancy.mask.all()  # or no ray would ever look again


def test_partial_updates() -> None:
    def density(x: Tensor) -> Tensor:
        return 100.0 * (x.amax(dim=1) < 0)

    one, other = OccupancyGrid(8, 1.0), OccupancyGrid(8, 1.0)
    for occupancy in (one, other):
        generator = seeded(3)
        occupancy.update(density, 0.02, generator)
        for _ in range(3):
            occupancy.update(density, 0.02, generator, everywhere=False)
    assert torch.equal(one.thickness, other.thickness)
    assert one.mask[:4, :4, :4].all() and int(one.mask.sum()) == 64
    with pytest.raises(ValueError, match="needs a generator"):
        one.update(density, 0.02, everywhere=False)
    copy = OccupancyGrid(8, 1.0)
    copy.load_state_dict(one.state_dict())
    assert torch.equal(copy.mask, one.mask) and torch.equal(copy.box, one.box)


def test_what_does_not_fit_is_refused() -> None:
    rays = torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match="positive step"):
        march(*rays, OccupancyGrid(4), 0.0)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(1, 3\)"):
        march(rays[0], rays[1][:1], OccupancyGrid(4), 0.1)
    with pytest.raises(ValueError, match="needs cells and a size"):
        OccupancyGrid(0)
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) cells, the mask \(4, 4\)"):
        OccupancyGrid(4).set_mask(torch.ones(4, 4, dtype=torch.bool))
