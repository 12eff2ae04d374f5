"""Toybox pictures in bulk: drawn once, kept as arrays in a folder, read without copying."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core2d.app.outputs import atomic_path
from core2d.toybox import world
from core2d.toybox.render import render
from core2d.toybox.scene import Scene, moment, still

STILL_SCALES = {"object": 1.0, "doll": 0.92}
CHUNK = 512  # scenes drawn at a time


@dataclass(frozen=True)
class Pictures:
    """n pictures with what is known of them.

    Attributes:
        rgb: (n, 3, size, size) uint8.
        mask: (n, size, size) uint8 coverage of the body, 255 = covered.
        camera: (n, 5) float32 [sin azimuth, cos azimuth, sin elevation, cos elevation, radius]; azimuth counts from
            the body's front, radius in metres.
        is_still: (n,) bool; False for frames of clips, whose camera and light do not fit the still convention.
        labels: (n, 4) int16 [class, colour, view word, azimuth bin of 8]; -1 where there is none (dolls have no class).
        captions: n sentences.
    """

    rgb: np.ndarray
    mask: np.ndarray
    camera: np.ndarray
    is_still: np.ndarray
    labels: np.ndarray
    captions: list[str]

    def __len__(self) -> int:
        return len(self.rgb)

    def first(self, count: int) -> Pictures:
        """The first `count` pictures."""
        arrays = (self.rgb, self.mask, self.camera, self.is_still, self.labels)
        return Pictures(*(array[:count] for array in arrays), captions=self.captions[:count])


def mixed_scene(seed: int, index: int) -> Scene:
    """What generators learn from: 17 stills to 3 frames of clips."""
    if index % 20 < 3:
        return moment(seed, index, frame=index * 7 % 16, frames=16)
    return still(seed, index)


def draw(folder: Path, scene_of: Callable[[int], Scene], count: int, size: int, progress=None) -> Pictures:
    """Draw `count` scenes into `folder`, or open what an earlier call left there.

    Args:
        folder: one folder for one choice of scenes; its `captions.json` is written last and marks it complete.
        scene_of: scene of an index in [0, count).
        count: how many.
        size: pixels of a side.
        progress: called with the number of finished scenes.
    """
    done = folder / "captions.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _draw_arrays(folder, scene_of, count, size, progress)
    captions = json.loads(done.read_text())
    if len(captions) != count:
        raise ValueError(f"{folder} holds {len(captions)} pictures, not {count}: choose another folder")
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("rgb", "mask")}
    facts = {name: np.load(folder / f"{name}.npy") for name in ("camera", "is_still", "labels")}
    return Pictures(**arrays, **facts, captions=captions)


def _draw_arrays(folder: Path, scene_of, count: int, size: int, progress) -> None:
    rgb = np.lib.format.open_memmap(folder / "rgb.npy", "w+", np.uint8, (count, 3, size, size))
    mask = np.lib.format.open_memmap(folder / "mask.npy", "w+", np.uint8, (count, size, size))
    camera, labels, is_still, captions = [], [], [], []
    for start in range(0, count, CHUNK):
        scenes = [scene_of(i) for i in range(start, min(start + CHUNK, count))]
        pictures = render(scenes, size)
        rows = slice(start, start + len(scenes))
        rgb[rows] = to_bytes(pictures.rgb).transpose(0, 3, 1, 2)
        mask[rows] = to_bytes(pictures.mask)
        camera.append(camera_numbers(scenes))
        labels += [labels_of(scene) for scene in scenes]
        is_still += [scene.scale == STILL_SCALES[scene.kind] for scene in scenes]  # clips show smaller bodies
        captions += [scene.caption for scene in scenes]
        if progress:
            progress(rows.stop)
    rgb.flush()
    mask.flush()
    np.save(folder / "camera.npy", np.concatenate(camera))
    np.save(folder / "labels.npy", np.array(labels, np.int16))
    np.save(folder / "is_still.npy", np.array(is_still))
    with atomic_path(folder / "captions.json") as path:
        path.write_text(json.dumps(captions))


def camera_numbers(scenes: Sequence[Scene]) -> np.ndarray:
    """(b, 5) float32 as in `Pictures.camera`."""
    rows = []
    for s in scenes:
        azimuth, elevation = s.view.azimuth - s.yaw, s.view.elevation
        rows.append([math.sin(azimuth), math.cos(azimuth), math.sin(elevation), math.cos(elevation), s.view.radius])
    return np.array(rows, np.float32)


def labels_of(scene: Scene) -> list[int]:
    """[class, colour, view word, azimuth bin of 8], -1 where there is none."""
    if scene.kind == "doll":
        return [-1, -1, -1 if scene.view_word is None else world.VIEWS.index(scene.view_word), -1]
    fronted = scene.name in world.FRONTED
    degrees = math.degrees(scene.view.azimuth - scene.yaw)
    return [
        world.CLASS_NAMES.index(scene.name),
        world.COLOR_NAMES.index(scene.colors[0]),
        world.VIEWS.index(scene.view_word) if scene.view_word else -1,
        azimuth_bin(degrees) if fronted else -1,
    ]


def azimuth_bin(degrees: float) -> int:
    """Which of 8 bins of 45 degrees an azimuth falls into; bin 0 is centred on the front."""
    return round(degrees / 45.0) % 8


def to_bytes(values: np.ndarray) -> np.ndarray:
    """[0, 1] floats to uint8, rounded and clipped."""
    return (np.clip(values, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
