"""A small scene whose truth is known: a coloured ball with a box on it, photographed from all around."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from core2d.media.pictures import save_image, to_uint8
from core2d.prior.cameras import Cameras, degrees, orbit
from gen3d.mesh import TexturedMesh, render_mesh

FOV = math.radians(40)


def ball_with_box() -> TexturedMesh:
    """Colours change with place, so that every view is another one."""
    ball = trimesh.creation.icosphere(3, 0.45)
    box = trimesh.creation.box((0.3, 0.3, 0.3))
    box.apply_translation((0.3, 0.0, 0.4))
    both: Any = trimesh.util.concatenate([ball, box.subdivide().subdivide()])
    vertices = np.asarray(both.vertices, np.float32)
    colors = (127 + 120 * np.sin(4 * vertices + [0, 2, 4])).astype(np.uint8)
    return TexturedMesh(vertices, np.asarray(both.faces, np.int32), colors=colors)


def cameras_around(count: int, radius: float = 2.2) -> Cameras:
    """On a spiral that goes up as it turns."""
    turn = torch.arange(count) * 137.5
    return orbit(degrees(turn.tolist()), degrees(torch.linspace(-20, 60, count).tolist()), radius, FOV)


def write_blender_scene(
    folder: Path, views: int = 24, held_out: int = 3, size: int = 40, offset: tuple[float, float, float] = (0, 0, 0)
) -> Path:
    """A scene in Blender's format with RGBA pictures; `offset` moves object and cameras in the world."""
    cameras, mesh = cameras_around(views + held_out), ball_with_box()
    pictures = render_mesh(mesh, cameras, size, supersampling=3, background=(0.0, 0.0, 0.0))  # premultiplied
    alpha = pictures[:, 3:]
    straight = torch.cat([pictures[:, :3] / alpha.clamp(min=1e-3), alpha], 1)
    order = np.random.default_rng(0).permutation(views + held_out)
    for split, rows in (("train", order[:views]), ("test", order[views:])):
        frames = []
        for row in rows.tolist():
            matrix = cameras.camera_to_world[row].double().numpy().copy()
            matrix[:3, 3] += offset
            save_image(folder / split / f"{row:03d}.png", to_uint8(straight[row][None])[0])
            frames.append({"file_path": f"./{split}/{row:03d}", "transform_matrix": matrix.tolist()})
        content = {"camera_angle_x": FOV, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder
