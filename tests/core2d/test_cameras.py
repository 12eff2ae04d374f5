"""Cameras: geometry round trips, rays against projection, and every convention against its definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core2d.prior import cameras
from core2d.prior.camera_token import camera_features
from core2d.prior.cameras import (
    Cameras,
    gltf_to_world,
    look_at,
    mvdream_numbers,
    opengl_to_opencv,
    orbit,
    relative_view,
)
from core2d.prior.cameras import degrees as to_radians
from core2d.toybox import world
from core2d.toybox.dataset import camera_numbers
from core2d.toybox.render import camera_to_world
from core2d.toybox.scene import still

azimuths, elevations = st.floats(-math.pi, math.pi), st.floats(-1.5, 1.5)
radii, fields = st.floats(0.3, 10.0), st.floats(0.2, 2.0)
points = st.tuples(*[st.floats(-3.0, 3.0)] * 3)
property_test = settings(deadline=None, max_examples=60)


def assert_rigid(matrices: torch.Tensor) -> None:
    rotation = matrices[:, :3, :3]
    identity = torch.eye(3).expand_as(rotation)
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(len(matrices)), atol=1e-5, rtol=0)
    assert torch.equal(matrices[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(len(matrices), 4))


def random_cameras(count: int, seed: int = 0) -> Cameras:
    numbers = torch.rand((4, count), generator=torch.Generator().manual_seed(seed))
    return orbit(6.0 * numbers[0] - 3, 2.8 * numbers[1] - 1.4, 1 + numbers[2], 0.4 + numbers[3])


@property_test
@given(points, points)
def test_look_at_turns_towards_its_target_and_stays_upright(position: tuple, target: tuple) -> None:
    distance = math.dist(position, target)
    flat = math.dist(position[:2], target[:2])
    if distance < 0.1 or flat < 1e-3 * distance:
        return
    matrix = look_at(torch.tensor([position]), torch.tensor(target))
    assert_rigid(matrix)
    assert torch.equal(matrix[0, :3, 3], torch.tensor(position))
    towards = (torch.tensor(target) - torch.tensor(position)) / distance
    torch.testing.assert_close(-matrix[0, :3, 2], towards, atol=1e-5, rtol=0)
    assert abs(matrix[0, 2, 0]) < 1e-6 and matrix[0, 2, 1] > 0  # right is level, up points up


def test_look_at_takes_another_up_and_copes_with_straight_up_and_down() -> None:
    ends = torch.tensor([[0.0, 0, 2], [0, 0, -2]])
    matrix = look_at(ends, torch.zeros(3))
    assert_rigid(matrix)
    torch.testing.assert_close(matrix[:, :3, 1], torch.tensor([[1.0, 0, 0]]).expand(2, 3))  # +X is up then
    sideways = look_at(torch.tensor([[2.0, 0, 0]]), torch.zeros(3), up=torch.tensor([0.0, 1, 0]))
    assert_rigid(sideways)
    torch.testing.assert_close(sideways[0, :3, 1], torch.tensor([0.0, 1, 0]))


@property_test
@given(azimuths, elevations, radii, fields)
def test_an_orbit_is_where_it_says(azimuth: float, elevation: float, radius: float, fov_y: float) -> None:
    camera = orbit(azimuth, elevation, radius, fov_y)
    assert len(camera) == 1
    assert_rigid(camera.camera_to_world)
    turn = float(camera.azimuth[0]) - azimuth
    assert abs(math.remainder(turn, 2 * math.pi)) < 1e-4
    assert float(camera.elevation[0]) == pytest.approx(elevation, abs=1e-4)
    assert float(camera.radius[0]) == pytest.approx(radius, rel=1e-5) and float(camera.fov_y[0]) == pytest.approx(fov_y)
    torch.testing.assert_close(-camera.camera_to_world[:, :3, 2] * radius, -camera.position, atol=1e-4, rtol=0)


def test_orbit_takes_numbers_sequences_and_tensors_alike() -> None:
    one = orbit([0.1, 0.2, 0.3], 0.4, torch.tensor([2.0]))
    other = orbit(torch.tensor([0.1, 0.2, 0.3]), [0.4] * 3, 2.0, math.radians(40))
    assert len(one) == 3 and torch.equal(one.camera_to_world, other.camera_to_world)
    assert torch.equal(one.fov_y, other.fov_y)
    torch.testing.assert_close(orbit(0, 0, 2).position, torch.tensor([[2.0, 0, 0]]))  # azimuth 0 sees the front, +X
    torch.testing.assert_close(orbit(math.pi / 2, 0, 2).position, torch.tensor([[0.0, 2, 0]]), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and \(3,\)"):
        Cameras(torch.eye(4).expand(2, 4, 4), torch.ones(3))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10), (9, 4)])
def test_a_ray_goes_through_its_pixel_centre(height: int, width: int) -> None:
    camera = random_cameras(5)
    origins, directions = camera.rays(height, width)
    assert origins.shape == (5, 3) and directions.shape == (5, height, width, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(5, height, width))
    torch.testing.assert_close(origins, camera.position)
    point = origins[:, None, None] + 1.7 * directions  # (n, h, w, 3)
    homogeneous = torch.cat([point, torch.ones(5, height, width, 1)], -1)
    clip = torch.einsum("nij,nhwj->nhwi", camera.world_to_clip(aspect=width / height), homogeneous)
    ndc = clip[..., :2] / clip[..., 3:]
    x = ((torch.arange(width) + 0.5) / width * 2 - 1).expand(height, width)
    y = (1 - (torch.arange(height) + 0.5) / height * 2)[:, None].expand(height, width)  # row 0 is the top
    torch.testing.assert_close(ndc, torch.stack([x, y], -1).expand_as(ndc), atol=1e-5, rtol=0)
    along = torch.einsum("ni,nhwi->nhw", -camera.camera_to_world[:, :3, 2], 1.7 * directions)
    torch.testing.assert_close(clip[..., 3], along, atol=1e-5, rtol=0)  # w is the distance along the view axis


def test_clip_space_spans_near_to_far_and_the_field_of_view() -> None:
    camera = orbit(0.7, 0.3, 2.0, 1.1)
    forward, up = -camera.camera_to_world[0, :3, 2], camera.camera_to_world[0, :3, 1]
    for distance, depth in ((0.5, -1.0), (8.0, 1.0)):
        top = camera.position[0] + distance * (forward + math.tan(1.1 / 2) * up)
        x, y, z, w = camera.world_to_clip(near=0.5, far=8.0)[0] @ torch.cat([top, torch.ones(1)])
        assert float(x / w) == pytest.approx(0, abs=1e-5) and float(y / w) == pytest.approx(1, abs=1e-5)
        assert float(z / w) == pytest.approx(depth, abs=1e-4) and float(w) == pytest.approx(distance, abs=1e-5)


def test_toybox_looks_through_the_same_cameras() -> None:
    scenes = [still(world.JUDGE_SEEDS[0], index) for index in range(100)]
    view = [[scene.view.azimuth, scene.view.elevation, scene.view.radius] for scene in scenes]
    assert all(scene.view.pan == 0 for scene in scenes)
    azimuth, elevation, radius = torch.tensor(view).T
    camera = orbit(azimuth, elevation, radius, math.radians(world.FIELD_OF_VIEW))
    torch.testing.assert_close(torch.from_numpy(camera_to_world(scenes)), camera.camera_to_world, atol=1e-5, rtol=0)
    # what the prior is trained on is what a user's camera gives it
    np.testing.assert_allclose(camera_numbers(scenes), camera_features(camera).numpy(), atol=1e-5)
    assert orbit(0, 0, 1).fov_y.item() == pytest.approx(math.radians(world.FIELD_OF_VIEW))


def test_opencv_looks_along_z_with_y_down_and_back_again() -> None:
    ours = random_cameras(20).camera_to_world
    opencv = opengl_to_opencv(ours)
    assert_rigid(opencv)
    assert torch.equal(opencv[:, :3, 0], ours[:, :3, 0]) and torch.equal(opencv[:, :3, 3], ours[:, :3, 3])
    assert torch.equal(opencv[:, :3, 1], -ours[:, :3, 1]) and torch.equal(opencv[:, :3, 2], -ours[:, :3, 2])
    torch.testing.assert_close(opengl_to_opencv(opencv), ours, atol=1e-6, rtol=0)


def test_gltf_is_y_up_with_its_front_along_z_and_back_again() -> None:
    axes = torch.eye(3)  # front +X, left +Y, up +Z
    front, left, up = cameras.world_to_gltf(axes)
    assert front.tolist() == [0, 0, 1] and up.tolist() == [0, 1, 0]
    assert left.tolist() == [1, 0, 0]  # seen from the front its left is on the right: nothing is mirrored
    assert torch.linalg.det(cameras.world_to_gltf(axes)) == 1
    anywhere = torch.randn((2, 3, 5, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(gltf_to_world(cameras.world_to_gltf(anywhere)), anywhere)


def test_relative_view_is_zero_123s() -> None:
    # its code: polar = arctan2(sqrt(x^2 + y^2), z), azimuth = arctan2(y, x); T = target - source
    source, target = random_cameras(50, seed=1), random_cameras(50, seed=2)

    def spherical(camera: Cameras) -> np.ndarray:
        x, y, z = camera.position.double().numpy().T
        return np.stack([np.arctan2(np.hypot(x, y), z), np.arctan2(y, x), np.linalg.norm([x, y, z], axis=0)])

    polar, turn, radius = spherical(target) - spherical(source)
    expected = np.stack([polar, np.sin(turn), np.cos(turn), radius], 1)
    np.testing.assert_allclose(relative_view(source, target).numpy(), expected, atol=1e-5)
    assert relative_view(source, source).tolist() == [[0, 0, 1, 0]] * 50
    higher = relative_view(orbit(0, 0, 1), orbit(0.5, 0.3, 1.5))[0]
    torch.testing.assert_close(higher, torch.tensor([-0.3, math.sin(0.5), math.cos(0.5), 0.5]), atol=1e-6, rtol=0)


def test_mvdreams_numbers_are_the_matrix_at_unit_distance() -> None:
    camera = random_cameras(10)
    matrix = mvdream_numbers(camera).unflatten(1, (4, 4))
    assert_rigid(matrix)
    torch.testing.assert_close(matrix[:, :3, 3].norm(dim=1), torch.ones(10))
    torch.testing.assert_close(matrix[:, :3, :3], camera.camera_to_world[:, :3, :3])
    torch.testing.assert_close(matrix[:, :3, 3] * camera.radius[:, None], camera.position)
    assert camera.radius.min() > 1  # the camera itself is not touched


def test_degrees_come_in_and_radians_go_out() -> None:
    torch.testing.assert_close(to_radians([0, 90, -180]), torch.tensor([0, math.pi / 2, -math.pi]))
    assert to_radians(45).shape == (1,)
