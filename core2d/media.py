"""Pictures and videos in and out, whole or absent.

In memory a picture is an array `(h, w, 3 or 4)` of uint8, or a tensor `(c, h, w)` of floats in [0, 1]; a
video is `(t, h, w, 3)` of uint8. Videos go through the ffmpeg program of imageio-ffmpeg, as a process of its
own over a pipe.
"""

import math
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from core2d.errors import InputError
from core2d.run import IMAGE_SUFFIXES, atomic_path, check_output

if TYPE_CHECKING:
    import torch

LARGEST_PICTURE = 64_000_000  # pixels; more is refused when read
READABLE = ("PNG", "JPEG", "WEBP")
WRITE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
}


# -- pictures ------------------------------------------------------------------------------------------


def to_uint8(images: "torch.Tensor") -> np.ndarray:
    """Floats `(..., c, h, w)` to bytes `(..., h, w, c)`: clamped to [0, 1], rounded to the nearest of 256.

    Raises:
        ValueError: the values are no floats, or some are not finite.
    """
    if not images.is_floating_point() or not images.isfinite().all():
        raise ValueError(f"images must be finite floats in [0, 1], not {images.dtype} with NaN or infinity")
    scaled = images.detach().float().clamp(0, 1).mul(255).round()  # (..., c, h, w)
    return scaled.movedim(-3, -1).byte().cpu().numpy()  # (..., h, w, c)


def image_grid(images: "torch.Tensor | np.ndarray", columns: int | None = None) -> np.ndarray:
    """Put pictures side by side, row after row; what stays empty is white (and opaque).

    Args:
        images: floats `(b, c, h, w)` in [0, 1], or uint8 `(b, h, w, c)`.
        columns: pictures in a row; by default about as many as rows.

    Returns:
        uint8 `(rows * h, columns * w, c)`.
    """
    pictures = images if isinstance(images, np.ndarray) else to_uint8(images)  # (b, h, w, c)
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or not len(pictures):
        raise ValueError(f"a grid takes (b, h, w, c) of uint8 with b > 0, not {_describe(pictures)}")
    count, height, width, channels = pictures.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = pictures
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)  # (rows, h, columns, w, c)
    return grid.reshape(rows * height, columns * width, channels)


def save_image(path: str | Path, image: "torch.Tensor | np.ndarray", text: Mapping[str, Any] | None = None) -> Path:
    """Write one picture, or a batch as a grid, in the format that the name ends in.

    Args:
        path: .png, .jpg (quality 95, full colour resolution) or .webp (lossless).
        image: uint8 `(h, w, 3 or 4)`, or floats `(c, h, w)` or `(b, c, h, w)` in [0, 1].
        text: what a PNG says about itself, such as prompt and seed; other formats do not carry it.

    Returns:
        `path`.

    Raises:
        InputError: unknown suffix, a place where nothing can be written, transparency in a JPEG.
    """
    path = check_output(path, IMAGE_SUFFIXES)
    if not isinstance(image, np.ndarray):
        image = image_grid(image) if image.ndim == 4 else to_uint8(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"a picture is (h, w, 3 or 4) of uint8, not {_describe(image)}")
    options = dict(WRITE_OPTIONS[path.suffix.lower()])
    if options["format"] == "JPEG" and image.shape[2] == 4:
        raise InputError(f"cannot write {path}: JPEG has no transparency; write a .png or .webp")
    if options["format"] == "PNG" and text:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for name, value in text.items():
            options["pnginfo"].add_itxt(name, str(value))
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, **options)
    return path


