"""Toybox clips in bulk: drawn once, kept as one array in a file, read without copying."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core2d.toybox.dataset import to_bytes
from core2d.toybox.judge import CLIP_FRAMES
from core2d.toybox.render import render
from core2d.toybox.scene import moment

CHUNK = 16  # clips drawn at a time


def draw_clips(path: Path, seed: int, count: int, size: int) -> np.ndarray:
    """(count, frames, 3, size, size) uint8: the first clips of a seed, drawn into `path` (.npy) or read from there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        clips = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (count, CLIP_FRAMES, 3, size, size))
        for start in range(0, count, CHUNK):
            chunk = range(start, min(start + CHUNK, count))
            frames = [moment(seed, i, frame, CLIP_FRAMES) for i in chunk for frame in range(CLIP_FRAMES)]
            rgb = to_bytes(render(frames, size).rgb).transpose(0, 3, 1, 2)
            clips[chunk.start : chunk.stop] = rgb.reshape(-1, CLIP_FRAMES, 3, size, size)
        clips.flush()
        unfinished.replace(path)
    return np.load(path, mmap_mode="r")


def words_of(seed: int, count: int) -> tuple[list[str], list[str]]:
    """Captions of the first clips of a seed, and their motions as words of `world.MOTIONS`."""
    first_frames = [moment(seed, i, 0, CLIP_FRAMES) for i in range(count)]
    return [scene.caption for scene in first_frames], [str(scene.motion) for scene in first_frames]
