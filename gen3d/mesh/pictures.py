"""Pictures and films of a finished mesh: previews, turntables, rows of a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core2d.media.pictures import image_grid, save_image, to_uint8
from core2d.media.videos import write_video
from core2d.prior.cameras import Cameras, degrees, orbit
from core2d.toybox import world
from gen3d.mesh import TexturedMesh, render_mesh

ELEVATION = 20.0  # degrees, of previews and turntables
RADIUS = sum(world.CAMERA_RADIUS) / 2  # metres from the origin
REACH = (0.1, 0.66)  # metres from the origin to the farthest point of a mesh that such cameras see whole and well
COLUMNS = 4
TURNTABLE_FRAMES, TURNTABLE_FPS = 48, 16


def sides(count: int) -> list[float]:
    """Azimuths in degrees, evenly around, the first in front."""
    return [360.0 * i / count for i in range(count)]


def around(count: int, elevation: float = ELEVATION) -> Cameras:
    """`count` cameras evenly around the object, the first in front of it; `elevation` in degrees."""
    return orbit(degrees(sides(count)), degrees(elevation), RADIUS)


def picture(mesh: TexturedMesh, cameras: Cameras, size: int, lighted: bool = True) -> Tensor:
    """(n, 3, size, size) pictures on white, in the light of Toybox, or in the mesh's colours as they are."""
    return render_mesh(mesh, cameras, size, lighted=lighted)[:, :3]


def seen_from(
    mesh: TexturedMesh,
    azimuths: Sequence[float],
    elevation: float = ELEVATION,
    size: int = 256,
    device: torch.device | str = "cpu",
    lighted: bool = True,
) -> Iterator[np.ndarray]:
    """uint8 (size, size, 3) of each azimuth, one after the other; angles in degrees."""
    for azimuth in azimuths:
        camera = orbit(degrees(azimuth), degrees(elevation), RADIUS)
        there = Cameras(camera.camera_to_world.to(device), camera.fov_y.to(device))
        yield to_uint8(picture(mesh, there, size, lighted))[0]


def save_views(path: Path, pictures: Iterator[np.ndarray]) -> Path:
    """Write pictures of one size as rows of four."""
    rows = np.stack(list(pictures))  # (n, size, size, 3)
    return save_image(path, image_grid(rows, min(len(rows), COLUMNS)))


def save_turntable(
    path: Path,
    mesh: TexturedMesh,
    elevation: float = ELEVATION,
    size: int = 256,
    device: torch.device | str = "cpu",
    lighted: bool = True,
) -> Path:
    """Write an MP4 of one turn, three seconds long, that can be looped."""
    frames = seen_from(mesh, sides(TURNTABLE_FRAMES), elevation, size, device, lighted)
    return write_video(path, frames, TURNTABLE_FPS)


def in_view(mesh: TexturedMesh) -> TexturedMesh:
    """The mesh as it is if our cameras see it whole; one of another size or place is centred and scaled to fit."""
    if REACH[0] <= np.linalg.norm(mesh.vertices, axis=1).max() <= REACH[1]:
        return mesh
    centred = mesh.vertices - mesh.bounds.mean(0)
    reach = np.linalg.norm(centred, axis=1).max()
    return replace(mesh, vertices=centred * (REACH[1] / reach)) if reach else mesh
