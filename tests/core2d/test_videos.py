"""Videos, there and back."""

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from core2d import videos
from core2d.errors import InputError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """A picture that lossy formats keep well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 2], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("fps", "count"),
    [(8, 16), (Fraction(30000, 1001), 7), (Fraction(25, 2), 1), (Fraction(1, 3), 2), (120, 121)],
)
def test_exactly_these_frames_at_exactly_this_rate(tmp_path: Path, fps: int | Fraction, count: int):
    frames = np.stack([np.full((32, 48, 3), 255 * index // count, np.uint8) for index in range(count)])
    assert videos.write_video(tmp_path / "clip.mp4", frames, fps) == tmp_path / "clip.mp4"
    back, rate = videos.read_video(tmp_path / "clip.mp4")
    assert back.shape == frames.shape and rate == fps
    assert np.abs(back.astype(int) - frames).max() <= 3  # so each is in its place, and BT.709 is read as written
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_colours_survive(tmp_path: Path):
    colours = np.array([[230, 40, 30], [40, 180, 60], [30, 60, 220], [240, 200, 40], [128, 128, 128]], np.uint8)
    frame = np.repeat(np.repeat(colours[None], 16, 0), 16, 1)  # (16, 80, 3)
    videos.write_video(tmp_path / "clip.mp4", [frame] * 3, 8)
    back, _ = videos.read_video(tmp_path / "clip.mp4")
    centres = back[:, 8, 8::16].astype(int)  # (3, 5, 3): away from the borders, where colour is at half resolution
    assert np.abs(centres - colours).max() <= 4


def test_odd_sides_grow_by_a_copy_of_the_edge(tmp_path: Path):
    frame = ramp(33, 47)
    videos.write_video(tmp_path / "clip.mp4", iter([frame, frame]), 8)
    back, _ = videos.read_video(tmp_path / "clip.mp4")
    padded = np.pad(frame, ((0, 1), (0, 1), (0, 0)), mode="edge").astype(int)
    assert back.shape == (2, 34, 48, 3) and np.abs(back - padded).mean() < 3


def test_the_file_plays_anywhere_and_is_the_same_each_time(tmp_path: Path):
    frames = noise(4, 16, 16, 3)
    for name in ("a.mp4", "b.mp4"):
        videos.write_video(tmp_path / name, frames, 8)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # it starts before it is loaded whole
    shown = subprocess.run(videos._command(["-loglevel", "info", "-i", str(tmp_path / "a.mp4")]),
                           capture_output=True, text=True, check=False).stderr  # fmt: skip
    assert "h264" in shown and "yuv420p(tv, bt709" in shown


def test_videos_that_cannot_be_written(tmp_path: Path):
    frame = ramp(16, 16)
    with pytest.raises(InputError, match=r"must end in one of \.mp4"):
        videos.write_video(tmp_path / "clip.avi", [frame], 8)
    with pytest.raises(ValueError, match="at least one frame"):
        videos.write_video(tmp_path / "clip.mp4", [], 8)
    with pytest.raises(ValueError, match="fps must be positive"):
        videos.write_video(tmp_path / "clip.mp4", [frame], 0)
    with pytest.raises(ValueError, match=r"frame 1 is \(8, 16, 3\)"):
        videos.write_video(tmp_path / "clip.mp4", [frame, frame[:8]], 8)
    with pytest.raises(ValueError, match="not \\(16, 16, 3\\) of float64"):
        videos.write_video(tmp_path / "clip.mp4", [frame / 255], 8)

    def interrupted():
        yield frame
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        videos.write_video(tmp_path / "clip.mp4", interrupted(), 8)
    assert not list(tmp_path.iterdir())


def test_when_ffmpeg_fails_its_words_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = videos._encode_arguments
    monkeypatch.setattr(videos, "_encode_arguments", lambda *a: ["-c:v", "nonsense", *arguments(*a)])
    with pytest.raises(RuntimeError, match=r"ffmpeg failed: .*nonsense"):
        videos.write_video(tmp_path / "clip.mp4", noise(50, 64, 64, 3), 8)
    assert not list(tmp_path.iterdir())


def test_videos_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        videos.read_video(tmp_path / "text.mp4")
    with pytest.raises(InputError, match="no video at"):
        videos.read_video(tmp_path / "none.mp4")