def read_image(path: str | Path) -> np.ndarray:
    """Read a PNG, JPEG or WebP as uint8 `(h, w, 3)`, or `(h, w, 4)` where it has transparency.

    A turned photograph is set upright; of an animation the first frame is read.

    Raises:
        InputError: no such file, not one of these formats, damaged, or more than 64 million pixels.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=READABLE) as image:
            if image.width * image.height > LARGEST_PICTURE:
                raise InputError(f"{path} has {image.width} x {image.height} pixels: more than 64 million")
            upright = ImageOps.exif_transpose(image)
            return np.array(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    except FileNotFoundError as error:
        raise InputError(f"no picture at {path}") from error
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what decoders raise
        raise InputError(f"{path} cannot be read as PNG, JPEG or WebP: {error}") from error


def read_image_text(path: str | Path) -> dict[str, str]:
    """What `save_image` wrote into a PNG."""
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        return {str(name): str(value) for name, value in image.info.items() if isinstance(value, str)}


# -- videos --------------------------------------------------------------------------------------------


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: int | Fraction) -> Path:
    """Write an MP4 of exactly these frames at exactly this rate: H.264, 4:2:0, BT.709, the index in front.

    4:2:0 has even sides: an odd height or width grows by one pixel, a copy of the last row or column.

    Args:
        path: .mp4.
        frames: uint8 `(h, w, 3)` each: an array `(t, h, w, 3)` or an iterator; they are not held in memory.
        fps: frames a second; `Fraction(30000, 1001)` is exact.

    Returns:
        `path`.

    Raises:
        InputError: another suffix, or a place where nothing can be written.
        ValueError: no frame, frames of different or wrong shapes, a rate that is not positive.
        RuntimeError: ffmpeg failed; its own words are in the message.
    """
    path = check_output(path, (".mp4",))
    rate = Fraction(fps)
    if rate <= 0:
        raise ValueError(f"fps must be positive, not {fps}")
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    height, width = _even(first).shape[:2]
    with atomic_path(path) as temporary, _Ffmpeg(_encode_arguments(width, height, rate, temporary)) as ffmpeg:
        ffmpeg.write(_even(first))
        for index, frame in enumerate(remaining, start=1):
            if frame.shape != first.shape:
                raise ValueError(f"frame {index} is {_describe(frame)}, frame 0 is {_describe(first)}")
            ffmpeg.write(_even(frame))
        ffmpeg.finish()
    return path


def read_video(path: str | Path) -> tuple[np.ndarray, Fraction]:
    """Read all frames of a video.

    Returns:
        uint8 `(t, h, w, 3)`, and the exact rate in frames a second.

    Raises:
        InputError: no video that ffmpeg can read.
    """
    if not Path(path).is_file():
        raise InputError(f"no video at {path}")
    source = ["-i", str(Path(path).resolve()), "-map", "0:v:0"]
    # The packets as text: time base, size, and for each packet: stream, dts, pts, duration, ...
    packets = _run_ffmpeg(path, [*source, "-c", "copy", "-f", "framecrc", "-"]).decode()
    time_base = re.search(r"#tb 0: (\d+)/(\d+)", packets)
    size = re.search(r"#dimensions 0: (\d+)x(\d+)", packets)
    durations = [int(line.split(",")[3]) for line in packets.splitlines() if line.startswith("0,")]
    if not (time_base and size and durations and sum(durations)):
        raise InputError(f"{path} has no frames that can be read")
    seconds = sum(durations) * Fraction(int(time_base[1]), int(time_base[2]))
    as_pixels = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = _run_ffmpeg(path, [*source, *as_pixels])
    width, height = int(size[1]), int(size[2])
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3), len(durations) / seconds


class _Ffmpeg:
    """An ffmpeg that is fed through a pipe; killed if the feeding fails."""

    def __init__(self, arguments: list[str]):
        self._said = tempfile.TemporaryFile()  # not a pipe: that could fill up and block
        self._process = subprocess.Popen(
            _command(arguments), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._said
        )

    def __enter__(self) -> "_Ffmpeg":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # does nothing to one that has ended
        self._process.communicate()
        self._said.close()

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

    def _fail(self) -> None:
        self._process.wait()
        self._said.seek(0)
        raise RuntimeError(f"ffmpeg failed: {self._said.read().decode(errors='replace').strip()}")


def _encode_arguments(width: int, height: int, rate: Fraction, target: Path) -> list[str]:
    fps = f"{rate.numerator}/{rate.denominator}"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", fps, "-i", "-"]
    colours = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"]
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    codec = ["-c:v", "libx264", "-preset", "medium", "-crf", "16", "-fps_mode", "passthrough"]
    # bitexact leaves the version of ffmpeg out of the file
    file = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", "-f", "mp4"]
    return [*raw, "-an", *colours, *codec, *tags, *file, str(target)]


def _command(arguments: list[str]) -> list[str]:
    from imageio_ffmpeg import get_ffmpeg_exe

    return [get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-loglevel", "error", *arguments]


def _run_ffmpeg(path: str | Path, arguments: list[str]) -> bytes:
    done = subprocess.run(_command(arguments), capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"{path} cannot be read as a video: {lines[-1] if lines else 'ffmpeg failed'}")
    return done.stdout


def _even(frame: np.ndarray) -> np.ndarray:
    """Copy the last row and column once more where a side is odd."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame is (h, w, 3) of uint8, not {_describe(frame)}")
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # (h', w', 3)


def _describe(array: np.ndarray) -> str:
    return f"{tuple(array.shape)} of {array.dtype}"
