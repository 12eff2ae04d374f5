"""Pictures, there and back."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES
from core2d.media import pictures as media
from core2d.media.colors import on_color
from core2d.media.sheets import check_singles


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def ramp(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture that lossy formats keep well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 2, 255 - x][:channels], -1).astype(np.uint8)


# -- pictures ------------------------------------------------------------------------------------------


def test_floats_become_the_nearest_bytes():
    values = torch.tensor([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0]).reshape(1, 1, 6)
    assert media.to_uint8(values).ravel().tolist() == [0, 0, 0, 1, 255, 255]
    every = torch.arange(256).reshape(1, 16, 16) / 255
    assert media.to_uint8(every).ravel().tolist() == list(range(256))
    for wrong in (torch.full((3, 2, 2), torch.nan), torch.zeros(3, 2, 2, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="finite floats"):
            media.to_uint8(wrong)


def test_a_grid_is_filled_row_by_row():
    pictures = np.stack([np.full((2, 3, 3), value, np.uint8) for value in range(5)])
    grid = media.image_grid(pictures, columns=3)
    assert grid.shape == (4, 9, 3)
    corners = grid[::2, ::3, 0]
    assert corners.tolist() == [[0, 1, 2], [3, 4, 255]]
    floats = torch.from_numpy(pictures).movedim(-1, 1) / 255
    assert np.array_equal(media.image_grid(floats, columns=3), grid)
    assert media.image_grid(pictures[:4]).shape == (4, 6, 3)  # about square by default
    for wrong in (pictures[:0], pictures[0], pictures.astype(float)):
        with pytest.raises(ValueError, match="a grid takes"):
            media.image_grid(wrong)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_there_and_back(tmp_path: Path, suffix: str, channels: int):
    path, picture = tmp_path / f"Mug{suffix.upper()}", ramp(33, 47, channels)
    if suffix in (".jpg", ".jpeg") and channels == 4:
        with pytest.raises(InputError, match="no transparency"):
            media.save_image(path, picture)
        assert not list(tmp_path.iterdir())
        return
    assert media.save_image(path, picture) == path and [*tmp_path.iterdir()] == [path]
    back = media.read_image(path).astype(int)
    assert back.shape == picture.shape
    assert np.abs(back - picture).max() <= (12 if suffix in (".jpg", ".jpeg") else 0)
    visible = picture[..., 3:] != 0 if channels == 4 else True
    assert np.abs((back - picture) * visible).mean() < 2


def test_tensors_are_saved_as_pictures_and_grids(tmp_path: Path):
    images = torch.from_numpy(noise(4, 8, 6, 3)).movedim(-1, 1) / 255
    media.save_image(tmp_path / "one.png", images[0].requires_grad_())
    media.save_image(tmp_path / "four.png", images)
    assert np.array_equal(media.read_image(tmp_path / "one.png"), media.to_uint8(images[0]))
    assert np.array_equal(media.read_image(tmp_path / "four.png"), media.image_grid(images))


def test_a_png_says_where_it_comes_from(tmp_path: Path):
    text = {"prompt": "ein roter Krug 🍵\nzwei", "seed": 3}
    media.save_image(tmp_path / "mug.png", ramp(8, 8), text=text)
    assert media.read_image_text(tmp_path / "mug.png") == {"prompt": "ein roter Krug 🍵\nzwei", "seed": "3"}


def test_pictures_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"must end in one of \.png"):
        media.save_image(tmp_path / "mug.bmp", ramp(8, 8))
    with pytest.raises(ValueError, match=r"not \(8, 8\) of float64"):
        media.save_image(tmp_path / "mug.png", np.zeros((8, 8)))

    def full_disk(*_: object, **__: object):
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        media.save_image(tmp_path / "new" / "mug.png", ramp(8, 8))
    assert not list(tmp_path.iterdir())


def test_pictures_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    media.save_image(tmp_path / "mug.png", noise(40, 40, 3))
    whole = (tmp_path / "mug.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(ramp(8, 8)).save(tmp_path / "mug.gif")
    (tmp_path / "pointer.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    damaged = (
        "cannot be read as PNG, JPEG, WebP, TIFF or BMP: it is damaged or cut short, or of another kind; replace it"
    )
    said = {name: f"{tmp_path / name} {damaged}" for name in ("cut.png", "text.png", "mug.gif")}
    said |= {name: f"no picture at {tmp_path / name}" for name in ("none.png", ".", "mug.png/inside.png")}
    fetch = "is a Git LFS pointer: fetch the file itself with `git lfs pull`"
    for name, words in (said | {"pointer.png": f"{tmp_path / 'pointer.png'} {fetch}"}).items():
        with pytest.raises(media.UnreadablePicture) as caught:
            media.read_image(tmp_path / name)
        assert str(caught.value) == words
    monkeypatch.setattr(media, "LARGEST_PICTURE", 1599)
    with pytest.raises(InputError, match="40 x 40 pixels: more than 64 million, make it smaller"):
        media.read_image(tmp_path / "mug.png")


@pytest.mark.parametrize(("kind", "reason"), [("float32", "floating-point"), ("int32", "32 bits"), ("int16", "a sign")])
def test_pixels_whose_white_is_unknown_are_refused(tmp_path: Path, kind: str, reason: str):
    Image.fromarray(np.ones((2, 3), kind)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=rf"a\.tif has .*{reason}.*: save it with 8 or 16 bits a channel"):
        media.read_image(tmp_path / "a.tif")


# -- what kinds of files become ------------------------------------------------------------------------


KNOWN = {".png": "1 L RGB P", ".jpg": "L RGB CMYK", ".webp": "RGB", ".tif": "1 L RGB P CMYK", ".bmp": "1 L RGB P"}


@pytest.mark.parametrize(
    ("suffix", "mode"), [(suffix, mode) for suffix, said in KNOWN.items() for mode in said.split()]
)
def test_opaque_pictures_become_three_channels(tmp_path: Path, suffix: str, mode: str):
    image = Image.fromarray(ramp(12, 16)).convert(mode)
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {"quality": 100}
    image.save(tmp_path / f"a{suffix}", **options)
    pixels = media.read_image(tmp_path / f"a{suffix}")
    assert pixels.shape == (12, 16, 3) and pixels.dtype == np.uint8
    difference = np.abs(pixels.astype(int) - np.asarray(image.convert("RGB")))
    assert difference.mean() < 12 if suffix == ".jpg" else difference.max() == 0


def test_grey_of_sixteen_bits_keeps_its_tones(tmp_path: Path):
    values = np.array([[0, 1, 128, 129, 257, 300, 32768, 65407, 65408, 65535]], np.uint16)
    expected = [0, 0, 0, 1, 1, 1, 128, 255, 255, 255]
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        pixels = media.read_image(tmp_path / name)
        assert pixels.shape == (1, 10, 3)
        for channel in range(3):
            assert pixels[0, :, channel].tolist() == expected
    Image.frombytes("I;16B", (10, 1), values.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    np.testing.assert_array_equal(media.read_image(tmp_path / "big.tif"), pixels)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path: Path, width: int, bits: int, kind: int, row: bytes, clear: bytes = b"") -> Path:
    """One row of pixels as the PNG specification has it; kinds: 0 grey, 2 colours, 4 grey and alpha, 6 both."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0))
    pieces = [header, chunk(b"tRNS", clear) if clear else b"", chunk(b"IDAT", zlib.compress(b"\0" + row))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(pieces) + chunk(b"IEND", b""))
    return path


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize(
    ("bits", "kind", "row", "clear", "expected"),
    [
        (1, 0, b"\x40", numbers(1), [(0, 255), (255, 0)]),
        (2, 0, b"\x18", numbers(1), [(0, 255), (85, 0), (170, 255)]),
        (4, 0, b"\x0f\x3a", numbers(15), [(0, 255), (255, 0), (51, 255), (170, 255)]),
        (8, 0, b"\x07\x08", numbers(7), [(7, 0), (8, 255)]),
        (16, 0, numbers(0, 0x1234, 0x1235, 65535), numbers(0x1234), [(0, 255), (18, 0), (18, 255), (255, 255)]),
        (8, 2, b"\x01\x01\x01\x02\x02\x02", numbers(1, 1, 1), [(1, 0), (2, 255)]),
        (16, 2, numbers(*[0x1234] * 3, *[0x5678] * 3), numbers(*[0x1234] * 3), [(0x12, 0), (0x56, 255)]),
        (8, 4, b"\x07\xff\x08\x80\x09\x00", b"", [(7, 255), (8, 128), (9, 0)]),
        (16, 4, numbers(0x0712, 65535, 0x0812, 0x8012, 0x0912, 0), b"", [(7, 255), (8, 128), (9, 0)]),
        (16, 6, numbers(*[0x0712] * 3, 65535, *[0x0812] * 3, 0), b"", [(7, 255), (8, 0)]),
    ],
)
def test_every_transparency_of_a_png(
    tmp_path: Path, bits: int, kind: int, row: bytes, clear: bytes, expected: list[tuple[int, int]]
):
    """The colour that a PNG calls clear is told in its own bit depth."""
    pixels = media.read_image(png(tmp_path / "a.png", len(expected), bits, kind, row, clear))
    assert pixels[0].tolist() == [[grey, grey, grey, alpha] for grey, alpha in expected]
    flat = media.read_image(tmp_path / "a.png", background=(255, 255, 255))
    assert flat[0, :, 0].tolist() == [round(grey * alpha / 255 + 255 - alpha) for grey, alpha in expected]


