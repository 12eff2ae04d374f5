"""The rasteriser against ray casting and closed forms, and its backends against each other."""

import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from helpers.raster_scenes import Scene, cast_rays, jittered_grid, soup
from hypothesis import given, settings
from hypothesis import strategies as st

from core2d.kernels import raster
from core2d.kernels.raster import Fragments, interpolate, rasterize, torch_twin

BACKENDS = pytest.mark.parametrize("backend", ["torch", "numba"])


def one_mesh(vertices: list[list[float]], faces: list[list[int]]) -> Scene:
    """Vertices as rows (x, y, w) of clip space."""
    x, y, w = torch.tensor(vertices, dtype=torch.float32).T
    clip = torch.stack([x, y, torch.zeros_like(w), w], -1)
    return Scene(clip, torch.tensor(faces).int(), torch.tensor([0, len(faces)]).int())


def square(left: float, right: float, bottom: float, top: float, w: float) -> list[list[float]]:
    corners = (left, bottom), (right, bottom), (right, top), (left, top)
    return [[x * w, y * w, w] for x, y in corners]


def assert_same(one: Fragments, other: Fragments) -> None:
    assert torch.equal(one.face, other.face)
    assert torch.equal(one.barycentric, other.barycentric)
    assert torch.equal(one.depth, other.depth)


def assert_agrees_with_rays(fragments: Fragments, scene: Scene, tolerance: float, slack: float = 1e-4) -> None:
    images, height, width = fragments.face.shape
    for image in range(images):
        rays = cast_rays(scene, image, height, width, slack)
        assert rays.sure.float().mean() > 0.9
        assert torch.equal(fragments.face[image][rays.sure].long(), rays.face[rays.sure])
        seen = rays.sure & (rays.face >= 0)
        torch.testing.assert_close(
            fragments.barycentric[image][seen].double(), rays.barycentric[seen], rtol=0, atol=tolerance
        )
        torch.testing.assert_close(
            fragments.depth[image][seen].double(), rays.depth[seen], rtol=tolerance, atol=tolerance
        )


@BACKENDS
def test_a_square_covers_exactly_its_pixels(backend: str) -> None:
    # 8 x 6 pixels; columns 2 to 5 span x of [-0.5, 0.5], rows 1 to 2 span y of [0, 2/3]: row 0 is the top
    scene = one_mesh(square(-0.5, 0.5, 0.0, 2 / 3, 2.0), [[0, 1, 2], [0, 2, 3]])
    fragments = rasterize(*scene, height=6, width=8, backend=backend)
    expected = torch.zeros(1, 6, 8, dtype=torch.bool)
    expected[:, 1:3, 2:6] = True
    assert torch.equal(fragments.mask, expected)
    torch.testing.assert_close(fragments.depth[expected], torch.full((8,), 2.0))
    torch.testing.assert_close(fragments.barycentric.sum(-1), expected.float())
    assert fragments.depth[~expected].isinf().all()
    assert fragments.face.dtype == torch.int32


@BACKENDS
def test_interpolation_is_perspective_correct(backend: str) -> None:
    # a slanted triangle that fills the picture: the seen point must be where the ray meets its plane
    corners = torch.tensor([[-4.0, -4.0, 1.5], [30.0, -6.0, 6.0], [-5.0, 30.0, 5.0]])
    scene = one_mesh(corners.tolist(), [[0, 1, 2]])
    fragments = rasterize(*scene, height=16, width=24, backend=backend)
    assert fragments.mask.all()
    seen = interpolate(corners, scene.faces, fragments)[0]  # (h, w, 3)

    y, x = torch.meshgrid(1 - (torch.arange(16) + 0.5) / 8, (torch.arange(24) + 0.5) / 12 - 1, indexing="ij")
    ray = torch.stack([x, y, torch.ones_like(x)], -1)
    normal = torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0])
    distance = (normal @ corners[0]) / (ray @ normal)
    torch.testing.assert_close(seen, ray * distance[..., None], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fragments.depth[0], distance, rtol=1e-5, atol=1e-5)


