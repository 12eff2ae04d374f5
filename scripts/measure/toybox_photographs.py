"""A scene for NeRF that needs no data set: an object of Toybox, photographed from all around, in Blender's format."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from core2d.media.pictures import save_image
from core2d.toybox import world
from core2d.toybox.render import camera_to_world, render
from core2d.toybox.scene import View, portrait

TURN = math.pi * (3 - math.sqrt(5))  # the golden angle: views spread evenly, however many
ELEVATIONS = (-0.2, 1.2)  # radians


def write_photographs(
    folder: Path, name: str, color: str, seed: int, train: int = 100, test: int = 10, size: int = 200
) -> None:
    """Write `transforms_train.json` and `transforms_test.json` with RGBA pictures of `size` pixels."""
    body, radius = portrait(name, color, 0, 0, seed, 0), sum(world.CAMERA_RADIUS) / 2
    for split, count, start in (("train", train, 0.0), ("test", test, 0.5)):
        low, high = ELEVATIONS
        views = [View((i + start) * TURN, low + (high - low) * (i + 0.5) / count, radius) for i in range(count)]
        scenes = [replace(body, view=view) for view in views]
        frames = []
        for i, (rgba, matrix) in enumerate(
            zip(render(scenes, size, 4).rgba, camera_to_world(scenes).astype(np.float64), strict=True)
        ):
            save_image(folder / split / f"{i:03d}.png", np.rint(rgba.clip(0, 1) * 255).astype(np.uint8))
            frames.append({"file_path": f"./{split}/{i:03d}", "transform_matrix": matrix.tolist()})
        content = {"camera_angle_x": math.radians(world.FIELD_OF_VIEW), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
