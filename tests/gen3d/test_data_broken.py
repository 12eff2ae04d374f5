"""What is wrong with a scene is said in one sentence that names the file."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.nerf_scenes import (
    LENS,
    colmap_name,
    read_json,
    save,
    write_blender,
    write_colmap,
    write_json,
    write_llff,
    write_nerfstudio,
)
from PIL import Image

from core2d.app.errors import InputError
from gen3d.data.lenses import Lens
from gen3d.data.scene import load_scene

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def refused(folder: Path, *says: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        load_scene(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    data = read_json(path)
    change(data)
    write_json(path, data)


@pytest.fixture
def blender(tmp_path: Path) -> Path:
    write_blender(tmp_path)
    return tmp_path


# -- folders -----------------------------------------------------------------------------------------------------


def test_no_scene(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "no folder at", "nothing")
    refused(tmp_path, str(tmp_path), "transforms_train.json", "transforms.json", "sparse/0", "poses_bounds.npy")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "no folder at")


def test_options_that_cannot_be(blender: Path) -> None:
    refused(blender, "downscale must be at least 1", downscale=0)
    refused(blender, "hold_every at least 0", hold_every=-1)
    refused(blender, "32 x 32", "leaves none", downscale=33)


def test_too_few_views(tmp_path: Path) -> None:
    write_blender(tmp_path / "one", (1, 0, 2))
    refused(tmp_path / "one", "one has a single view for training", "at least 2")
    write_json(tmp_path / "none" / "transforms.json", {"fl_x": 3, "frames": []})
    refused(tmp_path / "none", "none has no views", "at least 2")
    write_nerfstudio(tmp_path / "held", [LENS])
    refused(tmp_path / "held", "has no view for training")


# -- pictures ----------------------------------------------------------------------------------------------------


def test_missing_pictures(blender: Path) -> None:
    for name in ("train/r_0", "train/r_3", "test/r_1", "test/r_2"):
        (blender / f"{name}.png").unlink()
    refused(blender, "4 of 11", "train/r_0.png, train/r_3.png, test/r_1.png, ...", "--skip-missing")
    scene = load_scene(blender, skip_missing=True)
    assert scene.skipped == tuple(
        f"{name}.png (missing)" for name in ("train/r_0", "train/r_3", "test/r_1", "test/r_2")
    )
    assert len(scene.of("train")) == 4 and len(scene.of("test")) == 1
    for path in (blender / "train").iterdir():
        path.unlink()
    refused(blender, "has no view for training", skip_missing=True)


def test_a_missing_picture_does_not_change_the_split(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, [LENS] * 10)
    before = {view.path: view.split for view in load_scene(tmp_path).views}
    (tmp_path / "images" / "frame_00003.png").unlink()
    after = load_scene(tmp_path, skip_missing=True)
    assert len(after.views) == 9 and all(before[view.path] == view.split for view in after.views)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
def test_truncated_pictures(tmp_path: Path, suffix: str, share: float) -> None:
    write_nerfstudio(tmp_path, [Lens(64, 64, 60.0, 60.0, 32.0, 32.0)] * 4)
    path = tmp_path / "images" / f"noise.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    edit(tmp_path / "transforms.json", lambda data: data["frames"][2].update(file_path=f"images/noise.{suffix}"))
    assert len(load_scene(tmp_path).views) == 4
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(tmp_path, str(path), "damaged or cut short", "--skip-missing")
    assert load_scene(tmp_path, skip_missing=True).skipped == (f"images/noise.{suffix} (damaged or cut short)",)


def test_what_is_no_picture(blender: Path) -> None:
    path = blender / "train" / "r_2.png"
    path.write_text("<html>404</html>")
    refused(blender, str(path), "damaged")
    path.write_text(POINTER)
    refused(blender, str(path), "Git LFS pointer", "git lfs pull")
    assert load_scene(blender, skip_missing=True).skipped == ("train/r_2.png (a Git LFS pointer)",)
    path.unlink()
    path.mkdir()
    refused(blender, "train/r_2.png")


def test_sizes_that_do_not_fit(tmp_path: Path) -> None:
    write_colmap(tmp_path, [LENS] * 4)
    path = save(tmp_path / "images" / colmap_name(2), np.zeros((30, 38, 3), np.uint8))
    refused(tmp_path, str(path), "38 x 30", "40 x 30", "images.bin")
    refused(tmp_path, str(path), skip_missing=True)  # it is there: the user should know
    save(path, np.zeros((40, 30, 3), np.uint8))
    refused(tmp_path, "30 x 40")


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, [LENS] * 4)
    edit(tmp_path / "transforms.json", lambda data: data["frames"][1].update(mask_path="mask.png"))
    refused(tmp_path, "mask.png", "--skip-missing")
    assert load_scene(tmp_path, skip_missing=True).skipped == ("images/frame_00001.png (missing)",)
    save(tmp_path / "mask.png", np.zeros((15, 20), np.uint8))
    refused(tmp_path, "mask.png is 20 x 15", "frame_00001.png is 40 x 30")


# -- poses and lenses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda pose: pose[1].__setitem__(3, float("nan")), "not finite"),
        (lambda pose: pose[0].__setitem__(0, float("inf")), "not finite"),
        (lambda pose: [row.__setitem__(0, 1.01 * row[0]) for row in pose], "not a rotation"),
        (lambda pose: [row.__setitem__(0, -row[0]) for row in pose], "not a rotation"),
        (lambda pose: [row.__setitem__(slice(0, 3), [0, 0, 0]) for row in pose], "not a rotation"),
        (lambda pose: pose[3].__setitem__(0, 1.0), "not a rotation"),
        (lambda pose: pose.pop(), None),
        (lambda pose: pose[0].pop(), "must be 4 x 4 numbers"),
        (lambda pose: pose[0].__setitem__(0, "east"), "must be 4 x 4 numbers"),
        (lambda pose: pose[0].__setitem__(0, None), "not finite"),
    ],
)
def test_poses(blender: Path, change: Callable[[Any], Any], says: str | None) -> None:
    path = blender / "transforms_train.json"
    edit(path, lambda data: change(data["frames"][3]["transform_matrix"]))
    if says is None:  # three rows say as much as four
        assert len(load_scene(blender).views) == 11
    else:
        refused(blender, str(path), "r_3", says)


@pytest.mark.parametrize("angle", [0, -1, 3.2, float("nan"), float("inf")])
def test_angles(blender: Path, angle: float) -> None:
    edit(blender / "transforms_train.json", lambda data: data.update(camera_angle_x=angle))
    refused(blender, "transforms_train.json", "focal length")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fl_x": 0}, "focal length of 0"),
        ({"fl_y": -3}, "focal length"),
        ({"fl_x": float("nan")}, "focal length"),
        ({"cx": float("inf")}, "intrinsics"),
        ({"k1": float("nan"), "camera_model": "OPENCV"}, "intrinsics"),
        ({"fl_x": "wide"}, "must be numbers"),
        ({"w": 0}, "at least 1 pixel"),
        ({"w": float("inf")}, "must be numbers"),
        ({"fl_x": None, "fl_y": None}, "neither fl_x nor camera_angle_x"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
        ({"camera_model": "OPENCV", "k4": 0.1}, "k4"),
        ({"mask_path": 3}, "mask_path"),
        ({"train_filenames": ["images/nobody.png"]}, "images/nobody.png"),
        ({"train_filenames": "all"}, "list of file names"),
        ({"frames": None}, "no list of frames"),
        ({"frames": [{"transform_matrix": []}]}, "frame 0 has no file_path"),
        ({"frames": ["a"]}, "frame 0 has no file_path"),
        ({"frames": [{"file_path": "a.png"}]}, "transform_matrix of a.png"),
    ],
)
def test_transforms(tmp_path: Path, changes: Any, says: str) -> None:
    write_nerfstudio(tmp_path, [LENS] * 4)
    edit(tmp_path / "transforms.json", lambda data: data.update(changes))
    refused(tmp_path, "transforms.json", says)


@pytest.mark.parametrize("text", ["", "{", '{"frames": [}', "\x00", "[1, 2]", "3", "[" * 100_000, POINTER])
def test_json(blender: Path, text: str) -> None:
    path = blender / "transforms_val.json"
    path.write_text(text)
    refused(blender, str(path))
    path.write_bytes(b"\xff\xfe\xff")
    refused(blender, str(path), "not valid JSON")


# -- colmap ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_cut_reconstructions(tmp_path: Path, name: str, binary: bool) -> None:
    write_colmap(tmp_path, [LENS] * 4, binary)
    path = tmp_path / "sparse" / "0" / f"{name}.{'bin' if binary else 'txt'}"
    data = path.read_bytes()
    cut = data.rindex(b" ", 0, len(data) // 2) if not binary else len(data) // 2
    for content in (data[:cut], POINTER.encode(), b"\x07" * 20):
        path.write_bytes(content)
        if content == data[:cut] and name == "points3D" and not binary:
            continue  # each line stands for itself
        refused(tmp_path, str(path))


def test_other_models_of_colmap(tmp_path: Path) -> None:
    write_colmap(tmp_path / "a", [LENS] * 3, binary=False)
    path = tmp_path / "a/sparse/0/cameras.txt"
    path.write_text("7 THIN_PRISM_FISHEYE 40 30 " + "1 " * 12)
    refused(tmp_path / "a", str(path), "camera 7", "THIN_PRISM_FISHEYE", "undistort", "OPENCV_FISHEYE")
    write_colmap(tmp_path / "b", [LENS] * 3)
    path = tmp_path / "b/sparse/0/cameras.bin"
    for number, name in ((7, "FOV"), (99, "number 99"), (-1, "number -1")):
        path.write_bytes(struct.pack("<QiiQQ5d", 1, 3, number, 40, 30, 1, 2, 3, 4, 5))
        refused(tmp_path / "b", str(path), "camera 3", name)


def test_colmap_poses_and_cameras(tmp_path: Path) -> None:
    write_colmap(tmp_path, [LENS] * 3, binary=False)
    path = tmp_path / "sparse/0/images.txt"
    path.write_text("1 0 0 0 0 1 2 3 1 photo 000.png\n\n2 1 0 0 0 1 2 3 1 photo 001.png\n\n")
    refused(tmp_path, str(path), "photo 000.png", "not finite")
    path.write_text("1 1 0 0 0 1 2 3 1 photo 000.png\n\n2 1 0 0 0 1 2 3 9 photo 001.png\n\n")
    refused(tmp_path, str(path), "photo 001.png", "camera 9")
    path.write_text("# nothing\n")
    refused(tmp_path, "has no views")


# -- llff --------------------------------------------------------------------------------------------------------


def test_poses_bounds(tmp_path: Path) -> None:
    write_llff(tmp_path, 9)
    path = tmp_path / "poses_bounds.npy"
    rows = np.load(path)
    (tmp_path / "images" / "IMG_004.png").unlink()
    refused(tmp_path, str(path), "9 pictures", "holds 8")
    write_llff(tmp_path, 9)

    rows[4, 14] = 0
    np.save(path, rows)
    refused(tmp_path, str(path), "IMG_004.png", "focal length of 0")
    rows[4, 0] = np.nan
    np.save(path, rows)
    refused(tmp_path, str(path), "IMG_004.png", "not finite")
    rows[2, 4] = np.nan
    np.save(path, rows)
    refused(tmp_path, str(path), "IMG_002.png", "size")
    np.save(path, rows[:, :15])
    refused(tmp_path, str(path), "(9, 15)")
    np.save(path, rows[:0])
    refused(tmp_path, "0 pictures")


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    write_llff(tmp_path, 9)
    path, sprung = tmp_path / "poses_bounds.npy", tmp_path / "sprung"
    np.save(path, np.array([Trap(sprung)] * 9, dtype=object), allow_pickle=True)
    refused(tmp_path, str(path), "pickled ones are never opened")
    path.write_bytes(pickle.dumps(Trap(sprung)))
    refused(tmp_path, str(path), "never opened")
    with path.open("wb") as file:
        np.savez(file, poses=np.array([Trap(sprung)], dtype=object))
    refused(tmp_path, str(path), "never opened")
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", POINTER.encode(), b"1,2,3"])
def test_what_is_no_array(tmp_path: Path, content: bytes) -> None:
    write_llff(tmp_path, 9)
    path = tmp_path / "poses_bounds.npy"
    whole = path.read_bytes()
    path.write_bytes(content)
    refused(tmp_path, str(path))
    path.write_bytes(whole[:-9])
    refused(tmp_path, str(path), "not a plain .npy")
