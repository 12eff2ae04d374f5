"""Space contracted into a ball, rays through all of it, and a hash grid over it."""

import math

import pytest
import torch
from helpers.gen3d_cases import normal, points
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize

from gen3d.fields.config import FieldConfig, HashGridConfig
from gen3d.fields.hash_grid_field import HashGridField
from gen3d.render import contraction
from gen3d.render.contraction import Contracted, contract, march_unbounded, uncontract
from gen3d.render.occupancy import OccupancyGrid
from gen3d.render.volume import render_rays

SHAPE = FieldConfig(
    grid=HashGridConfig(levels=4, coarsest=4, finest=24, log2_table=10),
    width=16, view_dependent=True, density="exp", blob=0.0, bound=2.0,
)  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wavy() -> HashGridField:
    """A grid whose table says something."""
    grid = HashGridField(SHAPE, seeded())
    with torch.no_grad():
        grid.table.copy_(normal(1, *grid.table.shape))
    return grid


def anywhere(seed: int, count: int, farthest: float = 1e4) -> Tensor:
    """Points (n, 3) in float64, their distances log-uniform between 0.01 and `farthest`."""
    low, high = math.log(0.01), math.log(farthest)
    distance = torch.exp(low + (high - low) * points(seed, count)[:, :1].double())
    return distance * normalize(normal(seed + 1, count, 3).double(), dim=1)


def some_rays(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """From inside the ball and from outside, towards it and away from it."""
    origins = 4 * points(seed, count) - 2
    return origins, normalize(normal(seed + 1, count, 3), dim=1)


# -- contraction ---------------------------------------------------------------------------------------------------


@settings(deadline=None)  # the first call loads much
@given(st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=4))
def test_equation_ten(numbers: list[float]) -> None:
    x = torch.tensor([numbers], dtype=torch.float64)
    y = contract(x)
    distance = math.sqrt(sum(value * value for value in numbers))
    factor = 1.0 if distance <= 1 else (2 - 1 / distance) / distance
    assert y[0].tolist() == pytest.approx([factor * value for value in numbers], rel=1e-12)
    assert float(y.norm()) < 2
    torch.testing.assert_close(uncontract(y), x, rtol=1e-9, atol=1e-12)


def test_round_trips_both_ways() -> None:
    x = anywhere(0, 1000)
    torch.testing.assert_close(uncontract(contract(x)), x, rtol=1e-9, atol=0)
    y = contract(x)
    torch.testing.assert_close(contract(uncontract(y)), y, rtol=1e-12, atol=0)
    inside = x[x.norm(dim=1) <= 1]
    torch.testing.assert_close(contract(inside), inside, rtol=0, atol=0)
    single = contract(anywhere(2, 1000, 1e12).float())
    assert (single.norm(dim=1) <= 2 * (1 + 1e-6)).all()
    assert uncontract(torch.tensor([[2.0, 0, 0]]))[0, 0] == math.inf


def test_contraction_is_continuous_with_its_gradient() -> None:
    along = normalize(normal(3, 50, 3).double(), dim=1)
    jacobians = []
    for radius in (1 - 1e-7, 1 + 1e-7):
        x = (radius * along).requires_grad_()
        assert (contract(x) - along).norm(dim=1).max() < 2e-7
        jacobians.append(torch.autograd.functional.jacobian(lambda x: contract(x).sum(0), x))
    torch.testing.assert_close(*jacobians, rtol=0, atol=1e-5)
    for x in (along[:2] * 0.5, along[:2] * 3):
        assert torch.autograd.gradcheck(contract, x.requires_grad_())
        assert torch.autograd.gradcheck(uncontract, contract(x).detach().requires_grad_())
    origin = torch.zeros(1, 3, requires_grad=True)
    contract(origin).sum().backward()
    assert origin.grad is not None and origin.grad.tolist() == [[1, 1, 1]]


# -- marching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", [None, seeded(5)])
@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_intervals_tile_the_ray(generator: torch.Generator | None, spread: float) -> None:
    origins, directions = some_rays(200)
    samples = march_unbounded(origins, directions, OccupancyGrid(8, 2.0), 64, 0.1, 500.0, generator, spread)
    t, delta = samples.t.view(200, 64), samples.delta.view(200, 64)
    assert torch.equal(samples.ray_offsets, 64 * torch.arange(201))
    assert torch.equal(samples.ray, torch.arange(200).repeat_interleave(64))
    assert (t.diff(dim=1) > 0).all() and (delta > 0).all()
    edges = 0.1 + torch.nn.functional.pad(delta.double().cumsum(1), (1, 0))
    torch.testing.assert_close(edges[:, -1], torch.full((200,), 500.0).double(), rtol=1e-5, atol=0)
    assert (t > edges[:, :-1] * (1 - 1e-5) - 1e-5).all() and (t < edges[:, 1:] * (1 + 1e-5) + 1e-5).all()


