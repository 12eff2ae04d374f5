"""Scenes and point clouds: what is written is read back."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from helpers.nerf_scenes import BENT, FISHEYE, LENS, Ball, read_json, save
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core2d.app.errors import InputError
from gen3d.data.lenses import Lens
from gen3d.data.photographs import Photographs
from gen3d.data.pictures import Split
from gen3d.data.scene import CapturedView, load_scene
from gen3d.data.write import write_point_cloud, write_transforms


def some_views(
    lenses: Sequence[Lens], splits: Sequence[Split] = ("train", "train", "test"), channels: int = 4
) -> tuple[list[CapturedView], list[np.ndarray]]:
    ball = Ball(center=(40.0, -3.0, 7.0))
    poses = ball.cameras(len(lenses))
    pictures = [ball.picture(pose, lens, channels == 4) for pose, lens in zip(poses, lenses, strict=True)]
    kinds: list[Split] = [splits[index % len(splits)] for index in range(len(lenses))]
    views = [
        CapturedView(Path(f"photo {index}.jpg"), pose.numpy(), lens, None, split)
        for index, (pose, lens, split) in enumerate(zip(poses, lenses, kinds, strict=True))
    ]
    return views, pictures


def by_pose(views: Sequence[CapturedView]) -> list[CapturedView]:
    return sorted(views, key=lambda view: view.camera_to_world.tolist())


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    "lenses",
    [[LENS] * 5, [BENT] * 4, [FISHEYE] * 4, [LENS, BENT, replace(BENT, fx=49.25), LENS.scaled(20, 15)]],
    ids=["one lens", "distortion", "fisheye", "mixed"],
)
def test_a_scene_comes_back_exactly(tmp_path: Path, lenses: list[Lens], channels: int) -> None:
    views, pictures = some_views(lenses, channels=channels)
    folder = write_transforms(tmp_path / "scene", views, iter(pictures))
    assert folder == tmp_path / "scene"
    scene = load_scene(folder)
    assert scene.kind == "nerfstudio" and len(scene.views) == len(views)
    seen = by_pose(scene.views)
    for found, view in zip(seen, by_pose(views), strict=True):
        assert (found.camera_to_world == view.camera_to_world).all() and found.split == view.split
        pixels = torch.rand(50, 2, dtype=torch.float64) * torch.tensor([view.lens.width, view.lens.height])
        assert torch.equal(found.lens.directions(pixels), view.lens.directions(pixels))
    for view, picture in zip(views, pictures, strict=True):
        (found,) = (one for one in seen if (one.camera_to_world == view.camera_to_world).all())
        photograph = Photographs([found])
        expected = picture if channels == 4 else np.pad(picture, ((0, 0), (0, 0), (0, 1)), constant_values=255)
        assert (photograph.pixels.numpy().reshape(expected.shape) == expected).all()


def test_one_lens_is_said_once_and_several_in_every_frame(tmp_path: Path) -> None:
    names = {"w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2"}
    for index, lenses in enumerate(([LENS] * 3, [LENS, LENS, BENT])):
        views, pictures = some_views(lenses)
        data = read_json(write_transforms(tmp_path / str(index), views, pictures) / "transforms.json")
        shared = len(set(lenses)) == 1
        assert names <= data.keys() if shared else not names & data.keys()
        for frame in data["frames"]:  # a name is in all frames or in none
            assert names & frame.keys() == (set() if shared else names)
        assert data["camera_model"] == "OPENCV"


@pytest.mark.parametrize(
    ("splits", "read_as"),
    [
        (["train", "val", "test"], ["train", "val", "test"]),
        (["train", "test"], ["train", "test"]),
        (["train", "val"], ["train", "test"]),
        (["train"], None),
    ],
)
def test_nerfstudio_finds_all_its_lists(tmp_path: Path, splits: list[Split], read_as: list[Split] | None) -> None:
    views, pictures = some_views([LENS] * 9, splits)
    folder = write_transforms(tmp_path / "scene", views, pictures)
    data = read_json(folder / "transforms.json")
    lists = {name: data[name] for name in data if name.endswith("_filenames")}
    if read_as is None:
        assert not lists and len(load_scene(folder, hold_every=0).of("train")) == 9
        return
    assert lists.keys() == {"train_filenames", "val_filenames", "test_filenames"} and all(lists.values())
    known = {frame["file_path"] for frame in data["frames"]}
    assert all(set(names) <= known for names in lists.values())
    found = [view.split for view in sorted(load_scene(folder).views, key=lambda view: view.path.name)]
    assert found == [read_as[splits.index(view.split)] for view in views]


def test_masks_come_along_as_the_pictures_are_used(tmp_path: Path) -> None:
    views, pictures = some_views([LENS.shrunk(2)] * 3)
    spot = np.full((30, 40), 255, np.uint8)
    spot[10:13, 20:30] = 0
    masked = replace(views[1], mask=save(tmp_path / "mask.png", spot), downscale=2)
    scene = load_scene(write_transforms(tmp_path / "scene", [views[0], masked, views[2]], pictures), hold_every=0)
    kept = Photographs(sorted(scene.views, key=lambda view: view.path.name)).kept
    assert kept is not None
    expected = np.ones((3, 15, 20), bool)
    expected[1, 5:7, 10:15] = False  # a pixel of which any part is masked
    assert (kept.numpy().reshape(expected.shape) == expected).all()


def test_what_is_there_stays(tmp_path: Path) -> None:
    views, pictures = some_views([LENS] * 3)
    folder = tmp_path / "capture"
    (folder / "images").mkdir(parents=True)
    precious = save(folder / "images" / "0000.png", pictures[0])
    with pytest.raises(InputError, match=r"capture: there is something already; name a new folder"):
        write_transforms(folder, views, pictures)
    with pytest.raises(InputError, match="there is something already"):
        write_transforms(precious, views, pictures)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert len(load_scene(write_transforms(empty, views, pictures)).views) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["capture", "empty"]


def test_a_scene_is_whole_or_absent(tmp_path: Path) -> None:
    views, pictures = some_views([LENS] * 3)
    for wrong in (pictures[:2], [*pictures, pictures[0]], [*pictures[:2], pictures[2][1:]]):
        with pytest.raises(ValueError):
            write_transforms(tmp_path / "deep" / "scene", views, wrong)
        assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"uint8 \(30, 40\) with 3 or 4 channels; got float32 \(30, 40, 4\)"):
        write_transforms(tmp_path / "scene", views, [picture.astype(np.float32) for picture in pictures])
    broken = replace(views[0], camera_to_world=np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="must be finite"):
        write_transforms(tmp_path / "scene", [broken, *views[1:]], pictures)
    with pytest.raises(ValueError, match="at least one view"):
        write_transforms(tmp_path / "scene", [], [])
    assert not list(tmp_path.iterdir())


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    views, pictures = some_views([BENT, BENT, FISHEYE])
    with pytest.raises(InputError, match="make a scene of each kind"):
        write_transforms(tmp_path / "scene", views, pictures)
    rational = replace(BENT, distortion=(*BENT.distortion, 0.0, 0.1, 0.0, 0.0))
    views, pictures = some_views([rational] * 3)
    with pytest.raises(InputError, match=r"k4, k5 and k6 of photo 0\.jpg: undistort the pictures first"):
        write_transforms(tmp_path / "scene", views, pictures)
    even = replace(rational, distortion=(*BENT.distortion, 0.01, 0.0, 0.0, 0.0))
    views, pictures = some_views([even] * 3)
    scene = load_scene(write_transforms(tmp_path / "scene", views, pictures))
    assert {view.lens.distortion for view in scene.views} == {(*BENT.distortion, 0.01)}


# -- points ----------------------------------------------------------------------------------------------------


def read_ply(path: Path) -> tuple[list[str], np.ndarray]:
    """The lines of the header and the rows, after the PLY format's own words."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    types = {"float": "<f4", "uchar": "u1"}
    fields = [(line.split()[2], types[line.split()[1]]) for line in lines if line.startswith("property")]
    return lines, np.frombuffer(body, fields)


