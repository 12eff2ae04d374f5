"""Scenes as other systems leave them: how they spell paths, mark texts, and what they put beside pictures."""

import codecs
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
from gen3d.__main__ import main
from gen3d.data.files import PictureFinder
from gen3d.data.paths import read_path
from gen3d.data.photographs import Photographs
from gen3d.data.pictures import picture_sizes, read_mask
from gen3d.data.scene import load_scene
from gen3d.data.single_picture import on_background, read_subject


def renamed(folder: Path, change: Callable[[str], str]) -> None:
    """Change how transforms.json spells the names of pictures and masks; the files stay."""
    data = read_json(folder / "transforms.json")
    for frame in data["frames"]:
        for name in ("file_path", "mask_path"):
            if name in frame:
                frame[name] = change(frame[name])
    for name in ("train_filenames", "test_filenames"):
        data[name] = [change(one) for one in data[name]]
    write_json(folder / "transforms.json", data)


@pytest.fixture
def nerfstudio(tmp_path: Path) -> Path:
    """A scene with masks and lists of splits."""
    write_nerfstudio(tmp_path, [LENS] * 5)
    data = read_json(tmp_path / "transforms.json")
    for index, frame in enumerate(data["frames"]):
        frame["mask_path"] = f"masks/frame_{index:05d}.png"
        mask = np.full((30, 40), 255, np.uint8)
        mask[index, 0] = 0
        save(tmp_path / frame["mask_path"], mask)
    names = [frame["file_path"] for frame in data["frames"]]
    write_json(tmp_path / "transforms.json", data | {"train_filenames": names[:4], "test_filenames": names[4:]})
    return tmp_path


