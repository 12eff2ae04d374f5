"""Videos, there and back."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core2d.app.errors import InputError
from core2d.media import videos
from core2d.media.ffmpeg import command


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
    shown = subprocess.run(command(["-loglevel", "info", "-i", str(tmp_path / "a.mp4")]),
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
    monkeypatch.setitem(videos.ENCODERS, ".mp4", ["-c:v", "nonsense", "-f", "mp4"])
    with pytest.raises(RuntimeError, match=r"ffmpeg failed: .*nonsense"):
        videos.write_video(tmp_path / "clip.mp4", noise(50, 64, 64, 3), 8)
    assert not list(tmp_path.iterdir())


def test_videos_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        videos.read_video(tmp_path / "text.mp4")
    with pytest.raises(InputError, match="no video at"):
        videos.read_video(tmp_path / "none.mp4")


# -- every format --------------------------------------------------------------------------------------------------

FORMATS = (*videos.VIDEO_SUFFIXES, "")
LOSSLESS = (".apng", "")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 1, 1), (4, 71, 53), (5, 2, 90), (12, 32, 48)])
def test_exactly_these_frames_in_every_format(tmp_path: Path, suffix: str, shape: tuple[int, int, int]):
    """The count is exact, also of frames that are all alike; sides are as they were, but for the MP4's even ones."""
    count, height, width = shape
    frames = np.stack([ramp(height, width)] * count)
    frames[count // 2 :] //= 2
    path = videos.write_video(tmp_path / f"clip{suffix}", iter(frames), 8)
    back, rate = videos.read_video(path)
    sides = (height + height % 2, width + width % 2) if suffix == ".mp4" else (height, width)
    assert back.shape == (count, *sides, 3)
    if count > 1:  # of a single one, some formats do not say how long it is shown
        assert abs((count - 1) / rate - Fraction(count - 1, 8)) <= (Fraction(1, 100) if suffix == ".gif" else 0)
    difference = np.abs(back[:, :height, :width].astype(int) - frames)
    assert difference.max() == 0 if suffix in LOSSLESS else difference.mean() < 30
    brightness = np.abs(back.mean((1, 2, 3)) - frames.mean((1, 2, 3)))
    assert brightness.max() < 20  # each in its place


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(1, 2), 30, Fraction(25, 2)])
def test_rates_are_exact_where_the_format_can(tmp_path: Path, suffix: str, fps: Fraction | int):
    path = videos.write_video(tmp_path / f"clip{suffix}", [ramp(16, 16)] * 25, fps)
    _, rate = videos.read_video(path)
    if suffix != ".gif":
        assert rate == fps
    else:  # it counts hundredths of a second, and says no rate
        assert abs(24 / rate - 24 / Fraction(fps)) <= Fraction(1, 100)


@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("fps", [7, 8, 24, Fraction(24000, 1001), Fraction(30000, 1001), 60, Fraction(25, 2), 120])
def test_a_webm_says_its_rate_where_its_clock_cannot(tmp_path: Path, fps: Fraction | int, count: int):
    """Its times are whole thousandths of a second: two frames of 24 a second would be read as 23.8."""
    path = videos.write_video(tmp_path / "clip.webm", [ramp(16, 16)] * count, fps)
    assert videos.video_rate(path) == fps