@BACKENDS
def test_a_ground_plane_that_passes_under_the_camera(backend: str) -> None:
    # one corner far behind the camera, two in front: the ground is seen up to the horizon and nowhere above
    scene = one_mesh([[-100.0, -1.0, 50.0], [100.0, -1.0, 50.0], [0.0, -1.0, -50.0]], [[0, 1, 2]])
    fragments = rasterize(*scene, height=32, width=32, backend=backend)
    assert_agrees_with_rays(fragments, scene, tolerance=1e-4)
    assert fragments.mask[0, 17:].all() and not fragments.mask[0, :16].any()
    y = (torch.arange(17, 32) + 0.5) / 16 - 1
    torch.testing.assert_close(fragments.depth[0, 17:, 16], 1 / y, rtol=1e-4, atol=0)


@BACKENDS
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), triangles=st.integers(1, 40), crossing=st.sampled_from([0.0, 0.5]))
def test_random_triangles_agree_with_ray_casting(backend: str, seed: int, triangles: int, crossing: float) -> None:
    scene = soup(seed, triangles, crossing=crossing)
    fragments = rasterize(*scene, height=20, width=28, backend=backend)
    assert_agrees_with_rays(fragments, scene, tolerance=1e-4)


def test_float64_agrees_with_ray_casting_to_many_digits() -> None:
    scene = soup(3, triangles=40, crossing=0.3)
    fragments = Fragments(*torch_twin.rasterize(scene.clip.double(), *scene[1:], height=24, width=24))
    assert fragments.depth.dtype == torch.float64
    assert_agrees_with_rays(fragments, scene, tolerance=1e-9, slack=1e-9)


@BACKENDS
def test_tiny_triangles_in_a_large_picture_stay_precise(backend: str) -> None:
    scene = soup(4, triangles=16, size=0.02)
    fragments = rasterize(*scene, height=512, width=512, backend=backend)
    assert fragments.mask.sum() > 50
    assert_agrees_with_rays(fragments, scene, tolerance=5e-4, slack=5e-4)


@pytest.mark.parametrize("crossing", [0.0, 0.4])
def test_numba_equals_the_twin_to_the_bit(crossing: float) -> None:
    scene = soup(5, triangles=60, images=4, crossing=crossing)
    assert_same(rasterize(*scene, 33, 47, backend="numba"), rasterize(*scene, 33, 47, backend="torch"))


@BACKENDS
@pytest.mark.parametrize("seed", range(3))
def test_no_pixel_falls_between_triangles_that_share_an_edge(backend: str, seed: int) -> None:
    fragments = rasterize(*jittered_grid(seed, cells=9), height=96, width=96, backend=backend)
    assert fragments.mask.all()


@BACKENDS
def test_no_pixel_falls_between_triangles_when_edges_meet_pixel_centres(backend: str) -> None:
    # a fan around a pixel centre whose spokes run through pixel centres
    rim = [[math.cos(k * math.pi / 4) * 4, math.sin(k * math.pi / 4) * 4, 1.0 + k / 8] for k in range(8)]
    rim = [[x * w + w / 16, y * w - w / 16, w] for x, y, w in rim]
    scene = one_mesh([[1 / 16, -1 / 16, 1.0], *rim], [[0, k + 1, (k + 1) % 8 + 1] for k in range(8)])
    assert rasterize(*scene, height=16, width=16, backend=backend).mask.all()


