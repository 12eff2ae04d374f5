"""Rendering fields: a sphere known in closed form, backgrounds, shading, gradients, whole pictures."""

import math

import pytest
import torch
from helpers.gen3d_cases import normal
from helpers.sphere_field import SphereField
from torch import Tensor
from torch.nn.functional import normalize

from core2d.prior.cameras import orbit
from gen3d.fields.background import Background
from gen3d.fields.config import FieldConfig, HashGridConfig
from gen3d.fields.hash_grid_field import HashGridField
from gen3d.render.images import camera_rays, render_images
from gen3d.render.occupancy import OccupancyGrid
from gen3d.render.volume import Points, render_rays

STEP = 0.01


def view(size: int = 24) -> tuple[Tensor, Tensor]:
    return camera_rays(orbit(0.6, 0.4, 2.5), size, size)


def looked_at(field: SphereField) -> OccupancyGrid:
    """All cells that the sphere reaches into, which looks at single points of cells would find only in time."""
    occupancy = OccupancyGrid(24)
    middle = (torch.stack(torch.meshgrid(*[torch.arange(24)] * 3, indexing="ij"), -1) + 0.5) / 12 - 1
    occupancy.set_mask((middle - field.center).norm(dim=-1) < field.radius + 0.01 + math.sqrt(3) / 24)
    return occupancy