@pytest.mark.parametrize("fps", [8, 12, 15, 24, 30])
def test_a_gif_whose_times_waver_has_the_whole_rate_that_they_agree_with(tmp_path: Path, fps: int):
    path = videos.write_video(tmp_path / "clip.gif", [ramp(16, 16) // index for index in range(1, 17)], fps)
    assert videos.video_rate(path) == fps
    steady = videos.write_video(tmp_path / "steady.gif", [ramp(16, 16)] * 3, Fraction(100, 7))
    assert videos.video_rate(steady) == Fraction(100, 7)  # and not 14


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_video_says_where_it_comes_from(tmp_path: Path, suffix: str):
    text = {"prompt": 'ein roter Krug 🍵; =\\\nzwei # "drei"', "seed": 3, "long": "x" * 600}
    path = videos.write_video(tmp_path / f"clip{suffix}", [ramp(16, 16)] * 3, 8, text)
    assert videos.read_video_text(path) == text
    assert len(videos.read_video(path)[0]) == 3
    plain = videos.write_video(tmp_path / f"plain{suffix}", [ramp(16, 16)] * 3, 8)
    assert videos.read_video_text(plain) == {}


def test_odd_sides_are_refused_where_that_is_asked(tmp_path: Path):
    with pytest.raises(InputError, match="15 x 16 pixels, and an MP4 has even sides"):
        videos.write_video(tmp_path / "a.mp4", [ramp(16, 15)], 8, pad=False)
    assert not list(tmp_path.iterdir())
    videos.write_video(tmp_path / "a.webm", [ramp(16, 15)], 8, pad=False)


def test_ten_thousand_frames_in_little_memory(tmp_path: Path):
    """Neither way holds more than a few frames."""
    count, held = 10_000, 0

    def frames():
        frame = np.zeros((64, 64, 3), np.uint8)
        for index in range(count):
            frame[:] = index % 251
            yield frame

    path = videos.write_video(tmp_path / "long.mp4", frames(), 60)
    for index, frame in enumerate(videos.read_frames(path)):
        assert abs(int(frame[5, 5, 0]) - index % 251) <= 3
        held = index + 1
    assert held == count and videos.video_rate(path) == 60


LONG_GIF = """
import resource, sys
import numpy as np
from core2d.media.videos import write_video
picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
write_video(sys.argv[1], (np.roll(picture, index, 1) for index in range(int(sys.argv[2]))), 25)
print(*(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def test_a_long_gif_in_as_much_memory_as_a_short_one(tmp_path: Path):
    """ffmpeg itself would hold all frames until it has chosen their palette."""
    used = {}
    for count in (50, 900):  # of 36 kB each
        arguments = [sys.executable, "-c", LONG_GIF, str(tmp_path / f"{count}.gif"), str(count)]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)
        used[count] = np.array([int(kilobytes) for kilobytes in done.stdout.split()])
    assert (used[900] - used[50] < 16_000).all()  # kilobytes; they would be 40 000 apart
    assert sorted(path.name for path in tmp_path.iterdir()) == ["50.gif", "900.gif"]


def test_a_gif_has_the_palette_of_all_its_frames(tmp_path: Path):
    """Byte for byte what ffmpeg writes where it keeps all frames to choose the palette."""
    frames = [np.roll(ramp(40, 56), index, 1) // (1 + index % 3) for index in range(12)]
    path = videos.write_video(tmp_path / "clip.gif", frames, Fraction(25, 2))
    graph = "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=bayer:bayer_scale=4"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "56x40", "-r", "25/2", "-i", "-"]
    exact = ["-fps_mode", "passthrough", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    arguments = [*raw, *exact, "-filter_complex", graph, "-loop", "0", str(tmp_path / "whole.gif")]
    subprocess.run(command(arguments), input=np.stack(frames).tobytes(), check=True, capture_output=True)
    assert path.read_bytes() == (tmp_path / "whole.gif").read_bytes()


def test_the_palette_of_a_long_gif_is_chosen_by_frames_from_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(videos, "PALETTE_PIXELS", 4 * 16 * 16)
    colours = np.array([[230, 40, 30], [40, 180, 60], [30, 60, 220], [240, 200, 40]], np.uint8)
    frames = [np.full((16, 16, 3), colours[index // 10], np.uint8) for index in range(40)]
    back, _ = videos.read_video(videos.write_video(tmp_path / "clip.gif", frames, 10))
    assert len(back) == 40 and np.abs(back.astype(int) - np.stack(frames)).mean() < 4


def test_a_video_too_long_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    videos.write_video(tmp_path / "a.mp4", [ramp(16, 16)] * 9, 8)
    monkeypatch.setattr(videos, "LARGEST_IN_MEMORY", 5 * 16 * 16 * 3)
    with pytest.raises(InputError, match="GiB of frames: cut it first"):
        videos.read_video(tmp_path / "a.mp4")


# -- videos as people have them ------------------------------------------------------------------------------------


def made(path: Path, *arguments: str, source: str = "testsrc=size=64x48:rate=10:duration=1") -> Path:
    """A video of ffmpeg's test picture, made with these arguments."""
    subprocess.run(command(["-f", "lavfi", "-i", source, *arguments, str(path)]), check=True, capture_output=True)
    return path


def reference(tmp_path: Path) -> np.ndarray:
    return videos.read_video(made(tmp_path / "reference.apng", "-c:v", "apng", "-f", "apng"))[0].astype(int)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv420p10le"),
        ("-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuvj444p", "-color_range", "pc"),
        ("-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv444p"),
        ("-c:v", "libx265", "-crf", "4", "-pix_fmt", "yuv420p10le", "-f", "mp4"),
        ("-c:v", "mpeg4", "-q:v", "1"),
        ("-c:v", "libvpx-vp9", "-crf", "4", "-b:v", "0", "-f", "matroska"),
        ("-c:v", "ffv1", "-f", "matroska"),
    ],
    ids=lambda arguments: " ".join(arguments[1::2]),
)
def test_common_encodings_are_read_rightly(tmp_path: Path, arguments: tuple[str, ...]):
    """Ten bits, full range, other codecs: the same picture, also where its flat colours are."""
    back, rate = videos.read_video(made(tmp_path / "clip.mp4", *arguments))
    expected = reference(tmp_path)
    assert back.shape == expected.shape and rate == 10
    assert np.abs(back - expected).mean() < 8


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv420p10le", "yuv444p"])
def test_a_middling_colour_stays_what_it_is(tmp_path: Path, pixels: str):
    """Full range read as limited, or the other way, would be eight levels and more away."""
    made(tmp_path / "flat.mp4", "-c:v", "libx264", "-crf", "4", "-pix_fmt", pixels, "-color_range",
         "pc" if pixels == "yuvj420p" else "tv", source="color=c=0xc8a03c:size=64x48:rate=10:duration=1")  # fmt: skip
    color = videos.read_video(tmp_path / "flat.mp4")[0].reshape(-1, 3).astype(int)
    assert np.abs(color - (0xC8, 0xA0, 0x3C)).max() <= 3