SPELLINGS: dict[str, Callable[[str], str]] = {
    "backslashes": lambda name: name.replace("/", "\\"),
    "from here": lambda name: f"./{name}",
    "backslashes from here": lambda name: ".\\" + name.replace("/", "\\"),
    "upper case": lambda name: name.upper(),
    "a folder in upper case": lambda name: name.replace("images", "Images").replace("masks", "MASKS"),
    "a suffix in upper case": lambda name: name.replace(".png", ".PNG"),
    "no suffix": lambda name: name.removesuffix(".png"),
    "all of it": lambda name: ".\\" + name.removesuffix(".png").title().replace("/", "\\"),
    "up and down": lambda name: f"images/../{name}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_pictures_and_masks_are_found_however_they_are_spelt(nerfstudio: Path, spelling: str) -> None:
    expected = load_scene(nerfstudio)
    renamed(nerfstudio, SPELLINGS[spelling])
    scene = load_scene(nerfstudio)
    assert [len(scene.of(split)) for split in ("train", "val", "test")] == [4, 0, 1]
    for view, other in zip(scene.views, expected.views, strict=True):
        assert view.path.samefile(other.path) and view.split == other.split
        assert view.mask is not None and other.mask is not None and view.mask.samefile(other.mask)
    found, wanted = Photographs(scene.views), Photographs(expected.views)
    assert torch.equal(found.pixels, wanted.pixels)
    assert found.kept is not None and wanted.kept is not None and torch.equal(found.kept, wanted.kept)
    assert int((~found.kept).sum()) == 5


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG", ".jpeg", ".webp", ".tif", ".bmp", ".PNG"])
def test_names_without_suffix_are_of_any_picture(tmp_path: Path, suffix: str) -> None:
    """Blender's file_path is "./train/r_0"; others took that over for their JPEGs."""
    write_blender(tmp_path)
    for path in sorted(tmp_path.rglob("*.png")):
        with Image.open(path) as image:
            pixels = image.convert("RGB")
        path.unlink()
        pixels.save(path.with_suffix(suffix))
    scene = load_scene(tmp_path)
    assert [len(scene.of(split)) for split in ("train", "val", "test")] == [6, 2, 3]
    assert [view.path.name for view in scene.of("train")] == [f"r_{index}{suffix}" for index in range(6)]


def test_a_png_comes_first_and_dots_in_names_are_no_suffix(tmp_path: Path) -> None:
    for name in ("r_0.jpg", "r_0.png", "frame.0001.jpg", "R_1.Png", "bare", "r_2.bmp/r.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    finder = PictureFinder(tmp_path)
    found = {name: finder.find(name).relative_to(tmp_path).as_posix()
             for name in ("r_0", "r_0.jpg", "frame.0001", "r_1", "bare", "r_2")}  # fmt: skip
    assert found == {
        "r_0": "r_0.png", "r_0.jpg": "r_0.jpg", "frame.0001": "frame.0001.jpg", "r_1": "R_1.Png", "bare": "bare",
        "r_2": "r_2.png",  # where it should be: the other is a folder
    }  # fmt: skip


def test_a_name_that_fits_exactly_goes_before_all_others(tmp_path: Path) -> None:
    for name in ("a.png", "A.png", "b\\c.png", "b/c.png", "F/x.png", "f/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    finder = PictureFinder(tmp_path)
    for name in ("a.png", "A.png", "b\\c.png", "b/c.png"):
        assert finder.find(name) == tmp_path / name
    assert finder.find("A.PNG") == tmp_path / "A.png"  # the first by name
    assert finder.find(str(tmp_path / "a.png")) == tmp_path / "a.png"
    assert finder.find(str(tmp_path / "B" / "C")) == tmp_path / "b" / "c.png"


@pytest.mark.parametrize(("stored", "named"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_are_composed_in_two_ways(tmp_path: Path, stored: str, named: str) -> None:
    path = tmp_path / unicodedata.normalize(stored, "Türöffner.png")  # pyright: ignore[reportArgumentType]
    path.write_bytes(b"")
    assert PictureFinder(tmp_path).find(unicodedata.normalize(named, "türöffner")) == path  # pyright: ignore[reportArgumentType]


def test_what_is_not_there_is_named_as_the_scene_names_it(nerfstudio: Path) -> None:
    renamed(nerfstudio, SPELLINGS["backslashes"])
    (nerfstudio / "images" / "frame_00002.png").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of 10 pictures \(images/frame_00002\.png\)"):
        load_scene(nerfstudio)
    for name, said in {"x" * 300: "cannot be looked up", "a\0b": "lacks", ".": "lacks", "\\": "lacks"}.items():
        renamed(nerfstudio, lambda _, name=name: name)
        with pytest.raises(InputError, match=said):
            load_scene(nerfstudio)


def test_colmap_names_are_found_by_the_same_rules(tmp_path: Path) -> None:
    write_colmap(tmp_path, [LENS] * 4, binary=False)
    listing = tmp_path / "sparse" / "0" / "images.txt"
    text = listing.read_text()
    for index in range(4):
        folder = tmp_path / "images" / "Left"
        folder.mkdir(exist_ok=True)
        (tmp_path / "images" / colmap_name(index)).rename(folder / colmap_name(index).upper())
        text = text.replace(colmap_name(index), f"left\\{colmap_name(index)}")
    listing.write_text(text)
    names = [view.path.relative_to(tmp_path / "images").as_posix() for view in load_scene(tmp_path).views]
    assert names == [f"Left/PHOTO {index:03d}.PNG" for index in range(4)]


def test_smaller_copies_of_pictures_that_are_spelt_otherwise(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, [LENS] * 3)
    for path in sorted((tmp_path / "images").iterdir()):
        save(tmp_path / "images_2" / path.name, np.full((15, 20, 3), 7, np.uint8))
    (tmp_path / "images_2" / "._frame_00000.png").write_bytes(b"what macOS notes of a file")
    data = read_json(tmp_path / "transforms.json")
    for frame in data["frames"]:
        frame["file_path"] = frame["file_path"].replace("/", "\\").removesuffix(".png")
    write_json(tmp_path / "transforms.json", data)
    for view in load_scene(tmp_path, downscale=2).views:
        assert view.path.parent.name == "images_2" and view.downscale == 1


@pytest.mark.parametrize("case", ["backslash", "noext_jpg"])
def test_nerf_trains_on_such_scenes(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_nerfstudio(tmp_path / "scene", [LENS] * 10)
    data = read_json(tmp_path / "scene" / "transforms.json")
    for frame in data["frames"]:
        path = tmp_path / "scene" / frame["file_path"]
        if case == "noext_jpg":
            with Image.open(path) as image:
                image.convert("RGB").save(path.with_suffix(".jpg"))
            path.unlink()
            frame["file_path"] = frame["file_path"].removesuffix(".png")
        else:
            frame["file_path"] = frame["file_path"].replace("/", "\\")
    write_json(tmp_path / "scene" / "transforms.json", data)
    main(["nerf", str(tmp_path / "scene"), "-o", str(tmp_path / "run"), "--steps", "2", "--device", "cpu"])
    assert (tmp_path / "run" / "metrics.json").is_file() and "lacks" not in capfd.readouterr().err
    assert read_json(tmp_path / "run" / "metrics.json")["training_views"] == 8


# -- texts ---------------------------------------------------------------------------------------------------------

MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}


def mark(path: Path, encoding: str) -> None:
    """As editors on Windows save a text: with a byte-order mark and carriage returns."""
    path.write_bytes(MARKS[encoding] + path.read_text().replace("\n", "\r\n").encode(encoding))


@pytest.mark.parametrize("encoding", MARKS)
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    write: dict[str, Callable[[Path], Any]] = {
        "blender": write_blender,
        "nerfstudio": lambda folder: write_nerfstudio(folder, [LENS] * 3),
        "colmap": lambda folder: write_colmap(folder, [LENS] * 3, binary=False),
    }
    for kind, make in write.items():
        make(tmp_path / kind)
        before = load_scene(tmp_path / kind)
        texts = [path for path in (tmp_path / kind).rglob("*") if path.suffix in (".json", ".txt")]
        assert len(texts) == {"blender": 3, "nerfstudio": 1, "colmap": 3}[kind]
        for path in texts:
            mark(path, encoding)
        after = load_scene(tmp_path / kind)
        assert after.kind == kind and [view.path for view in after.views] == [view.path for view in before.views]
        for view, other in zip(after.views, before.views, strict=True):
            np.testing.assert_array_equal(view.camera_to_world, other.camera_to_world)
        assert (after.points is None) == (before.points is None)
        if before.points is not None and after.points is not None:
            np.testing.assert_array_equal(after.points, before.points)


@pytest.mark.parametrize("encoding", MARKS)
def test_a_camera_path_with_a_byte_order_mark(nerfstudio: Path, encoding: str) -> None:
    before = read_path(nerfstudio / "transforms.json")
    mark(nerfstudio / "transforms.json", encoding)
    after = read_path(nerfstudio / "transforms.json")
    assert torch.equal(after.camera_to_world, before.camera_to_world) and after.lenses == before.lenses


# -- what lies beside pictures -------------------------------------------------------------------------------------


def test_hidden_files_are_no_pictures_of_a_capture(tmp_path: Path) -> None:
    """LLFF matches rows and pictures by their order, so that a single file too many would shift all."""
    cameras = write_llff(tmp_path, 9)
    for name in ("._IMG_000.png", ".IMG_004.png", ".thumbnails/IMG_000.png", "Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"no picture")
    scene = load_scene(tmp_path)
    assert [view.path.name for view in scene.views] == [f"IMG_{index:03d}.png" for index in range(9)]
    np.testing.assert_array_equal(np.stack([view.camera_to_world for view in scene.views]), cameras.numpy())


# -- several reconstructions ---------------------------------------------------------------------------------------


def several(folder: Path, counts: dict[str, int], binary: bool) -> None:
    """A scene whose models have so many images each: the first ones of all."""
    for name, count in sorted(counts.items(), key=lambda pair: -pair[1]):  # all pictures, then models of fewer
        write_colmap(folder, [LENS] * count, binary, f"sparse/{name}")


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize(
    ("counts", "chosen"),
    [
        ({"0": 3, "1": 7, "2": 4}, "1"),
        ({"0": 7, "1": 7}, "0"),
        ({"2": 5, "10": 6}, "10"),
        ({"1": 4}, "1"),
        ({"0": 2, "1": 5, "geo": 9, ".1": 9}, "1"),
    ],
)
def test_the_largest_reconstruction_is_used(
    tmp_path: Path, counts: dict[str, int], chosen: str, binary: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    several(tmp_path, counts, binary)
    scene = load_scene(tmp_path)
    assert len(scene.views) == counts[chosen]
    said = capfd.readouterr().err
    numbered = {name: count for name, count in counts.items() if name.isdecimal()}
    if len(numbered) == 1:
        assert not said
        return
    others = [f"sparse/{name} ({count})" for name, count in sorted(numbered.items(), key=lambda pair: int(pair[0]))
              if name != chosen]  # fmt: skip
    assert said == (
        f"{tmp_path} holds {len(numbered)} reconstructions that COLMAP could not join: the one with most images is "
        f"used, sparse/{chosen} ({counts[chosen]}); left out: {', '.join(others)}\n"
    )


def test_models_of_text_and_of_bytes_beside_each_other(tmp_path: Path) -> None:
    write_colmap(tmp_path, [LENS] * 6, True, "sparse/0")
    write_colmap(tmp_path, [LENS] * 4, False, "sparse/1")
    (tmp_path / "sparse" / "2").mkdir()  # COLMAP makes the folder first
    assert len(load_scene(tmp_path).views) == 6
    (tmp_path / "sparse" / "1" / "images.txt").write_text("not a list of images")
    with pytest.raises(InputError, match=r"sparse/1/images\.txt is damaged or cut short"):
        load_scene(tmp_path)


# -- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_sizes_upright_and_as_stored(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Pillow turns TIFFs by itself and forgets that it did."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / f"a{suffix}", exif=exif)
    upright = (30, 40) if orientation >= 5 else (40, 30)
    assert picture_sizes(tmp_path / f"a{suffix}") == (upright, (40, 30))


def test_what_is_transparent_in_a_mask_is_not_learned_from(tmp_path: Path) -> None:
    mask = np.full((2, 3, 4), 255, np.uint8)
    mask[0, :, 3] = 0
    mask[1, 0, :3] = 0
    assert read_mask(save(tmp_path / "m.png", mask)).tolist() == [[False] * 3, [False, True, True]]


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 255)])
def test_a_plain_background_is_looked_for_without_hidden_colours(tmp_path: Path, hidden: tuple[int, int, int]) -> None:
    """Where transparency is not to be used, a cut-out stands on white."""
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[::7, ::5, :3] = (9, 200, 90)  # no plain colour, were it seen
    pixels[10:20, 5:25] = (200, 30, 40, 255)
    subject = read_subject(save(tmp_path / "a.png", pixels), 64, foreground="plain")
    assert subject.found_by == "plain background" and subject.box == (5, 10, 25, 20)
    shown = on_background(subject.rgba)
    assert shown[0].min() > 0.7 and shown[1].min() > 0.1  # red and white, nothing else
