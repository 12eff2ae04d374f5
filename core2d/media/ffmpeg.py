"""The ffmpeg program of imageio-ffmpeg, as a process of its own at the other end of a pipe."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from core2d.app.errors import InputError


class Ffmpeg:
    """An ffmpeg that is fed or read from; killed if that fails."""

    def __init__(self, arguments: list[str], reads: bool = False):
        self._said = tempfile.TemporaryFile()  # not a pipe: that could fill up and block
        source, target = (subprocess.DEVNULL, subprocess.PIPE) if reads else (subprocess.PIPE, subprocess.DEVNULL)
        self._process = subprocess.Popen(command(arguments), stdin=source, stdout=target, stderr=self._said)

    def __enter__(self) -> Ffmpeg:
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

    def is_content(self) -> bool:
        """Wait for its end; whether it read everything without a complaint.

        Of a file that was cut short ffmpeg reads what there is, says so, and ends with 0.
        """
        while self.output.read(1 << 20):
            pass  # what is left in the pipe would keep it from ending
        return self._process.wait() == 0 and not self._words()

    def _words(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()

    def _fail(self) -> None:
        self._process.wait()
        raise RuntimeError(f"ffmpeg failed: {self._words()}")


def told(arguments: list[str]) -> str | None:
    """What ffmpeg writes to stdout with these arguments; None where it fails."""
    done = subprocess.run(command(arguments), capture_output=True, check=False)
    return None if done.returncode else done.stdout.decode(errors="replace")


def pam_frames(stream: IO[bytes]) -> Iterator[np.ndarray]:
    """The pictures (h, w, channels) uint8 of a stream of PAMs, which ends with a whole picture."""
    while stream.readline() == b"P7\n":
        header = {}
        while (line := stream.readline()) not in (b"ENDHDR\n", b""):
            name, _, value = line.partition(b" ")
            header[name] = value
        shape = int(header[b"HEIGHT"]), int(header[b"WIDTH"]), int(header[b"DEPTH"])
        size = shape[0] * shape[1] * shape[2]
        content = stream.read(size)
        if len(content) < size:
            return
        yield np.frombuffer(content, np.uint8).reshape(shape)


def command(arguments: list[str]) -> list[str]:
    """A command line that runs ffmpeg, which says nothing but what goes wrong.

    Raises:
        InputError: there is no ffmpeg.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        program = get_ffmpeg_exe()
    except RuntimeError as error:
        raise InputError("videos need ffmpeg: install it, or name it in IMAGEIO_FFMPEG_EXE") from error
    return [program, "-hide_banner", "-nostdin", "-loglevel", "error", *arguments]
