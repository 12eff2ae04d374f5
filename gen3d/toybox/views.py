"""Toybox objects from many sides: what the bundled Zero-1-to-3 learns from, and what it is scored on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from random import Random

import numpy as np
import torch

from core2d.app.outputs import atomic_path
from core2d.prior.cameras import Cameras, orbit
from core2d.toybox import world
from core2d.toybox.dataset import to_bytes
from core2d.toybox.render import render
from core2d.toybox.scene import WHITE, Scene, View, still
from gen3d.data.renders import Renders

LEFT_OUT = ("cactus", "boat", "robot", "sofa")  # never shown in training, to see what an unknown class comes out as
ELEVATIONS = (-10.0, 50.0)  # degrees
CHUNK = 64  # objects drawn at a time


def bodies(seed: int, left_out: Sequence[str] = LEFT_OUT) -> Iterator[Scene]:
    """Objects of a Toybox seed, one after the other, without the classes that are left out."""
    stills = (still(seed, index, kind="object") for index in count())
    return (body for body in stills if body.name not in left_out)


def seen_from(body: Scene, azimuth: float, elevation: float, radius: float) -> Scene:
    """The body on white from one camera; angles in radians."""
    return replace(body, view=View(azimuth, elevation, radius), ground=None, background=WHITE)


def around(body: Scene, views: int, lot: Random) -> list[Scene]:
    """The body from random sides."""
    low, high = (math.radians(angle) for angle in ELEVATIONS)
    return [
        seen_from(body, lot.uniform(0, 2 * math.pi), lot.uniform(low, high), lot.uniform(*world.CAMERA_RADIUS))
        for _ in range(views)
    ]


def cameras_of(scenes: Sequence[Scene]) -> Cameras:
    """Their cameras, with the object's front at azimuth 0."""
    views = [scene.view for scene in scenes]
    azimuths = [view.azimuth - scene.yaw for view, scene in zip(views, scenes, strict=True)]
    elevations, radii = [view.elevation for view in views], [view.radius for view in views]
    return orbit(azimuths, elevations, radii, math.radians(world.FIELD_OF_VIEW))


def toybox_renders(folder: Path, seed: int, objects: int, views: int, size: int) -> Renders:
    """`objects` bodies from `views` random sides each, drawn into `folder` once and read from there without copying."""
    done = folder / "names.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _draw(folder, seed, objects, views, size)
    names = json.loads(done.read_text())
    arrays = (torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in ("rgb", "mask", "position"))
    return Renders(*arrays, names=tuple(names))


def _draw(folder: Path, seed: int, objects: int, views: int, size: int) -> None:
    rgb = np.lib.format.open_memmap(folder / "rgb.npy", "w+", np.uint8, (objects, views, 3, size, size))
    mask = np.lib.format.open_memmap(folder / "mask.npy", "w+", np.uint8, (objects, views, size, size))
    position, names = np.zeros((objects, views, 3), np.float32), []
    stream = enumerate(islice(bodies(seed), objects))
    while chosen := list(islice(stream, CHUNK)):
        rows = [index for index, _ in chosen]
        scenes = [
            scene
            for index, body in chosen
            for scene in around(body, views, Random(f"{world.VERSION}/views/{seed}/{index}"))
        ]
        drawn = render(scenes, size)
        rgb[rows] = to_bytes(drawn.rgb).transpose(0, 3, 1, 2).reshape(len(rows), views, 3, size, size)
        mask[rows] = to_bytes(drawn.mask).reshape(len(rows), views, size, size)
        position[rows] = cameras_of(scenes).position.numpy().reshape(len(rows), views, 3)
        names += [f"{body.colors[0]} {body.name} {index}" for index, body in chosen]
    rgb.flush()
    mask.flush()
    np.save(folder / "position.npy", position)
    with atomic_path(folder / "names.json") as path:  # written last: the folder is complete
        path.write_text(json.dumps(names))
