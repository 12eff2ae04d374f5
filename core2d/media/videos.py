"""Videos in and out, whole or absent, in the format that the name ends in.

In memory a video is `(t, h, w, 3)` of uint8, or an iterator of its frames. Files go through the ffmpeg program of
imageio-ffmpeg, as a process of its own over a pipe: neither reading nor writing holds more than a frame, unless it is
asked to.

    write_video("mug.mp4", frames, fps=8, text={"prompt": "a red mug", "seed": 3})
    frames, fps = read_video("mug.mp4")
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, check_output, write_json
from core2d.media.colors import WHITE, on_color
from core2d.media.ffmpeg import Ffmpeg, pam_frames, told
from core2d.media.pictures import is_litter, is_pointer, read_image, save_image
from core2d.media.video_text import FACTS, add_text
from core2d.media.video_text import read_video_text as read_video_text

VIDEO_SUFFIXES = (".mp4", ".webm", ".gif", ".apng")
LARGEST_IN_MEMORY = 2 << 30  # bytes that `read_video` takes at most
FASTEST_GIF = 50  # frames a second: its clock has hundredths, and programs slow down what lasts only one
EVEN = (".mp4",)  # 4:2:0 of H.264 has even sides
COLOURS = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"]
TAGS = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
PALETTE = "palettegen=stats_mode=full"
PALETTE_PIXELS = 1 << 23  # that a palette is chosen by, at most: ffmpeg keeps each colour that it has seen
LOSSLESS = ["-pix_fmt", "bgr0", "-c:v", "ffv1", "-f", "nut"]  # nut keeps any rate
DITHERED = "[0:v][1:v]paletteuse=dither=bayer:bayer_scale=4"
TIME_BASE = re.compile(r"#tb 0: (\d+)/(\d+)")  # in what ffmpeg tells of packets or frames
COARSE = Fraction(1, 1000)  # seconds: clocks that do not count finer round the rate away
# bitexact leaves the version of ffmpeg out of the file
EXACT = ["-fps_mode", "passthrough", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
ENCODERS = {
    ".mp4": [
        *COLOURS,
        "-c:v",
        "libx264",
        "-preset",
        "medium",
        "-crf",
        "16",
        *TAGS,
        "-movflags",
        "+faststart",
        "-f",
        "mp4",
    ],
    ".webm": [*COLOURS, "-c:v", "libvpx-vp9", "-crf", "18", "-b:v", "0", "-row-mt", "1", *TAGS, "-f", "webm"],
    ".gif": ["-filter_complex", DITHERED, "-loop", "0", "-f", "gif"],
    ".apng": ["-c:v", "apng", "-pred", "mixed", "-plays", "0", "-f", "apng"],
}


# -- writing -------------------------------------------------------------------------------------------------------


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: int | Fraction,
    text: Mapping[str, Any] | None = None,
    pad: bool = True,
) -> Path:
    """Write exactly these frames at exactly this rate.

    Args:
        path: .mp4 (H.264, 4:2:0, BT.709, the index in front), .webm (VP9, the same), .gif (256 colours; its clock has
            hundredths of a second, so single frames may be up to one longer), .apng (lossless), or a name without
            suffix: a folder of PNG frames, 000000.png and so on, with `video.json`.
        frames: uint8 `(h, w, 3)` each: an array `(t, h, w, 3)` or an iterator; they are not held in memory.
        fps: frames a second; `Fraction(30000, 1001)` is exact.
        text: what the file says of itself, such as prompt and seed; read by `read_video_text`.
        pad: an MP4 has even sides. An odd one grows by one pixel, a copy of the last row or column; else it is refused.

    Returns:
        `path`.

    Raises:
        InputError: another suffix, a place where nothing can be written, an odd side that is not to be padded.
        ValueError: no frame, frames of different or wrong shapes, a rate that is not positive.
        RuntimeError: ffmpeg failed; its own words are in the message.
    """
    path = check_video_output(path)
    rate = Fraction(fps)
    if rate <= 0:
        raise ValueError(f"fps must be positive, not {fps}")
    suffix = path.suffix.lower()
    if suffix == ".gif" and rate > FASTEST_GIF:
        raise InputError(f"cannot write {path}: a GIF shows up to {FASTEST_GIF} frames a second, not {float(rate):g}")
    alike = _alike(frames)
    first = next(alike)
    if suffix in EVEN:
        if not pad and (first.shape[0] % 2 or first.shape[1] % 2):
            raise InputError(
                f"cannot write {path}: {first.shape[1]} x {first.shape[0]} pixels, and an MP4 has even sides"
            )
        first, alike = _even(first), map(_even, alike)
    said = json.dumps(dict(text or {}), ensure_ascii=False, default=str)
    if not suffix:
        _write_folder(path, chain([first], alike), rate, text or {})
        return path
    with atomic_path(path) as temporary:
        source = _raw(first, rate)
        if suffix == ".gif":
            _write_gif(temporary, source, chain([first], alike))
        else:
            _run_ffmpeg([*source, *_encoding(suffix, said), str(temporary)], chain([first], alike))
        if text and suffix in (".gif", ".apng"):
            add_text(temporary, said.encode())
    return path


def check_video_output(path: str | Path) -> Path:
    """`path`, if a video can be written there; InputError with what is in the way if not."""
    path = Path(path)
    if path.suffix:
        return check_output(path, VIDEO_SUFFIXES)
    if path.is_dir() and not (path / FACTS).is_file() and not all(map(is_litter, path.iterdir())):
        raise InputError(f"cannot write {path}: the folder holds something else than frames of ours; name another, or "
                         f"a file that ends in {', '.join(VIDEO_SUFFIXES)}")  # fmt: skip
    if path.is_file():
        raise InputError(f"cannot write the frames into {path}: a file is there")
    return path


def _alike(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, each checked against the first."""
    first = None
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is (h, w, 3) of uint8, not {_describe(frame)}")
        first = frame if first is None else first
        if frame.shape != first.shape:
            raise ValueError(f"frame {index} is {_describe(frame)}, frame 0 is {_describe(first)}")
        yield frame
    if first is None:
        raise ValueError("a video needs at least one frame")


