"""Lenses against OpenCV's formulas written out in NumPy, and the converters of camera conventions."""

import math

import numpy as np
import pytest
import torch
from helpers.nerf_scenes import BENT, FISHEYE, LENS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core2d.prior.cameras import (
    colmap_to_opengl,
    llff_to_opengl,
    look_at,
    opengl_to_colmap,
    opengl_to_llff,
    opengl_to_opencv,
)
from gen3d.data.lenses import (
    Lens,
    Lenses,
    distort_fisheye,
    distort_opencv,
    undistort_fisheye,
    undistort_opencv,
)

FULL_HD = (1920, 1080, 1500.0, 1490.0, 955.0, 545.0)
LENSES = {
    "pinhole": Lens(*FULL_HD),
    "brown": Lens(*FULL_HD, "opencv", (-0.28, 0.07, 0.0015, -0.0008)),
    "cushion": Lens(*FULL_HD, "opencv", (0.2, 0.1, -0.002, 0.001, 0.05)),
    "rational": Lens(*FULL_HD, "opencv", (0.6, -0.4, 0.001, 0.0005, 0.02, 0.9, -0.3, 0.01)),
    "fisheye": Lens(1920, 1080, 620.0, 620.0, 955.0, 545.0, "fisheye", (0.04, -0.012, 0.003, -0.0004)),
}
EVERY = pytest.mark.parametrize("name", LENSES)


def pixels_of(lens: Lens, step: int = 40) -> Tensor:
    """The corners' pixels included."""
    x, y = (torch.arange(0, size + step - 1, step).clamp(max=size - 1) for size in (lens.width, lens.height))
    return torch.cartesian_prod(x, y).double() + 0.5


def opencv_pixels(lens: Lens, points: np.ndarray) -> np.ndarray:
    """cv::projectPoints and cv::fisheye::projectPoints, as their documentation writes them; points in OpenCV's axes."""
    a, b = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    r2 = a**2 + b**2
    if lens.model == "fisheye":
        k1, k2, k3, k4 = lens.distortion
        r = np.sqrt(r2)
        theta = np.arctan(r)
        theta_d = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
        x, y = theta_d / r * a, theta_d / r * b
    else:
        k1, k2, p1, p2, k3, k4, k5, k6 = (*lens.distortion, *[0.0] * 8)[:8]
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        x = a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a**2)
        y = b * radial + p1 * (r2 + 2 * b**2) + 2 * p2 * a * b
    return np.stack([lens.fx * x + lens.cx, lens.fy * y + lens.cy], 1)


@EVERY
def test_projection_is_opencvs(name: str) -> None:
    lens = LENSES[name]
    points = np.random.default_rng(0).uniform([-0.6, -0.35, 1.0], [0.6, 0.35, 5.0], (500, 3))
    points[:, :2] *= points[:, 2:]
    ours = lens.project(torch.from_numpy(points * (1, -1, -1)))
    np.testing.assert_allclose(ours.numpy(), opencv_pixels(lens, points), rtol=0, atol=1e-9)


@EVERY
@pytest.mark.parametrize(("dtype", "exactness"), [(torch.float64, 1e-8), (torch.float32, 2e-3)])
def test_directions_are_the_inverse_of_projection(name: str, dtype: torch.dtype, exactness: float) -> None:
    lens = LENSES[name]
    pixels = pixels_of(lens).to(dtype)
    directions = lens.directions(pixels)
    assert directions.dtype == dtype
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(pixels), dtype=dtype))
    torch.testing.assert_close(lens.project(3.7 * directions), pixels, rtol=0, atol=exactness)


@EVERY
def test_what_opencv_projects_is_found_again(name: str) -> None:
    lens = LENSES[name]
    pixels = pixels_of(lens)
    forward = lens.directions(pixels) * torch.tensor([1.0, -1, -1])
    ahead = forward[:, 2] > 0.2
    np.testing.assert_allclose(opencv_pixels(lens, forward[ahead].numpy()), pixels[ahead].numpy(), rtol=0, atol=1e-4)
    assert int(ahead.sum()) > 800


def test_directions_of_a_pinhole() -> None:
    lens = Lens(4, 2, 2.0, 2.0, 2.0, 1.0)
    found = lens.directions(torch.tensor([[2.0, 1.0], [4.0, 1.0], [2.0, -1.0]]))  # the middle, right, above
    root = math.sqrt(0.5)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, -1], [root, 0, -root], [0, root, -root]]))


def test_a_fisheye_sees_behind_itself() -> None:
    lens = Lens(400, 400, 60.0, 60.0, 200.0, 200.0, "fisheye", (0.0, 0.0, 0.0, 0.0))  # equidistant
    angle = math.radians(120)
    point = torch.tensor([[math.sin(angle), 0.0, -math.cos(angle)]], dtype=torch.float64)
    pixels = lens.project(point)
    torch.testing.assert_close(pixels, torch.tensor([[200 + 60 * angle, 200.0]], dtype=torch.float64))
    torch.testing.assert_close(lens.directions(pixels), point)