def test_palettes_with_transparency(tmp_path: Path):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "one.png", transparency=0)
    image.save(tmp_path / "some.png", transparency=bytes([0, 128, 255]))
    assert media.read_image(tmp_path / "one.png")[0].tolist() == [[10, 20, 30, 0], [40, 50, 60, 255], [70, 80, 90, 255]]
    assert media.read_image(tmp_path / "some.png")[0, :, 3].tolist() == [0, 128, 255]


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 255)])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_a_hidden_colour_is_never_seen(tmp_path: Path, suffix: str, hidden: tuple[int, int, int]):
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[1:3, 2:4] = (10, 200, 30, 255)
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", **options)
    for background in ((255, 255, 255), (0, 0, 0), (9, 90, 200)):
        expected = np.full((4, 6, 3), background, np.uint8)
        expected[1:3, 2:4] = (10, 200, 30)
        np.testing.assert_array_equal(media.read_image(tmp_path / f"a{suffix}", background), expected)


def test_laying_on_a_colour_is_rounded_and_leaves_opaque_pixels_alone():
    alpha, value = (axis.ravel() for axis in np.mgrid[:256, :256])
    pixels = np.stack([value, 255 - value, value, alpha], axis=1).astype(np.uint8)
    for color in ((255, 255, 255), (0, 128, 77)):
        exact = pixels[:, :3] * (alpha / 255)[:, None] + np.array(color) * (1 - alpha / 255)[:, None]
        laid = on_color(pixels, color)
        assert laid.dtype == np.uint8 and np.abs(laid - exact).max() <= 0.5
        np.testing.assert_array_equal(laid[alpha == 255], pixels[alpha == 255, :3])
        assert (laid[alpha == 0] == color).all()
    assert on_color(pixels[:, :3]) is not None and (on_color(pixels[:, :3]) == pixels[:, :3]).all()


