"""Scenes in every format that are read as they were written, and where their models are placed."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.nerf_scenes import (
    BENT,
    FISHEYE,
    LENS,
    Ball,
    intrinsics,
    read_json,
    save,
    write_blender,
    write_colmap,
    write_json,
    write_llff,
    write_nerfstudio,
)
from PIL import Image
from torch import Tensor

from core2d.prior.cameras import look_at
from gen3d.data.lenses import Lens
from gen3d.data.photographs import Photographs
from gen3d.data.placement import Placement
from gen3d.data.placing import place
from gen3d.data.scene import CapturedScene, load_scene

FAR = Ball(center=(1000.0, -2000.0, 300.0), radius=2.0, distance=11.0)


def poses_of(scene: CapturedScene) -> Tensor:
    return torch.from_numpy(np.stack([view.camera_to_world for view in scene.views]))


def placed(scene: CapturedScene) -> Placement:
    return place(scene, Photographs(scene.views))


# -- formats -----------------------------------------------------------------------------------------------------


def test_blender(tmp_path: Path) -> None:
    cameras = write_blender(tmp_path)
    scene = load_scene(tmp_path)
    assert scene.kind == "blender" and scene.points is None and scene.skipped == ()
    assert [len(scene.of(split)) for split in ("train", "val", "test")] == [6, 2, 3]
    assert torch.equal(poses_of(scene), cameras)
    view = scene.of("test")[1]
    assert view.path == tmp_path / "test" / "r_1.png" and view.mask is None
    assert view.lens.fx == pytest.approx(16 / math.tan(0.35)) == view.lens.fy
    assert (view.lens.cx, view.lens.cy, view.lens.model) == (16, 16, "pinhole")


def test_blender_with_training_views_alone_holds_some_out(tmp_path: Path) -> None:
    write_blender(tmp_path, (9, 0, 0))
    assert [view.path.stem for view in load_scene(tmp_path, hold_every=4).of("test")] == ["r_0", "r_4", "r_8"]
    assert len(load_scene(tmp_path, hold_every=0).of("train")) == 9


@pytest.mark.parametrize("lens", [LENS, BENT, FISHEYE], ids=lambda lens: lens.model)
def test_nerfstudio_shared(tmp_path: Path, lens: Lens) -> None:
    cameras = write_nerfstudio(tmp_path, [lens] * 9)
    scene = load_scene(tmp_path)
    assert scene.kind == "nerfstudio" and torch.equal(poses_of(scene), cameras)
    assert [index for index, view in enumerate(scene.views) if view.split == "test"] == [0, 8]
    for view in scene.views:
        k3 = (0.0,) if lens.model == "opencv" else ()
        assert view.lens == replace(lens, distortion=lens.distortion + k3)


def test_nerfstudio_with_a_lens_a_frame_masks_and_splits(tmp_path: Path) -> None:
    portrait = Lens(30, 40, 44.0, 45.0, 15.5, 20.5)
    write_nerfstudio(tmp_path, [LENS, BENT, FISHEYE, portrait, LENS])
    data = read_json(tmp_path / "transforms.json")
    data["frames"][3]["mask_path"] = "masks/3.png"
    save(tmp_path / "masks" / "3.png", np.full((40, 30), 255, np.uint8))
    names = [frame["file_path"] for frame in data["frames"]]
    data |= {"train_filenames": names[1:4], "val_filenames": names[:1], "test_filenames": names[:1]}
    write_json(tmp_path / "transforms.json", data)
    scene = load_scene(tmp_path)
    assert [view.path.name for view in scene.of("train")] == [Path(name).name for name in names[1:4]]
    assert scene.of("val") == [] and [view.lens for view in scene.of("test")] == [LENS]  # test rather than val
    assert scene.of("train")[2].lens == portrait and scene.of("train")[2].mask == tmp_path / "masks" / "3.png"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"camera_angle_x": 0.9}, (20 / math.tan(0.45), 20 / math.tan(0.45), 20, 15)),
        ({"camera_angle_x": 0.9, "camera_angle_y": 0.7}, (20 / math.tan(0.45), 15 / math.tan(0.35), 20, 15)),
        ({"fl_x": 50}, (50, 50, 20, 15)),
        ({"fl_x": 50, "fl_y": 52, "cx": 19, "camera_angle_x": 0.9}, (50, 52, 19, 15)),
        ({"fl_x": 100, "fl_y": 104, "cx": 38, "cy": 31, "w": 80, "h": 60}, (50, 52, 19, 15.5)),
        ({"fl_x": 50, "w": 40.0, "h": 30.0, "camera_model": "SIMPLE_PINHOLE"}, (50, 50, 20, 15)),
    ],
)
def test_instant_ngp_says_as_much_as_it_likes(tmp_path: Path, changes: Any, expected: tuple) -> None:
    write_nerfstudio(tmp_path, [LENS] * 3)
    data = {"frames": read_json(tmp_path / "transforms.json")["frames"], "aabb_scale": 4} | changes
    for frame in data["frames"]:
        frame["file_path"] = frame["file_path"].removesuffix(".png")
    write_json(tmp_path / "transforms.json", data)
    lens = load_scene(tmp_path).views[0].lens
    assert (lens.fx, lens.fy, lens.cx, lens.cy) == pytest.approx(expected) and (lens.width, lens.height) == (40, 30)


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
def test_colmap(tmp_path: Path, binary: bool, place: str) -> None:
    lenses = [LENS, BENT, FISHEYE, LENS]
    cameras = write_colmap(tmp_path, lenses, binary, place)
    scene = load_scene(tmp_path)
    assert scene.kind == "colmap" and [view.lens for view in scene.views] == lenses
    torch.testing.assert_close(poses_of(scene), cameras, rtol=0, atol=1e-12)
    assert scene.points is not None and scene.points.shape == (200, 3)
    np.testing.assert_allclose(np.linalg.norm(scene.points, axis=1), 0.5, atol=1e-12)
    assert [view.path.name for view in scene.of("test")] == ["photo 000.png"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("SIMPLE_PINHOLE 40 30 45 20 15", Lens(40, 30, 45, 45, 20, 15)),
        ("SIMPLE_RADIAL 40 30 45 20 15 0.1", Lens(40, 30, 45, 45, 20, 15, "opencv", (0.1, 0, 0, 0))),
        ("RADIAL 40 30 45 20 15 0.1 0.2", Lens(40, 30, 45, 45, 20, 15, "opencv", (0.1, 0.2, 0, 0))),
        ("OPENCV 40 30 45 46 20 15 .1 .2 .3 .4", Lens(40, 30, 45, 46, 20, 15, "opencv", (0.1, 0.2, 0.3, 0.4))),
    ],
)
def test_models_of_colmap(tmp_path: Path, line: str, expected: Lens) -> None:
    write_colmap(tmp_path, [LENS] * 3, binary=False)
    (tmp_path / "sparse/0/cameras.txt").write_text("".join(f"{number} {line}\n" for number in (1, 2, 3)))
    assert load_scene(tmp_path).views[0].lens == expected


def test_llff(tmp_path: Path) -> None:
    cameras = write_llff(tmp_path, 9)
    scene = load_scene(tmp_path)
    assert scene.kind == "llff" and torch.equal(poses_of(scene), cameras)
    assert scene.views[0].lens == LENS and scene.bounds == (2, 4.5)
    assert [index for index, view in enumerate(scene.views) if view.split == "test"] == [0, 8]


# -- sizes -------------------------------------------------------------------------------------------------------


def test_pictures_of_another_size_scale_the_lens(tmp_path: Path) -> None:
    write_colmap(tmp_path, [LENS] * 3)
    for path in (tmp_path / "images").iterdir():
        with Image.open(path) as image:
            image.resize((20, 15)).save(path)
    assert load_scene(tmp_path).views[1].lens == Lens(20, 15, 22.5, 22.5, 10, 7.5)


def test_downscale(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, [LENS] * 3)
    view = load_scene(tmp_path, downscale=4).views[0]
    assert view.lens == Lens(10, 7, 11.25, 11.25, 5, 3.75) and view.downscale == 4
    whole, small = Photographs(load_scene(tmp_path).views), Photographs([view])
    expected = whole.pixels[:1200].view(30, 40, 4)[:28].float().view(7, 4, 10, 4, 4).mean((1, 3)).round()
    assert torch.equal(small.pixels.view(7, 10, 4).float(), expected)


def test_smaller_copies_are_used_where_they_fit(tmp_path: Path) -> None:
    write_colmap(tmp_path, [LENS] * 3)
    for path in (tmp_path / "images").iterdir():
        save(tmp_path / "images_2" / path.name, np.full((15, 20, 3), 7, np.uint8))
        save(tmp_path / "images_3" / path.name, np.full((15, 20, 3), 7, np.uint8))  # they do not
    half, third = load_scene(tmp_path, downscale=2).views[0], load_scene(tmp_path, downscale=3).views[0]
    assert half.path.parent.name == "images_2" and half.downscale == 1
    assert half.lens == Lens(20, 15, 22.5, 22.5, 10, 7.5)
    assert third.path.parent.name == "images" and (third.lens.width, third.downscale) == (13, 3)


def test_a_turned_photograph_is_set_upright_where_that_fits(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, [LENS] * 3)
    paths = sorted((tmp_path / "images").iterdir())
    for path, turned in zip(paths, (True, False, False), strict=True):
        with Image.open(path) as image:
            exif = image.getexif()
            exif[0x0112] = 6  # to be turned a quarter clockwise
            stored = image.transpose(Image.Transpose.ROTATE_90) if turned else image
            stored.save(path, exif=exif)
    views = load_scene(tmp_path).views
    assert [view.upright for view in views] == [True, False, False]
    whole = Photographs(views)
    plain = Ball().picture(torch.from_numpy(views[0].camera_to_world), LENS, alpha=False)
    np.testing.assert_array_equal(whole.pixels[:1200, :3].numpy(), plain.reshape(-1, 3))


# -- placement ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ball", [Ball(), FAR], ids=["origin", "far"])
def test_a_cut_out_object_fills_the_cube(tmp_path: Path, ball: Ball) -> None:
    write_blender(tmp_path, (20, 0, 0), ball, size=64)
    scene = load_scene(tmp_path)
    placement = placed(scene)
    assert not placement.unbounded
    np.testing.assert_allclose(placement.center, ball.center, atol=0.08 * ball.radius)
    assert 0.75 < placement.scale * ball.radius < 1 / 1.05


def test_a_thin_object_beside_the_focus_is_not_lost(tmp_path: Path) -> None:
    thin = Ball(center=(0.25, -0.1, 0.2), radius=0.02)
    cameras = Ball().cameras(30)
    lens = Lens(100, 100, 130.0, 130.0, 50.0, 50.0)
    frames = []
    for index, camera in enumerate(cameras):
        save(tmp_path / f"{index:02d}.png", thin.picture(camera, lens))
        frames.append({"file_path": f"{index:02d}.png", "transform_matrix": camera.tolist()})
    write_json(tmp_path / "transforms.json", {**intrinsics(lens), "frames": frames})
    placement = placed(load_scene(tmp_path))
    np.testing.assert_allclose(placement.center, thin.center, atol=0.02)
    assert 0.3 < placement.scale * thin.radius < 1


def test_points_of_colmap_place_a_scene(tmp_path: Path) -> None:
    write_colmap(tmp_path, [LENS] * 8, ball=FAR, points=2000)
    placement = placed(load_scene(tmp_path))
    assert placement.unbounded
    np.testing.assert_allclose(placement.center, FAR.center, atol=0.1)
    assert placement.scale == pytest.approx(1 / (0.9 * FAR.radius), rel=0.03)  # 90 % of a sphere's height


def test_without_either_the_cameras_tell(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, [LENS] * 12, FAR)
    placement = placed(load_scene(tmp_path))
    np.testing.assert_allclose(placement.center, FAR.center, atol=1e-6)
    assert placement.unbounded and placement.scale == pytest.approx(1.2 / FAR.distance)


def test_cameras_that_face_forward(tmp_path: Path) -> None:
    write_llff(tmp_path, 9, FAR)
    placement = placed(load_scene(tmp_path))
    np.testing.assert_allclose(placement.center, FAR.center, atol=1e-6)  # the mean of 11 / 1.5 and 11 * 1.5 is 11
    assert placement.unbounded and placement.scale == pytest.approx(1.2 / FAR.distance, rel=1e-3)


@pytest.mark.parametrize("apart", [0.0, 0.5])
def test_cameras_that_look_outward_or_stand_still_are_inside(tmp_path: Path, apart: float) -> None:
    angle = torch.arange(8).double() * math.pi / 4
    around = torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=1)
    frames = []
    for index, camera in enumerate(look_at(5 + apart * around, 5 + 9 * around)):
        save(tmp_path / f"{index}.png", np.zeros((30, 40, 3), np.uint8))
        frames.append({"file_path": f"{index}.png", "transform_matrix": camera.tolist()})
    write_json(tmp_path / "transforms.json", {**intrinsics(LENS), "frames": frames})
    scene = load_scene(tmp_path)
    placement = placed(scene)
    assert placement.unbounded and 0 < placement.scale < math.inf
    assert placement.apply_cameras(poses_of(scene))[:, :3, 3].abs().max() < 1


def test_placement_moves_there_and_back() -> None:
    placement = Placement((3.0, -1e4, 0.1), 0.37, True)
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() * 100
    torch.testing.assert_close(placement.to_world(placement.to_model(points)), points, rtol=0, atol=1e-9)
    assert Placement.from_json(json.loads(json.dumps(placement.to_json()))) == placement
    for broken in ({}, {"center": [0, 0], "scale": 1, "unbounded": True}, placement.to_json() | {"scale": 0}):
        with pytest.raises(ValueError, match="not a placement"):
            Placement.from_json(broken)


# -- a real one --------------------------------------------------------------------------------------------------


def test_the_chair() -> None:
    folder = Path(os.environ.get("LIFTKIT_DATA", "../shared/data")) / "nerf_chair_200"
    if not folder.is_dir():
        pytest.skip("the chair is not in the folder LIFTKIT_DATA")
    scene = load_scene(folder)
    assert [len(scene.of(split)) for split in ("train", "test", "val")] == [100, 10, 3]
    focal = 100 / math.tan(0.6911112070083618 / 2)
    assert scene.views[0].lens == Lens(200, 200, focal, focal, 100, 100)
    photographs = Photographs(scene.of("train")[::4])
    placement = place(scene, photographs)
    assert not placement.unbounded
    assert np.abs(placement.center).max() < 0.1 and 0.8 < placement.scale < 1.1  # it is about two units high
    moved = photographs.moved(placement)
    middles = moved.offsets[:-1] + 100 * 200 + 100
    origins, directions = moved.rays(middles)
    passing = origins - (origins * directions).sum(1, keepdim=True) * directions  # nearest to the middle of the model
    assert passing.norm(dim=1).max() < 0.15 and (origins.norm(dim=1) > 2).all()
    # every opaque pixel's ray meets the cube
    rows = torch.nonzero(photographs.pixels[:, 3] > 128)[::97, 0]
    origins, directions = moved.rays(rows)
    ends = torch.stack([(-1 - origins) / directions, (1 - origins) / directions])
    assert (ends.amax(0).amin(1) > ends.amin(0).amax(1)).all()