@BACKENDS
def test_the_nearest_wins_and_of_equals_the_first(backend: str) -> None:
    vertices = square(-1, 1, -1, 1, 3.0) + square(-1, 1, -1, 1, 2.0) + square(-1, 0, -1, 1, 1.0)
    far, middle, near = ([[k, k + 1, k + 2], [k, k + 2, k + 3]] for k in (0, 4, 8))
    scene = one_mesh(vertices, far + middle + middle + near)
    fragments = rasterize(*scene, height=4, width=4, backend=backend)
    assert (fragments.face[..., :2] // 2 == 3).all()
    assert (fragments.face[..., 2:] // 2 == 1).all()
    torch.testing.assert_close(fragments.depth[0, 0], torch.tensor([1.0, 1.0, 2.0, 2.0]))


@BACKENDS
def test_both_windings_are_drawn_alike(backend: str) -> None:
    scene = soup(6, triangles=10)
    turned = scene._replace(faces=scene.faces.flip(1))
    one, other = (rasterize(*each, 24, 24, backend=backend) for each in (scene, turned))
    assert one.mask.any()
    assert torch.equal(one.face, other.face)
    torch.testing.assert_close(one.barycentric, other.barycentric.flip(-1), rtol=0, atol=1e-5)


@BACKENDS
@pytest.mark.parametrize(
    "vertices",
    [
        square(-1, 1, -1, 1, -2.0)[:3],  # behind the camera
        [[-1.0, -1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]],  # no area
        [[0.0, 0.0, 1.0]] * 3,  # a point
        [[-1e-5, -1e-5, 1e-5], [1e-5, -1e-5, 1e-5], [0.0, 1e-5, 1e-5]],  # nearer than the near distance
        [[5.0, 0.0, 1.0], [6.0, 0.0, 1.0], [5.0, 1.0, 1.0]],  # out of the picture
        [[-1.0, -1.0, 1.0], [1.0, -1.0, 1.0], [math.nan, 1.0, 1.0]],
        [[-1.0, -1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 1.0, math.nan]],
    ],
)
def test_what_cannot_be_seen_is_not_drawn(backend: str, vertices: list[list[float]]) -> None:
    fragments = rasterize(*one_mesh(vertices, [[0, 1, 2]]), height=9, width=9, backend=backend)
    assert not fragments.mask.any()
    assert not fragments.barycentric.any()
    assert fragments.depth.isinf().all()


@BACKENDS
def test_a_batch_equals_its_images(backend: str) -> None:
    clip, faces, _ = soup(7, triangles=30)
    offsets = [0, 12, 12, 30]  # the middle image is empty
    batch = rasterize(clip, faces, torch.tensor(offsets).int(), 16, 20, backend=backend)
    assert not batch.mask[1].any() and batch.mask[0].any() and batch.mask[2].any()
    for image, (first, last) in enumerate(pairwise(offsets)):
        alone = rasterize(clip, faces[first:last], torch.tensor([0, last - first]), 16, 20, backend=backend)
        assert torch.equal(batch.face[image], torch.where(alone.mask, alone.face + first, -1)[0])
        assert torch.equal(batch.barycentric[image], alone.barycentric[0])
        assert torch.equal(batch.depth[image], alone.depth[0])


def test_the_twin_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = soup(8, triangles=20, images=2, crossing=0.2)
    whole = rasterize(*scene, 16, 16, backend="torch")
    monkeypatch.setattr(torch_twin, "CHUNK", 3 * 16 * 16)
    assert_same(whole, rasterize(*scene, 16, 16, backend="torch"))


def test_interpolate_gradients_and_empty_pixels() -> None:
    clip, faces, offsets = soup(9, triangles=9, size=0.5)
    fragments = Fragments(*torch_twin.rasterize(clip.double(), faces, offsets, 6, 6))
    assert 0 < fragments.mask.sum() < 36
    attributes = torch.randn(len(clip), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: interpolate(a, faces, fragments), attributes)
    assert not interpolate(attributes, faces, fragments)[~fragments.mask].any()


def test_wrong_arguments_are_named() -> None:
    clip, faces, offsets = soup(10, triangles=1)
    with pytest.raises(ValueError, match=r"clip \(3, 3\)"):
        rasterize(clip[:, :3], faces, offsets, 4, 4)
    with pytest.raises(ValueError, match="opengl"):
        rasterize(clip, faces, offsets, 4, 4, backend="opengl")


def test_the_environment_forces_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFTKIT_BACKEND", "opengl")
    with pytest.raises(ValueError, match="opengl"):
        rasterize(*soup(11, triangles=1), 4, 4)


def test_drawing_on_a_cpu_never_imports_triton() -> None:
    program = (
        "import sys, torch; before = 'triton' in sys.modules\n"
        "from core2d.kernels.raster import rasterize\n"
        "for backend in ('auto', 'torch', 'numba'):\n"
        "    rasterize(torch.ones(3, 4), torch.tensor([[0, 1, 2]]), torch.tensor([0, 1]), 4, 4, backend)\n"
        "assert before or 'triton' not in sys.modules\n"
    )
    folder = raster.__path__[0].removesuffix("/core2d/kernels/raster")
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, timeout=120)
