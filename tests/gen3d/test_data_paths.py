"""Camera paths out of two kinds of files."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.nerf_scenes import BENT, FISHEYE, LENS, Ball, intrinsics, save, write_blender
from torch import Tensor

from core2d.app.errors import InputError
from core2d.prior.cameras import Cameras
from gen3d.data.lenses import Lens
from gen3d.data.paths import CameraPath, read_path


def pixel_rays(path: CameraPath, index: int) -> Tensor:
    """(h, w, 3) directions in the world through the middles of the pixels."""
    lens = path.lenses[index]
    y, x = torch.meshgrid(torch.arange(lens.height), torch.arange(lens.width), indexing="ij")
    local = lens.directions(torch.stack([x, y], -1).reshape(-1, 2).float() + 0.5)
    return (local @ path.camera_to_world[index, :3, :3].T).view(lens.height, lens.width, 3)


def viewer_path(poses: Tensor, fov: float = 50.0, **others: Any) -> dict[str, Any]:
    """As nerfstudio's viewer saves it."""
    cameras = [{"camera_to_world": pose.flatten().tolist(), "fov": fov, "aspect": 4 / 3} for pose in poses]
    return {
        "camera_type": "perspective", "render_height": 30, "render_width": 40, "camera_path": cameras,
        "fps": 30, "seconds": len(cameras) / 30, "is_cycle": False, "smoothness_value": 0.5, "keyframes": [],
    } | others  # fmt: skip


def written(folder: Path, data: Any) -> Path:
    path = folder / "cameras.json"
    path.write_text(json.dumps(data))
    return path


def test_a_path_has_cameras_and_a_lens_for_each() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 4, 4\) and 1"):
        CameraPath(torch.eye(4).expand(2, 4, 4), (LENS,), 24.0)
    with pytest.raises(ValueError, match=r"n > 0"):
        CameraPath(torch.zeros(0, 4, 4), (), 24.0)


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
def test_a_path_of_nerfstudio(tmp_path: Path, nested: bool) -> None:
    poses = Ball().cameras(7)
    data = viewer_path(poses)
    if nested:
        for entry, pose in zip(data["camera_path"], poses, strict=True):
            entry["camera_to_world"] = pose.tolist()
    path = read_path(written(tmp_path, data))
    assert torch.equal(path.camera_to_world, poses.float()) and path.fps == 30
    _, directions = Cameras(poses.float(), torch.full((7,), math.radians(50))).rays(30, 40)
    torch.testing.assert_close(pixel_rays(path, 3), directions[3], rtol=0, atol=1e-5)


def test_a_fisheye_of_nerfstudio(tmp_path: Path) -> None:
    path = read_path(written(tmp_path, viewer_path(Ball().cameras(2), fov=90.0, camera_type="fisheye")))
    lens = path.lenses[0]
    assert (lens.model, lens.fx, lens.cx) == ("fisheye", pytest.approx(15.0), 20.0)
    (direction,) = lens.directions(torch.tensor([[20.0 + 15 * math.pi / 4, 15.0]]))  # the angle grows with the radius
    torch.testing.assert_close(direction, torch.tensor([math.sqrt(0.5), 0, -math.sqrt(0.5)]))


@pytest.mark.parametrize(
    ("others", "rate"),
    [({}, 30), ({"fps": None, "seconds": 0.5}, 4), ({"fps": None, "seconds": None}, 24), ({"fps": 23.976}, 23.976)],
)
def test_the_rate(tmp_path: Path, others: dict[str, Any], rate: float) -> None:
    assert read_path(written(tmp_path, viewer_path(Ball().cameras(2), **others))).fps == pytest.approx(rate)


@pytest.mark.parametrize("lenses", [[LENS] * 4, [BENT, LENS.scaled(48, 36), FISHEYE]], ids=["one lens", "each its own"])
@pytest.mark.parametrize("named", [False, True])
def test_a_transforms_file(tmp_path: Path, lenses: list[Lens], named: bool) -> None:
    poses = Ball().cameras(len(lenses))
    shared = intrinsics(lenses[0]) if len(set(lenses)) == 1 else {}
    frames = [
        ({} if shared else intrinsics(lens))
        | ({"file_path": f"images/{9 - index}.png"} if named else {})
        | {"transform_matrix": pose.tolist()}
        for index, (lens, pose) in enumerate(zip(lenses, poses, strict=True))
    ]
    path = read_path(written(tmp_path, {**shared, "frames": frames, "fps": 12}))
    assert torch.equal(path.camera_to_world, poses.float()) and path.fps == 12
    pixels = torch.rand(50, 2, dtype=torch.float64) * 30
    for found, lens in zip(path.lenses, lenses, strict=True):
        assert (found.width, found.height) == (lens.width, lens.height)
        assert torch.equal(found.directions(pixels), lens.directions(pixels))