def test_a_turned_video_is_read_upright(tmp_path: Path):
    made(tmp_path / "flat.mp4", "-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv444p")
    turn = ["-display_rotation", "90", "-i", str(tmp_path / "flat.mp4"), "-c", "copy", str(tmp_path / "turned.mp4")]
    subprocess.run(command(turn), check=True, capture_output=True)
    flat, turned = videos.read_video(tmp_path / "flat.mp4")[0], videos.read_video(tmp_path / "turned.mp4")[0]
    assert turned.shape == (10, 64, 48, 3)
    assert np.abs(turned.astype(int) - np.rot90(flat, 1, axes=(1, 2))).mean() < 1


def test_pixels_become_square(tmp_path: Path):
    made(tmp_path / "wide.mp4", "-vf", "setsar=3/2", "-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv444p")
    assert videos.read_video(tmp_path / "wide.mp4")[0].shape == (10, 48, 96, 3)


def test_a_variable_rate_keeps_every_frame_and_the_mean(tmp_path: Path):
    made(tmp_path / "uneven.mkv", "-vf", "setpts='if(lt(N,5),N,5+2*(N-5))/10/TB'", "-fps_mode", "vfr",
         "-c:v", "ffv1")  # fmt: skip
    frames, rate = videos.read_video(tmp_path / "uneven.mkv")
    assert len(frames) == 10 and Fraction(11, 2) < rate < Fraction(15, 2)


BROKEN = "it is damaged or cut short, or of another kind; replace it"


