"""Pictures that `genvideo text-to-video` is given, as people have them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genvideo.__main__ import main


def cut_out(hidden: tuple[int, int, int]) -> np.ndarray:
    """(24, 24, 4): a green square with a soft edge; where all is transparent the file holds another colour."""
    pixels = np.zeros((24, 24, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[6:18, 6:18] = (40, 180, 60, 255)
    pixels[6, 6:18] = (40, 180, 60, 128)
    return pixels


@pytest.mark.parametrize("place", ["--image", "--last", "--keyframes"])
def test_a_hidden_colour_is_never_seen(
    tiny_folder: Callable[..., Path], motion_folder: Path, tmp_path: Path, place: str
) -> None:
    """Cut-outs that look the same on white give the clip that the flat picture on white gives, whatever they hide."""
    black, magenta = cut_out((0, 0, 0)), cut_out((255, 0, 255))
    alpha = black[..., 3:] / 255
    flat = np.rint(black[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    clips = {}
    for name, pixels in {"black": black, "magenta": magenta, "flat": flat, "other": 255 - flat}.items():
        folder = tmp_path / name
        folder.mkdir()
        Image.fromarray(pixels).save(folder / "given.png")
        given = f"1={folder / 'given.png'}" if place == "--keyframes" else folder / "given.png"
        words = ("a red mug", "-o", folder / "clip", "--frames", 3, "--steps", 2, place, given)
        main(["text-to-video", *map(str, words), "--model", str(tiny_folder("sd1")), "--motion", str(motion_folder)])
        clips[name] = [(folder / "clip" / f"{index:06d}.png").read_bytes() for index in range(3)]
    assert clips["black"] == clips["magenta"] == clips["flat"]
    assert all(one != other for one, other in zip(clips["flat"], clips["other"], strict=True))
