"""Marching tetrahedra on known solids: closed, whole, turned outward, near the surface, and with true gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from core2d.app.errors import InputError
from gen3d.mesh import topology
from gen3d.mesh.distance import MeshDistance
from gen3d.mesh.tetrahedra import Tetrahedra, lattice, marching_tetrahedra, normal_consistency, vertex_normals

Solid = Callable[[Tensor], Tensor]
BESIDE = torch.tensor([0.4, 0.0, 0.0])
CELLS = 20


def ball(radius: float, *center: float) -> Solid:
    return lambda x: (x - torch.tensor(center or (0.0, 0.0, 0.0)).to(x)).norm(dim=1) - radius


def box(*half: float, round_by: float = 0.0) -> Solid:
    def distance(x: Tensor) -> Tensor:
        q = x.abs() - (torch.tensor(half).to(x) - round_by)
        return q.clamp(min=0).norm(dim=1) + q.amax(1).clamp(max=0) - round_by

    return distance


def torus(large: float, small: float, axis: int = 2) -> Solid:
    def distance(x: Tensor) -> Tensor:
        around = torch.stack([x[:, k] for k in range(3) if k != axis], 1).norm(dim=1) - large
        return torch.stack([around, x[:, axis]], 1).norm(dim=1) - small

    return distance


def rod(radius: float, half: float, *along: float) -> Solid:
    def distance(x: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(torch.tensor(along).to(x), dim=0)
        return (x - (x @ unit).clamp(-half, half)[:, None] * unit).norm(dim=1) - radius

    return distance


def blend(one: Solid, two: Solid, k: float) -> Solid:
    """Smooth union."""

    def distance(x: Tensor) -> Tensor:
        a, b = one(x), two(x)
        return torch.minimum(a, b) - (k - (a - b).abs()).clamp(min=0).square() / (4 * k)

    return distance


def union(one: Solid, two: Solid) -> Solid:
    return lambda x: torch.minimum(one(x), two(x))


def without(one: Solid, two: Solid) -> Solid:
    return lambda x: torch.maximum(one(x), -two(x))


SOLIDS: dict[str, tuple[Solid, int, int]] = {  # the solid, how many bodies, and vertices - edges + faces of them
    "ball": (ball(0.6), 1, 2),
    "small ball": (ball(0.17), 1, 2),
    "ball aside": (ball(0.3, 0.31, -0.22, 0.17), 1, 2),
    "ball on lattice points": (ball(0.5), 1, 2),
    "box": (box(0.53, 0.31, 0.22), 1, 2),
    "box along the lattice": (box(0.5, 0.3, 0.2), 1, 2),
    "cube": (box(0.43, 0.43, 0.43), 1, 2),
    "round box": (box(0.6, 0.4, 0.3, round_by=0.15), 1, 2),
    "plate": (box(0.71, 0.63, 0.11), 1, 2),
    "beam": (box(0.72, 0.13, 0.12), 1, 2),
    "torus": (torus(0.5, 0.2), 1, 0),
    "torus around x": (torus(0.55, 0.17, 0), 1, 0),
    "torus around y": (torus(0.45, 0.25, 1), 1, 0),
    "thin torus": (torus(0.6, 0.11), 1, 0),
    "rod": (rod(0.12, 0.6, 1.0, 1.0, 1.0), 1, 2),
    "oblique rod": (rod(0.1, 0.65, 0.3, -1.0, 0.4), 1, 2),
    "two balls in one": (blend(ball(0.35, -0.3, 0.0, 0.0), ball(0.3, 0.33, 0.1, 0.0), 0.2), 1, 2),
    "ball and torus in one": (blend(ball(0.3, 0.0, 0.0, 0.4), torus(0.5, 0.13), 0.15), 2, 2),
    "mug": (blend(box(0.35, 0.35, 0.4, round_by=0.1), lambda x: torus(0.27, 0.09, 1)(x - BESIDE.to(x)), 0.05), 1, 0),
    "two balls": (union(ball(0.25, -0.4, 0.1, 0.2), ball(0.3, 0.4, 0.0, -0.2)), 2, 4),
    "hollow ball": (without(ball(0.7), ball(0.4)), 2, 4),
    "ball with a hole": (without(ball(0.6), rod(0.2, 2.0, 0.1, 0.2, 1.0)), 1, 0),
    "bowl": (without(ball(0.6), ball(0.5, 0.0, 0.0, 0.5)), 1, 2),
    "chain": (union(torus(0.3, 0.1), lambda x: torus(0.3, 0.1, 1)(x - 0.3 * torch.eye(3)[0].to(x))), 2, 0),
}
SMOOTH = ("ball", "ball aside", "torus", "torus around x", "torus around y", "two balls in one")


def surface(solid: Solid, cells: int = CELLS) -> tuple[Tensor, Tensor]:
    tetrahedra = Tetrahedra(cells)
    tetrahedra.start_from(solid)
    return tetrahedra()


@pytest.mark.parametrize("name", SOLIDS)
def test_surfaces_are_closed_whole_and_outward(name: str) -> None:
    solid, bodies, euler = SOLIDS[name]
    vertices, faces = (tensor.detach().numpy() for tensor in surface(solid))
    edges = topology.edges(faces)
    assert (edges.uses == 2).all() and (edges.turns == 0).all()  # closed, and neighbours agree
    assert len(np.unique(faces)) == len(vertices)
    assert len(vertices) - len(edges.ends) + len(faces) == euler
    assert int(topology.parts(faces).max()) + 1 == bodies
    assert (topology.areas(vertices, faces) > 0).all()

    corners = torch.from_numpy(vertices[faces]).double()
    cross = (corners[:, 1] - corners[:, 0]).cross(corners[:, 2] - corners[:, 0], dim=1)
    middle = corners.mean(1).requires_grad_()
    (slope,) = torch.autograd.grad(solid(middle).sum(), middle)
    cosine = torch.nn.functional.cosine_similarity(cross, slope, dim=1)
    if name in SMOOTH:
        large = cross.norm(dim=1) > 0.05 * cross.norm(dim=1).mean()  # the normal of a sliver is mostly rounding
        assert float(cosine[large].amin()) > 0.5
    assert float((cosine * cross.norm(dim=1)).sum() / cross.norm(dim=1).sum()) > 0.9  # none looks in, but at creases
    volume = float(topology.volumes(vertices, faces).sum())
    points = 2 * torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)) - 1
    assert volume == pytest.approx(8 * float((solid(points) < 0).float().mean()), rel=0.2, abs=3e-3)


def test_there_are_24_solids() -> None:
    assert len(SOLIDS) == 24


@pytest.mark.parametrize("name", SMOOTH)
def test_points_lie_on_the_surface_to_second_order(name: str) -> None:
    solid = SOLIDS[name][0]
    coarse, fine = (solid(surface(solid, cells)[0].detach()).abs() for cells in (16, 32))
    assert float(coarse.mean()) > 3.3 * float(fine.mean())  # half of the spacing: about a quarter
    assert float(coarse.amax()) > 2.5 * float(fine.amax()) and float(fine.amax()) < 4e-3


def test_the_lattice_fills_the_cube_once() -> None:
    vertices, tetrahedra = lattice(3)
    a, b, c, d = vertices[tetrahedra].unbind(1)
    volumes = ((b - a).cross(c - a, dim=1) * (d - a)).sum(1) / 6
    assert (volumes > 0).all() and float(volumes.sum()) == pytest.approx(27)
    triangles = tetrahedra[:, [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]].reshape(-1, 3).sort(1).values
    uses = triangles.unique(dim=0, return_counts=True)
    assert sorted(uses[1].unique().tolist()) == [1, 2]
    outside = vertices[uses[0][uses[1] == 1]]  # triangles of one tetrahedron lie on a side of the cube
    assert ((outside == 0).all(1) | (outside == 3).all(1)).any(1).all()
    assert len(vertices) == 4**3 + 3**3 and len(tetrahedra) == 12 * 3**3


def test_no_shift_turns_a_tetrahedron_over() -> None:
    tetrahedra = Tetrahedra(4)
    for seed in range(20):
        corners = torch.randn(tetrahedra.places.shape, generator=torch.Generator().manual_seed(seed)).sign()
        moved = tetrahedra.places + corners * tetrahedra.free
        a, b, c, d = moved[tetrahedra.corners].unbind(1)
        assert (((b - a).cross(c - a, dim=1) * (d - a)).sum(1) > 0).all()


def test_gradients_of_distances_and_shifts() -> None:
    places, corners = lattice(2)
    places = places.double() + 0.1 * torch.rand(places.shape, generator=torch.Generator().manual_seed(1)).double()
    distance = (places - 1).norm(dim=1) - 0.72

    def run(places: Tensor, distance: Tensor) -> Tensor:
        return marching_tetrahedra(places, distance, corners)[0]

    assert torch.autograd.gradcheck(run, (places.requires_grad_(), distance.requires_grad_()))

    tetrahedra = Tetrahedra(6).double()
    tetrahedra.start_from(ball(0.52))
    weights = torch.rand(tetrahedra()[0].shape, generator=torch.Generator().manual_seed(2)).double()
    parameters = [tetrahedra.distance, tetrahedra.shift]
    gradients = torch.autograd.grad((tetrahedra()[0] * weights).sum(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)).double()
        found, start = [], parameter.detach().clone()
        for sign in (-1, 1):
            parameter.data = start + sign * 1e-6 * direction
            found.append(float((tetrahedra()[0] * weights).sum()))
        parameter.data = start
        slope = (found[1] - found[0]) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_no_surface_is_said() -> None:
    tetrahedra = Tetrahedra(4)
    with pytest.raises(InputError, match="no surface in the lattice"):
        tetrahedra.start_from(ball(9.0))
    with pytest.raises(InputError, match="NaN or infinite"):
        tetrahedra.start_from(lambda x: x[:, 0] * math.nan)
    tetrahedra.distance.data.fill_(0.1)
    with pytest.raises(InputError, match="nothing is left"):
        tetrahedra()


def test_normals_and_how_much_a_surface_bends() -> None:
    vertices, faces = surface(ball(0.6))
    outward = torch.nn.functional.normalize(vertices.detach(), dim=1)
    assert float((vertex_normals(vertices, faces) * outward).sum(1).amin()) > 0.95
    cube = trimesh.creation.box()
    bent = normal_consistency(torch.tensor(cube.vertices), torch.tensor(cube.faces))
    assert float(bent) == pytest.approx(12 / 18)  # of 18 edges 12 are right angles, and 6 are flat
    smooth, rough = (float(normal_consistency(*surface(solid))) for solid in (ball(0.6), torus(0.3, 0.12)))
    assert smooth < rough


@pytest.mark.parametrize("make", [trimesh.creation.box, trimesh.creation.icosphere, trimesh.creation.torus])
def test_the_distance_to_a_mesh(make: Callable[..., trimesh.Trimesh]) -> None:
    mesh: Any = make(**({"major_radius": 0.6, "minor_radius": 0.25} if make is trimesh.creation.torus else {}))
    if make is trimesh.creation.box:
        mesh = mesh.subdivide_to_size(0.2)
        solid, tolerance = box(0.5, 0.5, 0.5), 2e-6
    else:
        solid, tolerance = (ball(1.0), 0.01) if make is trimesh.creation.icosphere else (torus(0.6, 0.25), 0.02)
    x = 3 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) - 1.5
    x = torch.cat([x, torch.tensor(mesh.vertices[:50]).float() * 1.05, torch.tensor(mesh.vertices[:50]).float() * 0.95])
    found = MeshDistance(mesh.vertices, mesh.faces)(x)
    torch.testing.assert_close(found, solid(x), atol=tolerance, rtol=0)


def test_a_ball_is_optimised_into_another_shape() -> None:
    # towards the distance of a box, through the surface's own vertices: no lattice vertex is told it
    solid = box(0.45, 0.35, 0.4, round_by=0.2)
    tetrahedra = Tetrahedra(12)
    tetrahedra.start_from(ball(0.4))
    optimizer = torch.optim.Adam(tetrahedra.parameters(), 0.004)
    before = float(solid(tetrahedra()[0].detach()).abs().mean())
    for _ in range(100):
        optimizer.zero_grad()
        solid(tetrahedra()[0]).square().mean().backward()
        optimizer.step()
    assert float(solid(tetrahedra()[0].detach()).abs().mean()) < 0.2 * before