def test_rays_through_the_origin_are_even_in_contracted_space() -> None:
    directions = normalize(normal(1, 30, 3), dim=1)
    origins = -directions * torch.linspace(-3, 6, 30)[:, None]
    samples = march_unbounded(origins, directions, OccupancyGrid(8, 2.0), 50)
    at = contract(origins[samples.ray] + samples.t[:, None] * directions[samples.ray])
    steps = (at.view(30, 50, 3) * directions[:, None]).sum(-1).diff(dim=1)
    torch.testing.assert_close(steps, steps.mean(1, keepdim=True).expand_as(steps), rtol=0, atol=1e-4)


def test_even_in_metres_near_the_origin_and_in_disparity_beyond() -> None:
    origins, directions = torch.tensor([[-4.0, 0, 0.5]]), torch.tensor([[1.0, 0, 0]])
    samples = march_unbounded(origins, directions, OccupancyGrid(8, 2.0), 200)
    x = samples.t - 4
    near = x.abs() < 0.95
    assert 80 < int(near.sum()) < 150
    torch.testing.assert_close(
        samples.delta[near], samples.delta[near].mean().expand(int(near.sum())), rtol=1e-4, atol=0
    )
    assert float(samples.delta[near].mean()) <= 4 / 200
    for side in (1, -1):
        disparity = 1 / x[side * x > 1.05]
        torch.testing.assert_close(
            disparity.diff(), disparity.diff().mean().expand(len(disparity) - 1), rtol=1e-2, atol=1e-5
        )


def test_a_ray_that_passes_the_ball_is_even_for_longer() -> None:
    directions = torch.tensor([[1.0, 0, 0]]).expand(2, 3)
    origins = torch.tensor([[-20.0, 0, 0], [-20.0, 5, 0]])
    delta = march_unbounded(origins, directions, OccupancyGrid(8, 2.0), 400).delta.view(2, 400)
    assert float(delta[1].min() / delta[0].min()) == pytest.approx(5, rel=0.15)


def test_skipping_only_leaves_out_empty_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    origins, directions = some_rays(50, seed=3)
    occupancy = OccupancyGrid(6, 2.0)
    dense = march_unbounded(origins, directions, occupancy, 40, generator=seeded(1))
    mask = points(4, 72).view(6, 6, 6) < 0.3
    occupancy.set_mask(mask)
    samples = march_unbounded(origins, directions, occupancy, 40, generator=seeded(1))
    at = contract(origins[dense.ray] + dense.t[:, None] * directions[dense.ray])
    x, y, z = ((at + 2) * 1.5).floor().clamp(0, 5).long().unbind(1)
    expected = dense.keep(mask[x, y, z])
    assert 100 < len(samples) < len(dense) / 2
    for name in ("t", "delta", "ray", "ray_offsets"):
        assert torch.equal(getattr(samples, name), getattr(expected, name)), name
    monkeypatch.setattr(contraction, "PIECE", 130)  # three rays at a time
    pieces = march_unbounded(origins, directions, occupancy, 40, generator=seeded(1))
    assert torch.equal(pieces.t, samples.t) and torch.equal(pieces.ray_offsets, samples.ray_offsets)
    none = march_unbounded(origins[:0], directions[:0], occupancy, 40)
    assert len(none) == 0 and none.ray_offsets.tolist() == [0]


# -- the field -----------------------------------------------------------------------------------------------------


def test_field_is_the_grid_at_contracted_points() -> None:
    grid = wavy()
    field = Contracted(grid)
    x, directions = anywhere(0, 100).float(), normalize(normal(2, 100, 3), dim=1)
    density, color = field(x, directions)
    expected = grid(contract(x), directions)
    assert torch.equal(density, expected[0]) and torch.equal(color, expected[1])
    assert (density > 0).all()  # everywhere, as far as it goes
    torch.testing.assert_close(field.density(x), density)
    torch.testing.assert_close(field.color(x, directions), color)