def small_field() -> HashGridField:
    grid = HashGridConfig(levels=3, coarsest=4, finest=16, log2_table=9)
    return HashGridField(FieldConfig(grid=grid, width=16), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("prune", [False, True])
def test_a_sphere_is_where_it_is(backend: str, prune: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFTKIT_BACKEND", backend)
    field = SphereField(0.5, (0.1, 0.0, -0.1))
    origins, directions = view()
    hit = field.hit(origins, directions)
    seen = render_rays(field, None, origins, directions, looked_at(field), STEP, normals=True, prune=prune)
    # rays that graze it pass through little of it: leave out where the surface is seen from beside
    surface = normalize(origins + hit[:, None] * directions - field.center, dim=1)
    facing = hit.isfinite() & (-(surface * directions).sum(1) > 0.3)
    missing = torch.linalg.cross(field.center - origins, directions).norm(dim=1) > 0.52
    assert 50 < int(facing.sum()) and 300 < int(missing.sum())
    assert (seen.opacity[facing] > 0.99).all() and (seen.opacity[missing] < 1e-3).all()
    assert float((seen.depth - hit)[facing].detach().abs().amax()) < STEP
    assert seen.normal is not None
    assert float((seen.normal - surface)[facing].detach().norm(dim=1).amax()) < 0.05
    assert float((seen.color - (0.5 + 0.5 * surface))[facing].detach().abs().amax()) < 0.03
    assert (seen.color[missing] < 1e-3).all() and (seen.depth[seen.opacity <= 1e-6] == 0).all()


def test_pruning_and_skipping_change_nothing_but_the_work() -> None:
    field = SphereField()
    origins, directions = view()
    everything = render_rays(field, None, origins, directions, OccupancyGrid(4), STEP)
    skipped = render_rays(field, None, origins, directions, looked_at(field), STEP)
    pruned = render_rays(field, None, origins, directions, looked_at(field), STEP, prune=True)
    assert len(pruned.samples) < len(skipped.samples) / 2 < len(everything.samples) / 10
    for other in (skipped, pruned):
        torch.testing.assert_close(other.color, everything.color, rtol=0, atol=1e-5)
        (one,), (two,) = (
            torch.autograd.grad(seen.color.sum(), field.density_inside, retain_graph=True)
            for seen in (everything, other)
        )
        torch.testing.assert_close(one, two, rtol=1e-3, atol=0)


def test_backgrounds() -> None:
    field = SphereField()
    origins, directions = view()

    def color(background: Background | Tensor | None) -> Tensor:
        return render_rays(field, background, origins, directions, looked_at(field), STEP).color

    black = color(None)
    seen = render_rays(field, None, origins, directions, looked_at(field), STEP)
    rest = (1 - seen.opacity)[:, None]
    white = color(torch.ones(3))
    torch.testing.assert_close(white, black + rest)
    each = normal(0, len(origins), 3).sigmoid()
    torch.testing.assert_close(color(each), black + rest * each)
    sky = Background(generator=torch.Generator().manual_seed(0))
    shown = color(sky)
    torch.testing.assert_close(shown, black + rest * sky(directions))
    shown.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in sky.parameters())


def test_shading_sees_the_points() -> None:
    field = SphereField()
    origins, directions = view()
    light = normalize(torch.tensor([1.0, 0.5, 2.0]), dim=0)

    def lambert(color: Tensor, points: Points) -> Tensor:
        assert points.normal is not None and len(points.x) == len(color) == len(points.ray)
        torch.testing.assert_close(points.direction, directions[points.ray])
        return (points.normal @ light).clamp(min=0)[:, None].expand(-1, 3)

    occupancy = looked_at(field)
    seen = render_rays(field, None, origins, directions, occupancy, STEP, normals=True, shade=lambert)
    assert seen.normal is not None
    opaque = seen.opacity > 0.99
    expected = (normalize(seen.normal[opaque], dim=1) @ light).clamp(min=0)
    torch.testing.assert_close(seen.color[opaque, 0], expected, rtol=0, atol=0.02)


def test_gradients_reach_field_and_rays() -> None:
    field = small_field()
    origins, directions = view(6)
    origins.requires_grad_()
    seen = render_rays(field, None, origins, directions, OccupancyGrid(8), 0.05, normals=True)
    assert seen.normal is not None
    (seen.color.sum() + seen.depth.sum() + seen.normal.sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert origins.grad is not None and origins.grad.isfinite().all() and origins.grad.any()


def test_the_gradient_is_that_of_the_picture() -> None:
    # half of a density, by its gradient at a quarter less and a quarter more (Simpson), is what the picture loses
    field = SphereField(density=4.0)
    origins, directions = view(8)

    def picture(density: float) -> tuple[float, float]:
        field.density_inside.data.fill_(density)
        color = render_rays(field, None, origins, directions, OccupancyGrid(4), STEP).color.sum()
        return float(color.detach()), float(torch.autograd.grad(color, field.density_inside)[0])

    values, slopes = zip(*(picture(density) for density in (2.0, 3.0, 4.0)), strict=True)
    integral = (slopes[0] + 4 * slopes[1] + slopes[2]) * 2 / 6
    assert integral == pytest.approx(values[2] - values[0], rel=5e-3)


def test_jitter_is_seeded() -> None:
    field = small_field()
    rays = view(6)
    one, other, third = (
        render_rays(field, None, *rays, OccupancyGrid(8), 0.05, generator=torch.Generator().manual_seed(seed)).color
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, other) and not torch.equal(one, third)


@pytest.mark.parametrize("prune", [False, True])
def test_rays_that_meet_nothing(prune: bool) -> None:
    field = small_field()
    origins, directions = torch.full((3, 3), 5.0), normalize(torch.ones(3, 3), dim=1)
    seen = render_rays(field, torch.ones(3), origins, directions, OccupancyGrid(8), 0.05, normals=True, prune=prune)
    assert len(seen.samples) == 0 and torch.equal(seen.color, torch.ones(3, 3))
    assert seen.normal is not None and not seen.normal.any() and not seen.opacity.any() and not seen.depth.any()
    nobody = render_rays(field, None, origins[:0], directions[:0], OccupancyGrid(8), 0.05, prune=prune)
    assert nobody.color.shape == (0, 3)


def test_pictures_are_upright_and_do_not_depend_on_the_chunk() -> None:
    # from +X, +Z is up and +Y is to the right: a sphere above and to the right of the middle
    field = SphereField(0.2, (0.0, 0.4, 0.4))
    cameras = orbit([0.0, math.pi], 0.0, 3.0, math.radians(45))
    white = torch.ones(3)
    images = render_images(field, white, cameras, 20, 30, looked_at(field), STEP, normals=True)
    assert images.color.shape == (2, 3, 20, 30) and images.depth.shape == images.opacity.shape == (2, 1, 20, 30)
    assert images.normal is not None and images.normal.shape == (2, 3, 20, 30)
    rows, columns = (images.opacity[:, 0] > 0.5).nonzero()[:, 1:].T
    first = (images.opacity[0, 0] > 0.5).nonzero()
    assert 5 < len(first) and (rows < 10).all() and (first[:, 1] >= 15).all()
    assert (columns < 15).any()  # from behind it is on the left
    pieces = render_images(field, white, cameras, 20, 30, looked_at(field), STEP, chunk=77)
    torch.testing.assert_close(pieces.color, images.color)
    with pytest.raises(ValueError, match="one colour"):
        render_images(field, torch.ones(600, 3), cameras, 20, 30, OccupancyGrid(4), STEP)