@settings(deadline=None)
@given(
    st.integers(0, 5).flatmap(
        lambda n: st.tuples(
            arrays(np.float32, (n, 3), elements=st.floats(-1e6, 1e6, width=32)),
            arrays(np.uint8, (n, 3)),
            st.none() | arrays(np.float32, (n, 3), elements=st.floats(-1, 1, width=32)),
        )
    )
)
def test_points_come_back_to_the_bit(tmp_path_factory: Any, cloud: tuple[np.ndarray, np.ndarray, Any]) -> None:
    points, colors, normals = cloud
    path = tmp_path_factory.mktemp("points") / "cloud.ply"
    assert write_point_cloud(path, points, colors, normals) == path
    lines, rows = read_ply(path)
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"] and f"element vertex {len(points)}" in lines
    expected = {"x": points, "red": colors} | ({} if normals is None else {"nx": normals})
    for first, values in expected.items():
        start = (rows.dtype.names or ()).index(first)
        for column, name in enumerate((rows.dtype.names or ())[start : start + 3]):
            assert (rows[name] == values[:, column]).all()
    assert len(rows.dtype.names or ()) == 3 * len(expected)


def test_others_read_the_points(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(50, 3)).astype(np.float32)
    colors = generator.integers(0, 256, (50, 3)).astype(np.uint8)
    cloud: Any = trimesh.load(write_point_cloud(tmp_path / "new" / "cloud.PLY", points, colors, points))
    assert (cloud.vertices.astype(np.float32) == points).all() and (cloud.colors[:, :3] == colors).all()


def test_points_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    points, colors = np.zeros((4, 3), np.float32), np.zeros((4, 3), np.uint8)
    with pytest.raises(InputError, match=r"must end in one of \.ply"):
        write_point_cloud(tmp_path / "cloud.obj", points, colors)
    with pytest.raises(ValueError, match=r"\(4, 3\), \(3, 3\)"):
        write_point_cloud(tmp_path / "cloud.ply", points, colors[:3])
    with pytest.raises(ValueError, match="float32"):
        write_point_cloud(tmp_path / "cloud.ply", points, points)
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        write_point_cloud(tmp_path / "cloud.ply", points, colors, points[:, :2])
    assert not list(tmp_path.iterdir())


def test_json_has_every_digit(tmp_path: Path) -> None:
    views, pictures = some_views([LENS] * 3)
    folder = write_transforms(tmp_path / "scene", views, pictures)
    text = (folder / "transforms.json").read_text()
    assert json.loads(text)["frames"][2]["transform_matrix"] == views[2].camera_to_world.tolist()
    assert "NaN" not in text and str(tmp_path) not in text