def test_what_is_not_seen_is_nan() -> None:
    points = torch.tensor([[0.0, 0, 1], [0.1, 0.1, 2], [0, 0, 0]], dtype=torch.float64)
    assert LENS.project(points).isnan().all() and BENT.project(points).isnan().all()
    folding = Lens(40, 40, 40.0, 40.0, 20.0, 20.0, "opencv", (-0.3, 0.0, 0.0, 0.0))
    aside = torch.tensor([[1.8, 0, -1], [0.5, 0, -1]], dtype=torch.float64)  # 1.8 (1 - 0.3 1.8^2) = 0.05: folded back
    assert folding.project(aside)[0].isnan().all() and folding.project(aside)[1].isfinite().all()
    assert folding.directions(torch.tensor([[400.0, 20.0], [-90, 77]])).isfinite().all()  # nothing can be there


def test_many_lenses_at_once() -> None:
    lenses = [LENS, BENT, FISHEYE]
    rows = torch.arange(60) % 3
    pixels = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)).double() * 30
    together = Lenses.of(lenses)[rows]
    directions = together.directions(pixels)
    for row, lens in enumerate(lenses):
        alone = lens.directions(pixels[rows == row])
        torch.testing.assert_close(directions[rows == row], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(together.project(directions)[rows == row], lens.project(alone), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.floats(-0.08, 0.08)] * 8), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
def test_undistortion_is_the_inverse(numbers: tuple[float, ...], x: float, y: float) -> None:
    distortion, xy = torch.tensor([numbers], dtype=torch.float64), torch.tensor([[x, y]], dtype=torch.float64)
    torch.testing.assert_close(undistort_opencv(distortion, distort_opencv(distortion, xy)), xy, rtol=0, atol=1e-9)
    torch.testing.assert_close(undistort_fisheye(distortion, distort_fisheye(distortion, xy)), xy, rtol=0, atol=1e-9)


def test_other_sizes() -> None:
    pixels = pixels_of(BENT, 7)
    half = BENT.scaled(24, 18)
    torch.testing.assert_close(half.directions(pixels / 2), BENT.directions(pixels))
    third = BENT.shrunk(5)  # 48 x 36: three columns and one row are cut off
    assert (third.width, third.height) == (9, 7)
    torch.testing.assert_close(third.directions(pixels / 5), BENT.directions(pixels))


def test_lenses_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="'opencv' cannot have 3"):
        Lens(*FULL_HD, "opencv", (0.1, 0.1, 0.1))
    assert LENS.usable
    for bad in (0.0, -1.0, math.nan, math.inf):
        assert not Lens(4, 4, bad, 1.0, 2.0, 2.0).usable


# -- conventions -------------------------------------------------------------------------------------------------


def some_cameras(count: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    position = torch.randn(count, 3, generator=generator, dtype=torch.float64) * 4
    cameras = look_at(position, torch.randn(count, 3, generator=generator, dtype=torch.float64))
    roll = torch.rand(count, generator=generator, dtype=torch.float64) * 2 * math.pi
    turn = torch.eye(4).double().repeat(count, 1, 1)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = roll.cos(), -roll.sin(), roll.sin(), roll.cos()
    return cameras @ turn


def test_colmap_round_trip() -> None:
    cameras = some_cameras()
    for axis in range(3):  # half turns, where w is 0
        half = torch.eye(4, dtype=torch.float64)
        half[:3, :3] = 2 * torch.outer(torch.eye(3)[axis], torch.eye(3)[axis]).double() - torch.eye(3)
        cameras = torch.cat([cameras, half[None]])
    quaternion, translation = opengl_to_colmap(cameras)
    torch.testing.assert_close(quaternion.norm(dim=1), torch.ones(203, dtype=torch.float64))
    assert (quaternion[:, 0] >= 0).all()
    torch.testing.assert_close(colmap_to_opengl(quaternion, translation), cameras, rtol=0, atol=1e-12)
    torch.testing.assert_close(colmap_to_opengl(-3 * quaternion, translation), cameras, rtol=0, atol=1e-12)
    single = colmap_to_opengl(*opengl_to_colmap(cameras.float()))
    torch.testing.assert_close(single, cameras.float(), rtol=0, atol=1e-5)  # metres, of up to 15
    assert colmap_to_opengl(0 * quaternion[:1], translation[:1]).isnan().any()


def test_colmap_maps_the_world_to_opencv_axes() -> None:
    half = math.radians(90) / 2
    quaternion = torch.tensor([[math.cos(half), 0, 0, math.sin(half)]], dtype=torch.float64)  # a quarter turn about z
    translation = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    point = torch.tensor([5.0, 7.0, 9.0, 1.0], dtype=torch.float64)
    in_camera = torch.linalg.inv(opengl_to_opencv(colmap_to_opengl(quaternion, translation)))[0] @ point
    torch.testing.assert_close(in_camera[:3], torch.tensor([-7.0 + 1, 5 + 2, 9 + 3], dtype=torch.float64))


def test_llff_round_trip() -> None:
    cameras = some_cameras()
    poses = opengl_to_llff(cameras)
    assert torch.equal(llff_to_opengl(poses), cameras)
    down, right, back, position = poses.unbind(2)
    torch.testing.assert_close(torch.linalg.cross(down, right), back)
    assert torch.equal(position, cameras[:, :3, 3]) and torch.equal(-down, cameras[:, :3, 1])