def _even(frame: np.ndarray) -> np.ndarray:
    """Copy the last row and column once more where a side is odd."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # (h', w', 3)


def _write_folder(folder: Path, frames: Iterable[np.ndarray], rate: Fraction, text: Mapping[str, Any]) -> None:
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        count = 0
        for frame in frames:
            save_image(temporary / f"{count:06d}.png", frame)
            count += 1
        write_json(temporary / FACTS, {"frames": count, "fps": str(rate), "text": dict(text)})


def _write_gif(path: Path, source: list[str], frames: Iterable[np.ndarray]) -> None:
    """In 256 colours, chosen over all frames (some of many), which wait in a file: ffmpeg would keep them in memory."""
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as scratch:
        stored, palette = Path(scratch) / "frames.nut", Path(scratch) / "palette.nut"
        pixels = _run_ffmpeg([*source, *EXACT, *LOSSLESS, str(stored)], frames)
        sampled = f"select=not(mod(n\\,{-(-pixels // PALETTE_PIXELS)})),{PALETTE}"
        _run_ffmpeg(["-i", str(stored), "-vf", sampled, "-c:v", "rawvideo", "-f", "nut", str(palette)])
        _run_ffmpeg(["-i", str(stored), "-i", str(palette), *_encoding(".gif"), str(path)])


def _run_ffmpeg(arguments: list[str], frames: Iterable[np.ndarray] = ()) -> int:
    """Run ffmpeg to its end on these frames; how many pixels they have."""
    pixels = 0
    with Ffmpeg(arguments) as ffmpeg:
        for frame in frames:
            ffmpeg.write(frame)
            pixels += frame.shape[0] * frame.shape[1]
        ffmpeg.finish()
    return pixels


def _raw(first: np.ndarray, rate: Fraction) -> list[str]:
    height, width = first.shape[:2]
    size, fps = f"{width}x{height}", f"{rate.numerator}/{rate.denominator}"
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", fps, "-i", "-", "-an"]


def _encoding(suffix: str, said: str = "{}") -> list[str]:
    comment = ["-metadata", f"comment={said}"] if said != "{}" and suffix in (".mp4", ".webm") else []
    return [*EXACT, *comment, *ENCODERS[suffix]]


# -- reading -------------------------------------------------------------------------------------------------------


def read_video(path: str | Path) -> tuple[np.ndarray, Fraction]:
    """Read all frames of a video, or of a folder of PNG frames that `write_video` wrote.

    Returns:
        uint8 `(t, h, w, 3)`, upright, with square pixels, on white where it is transparent; the rate of `video_rate`.

    Raises:
        InputError: no video that can be read, frames of several sizes, or more than 2 GiB of them: `read_frames` reads
            those.
    """
    rate, frames, held = video_rate(path), [], 0
    for frame in read_frames(path):
        frames.append(frame)
        held += frame.nbytes
        if held > LARGEST_IN_MEMORY:
            raise InputError(f"{path} holds more than {LARGEST_IN_MEMORY >> 30} GiB of frames: cut it first")
    return np.stack(frames), rate


def read_frames(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video or a folder, one after the other, uint8 `(h, w, 3)`; as `read_video`, in bounded memory."""
    return _frames_in(Path(path)) if Path(path).is_dir() else _decoded(Path(path))


def _decoded(path: Path) -> Iterator[np.ndarray]:
    upright = ["-vf", "scale='trunc(iw*if(gt(sar,0),sar,1)+0.5)':ih,setsar=1", "-fps_mode", "passthrough"]
    pixels = "rgba" if _is_png(path) else "rgb24"  # of an APNG ffmpeg would show the colours hidden under transparency
    arguments = [*_source(path), *upright, "-c:v", "pam", "-pix_fmt", pixels, "-f", "image2pipe", "-"]
    with Ffmpeg(arguments, reads=True) as ffmpeg:
        count = 0
        for frame in pam_frames(ffmpeg.output):
            yield on_color(frame)
            count += 1
        if not ffmpeg.is_content():
            raise _unreadable(path)
    if not count:
        raise InputError(f"{path} has no frames that can be read")