def test_the_test_views_of_a_blender_scene_are_a_path(tmp_path: Path) -> None:
    poses = write_blender(tmp_path, (2, 1, 5), size=16)[3:]
    path = read_path(tmp_path / "transforms_test.json")
    assert torch.equal(path.camera_to_world, poses.float())
    assert {(lens.width, lens.height) for lens in path.lenses} == {(16, 16)}  # those of the pictures
    assert path.lenses[0].fx == pytest.approx(8 / math.tan(0.35))
    (tmp_path / "test" / "r_3.png").unlink()
    with pytest.raises(InputError, match=r"transforms_test\.json: r_3 has no w and h, and there is no picture"):
        read_path(tmp_path / "transforms_test.json")


def set_in_camera(name: str, value: Any) -> Callable[[dict], Any]:
    return lambda data: data["camera_path"][1].update({name: value})


def scaled(pose: np.ndarray, factor: float) -> list[float]:
    return (pose @ np.diag([factor, factor, factor, 1.0])).flatten().tolist()


POSE = Ball().cameras(1)[0].numpy()
BROKEN: dict[str, tuple[Callable[[dict], Any], str]] = {
    "neither": (lambda data: data.pop("camera_path"), "is no camera path"),
    "no list": (lambda data: data.update(camera_path={}), "is no camera path"),
    "no camera": (lambda data: data.update(camera_path=[]), "has no cameras"),
    "NaN": (set_in_camera("camera_to_world", [math.nan] * 16), "camera 1 has a pose with numbers that are not finite"),
    "a scale": (set_in_camera("camera_to_world", scaled(POSE, 0.5)), "camera 1 .* not a rotation and a position"),
    "a mirror": (set_in_camera("camera_to_world", scaled(POSE, -1)), "camera 1 .* not a rotation and a position"),
    "a last row": (set_in_camera("camera_to_world", [*POSE.flatten()[:15], 2.0]), "camera 1 .* not a rotation"),
    "12 numbers": (set_in_camera("camera_to_world", POSE[:3].flatten().tolist()), "camera 1 must have 16 numbers"),
    "words": (set_in_camera("camera_to_world", "here"), "camera 1 must have 16 numbers"),
    "no numbers": (lambda data: data["camera_path"][1].pop("camera_to_world"), "camera 1 must have 16 numbers"),
    "not an object": (lambda data: data["camera_path"].append(3), "camera 3 must have 16 numbers"),
    "no fov": (lambda data: data["camera_path"][1].pop("fov"), "camera 1 must have a number fov"),
    "fov 0": (set_in_camera("fov", 0), "camera 1 has a fov of 0"),
    "fov 180": (set_in_camera("fov", 180), "camera 1 has a fov of 180"),
    "fov NaN": (set_in_camera("fov", math.nan), "camera 1 has a fov of nan"),
    "no size": (lambda data: data.pop("render_width"), "render_width and render_height"),
    "size 0": (lambda data: data.update(render_height=0), "40 x 0 pixels"),
    "a huge size": (lambda data: data.update(render_height=10**7), "64 million"),
    "all around": (lambda data: data.update(camera_type="equirectangular"), "camera_type equirectangular"),
    "fps 0": (lambda data: data.update(fps=0), "has 0 frames a second"),
    "fps NaN": (lambda data: data.update(fps=math.nan), "frames a second"),
    "fps words": (lambda data: data.update(fps="fast"), "fps and seconds must be positive numbers"),
    "seconds 0": (lambda data: data.update(fps=None, seconds=0), "fps and seconds must be positive numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_paths_are_named(tmp_path: Path, name: str) -> None:
    data = viewer_path(torch.from_numpy(POSE).expand(3, 4, 4))
    spoil, words = BROKEN[name]
    spoil(data)
    with pytest.raises(InputError, match=rf"cameras\.json.*{words}") as caught:
        read_path(written(tmp_path, data))
    assert "\n" not in str(caught.value)


def test_broken_frames_are_named(tmp_path: Path) -> None:
    pose = POSE.tolist()
    frames: list[Any] = [{"transform_matrix": pose}, {"transform_matrix": pose}]
    good = {**intrinsics(LENS), "frames": frames}
    assert len(read_path(written(tmp_path, good))) == 2
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"frames": []}, "has no cameras"),
        ({"frames": [*frames, 7]}, "frame 2"),
        ({"frames": [*frames, {}]}, "transform_matrix of frame 2"),
        ({"frames": [*frames, {"transform_matrix": (2 * POSE).tolist()}]}, "camera 2 .* not a rotation"),
        ({"frames": [*frames, {"transform_matrix": pose, "w": 80, "h": 60}]}, "of 2 sizes: a film has one"),
        ({"fl_x": 0}, "camera 0 has a focal length .* must be positive"),
        ({"fl_x": None}, "frame 0 has neither fl_x nor camera_angle_x"),
        ({"w": None}, "frame 0 has no w and h"),
    ]
    for change, words in wrong:
        with pytest.raises(InputError, match=rf"cameras\.json.*{words}"):
            read_path(written(tmp_path, good | change))


def test_what_is_no_file_of_cameras(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no camera path at .*gone\.json: name a camera path"):
        read_path(tmp_path / "gone.json")
    for name, content in {"cut.json": b'{"camera_path": [', "list.json": b"[]", "binary.json": b"\xff\x00"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_path(tmp_path / name)
    picture = save(tmp_path / "photo.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"photo\.png"):
        read_path(picture)
