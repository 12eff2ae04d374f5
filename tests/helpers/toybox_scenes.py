"""Toybox scenes for its tests, and ways to look at them that share no code with the renderer."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from core2d.prior.cameras import Cameras
from core2d.toybox import world
from core2d.toybox.parts import Parts
from core2d.toybox.render import camera_to_world
from core2d.toybox.sample import mesh_of
from core2d.toybox.scene import Scene, moment, portrait, still

GENERATOR, JUDGE = world.GENERATOR_SEEDS[0], world.JUDGE_SEEDS[0]
FRAMES = 16


@cache
def stills(seed: int, count: int = 4000) -> list[Scene]:
    return [still(seed, index) for index in range(count)]


@cache
def first_frames(seed: int, count: int = 3000) -> list[Scene]:
    return [moment(seed, index, 0, FRAMES) for index in range(count)]


@cache
def clips_of(motion: str) -> list[list[Scene]]:
    """The first two clips of generators and of judges that show a motion."""
    found = []
    for seed in (GENERATOR, JUDGE):
        indices = [index for index, scene in enumerate(first_frames(seed)) if scene.motion == motion][:2]
        found += [[moment(seed, index, frame, FRAMES) for frame in range(FRAMES)] for index in indices]
    return found


def camera_of(scene: Scene) -> Cameras:
    fov_y = torch.tensor([math.radians(world.FIELD_OF_VIEW)])
    return Cameras(torch.from_numpy(camera_to_world([scene])), fov_y)


def project(points: np.ndarray, scene: Scene) -> np.ndarray:
    """(n, 3) world points to (n, 2): x to the right and y up, in [-1, 1] inside the picture."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], 1)
    projected = homogeneous @ camera_of(scene).world_to_clip()[0].double().numpy().T
    return projected[:, :2] / projected[:, 3:]


def cast(scene: Scene, size: int) -> np.ndarray:
    """(size, size) distance along the view axis to the mesh: every ray with every face (Moller and Trumbore 1997)."""
    camera = camera_of(scene)
    origin, rays = (part[0].double().numpy() for part in camera.rays(size, size))
    rays, forward = rays.reshape(-1, 3), -camera.camera_to_world[0, :3, 2].double().numpy()
    corner, second, third = mesh_of(scene).triangles.swapaxes(0, 1)  # (f, 3) each
    edge1, edge2, start = second - corner, third - corner, origin - corner
    normal = np.cross(start, edge1)
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = rays @ np.cross(edge2, edge1).T  # (r, f)
        u, v = rays @ np.cross(edge2, start).T / determinant, rays @ normal.T / determinant
        t = (normal * edge2).sum(1) / determinant
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    nearest = np.where(hit, t, np.inf).min(1)
    return (nearest * (rays @ forward)).reshape(size, size)


def ball(size: float, **changes) -> Scene:
    """A red ball at the origin, seen from azimuth 130 and elevation 40 degrees."""
    parts = Parts()
    parts.add("sphere", (0, 0, 0), (size, size, size))
    return replace(portrait("mug", "red", 130, 40, JUDGE, 0), parts=parts, **changes)
