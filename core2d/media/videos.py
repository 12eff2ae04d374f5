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
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, check_output, write_json
from core2d.media.pictures import read_image, save_image

VIDEO_SUFFIXES = (".mp4", ".webm", ".gif", ".apng")
FACTS = "video.json"  # in a folder of frames
LARGEST_IN_MEMORY = 2 << 30  # bytes that `read_video` takes at most
FASTEST_GIF = 50  # frames a second: its clock has hundredths, and programs slow down what lasts only one
EVEN = (".mp4",)  # 4:2:0 of H.264 has even sides
COLOURS = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"]
TAGS = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
PALETTE = "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=bayer:bayer_scale=4"
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
    ".gif": ["-filter_complex", PALETTE, "-loop", "0", "-f", "gif"],
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
        with _Ffmpeg(_encode_arguments(first, rate, suffix, said, temporary)) as ffmpeg:
            for frame in chain([first], alike):
                ffmpeg.write(frame)
            ffmpeg.finish()
        if text and suffix in (".gif", ".apng"):
            _add_text(temporary, suffix, said.encode())
    return path


def check_video_output(path: str | Path) -> Path:
    """`path`, if a video can be written there; InputError with what is in the way if not."""
    path = Path(path)
    if path.suffix:
        return check_output(path, VIDEO_SUFFIXES)
    if path.is_dir() and any(path.iterdir()) and not (path / FACTS).is_file():
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


def _encode_arguments(first: np.ndarray, rate: Fraction, suffix: str, said: str, target: Path) -> list[str]:
    height, width = first.shape[:2]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
           "-r", f"{rate.numerator}/{rate.denominator}", "-i", "-", "-an"]  # fmt: skip
    # bitexact leaves the version of ffmpeg out of the file
    exact = ["-fps_mode", "passthrough", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    comment = ["-metadata", f"comment={said}"] if said != "{}" and suffix in (".mp4", ".webm") else []
    return [*raw, *exact, *comment, *ENCODERS[suffix], str(target)]


def _add_text(path: Path, suffix: str, said: bytes) -> None:
    """Put a comment into a GIF, or a text chunk into an APNG, behind its header: ffmpeg writes neither."""
    content = path.read_bytes()
    if suffix == ".gif":
        has_palette, bits = content[10] >> 7, (content[10] & 7) + 1
        place = 13 + (3 << bits if has_palette else 0)
        blocks = b"".join(bytes([len(said[i : i + 255])]) + said[i : i + 255] for i in range(0, len(said), 255))
        added = b"\x21\xfe" + blocks + b"\0"
    else:
        place = 8 + 25  # signature and IHDR
        chunk = b"iTXt" + b"comment\0\0\0\0\0" + said
        added = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:place] + added + content[place:])


# -- reading -------------------------------------------------------------------------------------------------------


def read_video(path: str | Path) -> tuple[np.ndarray, Fraction]:
    """Read all frames of a video, or of a folder of PNG frames that `write_video` wrote.

    Returns:
        uint8 `(t, h, w, 3)`, upright, with square pixels; and the rate in frames a second: exact where it is constant,
        the mean where it varies.

    Raises:
        InputError: no video that ffmpeg can read, or one of more than 2 GiB of frames: `read_frames` reads those.
    """
    if Path(path).is_dir():
        return _read_folder(Path(path))
    rate, frames, held = video_rate(path), [], 0
    for frame in read_frames(path):
        frames.append(frame)
        held += frame.nbytes
        if held > LARGEST_IN_MEMORY:
            raise InputError(f"{path} holds more than {LARGEST_IN_MEMORY >> 30} GiB of frames: cut it first")
    return np.stack(frames), rate