class Radial(HashGridField):
    """A grid whose number is a polynomial of the contracted point, with the exact normal of that."""

    def number(self, x: Tensor) -> Tensor:
        return x[:, 0] ** 2 + 2 * x[:, 1] - x[:, 2] * x[:, 0]

    def normal(self, x: Tensor, epsilon: float | None = None) -> Tensor:
        slope = torch.stack([2 * x[:, 0] - x[:, 2], torch.full_like(x[:, 0], 2), -x[:, 0]], 1)
        return normalize(-slope, dim=1)


def test_normals_are_those_of_space() -> None:
    grid = Radial(SHAPE)
    x = anywhere(0, 300, 100).requires_grad_()
    (slope,) = torch.autograd.grad(grid.number(contract(x)).sum(), x)
    torch.testing.assert_close(Contracted(grid).normal(x), normalize(-slope, dim=1), rtol=0, atol=1e-9)


def test_density_of_contracted_space_is_that_of_a_radial_ray() -> None:
    field = Contracted(wavy().double())
    distance = torch.tensor([0.3, 0.9, 1.5, 8.0, 300.0]).double()
    x = distance[:, None] * normalize(normal(5, 5, 3).double(), dim=1)
    metres = torch.where(distance > 1, distance**2, 1)
    torch.testing.assert_close(field.contracted_density(contract(x)), field.density(x) * metres)
    corner = torch.tensor([[1.5, 1.5, 0], [2.0, 0, 0], [-2.0, -2, -2]]).double()
    assert field.contracted_density(corner).tolist() == [0, 0, 0]


def test_thin_fog_far_away_is_occupied() -> None:
    """A hundredth per metre at 30 m covers all behind it, though a step of the near field would not notice it."""
    field = Contracted(HashGridField(SHAPE, seeded()))
    with torch.no_grad():
        for weight in field.grid.density_network.weights:
            weight.zero_()  # a density of exp(-1) everywhere
    far = contract(torch.tensor([[30.0, 0, 0]]))
    share = (field.contracted_density(far) / field.grid.density(far)).item()
    assert share == pytest.approx(900, rel=1e-3)


class Shell(nn.Module):
    """One colour from some distance on, and nothing before."""

    def __init__(self, distance: float) -> None:
        super().__init__()
        self.distance = distance

    def density(self, x: Tensor) -> Tensor:
        return 1.0 * (x.norm(dim=1) > self.distance)

    def color(self, x: Tensor, directions: Tensor) -> Tensor:
        return torch.tensor([0.2, 0.6, 0.4]).expand(len(x), 3)

    def normal(self, x: Tensor) -> Tensor:
        return normalize(-x, dim=1)

    def forward(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(x), self.color(x, directions)


@pytest.mark.parametrize("distance", [2.0, 30.0, 100.0])
def test_a_shell_far_away_is_seen(distance: float) -> None:
    origins, directions = some_rays(100, seed=8)
    occupancy = OccupancyGrid(32, 2.0)
    half = torch.arange(32) / 8 - 2 + 1 / 16
    middle = torch.stack(torch.meshgrid(half, half, half, indexing="ij"), -1)
    occupancy.set_mask(middle.norm(dim=-1) > 2 - 1 / distance - 0.11)  # half a cell's diagonal
    samples = march_unbounded(origins, directions, occupancy, 256)
    assert len(samples) < 0.8 * 256 * 100
    seen = render_rays(Shell(distance), None, origins, directions, occupancy, 0.1, samples=samples)
    torch.testing.assert_close(seen.opacity, torch.ones(100), rtol=0, atol=2e-4)
    torch.testing.assert_close(seen.color, torch.tensor([0.2, 0.6, 0.4]).expand(100, 3), rtol=0, atol=2e-4)
    assert (seen.depth > distance - 4).all()


def test_what_does_not_fit_is_refused() -> None:
    rays = torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(1, 3\)"):
        march_unbounded(rays[0], rays[1][:1], OccupancyGrid(4, 2.0), 8)
    with pytest.raises(ValueError, match=r"0 samples from 0\.05 to 1000"):
        march_unbounded(*rays, OccupancyGrid(4, 2.0), 0)
    with pytest.raises(ValueError, match="8 samples from 3 to 2"):
        march_unbounded(*rays, OccupancyGrid(4, 2.0), 8, 3, 2)
    with pytest.raises(ValueError, match=r"a bound of 2\.0, not 1\.0"):
        march_unbounded(*rays, OccupancyGrid(4, 1.0), 8)
    with pytest.raises(ValueError, match=r"a bound of 2\.0; this has 1\.0"):
        Contracted(HashGridField(FieldConfig()))