def test_what_is_no_video_is_one_clear_error_in_our_words(tmp_path: Path):
    whole = videos.write_video(tmp_path / "whole.mp4", noise(30, 64, 64, 3), 8).read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[:200])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.webm").write_text("no video")
    (tmp_path / "pointer.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    made(tmp_path / "sound.mp4", "-c:a", "aac", source="sine=duration=1")
    made(tmp_path / "sound.mp3", source="sine=duration=1")
    sound = "there is sound in it, but no pictures"
    said = {"head.mp4": BROKEN, "empty.mp4": BROKEN, "text.webm": BROKEN, "sound.mp4": sound, "sound.mp3": sound}
    for read in (videos.read_video, videos.video_rate, lambda path: list(videos.read_frames(path))):
        for name, words in said.items():
            with pytest.raises(InputError) as caught:
                read(tmp_path / name)
            assert str(caught.value) == f"{tmp_path / name} cannot be read as a video: {words}"
        with pytest.raises(InputError, match=r"pointer\.mp4 is a Git LFS pointer: fetch the file itself"):
            read(tmp_path / "pointer.mp4")


def test_folders_that_are_no_clip(tmp_path: Path):
    folder = videos.write_video(tmp_path / "frames", [ramp(16, 24)] * 3, 8)
    facts = json.loads((folder / "video.json").read_text())
    Image.fromarray(ramp(20, 18)).save(folder / "000001.png")
    with pytest.raises(InputError) as caught:
        videos.read_video(folder)
    sizes = f"{folder / '000001.png'} is 18 x 20 pixels, but {folder / '000000.png'} is 24 x 16 pixels"
    assert str(caught.value) == f"{sizes}: make the frames of a clip one size"
    (folder / "000001.png").unlink()
    with pytest.raises(InputError, match=r"no picture at .*000001\.png"):
        videos.read_video(folder)
    for change in ({"frames": 0}, {"frames": -1}, {"frames": "many"}, {"fps": "0"}, {"fps": "1/0"}, {"fps": None}):
        (folder / "video.json").write_text(json.dumps(facts | change))
        with pytest.raises(InputError, match=r"frames is no folder of frames: its video\.json cannot be read"):
            videos.read_video(folder)
    (folder / "video.json").unlink()
    with pytest.raises(InputError, match="no folder of frames"):
        videos.read_video(folder)


def test_a_folder_too_large_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = videos.write_video(tmp_path / "frames", [ramp(16, 16)] * 9, 8)
    monkeypatch.setattr(videos, "LARGEST_IN_MEMORY", 5 * 16 * 16 * 3)
    with pytest.raises(InputError, match="GiB of frames: cut it first"):
        videos.read_video(folder)


def test_a_folder_that_was_edited_on_windows_is_read(tmp_path: Path):
    folder = videos.write_video(tmp_path / "frames", [ramp(16, 16)] * 3, Fraction(24000, 1001), {"seed": 3})
    facts = folder / "video.json"
    facts.write_bytes(b"\xef\xbb\xbf" + facts.read_bytes().replace(b"\n", b"\r\n"))
    (folder / "._000000.png").write_bytes(b"what macOS notes of a file")
    frames, rate = videos.read_video(folder)
    assert len(frames) == 3 and rate == Fraction(24000, 1001) and videos.read_video_text(folder) == {"seed": 3}


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 255)])
def test_colours_under_transparency_are_never_seen(tmp_path: Path, hidden: tuple[int, int, int]):
    """A half transparent square on what is fully transparent, in both kinds of video that have transparency of PNG."""
    pixels = np.zeros((16, 24, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[4:12, 4:12] = (10, 200, 30, 128)
    expected = np.full((16, 24, 3), 255, np.uint8)
    expected[4:12, 4:12] = (132, 227, 142)
    picture = Image.fromarray(pixels)
    later = Image.fromarray(np.fliplr(pixels).copy())
    picture.save(tmp_path / "clip.apng", format="PNG", save_all=True, append_images=[later], duration=100)
    folder = videos.write_video(tmp_path / "frames", [ramp(16, 24)] * 2, 10)
    picture.save(folder / "000000.png")
    later.save(folder / "000001.png")
    for path in (tmp_path / "clip.apng", folder):
        frames, rate = videos.read_video(path)
        assert rate == 10
        np.testing.assert_array_equal(frames, [expected, np.fliplr(expected)])


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".apng"])
@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_a_file_that_breaks_off_is_never_read_as_a_shorter_clip(tmp_path: Path, suffix: str, kept: float):
    whole = videos.write_video(tmp_path / f"whole{suffix}", noise(30, 64, 64, 3), 10).read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: int(kept * len(whole))])  # the index is whole, the frames are not
    with pytest.raises(InputError, match=f"cut{suffix} cannot be read as a video: {BROKEN}"):
        videos.read_video(tmp_path / f"cut{suffix}")


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something else than frames of ours"):
        videos.write_video(tmp_path / "mine", [ramp(8, 8)], 8)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    (tmp_path / "frames").mkdir()
    for count in (3, 2):
        (tmp_path / "frames" / ".DS_Store").write_bytes(b"what a file manager leaves")
        videos.write_video(tmp_path / "frames", [ramp(8, 8)] * count, 8)
    assert len(videos.read_video(tmp_path / "frames")[0]) == 2