# -- turned pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_orientation(tmp_path: Path, suffix: str, orientation: int):
    stored = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(stored).save(path, exif=exif, **options)
    turns = {3: 2, 6: 3, 8: 1}  # quarters counter-clockwise
    mirrored = {2: stored[:, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1), 7: np.rot90(stored, 2).swapaxes(0, 1)}
    expected = mirrored.get(orientation, np.rot90(stored, turns.get(orientation, 0)))
    np.testing.assert_array_equal(media.read_image(path), expected)
    np.testing.assert_array_equal(media.read_image(path, upright=False), stored)
    header = media.read_header(path)
    assert header.size == expected.shape[1::-1] and header.stored == (6, 4) and header.frames == 1
    assert header.kind == {".png": "PNG", ".tif": "TIFF", ".webp": "WEBP"}[suffix]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["grey", "grey of 16 bits", "with transparency"])
def test_a_plain_tiff_is_turned_as_a_png_is(tmp_path: Path, kind: str, orientation: int):
    """Of kinds whose pixels Pillow maps from the file, where it takes the width of the turned picture."""
    stored = {"grey": noise(4, 6, 1)[..., 0], "with transparency": noise(4, 6, 4)}.get(kind)
    picture = Image.fromarray(noise(4, 6, 1)[..., 0].astype(np.uint16) * 257 if stored is None else stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in (".png", ".tif"):
        picture.save(tmp_path / f"a{suffix}", exif=exif)
    for upright in (True, False):
        expected = media.read_image(tmp_path / "a.png", upright=upright)
        assert expected.shape[:2] == ((6, 4) if upright and orientation >= 5 else (4, 6))
        np.testing.assert_array_equal(media.read_image(tmp_path / "a.tif", upright=upright), expected)


def test_a_damaged_exif_does_not_make_a_picture_unreadable(tmp_path: Path):
    Image.fromarray(noise(4, 6, 3)).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.png"), noise(4, 6, 3))


# -- profiles ------------------------------------------------------------------------------------------


def profile(primaries: tuple[float, ...], gamma: float) -> bytes:
    """A profile of a screen, from the specification of ICC: a matrix of three columns and a curve.

    Args:
        primaries: XYZ of red, green and blue, as seen under D50.
        gamma: of the curve.
    """

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    columns = [b"XYZ \0\0\0\0" + fixed(*primaries[start : start + 3]) for start in (0, 3, 6)]
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True))
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + body


