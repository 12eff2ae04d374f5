"""Pictures and videos, there and back."""

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core2d import media
from core2d.errors import InputError
from core2d.run import IMAGE_SUFFIXES


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
    Image.fromarray(ramp(8, 8)).save(tmp_path / "mug.tiff")
    refused = {"none.png": "no picture at", "cut.png": "truncated"}
    refused |= dict.fromkeys(("text.png", "mug.tiff", "."), "cannot be read as PNG")
    for name, reason in refused.items():
        with pytest.raises(InputError, match=reason):
            media.read_image(tmp_path / name)
    monkeypatch.setattr(media, "LARGEST_PICTURE", 1599)
    with pytest.raises(InputError, match="40 x 40 pixels"):
        media.read_image(tmp_path / "mug.png")


def test_pictures_are_read_upright_and_in_colour(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    Image.fromarray(ramp(20, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert media.read_image(tmp_path / "turned.jpg").shape == (30, 20, 3)
    Image.fromarray(noise(5, 6)).save(tmp_path / "grey.png")
    assert media.read_image(tmp_path / "grey.png").shape == (5, 6, 3)
    Image.fromarray(noise(5, 6)).convert("P").save(tmp_path / "palette.png", transparency=0)
    assert media.read_image(tmp_path / "palette.png").shape == (5, 6, 4)


# -- videos --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fps", "count"),
    [(8, 16), (Fraction(30000, 1001), 7), (Fraction(25, 2), 1), (Fraction(1, 3), 2), (120, 121)],
)
def test_exactly_these_frames_at_exactly_this_rate(tmp_path: Path, fps: int | Fraction, count: int):
    frames = np.stack([np.full((32, 48, 3), 255 * index // count, np.uint8) for index in range(count)])
    assert media.write_video(tmp_path / "clip.mp4", frames, fps) == tmp_path / "clip.mp4"
    back, rate = media.read_video(tmp_path / "clip.mp4")
    assert back.shape == frames.shape and rate == fps
    assert np.abs(back.astype(int) - frames).max() <= 3  # so each is in its place, and BT.709 is read as written
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_colours_survive(tmp_path: Path):
    colours = np.array([[230, 40, 30], [40, 180, 60], [30, 60, 220], [240, 200, 40], [128, 128, 128]], np.uint8)
    frame = np.repeat(np.repeat(colours[None], 16, 0), 16, 1)  # (16, 80, 3)
    media.write_video(tmp_path / "clip.mp4", [frame] * 3, 8)
    back, _ = media.read_video(tmp_path / "clip.mp4")
    centres = back[:, 8, 8::16].astype(int)  # (3, 5, 3): away from the borders, where colour is at half resolution
    assert np.abs(centres - colours).max() <= 4


def test_odd_sides_grow_by_a_copy_of_the_edge(tmp_path: Path):
    frame = ramp(33, 47)
    media.write_video(tmp_path / "clip.mp4", iter([frame, frame]), 8)
    back, _ = media.read_video(tmp_path / "clip.mp4")
    padded = np.pad(frame, ((0, 1), (0, 1), (0, 0)), mode="edge").astype(int)
    assert back.shape == (2, 34, 48, 3) and np.abs(back - padded).mean() < 3


def test_the_file_plays_anywhere_and_is_the_same_each_time(tmp_path: Path):
    frames = noise(4, 16, 16, 3)
    for name in ("a.mp4", "b.mp4"):
        media.write_video(tmp_path / name, frames, 8)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # it starts before it is loaded whole
    shown = subprocess.run(media._command(["-loglevel", "info", "-i", str(tmp_path / "a.mp4")]),
                           capture_output=True, text=True, check=False).stderr  # fmt: skip
    assert "h264" in shown and "yuv420p(tv, bt709" in shown


def test_videos_that_cannot_be_written(tmp_path: Path):
    frame = ramp(16, 16)
    with pytest.raises(InputError, match=r"must end in one of \.mp4"):
        media.write_video(tmp_path / "clip.avi", [frame], 8)
    with pytest.raises(ValueError, match="at least one frame"):
        media.write_video(tmp_path / "clip.mp4", [], 8)
    with pytest.raises(ValueError, match="fps must be positive"):
        media.write_video(tmp_path / "clip.mp4", [frame], 0)
    with pytest.raises(ValueError, match=r"frame 1 is \(8, 16, 3\)"):
        media.write_video(tmp_path / "clip.mp4", [frame, frame[:8]], 8)
    with pytest.raises(ValueError, match="not \\(16, 16, 3\\) of float64"):
        media.write_video(tmp_path / "clip.mp4", [frame / 255], 8)

    def interrupted():
        yield frame
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        media.write_video(tmp_path / "clip.mp4", interrupted(), 8)
    assert not list(tmp_path.iterdir())


def test_when_ffmpeg_fails_its_words_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = media._encode_arguments
    monkeypatch.setattr(media, "_encode_arguments", lambda *a: ["-c:v", "nonsense", *arguments(*a)])
    with pytest.raises(RuntimeError, match=r"ffmpeg failed: .*nonsense"):
        media.write_video(tmp_path / "clip.mp4", noise(50, 64, 64, 3), 8)
    assert not list(tmp_path.iterdir())


def test_videos_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        media.read_video(tmp_path / "text.mp4")
    with pytest.raises(InputError, match="no video at"):
        media.read_video(tmp_path / "none.mp4")
