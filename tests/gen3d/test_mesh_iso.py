"""Surfaces from fields: closed, right in size and shape, at a level that nobody had to name."""

import math

import numpy as np
import pytest
import torch
from helpers.mesh_fields import BOX, PEAK, SOLIDS, block, mug, soft, sphere

from core2d.app.errors import InputError
from gen3d.mesh import TexturedMesh, check_mesh, topology
from gen3d.mesh.iso import CHUNK, OPAQUE, automatic_level, detached_share, extract_surface


@pytest.mark.parametrize("name", SOLIDS)
def test_a_known_solid(name: str) -> None:
    distance, volume, euler = SOLIDS[name]
    surface = extract_surface(soft(distance), BOX, 128)
    report = check_mesh(TexturedMesh(surface.vertices, surface.faces))
    assert report.problems == () and report.watertight and report.outward and report.bodies == 1
    assert report.euler == euler
    assert report.volume == pytest.approx(volume, rel=0.01)
    assert surface.level == pytest.approx(PEAK / 2, rel=0.02)
    assert distance(torch.from_numpy(surface.vertices)).abs().max() < surface.spacing


def test_normals_look_outward() -> None:
    surface = extract_surface(soft(sphere), BOX, 32)
    outward = surface.vertices / np.linalg.norm(surface.vertices, axis=1, keepdims=True)
    assert (topology.normals(surface.vertices, surface.faces) * outward).sum(1).min() > 0.97


def test_the_grid_goes_where_something_is() -> None:
    center = (0.7, -0.5, 0.6)
    surface = extract_surface(soft(lambda points: sphere(points, 0.12, center)), BOX, 64)
    assert surface.spacing < 2 / 63 / 4  # a quarter of what the whole box would give, or less
    assert surface.vertices.mean(0) == pytest.approx(center, abs=0.005)
    assert topology.volumes(surface.vertices, surface.faces).sum() == pytest.approx(4 / 3 * math.pi * 0.12**3, rel=0.02)


def test_a_box_of_three_lengths_that_does_not_start_at_minus_one() -> None:
    bounds = torch.tensor([[-0.6, -0.5, -0.35], [0.55, 0.9, 0.4]])
    surface = extract_surface(soft(block), bounds, 48)
    volume = topology.volumes(surface.vertices, surface.faces).sum()
    assert volume == pytest.approx(0.48, rel=0.02)
    assert surface.vertices.min(0) == pytest.approx([-0.5, -0.4, -0.3], abs=0.01)


def test_a_body_that_leaves_the_bounds_is_closed_there() -> None:
    bounds = torch.tensor([[-1.0, -1.0, 0.0], [1.0, 1.0, 1.0]])
    surface = extract_surface(soft(sphere), bounds, 64)
    report = check_mesh(TexturedMesh(surface.vertices, surface.faces))
    assert report.watertight and report.euler == 2
    assert report.volume == pytest.approx(2 / 3 * math.pi * 0.6**3, rel=0.05)
    assert report.bounds[0][2] == pytest.approx(0, abs=surface.spacing)


@pytest.mark.parametrize("peak", [5.0, 40.0, 800.0])
def test_the_level_follows_the_field(peak: float) -> None:
    surface = extract_surface(soft(mug, peak), BOX, 96)
    report = check_mesh(TexturedMesh(surface.vertices, surface.faces))
    assert surface.level == pytest.approx(min(peak / 2, OPAQUE / 2), rel=0.2)
    assert report.watertight and report.bodies == 1 and report.euler == -2


def test_fog_and_specks_do_not_move_the_level() -> None:
    generator = np.random.default_rng(0)
    density = np.where(generator.random(60_000) < 0.1, 30.0, 0.2 * generator.random(60_000))
    density[:20] = 5000
    assert automatic_level(density, 2.0) == pytest.approx(15, rel=0.01)
    assert automatic_level(density / 100, 200.0) == pytest.approx(0.15, rel=0.01)  # the same in other units


