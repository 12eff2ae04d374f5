"""`gen3d novel-views` and `image-to-3d` on pictures and checkpoints that mean harm: one error, exit 2, no trace."""

from __future__ import annotations

import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Told = tuple[int, dict[str, Any], str]
OUTPUTS = {"novel-views": "views.png", "image-to-3d": "solid.glb"}


def bomb(path: Path) -> None:
    """A few bytes that would unpack to gigabytes of pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")
    )


def truncated(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path)


def a_line(path: Path) -> None:
    Image.new("RGB", (20_000, 10)).save(path)


def all_transparent(path: Path) -> None:
    Image.new("RGBA", (64, 64)).save(path)


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


PICTURES = {
    bomb: "64 million",
    truncated: "damaged or cut short",
    one_pixel: "at least 8",
    a_line: "2000 times",
    all_transparent: "nothing but background",
    animated: "3 frames",
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize(("make", "says"), PICTURES.items(), ids=[make.__name__ for make in PICTURES])
def test_pictures(
    name: str, make: Callable[[Path], None], says: str, command: Callable[..., Told], zero123_folder, tmp_path: Path
) -> None:
    make(tmp_path / "a.png")
    before = sorted(tmp_path.iterdir())
    status, told, said = command(
        name, tmp_path / "a.png", "--model", zero123_folder, "-o", tmp_path / "out" / OUTPUTS[name]
    )
    assert status == 2 and not told and says in said and said.count("error:") == 1 and "Traceback" not in said
    assert sorted(tmp_path.iterdir()) == before


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("file", ["evil.ckpt", "evil.pth", "half.safetensors"])
def test_checkpoints(name: str, file: str, command: Callable[..., Told], cut_out, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    content = pickle.dumps({"state_dict": {"model.diffusion_model.out.2.bias": Touch(sentinel)}})
    if file == "half.safetensors":  # its header speaks of more than there is
        header = b'{"x":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}'
        content = struct.pack("<Q", len(header)) + header + bytes(100)
    (tmp_path / file).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    status, told, said = command(name, cut_out, "--model", tmp_path / file, "-o", tmp_path / "out" / OUTPUTS[name])
    assert status == 2 and not told and said.count("error:") == 1 and file in said and "Traceback" not in said
    assert not sentinel.exists() and sorted(tmp_path.iterdir()) == before