def read_frames(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video, one after the other, uint8 `(h, w, 3)`; as `read_video`, in bounded memory."""
    upright = ["-vf", "scale='trunc(iw*if(gt(sar,0),sar,1)+0.5)':ih,setsar=1", "-fps_mode", "passthrough"]
    arguments = [*_source(path), *upright, "-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe", "-"]
    with _Ffmpeg(arguments, reads=True) as ffmpeg:
        count = 0
        for frame in _ppm_frames(ffmpeg.output):
            yield frame
            count += 1
        if problem := ffmpeg.complaint():
            raise InputError(f"{path} cannot be read as a video: {problem}")
    if not count:
        raise InputError(f"{path} has no frames that can be read")


def video_rate(path: str | Path) -> Fraction:
    """Frames a second of a video file: exact where constant, the mean where it varies; InputError if it has none."""
    # The packets as text: time base, and for each packet: stream, dts, pts, duration, ...
    done = subprocess.run(
        _command([*_source(path), "-c", "copy", "-f", "framecrc", "-"]), capture_output=True, check=False
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"{path} cannot be read as a video: {lines[-1] if lines else 'ffmpeg failed'}")
    packets = done.stdout.decode()
    time_base = re.search(r"#tb 0: (\d+)/(\d+)", packets)
    rows = [[int(part) for part in line.split(",")[1:4]] for line in packets.splitlines() if line.startswith("0,")]
    if not (time_base and rows):
        raise InputError(f"{path} has no frames that can be read")
    tick = Fraction(int(time_base[1]), int(time_base[2]))
    shown = sorted(row[1] for row in rows)
    # from first to last, since formats with a coarse clock do not say how long the last frame is shown
    mean = Fraction(shown[-1] - shown[0], len(rows) - 1) if len(rows) > 1 else Fraction(rows[0][2])
    if mean <= 0:
        raise InputError(f"{path} has no frames that can be read")
    return _usual_rate(1 / (mean * tick), tick) if "codec_id 0: apng" in packets else 1 / (mean * tick)


def _usual_rate(rate: Fraction, tick: Fraction) -> Fraction:
    """The rate that an APNG says, which ffmpeg rounds to its own clock: whole, or a 1001th less."""
    usual = [one for one in (Fraction(round(rate)), Fraction(1000 * round(rate * 1001 / 1000), 1001)) if one]
    nearest = min(usual, key=lambda one: abs(1 / one - 1 / rate), default=rate)
    return nearest if abs(1 / nearest - 1 / rate) < tick else rate


def read_video_text(path: str | Path) -> dict[str, Any]:
    """What `write_video` was told to say in a file or folder; empty where there is nothing."""
    try:
        said = _said_in(Path(path))
    except ValueError:  # a comment of another program
        return {}
    return said if isinstance(said, dict) else {}


def _said_in(path: Path) -> Any:
    if path.is_dir():
        return json.loads((path / FACTS).read_text(encoding="utf-8")).get("text", {})
    if path.suffix.lower() in (".gif", ".apng"):
        from PIL import Image

        with Image.open(path) as image:
            said: Any = image.info.get("comment", "{}")
        return json.loads(said.decode() if isinstance(said, bytes) else said)
    facts = subprocess.run(
        _command(["-i", str(path.resolve()), "-f", "ffmetadata", "-"]), capture_output=True, check=False
    )
    found = re.search(r"^comment=((?:\\\n|[^\n])*)", facts.stdout.decode(), re.MULTILINE | re.IGNORECASE)
    return json.loads(re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)) if found else {}


def _read_folder(folder: Path) -> tuple[np.ndarray, Fraction]:
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        count, rate = int(facts["frames"]), Fraction(facts["fps"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{folder} is no folder of frames: its {FACTS} cannot be read") from error
    return np.stack([read_image(folder / f"{index:06d}.png") for index in range(count)]), rate


def _source(path: str | Path) -> list[str]:
    """ffmpeg's arguments for the pictures of a file, without the cover of a piece of music."""
    if not Path(path).is_file():
        raise InputError(f"no video at {path}")
    return ["-i", str(Path(path).resolve()), "-map", "0:V:0"]


def _ppm_frames(stream: IO[bytes]) -> Iterator[np.ndarray]:
    """The pictures of a stream of binary PPMs, which ends with a whole picture."""
    while stream.readline() == b"P6\n":
        width, height = map(int, stream.readline().split())
        stream.readline()  # 255
        content = stream.read(3 * width * height)
        if len(content) < 3 * width * height:
            return
        yield np.frombuffer(content, np.uint8).reshape(height, width, 3)


# -- ffmpeg --------------------------------------------------------------------------------------------------------


class _Ffmpeg:
    """An ffmpeg at the other end of a pipe, which feeds it or reads from it; killed if that fails."""

    def __init__(self, arguments: list[str], reads: bool = False):
        self._said = tempfile.TemporaryFile()  # not a pipe: that could fill up and block
        source, target = (subprocess.DEVNULL, subprocess.PIPE) if reads else (subprocess.PIPE, subprocess.DEVNULL)
        self._process = subprocess.Popen(_command(arguments), stdin=source, stdout=target, stderr=self._said)

    def __enter__(self) -> _Ffmpeg:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # does nothing to one that has ended
        self._process.communicate()
        self._said.close()

    @property
    def output(self) -> IO[bytes]:
        assert self._process.stdout
        return self._process.stdout

    def write(self, frame: np.ndarray) -> None:
        try:
            assert self._process.stdin
            self._process.stdin.write(frame.tobytes())
        except BrokenPipeError:
            self._fail()

    def finish(self) -> None:
        """Wait for the end of the file."""
        assert self._process.stdin
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._fail()
        if self._process.wait():
            self._fail()

    def complaint(self) -> str:
        """Wait for its end; what went wrong, empty if nothing did.

        Of a file that was cut short ffmpeg reads what there is, says so, and ends with 0.
        """
        while self.output.read(1 << 20):
            pass  # what is left in the pipe would keep it from ending
        status = self._process.wait()
        return self._last_words() or (f"ffmpeg ended with {status}" if status else "")

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _fail(self) -> None:
        self._process.wait()
        self._said.seek(0)
        raise RuntimeError(f"ffmpeg failed: {self._said.read().decode(errors='replace').strip()}")


def _command(arguments: list[str]) -> list[str]:
    from imageio_ffmpeg import get_ffmpeg_exe

    return [get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-loglevel", "error", *arguments]


def _describe(array: np.ndarray) -> str:
    return f"{tuple(array.shape)} of {array.dtype}"