def _frames_in(folder: Path) -> Iterator[np.ndarray]:
    count, _ = _facts_of(folder)
    first_file = folder / "000000.png"
    first = read_image(first_file, WHITE)
    for index in range(count):
        file = folder / f"{index:06d}.png"
        frame = read_image(file, WHITE)
        if frame.shape != first.shape:
            sizes = [f"{one.shape[1]} x {one.shape[0]} pixels" for one in (frame, first)]
            raise InputError(
                f"{file} is {sizes[0]}, but {first_file} is {sizes[1]}: make the frames of a clip one size"
            )
        yield frame


def video_rate(path: str | Path) -> Fraction:
    """Frames a second of a video or a folder: exact where constant, the mean where it varies.

    Raises:
        InputError: it has none.
    """
    if Path(path).is_dir():
        return _facts_of(Path(path))[1]
    # The packets as text: time base, and for each packet: stream, dts, pts, duration, ...
    packets = told([*_source(path), "-c", "copy", "-f", "framecrc", "-"])
    if packets is None:
        raise _unreadable(path)
    time_base = TIME_BASE.search(packets)
    rows = [[int(part) for part in line.split(",")[1:4]] for line in packets.splitlines() if line.startswith("0,")]
    if not (time_base and rows):
        raise InputError(f"{path} has no frames that can be read")
    tick = Fraction(int(time_base[1]), int(time_base[2]))
    shown = sorted(row[1] for row in rows)
    # from first to last, since formats with a coarse clock do not say how long the last frame is shown
    mean = Fraction(shown[-1] - shown[0], len(rows) - 1) if len(rows) > 1 else Fraction(rows[0][2])
    if mean <= 0:
        raise InputError(f"{path} has no frames that can be read")
    rate = 1 / (mean * tick)
    return _usual_rate(rate, tick) if "codec_id 0: apng" in packets else _steady_rate(path, rate, shown, tick)


def _steady_rate(path: str | Path, rate: Fraction, shown: list[int], tick: Fraction) -> Fraction:
    """The rate that a coarse clock has rounded, if there is one that all times `shown` agree with; else `rate`.

    A WebM says it in its header. A GIF does not: where its times waver, a whole number is looked for.
    """
    steady = None
    if tick == COARSE:
        header = told([*_source(path), "-frames:v", "1", "-f", "framecrc", "-"]) or ""
        stated = TIME_BASE.search(header)  # decoded frames are counted in the stated rate
        steady = Fraction(int(stated[2]), int(stated[1])) if stated else None
    elif tick > COARSE and len({later - earlier for earlier, later in pairwise(shown)}) > 1:
        steady = Fraction(round(rate))
    agree = steady and all(abs((time - shown[0]) * tick - index / steady) < tick for index, time in enumerate(shown))
    return steady if steady and agree else rate


def _usual_rate(rate: Fraction, tick: Fraction) -> Fraction:
    """The rate that an APNG says, which ffmpeg rounds to its own clock: whole, or a 1001th less."""
    usual = [one for one in (Fraction(round(rate)), Fraction(1000 * round(rate * 1001 / 1000), 1001)) if one]
    nearest = min(usual, key=lambda one: abs(1 / one - 1 / rate), default=rate)
    return nearest if abs(1 / nearest - 1 / rate) < tick else rate


def _facts_of(folder: Path) -> tuple[int, Fraction]:
    """How many frames are in a folder, and how many are shown in a second."""
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        count, rate = int(facts["frames"]), Fraction(facts["fps"])
        if count < 1 or rate <= 0:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{folder} is no folder of frames: its {FACTS} cannot be read") from error
    return count, rate


def _source(path: str | Path) -> list[str]:
    """ffmpeg's arguments for the pictures of a file, without the cover of a piece of music."""
    if not Path(path).is_file():
        raise InputError(f"no video at {path}")
    if is_pointer(path):
        raise InputError(f"{path} is a Git LFS pointer: fetch the file itself with `git lfs pull`")
    return ["-i", str(Path(path).resolve()), "-map", "0:V:0"]


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"


def _unreadable(path: str | Path) -> InputError:
    """Why ffmpeg cannot read the pictures of a file, in our words."""
    sound = told(["-i", str(Path(path).resolve()), "-map", "0:a:0", "-c", "copy", "-frames:a", "1", "-f", "null", "-"])
    pictures = told(
        ["-i", str(Path(path).resolve()), "-map", "0:V:0", "-c", "copy", "-frames:v", "1", "-f", "null", "-"]
    )
    if sound is not None and pictures is None:
        return InputError(f"{path} cannot be read as a video: there is sound in it, but no pictures")
    return InputError(f"{path} cannot be read as a video: it is damaged or cut short, or of another kind; replace it")


def _describe(array: np.ndarray) -> str:
    return f"{tuple(array.shape)} of {array.dtype}"