ADOBE_RGB = profile((0.60974, 0.31111, 0.01947, 0.20528, 0.62567, 0.06087, 0.14919, 0.06322, 0.74457), 2.19921875)
SRGB_LIKE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("alpha", [False, True])
def test_a_wide_profile_is_followed(tmp_path: Path, alpha: bool):
    """Adobe RGB into sRGB, by the two definitions."""
    pixels = np.array([[[128, 128, 128], [200, 150, 120], [60, 90, 200], [180, 190, 150]]], np.uint8)
    linear = (pixels / 255.0) ** 2.19921875
    to_xyz = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    light = linear @ to_xyz.T @ np.linalg.inv(srgb).T
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clip(0.0031308) ** (1 / 2.4) - 0.055) * 255
    clear = np.array([[[255], [128], [0], [7]]], np.uint8)
    stored = np.concatenate([pixels, clear], axis=2) if alpha else pixels
    Image.fromarray(stored).save(tmp_path / "a.png", icc_profile=ADOBE_RGB)
    found = media.read_image(tmp_path / "a.png")
    assert found.shape[2] == (4 if alpha else 3) and np.abs(found[..., :3] - expected).max() <= 1.5
    assert np.abs(found[..., :3].astype(int) - pixels).max() >= 8
    if alpha:
        np.testing.assert_array_equal(found[..., 3:], clear)


def test_profiles_that_say_nothing_new_or_do_not_fit_change_nothing(tmp_path: Path):
    pixels = noise(30, 40, 3)
    for name, one in {"same": SRGB_LIKE, "cut": ADOBE_RGB[:150], "empty": b"\0"}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", icc_profile=one)
        np.testing.assert_array_equal(media.read_image(tmp_path / f"{name}.png"), pixels)
    cmyk = Image.fromarray(ramp(8, 8)).convert("CMYK")
    for name, one in {"plain.jpg": None, "odd.jpg": ADOBE_RGB}.items():
        cmyk.save(tmp_path / name, quality=95, icc_profile=one)
    np.testing.assert_array_equal(media.read_image(tmp_path / "odd.jpg"), media.read_image(tmp_path / "plain.jpg"))


def test_colours_of_lab_become_srgb(tmp_path: Path):
    patches = np.array([[[255, 255, 255], [128, 128, 128], [200, 60, 50], [40, 90, 200]]], np.uint8)
    lab = ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), lab, "RGB", "LAB")
    stored = ImageCms.applyTransform(Image.fromarray(patches), to_lab)
    assert stored is not None
    stored.save(tmp_path / "a.tif")
    assert np.abs(media.read_image(tmp_path / "a.tif").astype(int) - patches).max() <= 3


# -- folders -------------------------------------------------------------------------------------------


def test_hidden_files_beside_pictures_do_not_count(tmp_path: Path):
    for name in ("b.PNG", "a.jpg", "deep/c.tiff", ".hidden.png", "._a.jpg", "Thumbs.db", "desktop.ini", "notes.txt",
                 ".cache/d.png", "__MACOSX/._b.png", "deep/.e/f/g.png", ".DS_Store"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in media.pictures_in(tmp_path)]
    assert found == ["a.jpg", "b.PNG", "deep/c.tiff"]
    hidden_above = media.pictures_in(tmp_path / ".cache")
    assert [path.name for path in hidden_above] == ["d.png"]  # what was asked for may itself be hidden
    assert media.pictures_in(tmp_path / "none") == []


def test_only_single_pictures_of_an_earlier_run_are_replaced(tmp_path: Path):
    folder = tmp_path / "sheet"
    folder.mkdir()
    for name in ("000.png", "001.png", ".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
        (folder / name).write_bytes(b"")
    check_singles(tmp_path / "sheet.png")
    for name in ("notes.txt", ".git", ".000.png.swp"):
        (folder / name).write_bytes(b"")
        with pytest.raises(InputError, match="holds something else: name another output"):
            check_singles(tmp_path / "sheet.png")
        (folder / name).unlink()
