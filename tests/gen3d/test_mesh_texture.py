"""Unwrapping, baking and drawing: the colour of the field ends up at its place on the surface."""

from functools import partial

import numpy as np
import pytest
import torch
import trimesh
import xatlas
from helpers.mesh_fields import BOX, SOLIDS, checker, psnr, quad, soft, sphere
from helpers.toybox_scenes import ball, camera_of

from core2d.app.errors import InputError
from core2d.kernels.raster import Fragments, interpolate
from core2d.prior.cameras import degrees, orbit
from core2d.toybox import world
from core2d.toybox.render import render as render_scene
from core2d.toybox.sample import mesh_of
from gen3d.mesh import Build, TexturedMesh, build_mesh, render_mesh
from gen3d.mesh.texture import bake, coverage, draw_uv
from gen3d.mesh.uv import GAP, unwrap

VIEWS = orbit(degrees([0, 75, 160, 260]), degrees([20, -30, 50, 5]), 2.6)


@pytest.fixture(scope="module")
def torus() -> tuple[TexturedMesh, Build]:
    return build_mesh(soft(SOLIDS["torus"][0]), checker, BOX, 64, face_budget=3000, texture_size=1024)


def test_the_whole_way(torus: tuple[TexturedMesh, Build]) -> None:
    mesh, build = torus
    assert build.report.problems == () and build.report.watertight and build.report.euler == 0
    assert len(mesh.faces) <= 3000 and mesh.texture is not None and mesh.texture.shape == (1024, 1024, 3)
    assert build.coverage >= 0.99 and build.report.texture_coverage == pytest.approx(build.coverage)
    low, high = build.report.uv_range or (-1, 2)
    assert low >= 0 and high <= 1
    assert build.cleaning.dropped_parts == 0 and build.cleaning.faces_before > 3000
    assert build.report.volume == pytest.approx(SOLIDS["torus"][1], rel=0.02)


def test_it_is_the_same_again(torus: tuple[TexturedMesh, Build]) -> None:
    again, _ = build_mesh(soft(SOLIDS["torus"][0]), checker, BOX, 64, face_budget=3000, texture_size=1024)
    for name in ("vertices", "faces", "uv", "texture"):
        assert np.array_equal(getattr(again, name), getattr(torus[0], name)), name


@pytest.mark.parametrize("diameter", [0.001, 0.006, 0.02, 0.06, 1.0, 100.0])
def test_a_body_of_any_size_is_painted_whole(diameter: float) -> None:
    """xatlas itself leaves out faces below 1.2e-7 of area: 68 % of this ball at 6 mm, and all of it at 1 mm."""
    radius = diameter / 2
    density = soft(partial(sphere, radius=radius), peak=40 / radius, width=0.004 * radius)
    colors = lambda points: checker(points / radius)  # noqa: E731
    mesh, build = build_mesh(density, colors, BOX * radius * 1.5, 32, face_budget=1500, texture_size=256)
    assert build.coverage > 0.999 and build.report.problems == ()
    assert build.report.volume == pytest.approx(np.pi / 6 * diameter**3, rel=0.01)
    low, high = mesh.bounds
    assert (high - low) == pytest.approx(diameter, rel=0.01)


def test_small_faces_have_a_place_wherever_the_body_stands() -> None:
    body = trimesh.creation.icosphere(subdivisions=4, radius=0.0068)  # of 5120 faces, a part is below 1.2e-7
    assert 0.1 < (body.area_faces < 1.19e-7).mean() < 0.9
    for shift in (0.0, 2.0):
        rows, faces, uv = unwrap(body.vertices + shift, body.faces, 512)
        assert np.array_equal(rows[faces], body.faces)
        placed = draw_uv(uv, faces, 512)
        assert len(np.unique(placed.face[placed.mask])) > 0.99 * len(faces)


def test_a_body_that_xatlas_takes_whole_is_unwrapped_at_its_own_scale(torus: tuple[TexturedMesh, Build]) -> None:
    mesh = torus[0]
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices, mesh.faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding = 512, GAP
    atlas.generate(pack_options=packing)
    for found, expected in zip(unwrap(mesh.vertices, mesh.faces, 512), atlas.get_mesh(0), strict=True):
        assert np.array_equal(found, expected)


