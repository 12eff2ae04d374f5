"""Objaverse-style renders, there and back."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch import Tensor

from core2d.app.errors import InputError
from core2d.prior.cameras import Cameras, look_at, orbit, relative_view
from gen3d.data.renders import Renders, read_renders, spherical, write_renders


def renders(objects: int = 3, views: int = 4, size: int = 6, seed: int = 0) -> Renders:
    """Noise that is on white: colours under random alpha."""
    random = np.random.default_rng(seed)
    rgba = random.integers(0, 256, (objects, views, 4, size, size))
    rgba[:, :, 3] = random.choice([0, 1, 100, 254, 255], (objects, views, size, size))
    alpha = rgba[:, :, 3:] / 255
    rgb = np.rint(rgba[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    position = torch.from_numpy(random.normal(size=(objects, views, 3)).astype(np.float32))
    names = tuple(f"object {index}" for index in range(objects))
    return Renders(torch.from_numpy(rgb), torch.from_numpy(rgba[:, :, 3].astype(np.uint8)), position, names)


def same(found: Renders, expected: Renders) -> None:
    assert found.names == expected.names
    for name in ("rgb", "mask", "position"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)


def refused(folder: Path, *says: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        read_renders(folder, **{"size": 6, **options})
    assert "\n" not in str(caught.value)
    for part in (str(folder), *says):
        assert part in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_renders(tmp_path, renders())
    return tmp_path


# -- there and back ----------------------------------------------------------------------------------------------


def test_there_and_back(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "object 0").iterdir())[:3] == ["000.npy", "000.png", "001.npy"]
    found = read_renders(folder, 6)
    same(found, renders())
    assert len(found) == 3 and found.skipped == ()
    write_renders(folder, renders(seed=1))  # in place of the old ones
    same(read_renders(folder, 6), renders(seed=1))
    assert len(list(folder.iterdir())) == 3


@given(arrays(np.uint8, (1, 1, 4, 5, 5)))
@settings(max_examples=50, deadline=None)
def test_all_that_is_on_white_comes_back(tmp_path_factory: pytest.TempPathFactory, rgba: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("renders")
    mask = torch.from_numpy(rgba[:, :, 3])
    rgb = torch.from_numpy(np.maximum(rgba[:, :, :3], 255 - rgba[:, :, 3:]))  # any colour that the mask allows
    before = Renders(rgb, mask, torch.ones(1, 1, 3), ("a",))
    write_renders(folder, before)
    same(read_renders(folder, 5), before)


coordinate = st.floats(-3, 3, width=32).filter(lambda value: value == 0 or abs(value) > 1e-6)


@given(st.tuples(coordinate, coordinate, coordinate).filter(any))
@settings(max_examples=100, deadline=None)
def test_positions_come_back(tmp_path_factory: pytest.TempPathFactory, place: tuple[float, float, float]) -> None:
    folder = tmp_path_factory.mktemp("renders")
    white = torch.full((1, 1, 3, 1, 1), 255, dtype=torch.uint8)
    before = Renders(white, white[:, :, 0], torch.tensor(place)[None, None], ("a",))
    write_renders(folder, before)
    same(read_renders(folder, 1), before)


def test_the_layout_of_the_paper(tmp_path: Path) -> None:
    """What its Blender script writes: RGBA with straight colours, and world-to-camera with OpenGL axes."""
    camera = orbit(azimuth=[0.3, 2.5], elevation=[0.4, -0.2], radius=[1.7, 2.1])
    write_renders(tmp_path, Renders(*_white(2), camera.position[None], ("mug",)))
    matrix = np.load(tmp_path / "mug" / "001.npy", allow_pickle=False)
    assert matrix.shape == (3, 4) and matrix.dtype == np.float64
    expected = torch.linalg.inv(camera.camera_to_world[1].double())[:3].numpy()
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    np.testing.assert_allclose(matrix @ [0, 0, 0, 1], [0, 0, -2.1], atol=1e-6)  # the origin is in front: along -z

    pixel = np.array([[[200, 100, 0, 51]]], np.uint8)
    Image.fromarray(pixel).save(tmp_path / "mug" / "000.png")
    Image.fromarray(pixel * np.array([1, 1, 1, 0], np.uint8)).save(tmp_path / "mug" / "001.png")
    found = read_renders(tmp_path, 1)
    assert found.rgb.flatten().tolist() == [244, 224, 204, 255, 255, 255]  # 0.2 colour + 0.8 white, and white
    assert found.mask.flatten().tolist() == [51, 0]


def _white(views: int, size: int = 1) -> tuple[Tensor, Tensor]:
    return torch.full((1, views, 3, size, size), 255, dtype=torch.uint8), torch.zeros(1, views, size, size).byte()


def test_pictures_become_smaller_without_a_dark_rim(tmp_path: Path) -> None:
    write_renders(tmp_path, Renders(*_white(1, 8), torch.ones(1, 1, 3), ("a",)))
    pixels = np.zeros((8, 8, 4), np.uint8)  # what is transparent is black below
    pixels[:, 1:] = [250, 50, 50, 255]
    Image.fromarray(pixels).save(tmp_path / "a" / "000.png")
    found = read_renders(tmp_path, 4)
    mask = found.mask[0, 0].float() / 255
    expected = torch.tensor([250.0, 50, 50])[:, None, None] * mask + 255 * (1 - mask)
    assert 0 < mask.min() < 0.8 and mask.max() == 1
    torch.testing.assert_close(found.rgb[0, 0].float(), expected, rtol=0, atol=0.51)


# -- poses -------------------------------------------------------------------------------------------------------


def test_spherical() -> None:
    places = torch.tensor([[2.0, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0], [0, 0, 2], [0, 0, -2], [1, 1, math.sqrt(2)]])
    polar, azimuth, radius = spherical(places)
    half = math.pi / 2
    torch.testing.assert_close(polar, torch.tensor([half, half, half, half, 0, math.pi, half / 2]))
    torch.testing.assert_close(azimuth, torch.tensor([0, half, math.pi, -half, 0, 0, half / 2]))
    torch.testing.assert_close(radius, torch.full((7,), 2.0))


angle = st.floats(-math.pi, math.pi)


@given(st.lists(st.tuples(angle, st.floats(-1.57, 1.57), st.floats(1.5, 2.2)), min_size=2, max_size=2))
def test_the_view_vector(numbers: list[tuple[float, float, float]]) -> None:
    azimuth, elevation, radius = torch.tensor(numbers, dtype=torch.float64).T
    flat = elevation.cos()
    places = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], 1) * radius[:, None]
    source, target = (Cameras(look_at(place[None], torch.zeros(3)), torch.ones(1)) for place in places)
    polar, turn, distance = spherical(places)
    turned = turn[1] - turn[0]
    found = torch.stack([polar[1] - polar[0], turned.sin(), turned.cos(), distance[1] - distance[0]])
    torch.testing.assert_close(found, relative_view(source, target)[0], rtol=0, atol=1e-6)
    closed = [elevation[0] - elevation[1], (azimuth[1] - azimuth[0]).sin(), (azimuth[1] - azimuth[0]).cos()]
    torch.testing.assert_close(found[:3], torch.stack(closed), rtol=0, atol=1e-6)


# -- what is wrong -----------------------------------------------------------------------------------------------


def test_views(folder: Path) -> None:
    few = read_renders(folder, 6, views=2)
    torch.testing.assert_close(few.rgb, renders().rgb[:, :2], rtol=0, atol=0)
    refused(folder, "3 of 3", "fewer than 5 views", "object 0 (004.png is missing)", views=5)
    (folder / "object 1" / "003.png").unlink()
    refused(folder, "1 of 3", "fewer than 4 views", "object 1 (003.png is missing)")
    left = read_renders(folder, 6, skip_broken=True)
    assert left.names == ("object 0", "object 2") and left.skipped == ("object 1 (003.png is missing)",)
    torch.testing.assert_close(left.rgb, renders().rgb[[0, 2]], rtol=0, atol=0)
    torch.testing.assert_close(left.position, renders().position[[0, 2]], rtol=0, atol=0)
    assert len(read_renders(folder, 6, views=3)) == 3


def test_no_renders(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "no folder")
    refused(tmp_path, "no renders", "OBJECT/000.png")
    refused(tmp_path, "no renders", views=3)
    (tmp_path / "empty").mkdir()
    refused(tmp_path, "no renders")
    refused(tmp_path, "empty (000.png is missing)", views=1, skip_broken=True)  # none is left
    (tmp_path / ".half").mkdir()
    write_renders(tmp_path, renders(1))
    assert read_renders(tmp_path, 6, skip_broken=True).names == ("object 0",)


def test_many_broken_objects(tmp_path: Path) -> None:
    write_renders(tmp_path, renders(6))
    for index in range(5):
        (tmp_path / f"object {index}" / "002.npy").unlink()
    refused(tmp_path, "5 of 6", "object 0 (002.npy is missing), object 1", "object 2 (002.npy is missing), ...")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "000.png is damaged"),
        (lambda path: path.write_bytes(POINTER), "000.png is a Git LFS pointer"),
        (lambda path: Image.new("RGB", (6, 6)).save(path), "000.png has no transparency"),
        (lambda path: Image.new("RGBA", (6, 7)).save(path), "000.png is 6 x 7 pixels"),
    ],
)
def test_pictures(folder: Path, change: Callable[[Path], Any], says: str) -> None:
    change(folder / "object 1" / "000.png")
    refused(folder, f"1 of 3 objects in {folder}", f"object 1 ({says}")
    assert read_renders(folder, 6, skip_broken=True).names == ("object 0", "object 2")


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


GOOD = np.eye(4)[:3] + np.eye(4, k=3)[:3]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.eye(4), "(4, 4)"),
        (GOOD.ravel(), "(12,)"),
        (GOOD.astype(str), "3 x 4 numbers"),
        (np.where(GOOD, GOOD, np.nan), "not finite"),
        (GOOD * 2, "rotation"),
        (GOOD * [-1, 1, 1, 1], "rotation"),
        (np.eye(4)[:3], "at the origin"),
        (np.zeros((3, 4000)), "no plain .npy"),
        (b"", "no plain .npy"),
        (POINTER, "Git LFS pointer"),
        (
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 4), }",
            "no plain .npy",
        ),
    ],
)
def test_poses(folder: Path, content: np.ndarray | bytes, says: str) -> None:
    path = folder / "object 2" / "001.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    refused(folder, "object 2 (001.npy", says)
    assert len(read_renders(folder, 6, skip_broken=True)) == 2


def test_nothing_is_unpickled(folder: Path, tmp_path: Path) -> None:
    path, sprung = folder / "object 2" / "001.npy", tmp_path / "sprung"
    np.save(path, np.array([Trap(sprung)] * 12, dtype=object), allow_pickle=True)
    refused(folder, "never opened")
    path.write_bytes(pickle.dumps(Trap(sprung)))
    refused(folder, "never opened")
    assert not sprung.exists()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    good = renders(2)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        write_renders(tmp_path / "file", good)
    for names in (("a", "../b"), ("a", ""), ("a", ".b"), ("a", "b/c"), ("a", "a")):
        with pytest.raises(ValueError, match="name"):
            write_renders(tmp_path / "x", Renders(good.rgb, good.mask, good.position, names))
    for position in (good.position * 0, good.position * math.nan):
        with pytest.raises(ValueError, match="origin"):
            write_renders(tmp_path / "x", Renders(good.rgb, good.mask, position, good.names))
    with pytest.raises(ValueError, match="not on white"):
        write_renders(tmp_path / "x", Renders(good.rgb * 0, good.mask, good.position, good.names))
    assert not (tmp_path / "x").exists()


def test_an_object_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_renders(tmp_path, renders(1))

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_renders(tmp_path, renders(2, seed=1))
    monkeypatch.undo()
    same(read_renders(tmp_path, 6), renders(1))
    assert [path.name for path in tmp_path.iterdir()] == ["object 0"]


def test_shapes() -> None:
    good = renders(2)
    for parts in (
        (good.rgb, good.mask, good.position, ("one",)),
        (good.rgb, good.mask[:, :2], good.position, good.names),
        (good.rgb, good.mask, good.position.double(), good.names),
        (good.rgb.float(), good.mask, good.position, good.names),
    ):
        with pytest.raises(ValueError, match="Renders needs"):
            Renders(*parts)
    for size, views in ((0, None), (6, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            read_renders(Path(), size, views)