def test_a_level_can_be_named() -> None:
    surface = extract_surface(lambda points: 10 * (1 - points.norm(dim=1)), BOX, 48, level=6.0)
    assert surface.level == 6
    assert np.linalg.norm(surface.vertices, axis=1) == pytest.approx(0.4, abs=0.003)


def test_no_point_outside_the_bounds_is_asked_for() -> None:
    bounds = torch.tensor([[-0.45, -0.71, -0.33], [0.52, 0.64, 0.11]])

    def density(points: torch.Tensor) -> torch.Tensor:
        assert (points >= bounds[0] - 1e-6).all() and (points <= bounds[1] + 1e-6).all()
        return soft(block)(points)

    assert len(extract_surface(density, bounds, 40).faces) > 100


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.01])
def test_an_empty_field_says_so(value: float) -> None:
    with pytest.raises(InputError, match=r"^the field is empty: .* hide [\d.e-]+ % of the light; train"):
        extract_surface(lambda points: torch.full_like(points[:, 0], value), BOX)


@pytest.mark.parametrize("fog", [1.0, 50.0])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_a_full_field_says_so(fog: float, slope: float) -> None:
    with pytest.raises(InputError, match="dense in the whole box"):
        extract_surface(lambda points: fog + slope * points[:, 0], BOX)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_field_says_so(bad: float) -> None:
    def density(points: torch.Tensor) -> torch.Tensor:
        return torch.where(points[:, 0] > 0.9, bad, soft(sphere)(points))

    with pytest.raises(InputError, match=r"^the field is broken: [\d.]+ % of its densities are NaN or infinite"):
        extract_surface(density, BOX)


def test_a_level_above_everything_says_so() -> None:
    with pytest.raises(InputError, match="nowhere denser than"):
        extract_surface(soft(sphere), BOX, 32, level=1e6)


def test_points_are_asked_for_in_chunks_without_gradients() -> None:
    asked = []

    def density(points: torch.Tensor) -> torch.Tensor:
        asked.append(len(points))
        assert not torch.is_grad_enabled()
        return soft(sphere)(points)

    extract_surface(density, BOX, 72)
    assert max(asked) == CHUNK and len(asked) > 2


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="bounds must be"):
        extract_surface(soft(sphere), BOX.flip(0))
    with pytest.raises(ValueError, match="resolution"):
        extract_surface(soft(sphere), BOX, 2)
    with pytest.raises(ValueError, match=r"must be \(n,\), not \(262144, 1\)"):
        extract_surface(lambda points: points[:, :1], BOX)


def dumbbell(neck: float):
    """Two balls of density 40 per metre that a thin bar of density `neck` joins."""
    balls = soft(lambda points: torch.minimum(sphere(points, 0.4, (-0.5, 0, 0)), sphere(points, 0.3, (0.5, 0, 0))))
    bar = soft(lambda points: torch.maximum(points[:, 1:].norm(dim=1) - 0.06, points[:, 0].abs() - 0.5), neck)
    return lambda points: torch.maximum(balls(points), bar(points))


@pytest.mark.parametrize(("neck", "bodies"), [(12.0, 1), (0.0, 2)])
def test_a_part_on_a_soft_neck_is_kept_by_a_lower_level(neck: float, bodies: int) -> None:
    surface = extract_surface(dumbbell(neck), BOX, 64)
    assert topology.parts(surface.faces).max() + 1 == bodies
    assert (surface.level < neck) if neck else surface.level == pytest.approx(20, rel=0.1)  # else nothing is gained
    assert topology.parts(extract_surface(dumbbell(neck), BOX, 64, level=20.0).faces).max() == 1  # what is told is kept


def test_the_detached_share_is_of_cells_beside_the_largest_body() -> None:
    inside = np.zeros((6, 6, 6), bool)
    assert detached_share(inside) == 0
    inside[:3, 0, 0] = inside[5, 5, 5] = True
    assert detached_share(inside) == 0.25