def test_a_painted_checker_looks_like_the_checker(
    torus: tuple[TexturedMesh, Build], monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = torus[0]
    painted = render_mesh(mesh, VIEWS, 192)

    def exact(mesh: TexturedMesh, faces: torch.Tensor, seen: Fragments) -> torch.Tensor:
        places = interpolate(torch.from_numpy(mesh.vertices), faces, seen)
        return checker(places.reshape(-1, 3)).reshape(places.shape)

    monkeypatch.setattr("gen3d.mesh.render._albedo", exact)
    expected = render_mesh(mesh, VIEWS, 192)
    seen = expected[:, 3] == 1
    assert seen.float().mean() > 0.1 and torch.equal(painted[:, 3], expected[:, 3])
    assert psnr(painted[:, :3].movedim(1, -1)[seen], expected[:, :3].movedim(1, -1)[seen]) > 30


def test_a_texture_stands_upright() -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    texture = blocks.repeat(32, 0).repeat(32, 1)
    camera = orbit(0.0, 0.0, 3.0, fov_y=2 * float(np.arctan(0.5 / 3)))  # the quad fills the picture
    picture = render_mesh(quad(texture), camera, 256)[0]
    assert (picture[3] == 1).float().mean() > 0.99
    lit = 0.46 + 0.48 * world.LIGHT[0]
    assert psnr(picture[:3] / lit, torch.from_numpy(texture).movedim(-1, 0) / 255) > 30


def test_the_light_is_that_of_toybox() -> None:
    scene = ball(1.0, pattern=None)
    body = mesh_of(scene)
    colors = np.tile(np.rint(np.array(scene.main) * 255).astype(np.uint8), (len(body.vertices), 1))
    found = render_mesh(TexturedMesh(body.vertices, body.faces, colors=colors), camera_of(scene), 64)
    expected = render_scene([scene], 64)
    assert torch.allclose(found[0, 3], torch.from_numpy(expected.mask[0]), atol=0.26)
    assert psnr(found[0, :3], torch.from_numpy(expected.rgb[0]).movedim(-1, 0)) > 35


def test_colours_per_vertex_and_none() -> None:
    body = quad(np.zeros((4, 4, 3), np.uint8))
    colors = np.array([[255, 0, 0]] * 4, np.uint8)
    camera = orbit(0.0, 0.0, 3.0)
    red = render_mesh(TexturedMesh(body.vertices, body.faces, colors=colors), camera, 32, background=(0, 0, 1))[0]
    grey = render_mesh(TexturedMesh(body.vertices, body.faces), camera, 32)[0]
    assert red[0, 16, 16] > 0.4 and red[1, 16, 16] == 0 and red[:3, 0, 0].tolist() == [0, 0, 1] and red[3, 0, 0] == 0
    assert grey[0, 16, 16] == grey[1, 16, 16] == grey[2, 16, 16] == pytest.approx(0.8 * float(red[0, 16, 16]))


def test_empty_texels_take_the_nearest_paint() -> None:
    triangle = np.array([[0.1, 0.1], [0.4, 0.1], [0.1, 0.4]], np.float32)
    vertices, faces = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32), np.array([[0, 1, 2]])
    texture, share = bake(lambda points: points[:, :1].expand(-1, 3), vertices, faces, triangle, 32)
    covered = draw_uv(triangle, faces, 32).mask[0].numpy()
    assert share == 1 and 0.02 < covered.mean() < 0.06
    assert texture[4, -1].min() > 230 and texture[:, 0].max() < 40  # u grows with x, also beyond the triangle
    assert np.array_equal(texture[-1, 0], texture[covered.nonzero()[0].max(), covered.nonzero()[1].min()])


def test_faces_without_a_place_count_as_bare() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [3, 2, 1]])
    uv = np.array([[0.125, 0.125], [0.875, 0.125], [0.125, 0.875], [0.5, 0.5]], np.float32)  # the second is a line
    assert coverage(vertices, faces, uv, np.zeros((8, 8))) == pytest.approx(0.5)


def test_broken_colours_say_so() -> None:
    body = quad(np.zeros((4, 4, 3), np.uint8))
    assert body.uv is not None
    with pytest.raises(InputError, match="colours are NaN or infinite"):
        bake(lambda points: points * torch.nan, body.vertices, body.faces, body.uv, 16)
    with pytest.raises(ValueError, match=r"color must give \(n, 3\)"):
        bake(lambda points: points[:, :2], body.vertices, body.faces, body.uv, 16)
    with pytest.raises(ValueError, match="no texel is covered"):
        bake(lambda points: points, body.vertices, body.faces, body.uv * 0, 16)
