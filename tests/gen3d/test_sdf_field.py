"""NeuS: its alpha against the closed form, a ball's silhouette and depth, shapes that are fitted and handed over."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core2d.prior.cameras import orbit
from gen3d.fields.config import FieldConfig, HashGridConfig
from gen3d.fields.sdf_field import NeuS, SDFField, eikonal_loss, thickness
from gen3d.mesh import topology
from gen3d.mesh.tetrahedra import Tetrahedra
from gen3d.render.images import camera_rays, render_images
from gen3d.render.occupancy import OccupancyGrid
from gen3d.render.volume import render_rays
from gen3d.shaping.handover import distance_of, fit_distance

CONFIG = FieldConfig(grid=HashGridConfig(levels=6, coarsest=8, finest=48, log2_table=14))


def a_ball(radius: float = 0.5, sharpness: float = 300.0) -> SDFField:
    return SDFField(CONFIG, radius, sharpness, torch.Generator().manual_seed(0))


def bumpy(x: Tensor) -> Tensor:
    """The signed distance to an upright torus."""
    around = x[:, :2].norm(dim=1) - 0.5
    return torch.stack([around, x[:, 2]], 1).norm(dim=1) - 0.22


def test_alpha_is_that_of_the_paper() -> None:
    before, after = 0.2 * torch.randn(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sharpness = torch.tensor(30.0, dtype=torch.float64)
    alpha = -torch.expm1(-thickness(before, after, sharpness))
    first, second = torch.sigmoid(sharpness * before), torch.sigmoid(sharpness * after)
    torch.testing.assert_close(alpha, ((first - second) / first).clamp(min=0))
    assert (alpha[after > before] == 0).all() and (alpha[after < before] > 0).all()


def test_deep_inside_nothing_underflows() -> None:
    before = torch.tensor([-0.9, -5.0]).requires_grad_()
    found = thickness(before, before.detach() - 0.01, torch.tensor(1000.0))
    torch.testing.assert_close(found, torch.tensor([10.0, 10.0]), rtol=1e-3, atol=0)  # s times the way
    (gradient,) = torch.autograd.grad(found.sum(), before)
    torch.testing.assert_close(gradient, torch.full((2,), 1000.0))


def test_it_starts_as_a_ball() -> None:
    field, x = a_ball(), 2 * torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) - 1
    torch.testing.assert_close(field.distance(x), x.norm(dim=1) - 0.5, atol=1e-3, rtol=0)
    assert float(field.sharpness) == pytest.approx(300, rel=1e-4)
    away = x[x.norm(dim=1) > 0.3]
    outward = away / away.norm(dim=1, keepdim=True)
    torch.testing.assert_close(field.gradient(away), outward, atol=0.02, rtol=0)
    assert float((field.normal(away) * outward).sum(1).amin()) > 0.98
    assert float(eikonal_loss(field, away)) < 1e-4
    field.numbers.config = replace(field.numbers.config, blob=1.0)  # twice as steep
    assert float(eikonal_loss(field, away)) == pytest.approx(1.0, rel=0.05)


def test_a_balls_silhouette_and_depth() -> None:
    field, step, size, radius = a_ball(), 0.02, 48, 0.5
    neus, occupancy = NeuS(field, step), OccupancyGrid(32, 1.0)
    with torch.no_grad():
        for seed in range(8):
            occupancy.update(neus.density, step, torch.Generator().manual_seed(seed))
    assert 0.06 < occupancy.share < 0.2
    centers = torch.linspace(-1, 1, 65)[1::2]
    cells = torch.cartesian_prod(centers, centers, centers)
    occupancy.set_mask((cells.norm(dim=1) < radius + 0.1).view(32, 32, 32))
    cameras = orbit(torch.tensor([0.4]), torch.tensor([0.3]), 2.0)
    seen = render_images(neus, None, cameras, size, size, occupancy, step, normals=True, prune=False)
    origins, directions = camera_rays(cameras, size, size)
    along = -(origins * directions).sum(1)
    passing = (origins.square().sum(1) - along.square()).sqrt()  # of the rays, from the middle
    hits = (passing < radius).view(size, size)
    sure = ((passing - radius).abs() > 0.02).view(size, size)
    assert torch.equal(seen.opacity[0, 0][sure] > 0.5, hits[sure])
    assert (
        float(seen.opacity[0, 0][sure & ~hits].amax()) < 0.01 and float(seen.opacity[0, 0][sure & hits].amin()) > 0.99
    )
    depth = (along - (radius**2 - passing.square()).clamp(min=0).sqrt()).view(size, size)
    inner = (passing < 0.8 * radius).view(size, size)
    assert float((seen.depth[0, 0] - depth)[inner].abs().amax()) < 0.75 * step
    assert float((seen.depth[0, 0] - depth)[inner].abs().mean()) < 0.35 * step
    assert seen.normal is not None
    toward = torch.nn.functional.normalize((origins + depth.view(-1, 1) * directions), dim=1).T.view(3, size, size)
    assert float((seen.normal[0] * toward).sum(0)[inner].amin()) > 0.97


def test_a_picture_teaches_distance_color_and_sharpness() -> None:
    field, cameras = a_ball(0.4, 40.0), orbit(torch.tensor([0.4, 2.5]), torch.tensor([0.3, 0.1]), 2.0)
    origins, directions = camera_rays(cameras, 16, 16)
    neus, occupancy = NeuS(field, 0.04), OccupancyGrid(16, 1.0)
    along = -(origins * directions).sum(1)
    hits = (origins.square().sum(1) - along.square()).sqrt() < 0.55  # a larger ball
    goal = torch.where(hits[:, None], torch.tensor([0.9, 0.2, 0.1]), torch.ones(3))
    optimizer = torch.optim.Adam(field.parameters(), 0.01)
    losses = []
    for step in range(40):
        generator = torch.Generator().manual_seed(step)
        seen = render_rays(neus, torch.ones(3), origins, directions, occupancy, 0.04, generator=generator)
        points = 2 * torch.rand(500, 3, generator=generator) - 1
        loss = (seen.color - goal).abs().mean() + 0.1 * eikonal_loss(field, points)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0] and float(field.sharpness) != pytest.approx(40, rel=0.02)
    mask = (seen.opacity > 0.5) == hits
    assert float(mask.float().mean()) > 0.9


def test_from_density_to_distance_to_tetrahedra() -> None:
    bounds = torch.tensor([[-1.0] * 3, [1.0] * 3])
    distance = distance_of(lambda x: 400 * torch.sigmoid(-60 * bumpy(x)), bounds, 64, level=200.0)
    x = 2 * torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) - 1
    assert float((distance(x) - bumpy(x)).abs().amax()) < 0.03

    field = SDFField(CONFIG, 0.5, 20.0, torch.Generator().manual_seed(0))
    apart = fit_distance(field, distance, torch.Generator().manual_seed(1), steps=150)
    assert apart < 0.01
    assert float((field.distance(x) - bumpy(x)).abs().mean()) < 0.02

    tetrahedra = Tetrahedra(24)
    tetrahedra.start_from(field.distance)
    vertices, faces = (tensor.detach() for tensor in tetrahedra())
    edges = topology.edges(faces.numpy())
    assert (edges.uses == 2).all() and float(bumpy(vertices).abs().mean()) < 0.015
    volume = float(topology.volumes(vertices.numpy(), faces.numpy()).sum())
    assert volume == pytest.approx(2 * math.pi**2 * 0.5 * 0.22**2, rel=0.06)
    assert len(vertices) - len(edges.ends) + len(faces) == 0
