"""Small scenes of a shaded ball, written in each format from the documentation of that format."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core2d.prior.cameras import look_at, opengl_to_colmap, opengl_to_llff
from gen3d.data.lenses import Lens

LENS = Lens(40, 30, 45.0, 45.0, 20.0, 15.0)
BENT = Lens(48, 36, 50.0, 51.0, 23.0, 19.0, "opencv", (-0.12, 0.03, 0.002, -0.001))
FISHEYE = Lens(48, 36, 30.0, 30.5, 25.0, 17.0, "fisheye", (0.05, -0.01, 0.002, 0.0))


@dataclass(frozen=True)
class Ball:
    """What is photographed: its middle, its radius, and how far the cameras are."""

    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius: float = 0.5
    distance: float = 3.0

    def cameras(self, count: int) -> Tensor:
        """(n, 4, 4) float64 around it, on a spiral from below to above."""
        turn = torch.arange(count, dtype=torch.float64) * 2.4
        height = torch.linspace(-0.6, 0.8, count, dtype=torch.float64)
        flat = (1 - height**2).sqrt()
        toward = torch.stack([flat * turn.cos(), flat * turn.sin(), height], dim=1)
        middle = torch.tensor(self.center, dtype=torch.float64)
        return look_at(middle + self.distance * toward, middle)

    def picture(self, camera_to_world: Tensor, lens: Lens, alpha: bool = True) -> np.ndarray:
        """(h, w, 4 or 3) uint8: coloured by its normal, before nothing or before grey."""
        y, x = torch.meshgrid(torch.arange(lens.height), torch.arange(lens.width), indexing="ij")
        pixels = torch.stack([x, y], dim=-1).reshape(-1, 2).double() + 0.5
        rays = lens.directions(pixels) @ camera_to_world[:3, :3].T
        start = camera_to_world[:3, 3] - torch.tensor(self.center, dtype=torch.float64)
        along = rays @ start
        under = along**2 - start @ start + self.radius**2
        t = -along - under.clamp(min=0).sqrt()
        hit = (under > 0) & (t > 0)
        normal = (start + t[:, None] * rays) / self.radius
        colors = torch.where(hit[:, None], (normal + 1) / 2, 0.5)
        values = torch.cat([colors, hit[:, None]], dim=1) * 255
        return values.round().byte().reshape(lens.height, lens.width, 4).numpy()[..., : 4 if alpha else 3]


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write a PNG, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_blender(folder: Path, counts: Sequence[int] = (6, 2, 3), ball: Ball | None = None, size: int = 32) -> Tensor:
    """Transforms for so many views of train, val and test; returns all cameras (n, 4, 4) in that order."""
    ball = ball or Ball()
    angle = 0.7
    focal = size / 2 / math.tan(angle / 2)
    lens = Lens(size, size, focal, focal, size / 2, size / 2)
    cameras = ball.cameras(sum(counts))
    for split, some in zip(("train", "val", "test"), cameras.split(list(counts)), strict=True):
        frames = []
        for index, camera in enumerate(some):
            save(folder / split / f"r_{index}.png", ball.picture(camera, lens))
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": camera.tolist()})
        if len(some):
            write_json(folder / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": frames})
    return cameras


def write_nerfstudio(folder: Path, lenses: Sequence[Lens], ball: Ball | None = None, alpha: bool = False) -> Tensor:
    """transforms.json with one lens a frame; where all are the same they are shared. Returns the cameras (n, 4, 4)."""
    ball = ball or Ball()
    cameras = ball.cameras(len(lenses))
    shared = intrinsics(lenses[0]) if len(set(lenses)) == 1 else {}
    frames = []
    for index, (camera, lens) in enumerate(zip(cameras, lenses, strict=True)):
        name = f"images/frame_{index:05d}.png"
        save(folder / name, ball.picture(camera, lens, alpha))
        frames.append({"file_path": name, "transform_matrix": camera.tolist()} | ({} if shared else intrinsics(lens)))
    write_json(folder / "transforms.json", {**shared, "frames": frames})
    return cameras


def intrinsics(lens: Lens) -> dict[str, Any]:
    """As nerfstudio names them."""
    model = {"pinhole": "PINHOLE", "opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE"}[lens.model]
    names = ("k1", "k2", "k3", "k4") if lens.model == "fisheye" else ("k1", "k2", "p1", "p2", "k3")
    numbers = {"fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy, "w": lens.width, "h": lens.height}
    return {"camera_model": model} | numbers | dict(zip(names, lens.distortion, strict=False))


def write_colmap(
    folder: Path,
    lenses: Sequence[Lens],
    binary: bool = True,
    place: str = "sparse/0",
    ball: Ball | None = None,
    points: int = 200,
) -> Tensor:
    """A reconstruction with one camera an image and points on the ball; returns the cameras (n, 4, 4)."""
    ball = ball or Ball()
    cameras = ball.cameras(len(lenses))
    for index, (camera, lens) in enumerate(zip(cameras, lenses, strict=True)):
        save(folder / "images" / colmap_name(index), ball.picture(camera, lens, alpha=False))
    normals = torch.randn(points, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cloud = torch.nn.functional.normalize(normals, dim=1) * ball.radius + torch.tensor(ball.center, dtype=torch.float64)
    (folder / place).mkdir(parents=True, exist_ok=True)
    write = _write_binary if binary else _write_text
    quaternions, translations = opengl_to_colmap(cameras)
    poses = torch.cat([quaternions, translations], dim=1).tolist()
    write(folder / place, [_colmap_camera(lens) for lens in lenses], poses, cloud.tolist())
    return cameras


def colmap_name(index: int) -> str:
    """With a space, which COLMAP allows."""
    return f"photo {index:03d}.png"


def _colmap_camera(lens: Lens) -> tuple[int, str, int, int, list[float]]:
    middle = [lens.cx, lens.cy]
    if lens.model == "fisheye":
        number, name, numbers = 5, "OPENCV_FISHEYE", [lens.fx, lens.fy, *middle, *lens.distortion]
    elif lens.model == "opencv":
        number, name, numbers = 4, "OPENCV", [lens.fx, lens.fy, *middle, *lens.distortion]
    else:
        number, name, numbers = 1, "PINHOLE", [lens.fx, lens.fy, *middle]
    return number, name, lens.width, lens.height, numbers


def _write_text(folder: Path, cameras: list, poses: list, cloud: list) -> None:
    lines = ["# Camera list with one line of data per camera:"]
    for index, (_, name, width, height, numbers) in enumerate(cameras):
        lines.append(f"{index + 1} {name} {width} {height} {' '.join(map(repr, numbers))}")
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list with two lines of data per image:"]
    for index, pose in enumerate(poses):
        lines.append(f"{index + 1} {' '.join(map(repr, pose))} {index + 1} {colmap_name(index)}")
        lines.append("3.5 4.5 -1 7.25 8.0 12" if index % 2 else "")
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    lines = [f"{index} {' '.join(map(repr, point))} 255 0 9 0.5 1 0 2 3" for index, point in enumerate(cloud)]
    (folder / "points3D.txt").write_text("# 3D point list\n" + "\n".join(lines) + "\n")


def _write_binary(folder: Path, cameras: list, poses: list, cloud: list) -> None:
    data = struct.pack("<Q", len(cameras))
    for index, (number, _, width, height, numbers) in enumerate(cameras):
        data += struct.pack(f"<iiQQ{len(numbers)}d", index + 1, number, width, height, *numbers)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(poses))
    for index, pose in enumerate(poses):
        data += struct.pack("<i7di", index + 1, *pose, index + 1) + colmap_name(index).encode() + b"\0"
        seen = index % 3
        data += struct.pack("<Q", seen) + struct.pack("<ddq", 3.5, 4.5, -1) * seen
    (folder / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(cloud))
    for index, point in enumerate(cloud):
        data += struct.pack("<Q3d3BdQ", index, *point, 255, 0, 9, 0.5, index % 4) + struct.pack("<ii", 1, 0) * (
            index % 4
        )
    (folder / "points3D.bin").write_bytes(data)


def write_llff(folder: Path, count: int = 9, ball: Ball | None = None, facing: bool = True) -> Tensor:
    """poses_bounds.npy: with `facing`, cameras beside each other that look along +X at the ball; else all around it."""
    ball = ball or Ball()
    lens = replace(LENS, cx=LENS.width / 2, cy=LENS.height / 2)
    cameras = ball.cameras(count)
    if facing:
        middle = torch.tensor(ball.center, dtype=torch.float64)
        side = torch.stack([torch.zeros(count), torch.linspace(-0.3, 0.3, count), torch.zeros(count)], dim=1).double()
        position = middle + side - torch.tensor([ball.distance, 0, 0], dtype=torch.float64)
        cameras = look_at(position, position + torch.tensor([1.0, 0, 0], dtype=torch.float64))
    for index, camera in enumerate(cameras):
        save(folder / "images" / f"IMG_{index:03d}.png", ball.picture(camera, lens, alpha=False))
    size = torch.tensor([lens.height, lens.width, lens.fx], dtype=torch.float64).expand(count, 3)[..., None]
    rows = torch.cat([opengl_to_llff(cameras), size], dim=2).flatten(1)
    bounds = torch.tensor([ball.distance / 1.5, ball.distance * 1.5], dtype=torch.float64).expand(count, 2)
    np.save(folder / "poses_bounds.npy", torch.cat([rows, bounds], dim=1).numpy())
    return cameras


def write_json(path: Path, data: Any) -> None:
    """With its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def read_json(path: Path) -> Any:
    """What is in a JSON file."""
    return json.loads(path.read_text())
