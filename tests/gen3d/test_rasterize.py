"""The differentiable rasteriser: backends against each other, finite differences, shapes that it has to find."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from core2d.kernels import raster
from core2d.prior.cameras import Cameras, orbit
from gen3d.kernels import mesh_raster
from gen3d.kernels.mesh_raster.torch_twin import level_of_detail
from gen3d.render.rasterize import antialias, footprint, interpolate, pyramid, rasterize, sample, to_clip

BACKENDS = pytest.mark.parametrize("backend", ["torch", "numba"])
CAMERAS = orbit(torch.tensor([0.3, 2.0]), torch.tensor([0.2, 0.5]), 1.6)


def ball(subdivisions: int = 3, radius: float = 0.5) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces).int()


def flat(points: list[list[float]], size: int) -> Tensor:
    """(1, v, 4): points (v, 2) in pixels of a square picture, from its top left corner."""
    places = torch.tensor(points)
    x, y = 2 * places[:, 0] / size - 1, 1 - 2 * places[:, 1] / size
    return torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], 1)[None]


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def draw(
    backend: str, vertices: Tensor, colors: Tensor, texture: Tensor, faces: Tensor, cameras: Cameras, pixel: float = 0
) -> Tensor:
    """All of it in one picture (b, 48, 40, 3); `pixel` is its size in the texture where that is not to be found out."""
    seen = rasterize(to_clip(vertices, cameras, 40 / 48), faces, (48, 40), backend)
    uv = vertices[:, :2] + 0.5
    area = pixel * torch.eye(2).to(uv).expand(*seen.face.shape, 2, 2) if pixel else footprint(uv, seen)
    painted = sample(texture, interpolate(uv, seen), area, backend)
    picture = torch.where(seen.mask[..., None], interpolate(colors, seen) + painted + seen.barycentric, 0.3)
    return antialias(picture, seen)


# -- the backends ----------------------------------------------------------------------------------------------


def test_numba_equals_the_twin() -> None:
    vertices, faces = ball()
    inputs = [vertices, numbers(0, len(vertices), 3), numbers(1, 64, 33, 3)]
    grad = numbers(2, 2, 48, 40, 3)
    answers = []
    for backend in ("torch", "numba"):
        given = [tensor.clone().requires_grad_() for tensor in inputs]
        picture = draw(backend, *given, faces, CAMERAS)  # type: ignore[call-arg]
        answers.append([picture.detach(), *torch.autograd.grad(picture, given, grad)])
    for twin, numba in zip(*answers, strict=True):
        assert float((numba - twin).abs().amax()) <= 1e-5 * max(1.0, float(twin.abs().amax()))


def test_what_is_seen_is_the_same_to_the_bit() -> None:
    vertices, faces = ball()
    clip = to_clip(vertices, CAMERAS).requires_grad_()
    twin, numba = (rasterize(clip, faces, (48, 40), backend) for backend in ("torch", "numba"))
    assert torch.equal(twin.face, numba.face) and torch.equal(twin.depth, numba.depth)
    assert torch.equal(twin.barycentric, numba.barycentric) and torch.equal(twin.corners, numba.corners)
    offsets = torch.tensor([0, len(faces)]).int()
    for image in range(2):  # and the same as of each picture alone
        alone = raster.rasterize(clip[image].detach(), faces, offsets, 48, 40, "torch")
        assert torch.equal(alone.face[0], twin.face[image]) and torch.equal(
            alone.barycentric[0], twin.barycentric[image]
        )


@BACKENDS
def test_nothing_to_see_and_no_picture(backend: str) -> None:
    vertices, faces = ball(1)
    behind = to_clip(vertices, CAMERAS) * torch.tensor([1.0, 1, 1, -1])
    seen = rasterize(behind.requires_grad_(), faces, 8, backend)
    assert not seen.mask.any()
    picture = antialias(interpolate(vertices, seen), seen)
    (gradient,) = torch.autograd.grad(picture.sum(), behind)
    assert (picture == 0).all() and (gradient == 0).all()
    assert rasterize(behind[:0], faces, 8, backend).face.shape == (0, 8, 8)


def test_bad_shapes_are_refused() -> None:
    vertices, faces = ball(1)
    clip = to_clip(vertices, CAMERAS)
    seen = rasterize(clip, faces, 8)
    with pytest.raises(ValueError, match=r"rasterize needs clip \(b, v, 4\)"):
        rasterize(clip[0], faces, 8)
    with pytest.raises(ValueError, match=r"attributes of 2 pictures"):
        interpolate(torch.zeros(3, 4, 1), seen)
    with pytest.raises(ValueError, match="antialias needs an image"):
        antialias(torch.zeros(2, 9, 8, 3), seen)
    with pytest.raises(ValueError, match="sample needs texture"):
        sample(torch.zeros(4, 4), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="float32"):
        mesh_raster.blend(torch.zeros(1, 1).double(), torch.zeros(1, 1).int(), torch.zeros(1, 1), "numba")


# -- gradients -------------------------------------------------------------------------------------------------


def test_gradients_of_the_twin() -> None:
    # two triangles that share an edge, one before the other, and one that reaches behind the camera
    clip = torch.tensor([[-0.8, -0.7, 0, 1.0], [0.9, -0.5, 0, 1.1], [0.1, 0.8, 0, 1.3], [-1.1, 0.9, 0, 1.2],
                         [0.3, 2.5, 0, 1.5], [1.9, 0.4, 0, 2.0], [0.1, -0.3, 0, -0.2]]).double()[None]  # fmt: skip
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6]]).int()
    colors, texture = numbers(3, 7, 2).double(), numbers(4, 6, 5, 2).double()

    def run(clip: Tensor, colors: Tensor, texture: Tensor) -> Tensor:
        seen = rasterize(clip, faces, (7, 9), "torch")
        uv = interpolate(colors, seen)
        picture = interpolate(colors, seen) + sample(texture, uv, footprint(colors, seen) * 0 + 0.2, "torch")
        return antialias(torch.where(seen.mask[..., None], picture, 0.4), seen)

    assert len(rasterize(clip, faces, (7, 9), "torch").face.unique()) == 4
    inputs = [tensor.requires_grad_() for tensor in (clip, colors, texture)]
    assert torch.autograd.gradcheck(run, inputs, eps=1e-7, atol=1e-5)


def test_gradients_of_numba_are_finite_differences() -> None:
    vertices, faces = ball(1)
    inputs = [vertices, numbers(5, len(vertices), 3), numbers(6, 16, 16, 3)]
    weights = numbers(7, 2, 48, 40, 3).double()
    given = [tensor.clone().requires_grad_() for tensor in inputs]
    picture = draw("numba", *given, faces, CAMERAS, 0.1)  # type: ignore[call-arg]
    gradients = torch.autograd.grad((picture * weights).sum(), given)
    for which, gradient in enumerate(gradients):
        direction = numbers(8 + which, *inputs[which].shape).double() - 0.5
        slope, epsilon, moved = float((gradient.double() * direction).sum()), 1e-6, []
        for sign in (-1, 1):
            shifted = [tensor.double() for tensor in inputs]
            shifted[which] = shifted[which] + sign * epsilon * direction
            wide = Cameras(CAMERAS.camera_to_world.double(), CAMERAS.fov_y.double())
            moved.append(float((draw("torch", *shifted, faces, wide, 0.1) * weights).sum()))  # type: ignore[call-arg]
        assert slope == pytest.approx((moved[1] - moved[0]) / (2 * epsilon), rel=1e-3)


# -- what it draws ---------------------------------------------------------------------------------------------


@BACKENDS
def test_a_border_between_pixels_takes_its_share(backend: str) -> None:
    # a wall from the left up to x pixels: of the pixel that the border is in, that share is white
    for x in (3.5, 3.7, 4.0, 4.3, 4.49):
        points = [[-9.0, -9.0], [x, -9.0], [x, 30.0], [-9.0, 30.0]]
        clip = flat(points, 8).requires_grad_()
        seen = rasterize(clip, torch.tensor([[0, 1, 2], [0, 2, 3]]), 8, backend)
        picture = antialias(seen.mask[..., None].float(), seen)
        expected = (x - torch.arange(8.0)).clamp(0, 1)
        torch.testing.assert_close(picture[0, :, :, 0], expected.expand(8, 8), atol=1e-5, rtol=0)
        (gradient,) = torch.autograd.grad(picture.sum(), clip)
        # the area grows by 8 square pixels a pixel that the border moves, and that is 2 / 8 in clip space
        assert float(gradient[0, 1:3, 0].sum()) == pytest.approx(8 * 8 / 2, rel=1e-4)


@BACKENDS
def test_a_level_border_takes_its_share(backend: str) -> None:
    clip = flat([[-9.0, 2.8], [30.0, 2.8], [30.0, 20.0], [-9.0, 20.0]], 8)
    seen = rasterize(clip, torch.tensor([[0, 1, 2], [0, 2, 3]]), 8, backend)
    picture = antialias(seen.mask[..., None].float(), seen)
    torch.testing.assert_close(picture[0, :, 3, 0], (torch.arange(8.0) + 1 - 2.8).clamp(0, 1), atol=1e-5, rtol=0)


@BACKENDS
def test_edges_inside_a_surface_stay_as_they_are(backend: str) -> None:
    # each triangle of a flat sheet has a colour of its own: no silhouette, and so nothing is mixed
    n = 5
    grid = torch.cartesian_prod(torch.arange(n), torch.arange(n)) * 4.0 - 3.3
    i, j = (axis.flatten() for axis in torch.meshgrid(torch.arange(n - 1), torch.arange(n - 1), indexing="ij"))
    a = i * n + j
    faces = torch.cat([torch.stack([a, a + 1, a + n + 1], 1), torch.stack([a, a + n + 1, a + n], 1)]).int()
    seen = rasterize(flat(grid.tolist(), 12), faces, 12, backend)
    picture = numbers(9, len(faces), 3)[seen.face.clamp(min=0).long()]
    assert seen.mask.all() and len(seen.face.unique()) > 15
    assert torch.equal(antialias(picture, seen), picture)


def test_the_area_of_a_ball_is_smooth_and_right() -> None:
    vertices, faces = ball(4, 0.5)
    clip = to_clip(vertices, orbit(0.3, 0.2, 2.0))
    for size in (32, 64):
        seen = rasterize(clip, faces, size)
        area = float(antialias(seen.mask[..., None].float(), seen).sum()) * (2 / size) ** 2
        tangent = 0.5 / math.sqrt(2.0**2 - 0.5**2) / math.tan(math.radians(20))  # of the cone that the ball fills
        assert area == pytest.approx(math.pi * tangent**2, rel=4e-3)


@BACKENDS
def test_a_texture_at_its_texels_and_between(backend: str) -> None:
    texture = numbers(10, 4, 6, 2)
    columns, rows = torch.meshgrid((torch.arange(6) + 0.5) / 6, (torch.arange(4) + 0.5) / 4, indexing="xy")
    uv = torch.stack([columns, rows], -1)
    torch.testing.assert_close(sample(texture, uv, None, backend), texture)
    half = sample(texture, torch.tensor([[1 / 6, 0.125], [-3.0, 0.125], [0.5 / 6, 9.0]]), None, backend)
    expected = torch.stack([(texture[0, 0] + texture[0, 1]) / 2, texture[0, 0], texture[3, 0]])
    torch.testing.assert_close(half, expected)


@BACKENDS
def test_far_textures_are_means(backend: str) -> None:
    texture, anywhere = numbers(11, 8, 8, 3), numbers(12, 5, 2)
    whole = torch.eye(2).expand(5, 2, 2)  # a pixel as large as the texture
    torch.testing.assert_close(sample(texture, anywhere, whole, backend), texture.mean((0, 1)).expand(5, 3))
    blocks = texture.view(2, 4, 2, 4, 3).mean((1, 3))  # a pixel of four texels sees the means of four by four
    places = torch.tensor([[0.25, 0.25], [0.75, 0.25]])
    found = sample(texture, places, torch.eye(2).expand(2, 2, 2) * 4 / 8, backend)
    torch.testing.assert_close(found, blocks[0])
    between = sample(texture, places, torch.eye(2).expand(2, 2, 2) * 2**2.5 / 8, backend)
    torch.testing.assert_close(between, (blocks[0] + texture.mean((0, 1))) / 2)


def test_a_pixel_in_the_texture_is_an_ellipse() -> None:
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    stretched = turn @ torch.diag(torch.tensor([4.0, 0.5])) @ turn.T / 16
    level = level_of_detail(stretched[None], torch.tensor([[16, 16, 0]]))
    assert float(level) == pytest.approx(2.0, abs=1e-5)
    assert [tuple(part.shape) for part in pyramid(torch.zeros(6, 3, 1))] == [(6, 3, 1), (3, 1, 1), (1, 1, 1)]


@BACKENDS
def test_the_footprint_is_the_difference_to_the_next_pixel(backend: str) -> None:
    clip = torch.tensor([[-6.0, -4, 0, 1], [10, -8, 0, 2], [0, 18, 0, 3]])[None]  # fills the picture, in perspective
    faces, uv = torch.tensor([[0, 1, 2]]), torch.tensor([[0.0, 0], [1, 0.2], [0.3, 1]])
    seen = rasterize(clip, faces, 64, backend)
    places, step = interpolate(uv, seen)[0], footprint(uv, seen)[0]
    assert seen.mask.all()
    right, down = (places[1:-1, 2:] - places[1:-1, :-2]) / 2, (places[2:, 1:-1] - places[:-2, 1:-1]) / 2
    torch.testing.assert_close(step[1:-1, 1:-1], torch.stack([right, down], -1), rtol=1e-3, atol=1e-5)


def test_split_vertices_have_rows_of_their_own() -> None:
    vertices, faces = ball(1)
    seen = rasterize(to_clip(vertices, CAMERAS), faces, 16)
    split = torch.arange(3 * len(faces)).view(-1, 3).int()
    torch.testing.assert_close(interpolate(vertices[faces.flatten().long()], seen, split), interpolate(vertices, seen))
    each = torch.stack([vertices, 2 * vertices])
    torch.testing.assert_close(interpolate(each, seen)[1], 2 * interpolate(vertices, seen)[1])


@BACKENDS
def test_corners_across_edges(backend: str) -> None:
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [5, 6, 7], [6, 5, 8], [5, 6, 9]]).int()  # an edge of three in the end
    expected = torch.tensor([[4, -1, -1], [-1, 0, -1], [-1, -1, -1], [-1, -1, -1], [-1, -1, -1]])
    assert mesh_raster.across_edges(faces, backend).tolist() == expected.tolist()
    _, closed = ball(2)
    other = mesh_raster.across_edges(closed, backend)
    assert (other >= 0).all() and torch.equal(other, mesh_raster.across_edges(closed, "torch"))


# -- what it finds ---------------------------------------------------------------------------------------------


def test_a_triangle_finds_the_silhouette_that_it_is_shown() -> None:
    faces, size = torch.tensor([[0, 1, 2]]), 32

    def silhouette(places: Tensor) -> Tensor:
        clip = torch.cat([places, torch.zeros_like(places[:, :1]), torch.ones_like(places[:, :1])], 1)[None]
        seen = rasterize(clip, faces, size)
        return antialias(seen.mask[..., None].float(), seen)

    target = torch.tensor([[-0.6, -0.4], [0.7, -0.3], [0.1, 0.65]])
    goal, places = silhouette(target), (target * 0.5 + torch.tensor([0.15, -0.1])).requires_grad_()
    optimizer = torch.optim.Adam([places], 0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
    losses = []
    for _ in range(250):
        optimizer.zero_grad()
        loss = (silhouette(places) - goal).square().sum()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss))
    assert losses[-1] < 0.02 * losses[0]
    assert float((places.detach() - target).abs().amax()) < 0.5 * 2 / size  # half a pixel, at corners too


@pytest.mark.slow
def test_a_ball_becomes_an_egg_from_silhouettes() -> None:
    vertices, faces = ball(2, 0.4)
    cameras = orbit(torch.arange(6) * math.pi / 3, torch.tensor([0.3]), 2.0)

    def silhouettes(vertices: Tensor) -> Tensor:
        seen = rasterize(to_clip(vertices, cameras), faces, 48)
        return antialias(seen.mask[..., None].float(), seen)

    goal = silhouettes(vertices * torch.tensor([1.4, 0.8, 1.0]))
    scale = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([scale], 0.03)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.96)
    for _ in range(80):
        optimizer.zero_grad()
        (silhouettes(vertices * scale) - goal).square().mean().backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(scale.detach(), torch.tensor([1.4, 0.8, 1.0]), atol=0.01, rtol=0)
