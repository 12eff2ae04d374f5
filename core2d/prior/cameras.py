"""Cameras: where pictures are taken from.

World Z up, right-handed; an object's front faces +X; azimuth counter-clockwise from +X, elevation above the XY plane.
Camera-to-world matrices use OpenGL axes (x right, y up, looking along -z). Lengths in metres, angles in radians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIELD_OF_VIEW = math.radians(40.0)  # vertical, of cameras that nobody asked otherwise of


@dataclass(frozen=True)
class Cameras:
    """n cameras.

    Attributes:
        camera_to_world: (n, 4, 4).
        fov_y: (n,) vertical field of view in radians.
    """

    camera_to_world: Tensor
    fov_y: Tensor

    def __post_init__(self) -> None:
        n = len(self.camera_to_world)
        if self.camera_to_world.shape != (n, 4, 4) or self.fov_y.shape != (n,):
            shapes = f"{tuple(self.camera_to_world.shape)} and {tuple(self.fov_y.shape)}"
            raise ValueError(f"Cameras needs camera_to_world (n, 4, 4) and fov_y (n,), got {shapes}")

    def __len__(self) -> int:
        return len(self.fov_y)

    @property
    def position(self) -> Tensor:
        """(n, 3) in the world."""
        return self.camera_to_world[:, :3, 3]

    @property
    def radius(self) -> Tensor:
        """(n,) distance from the origin."""
        return self.position.norm(dim=1)

    @property
    def azimuth(self) -> Tensor:
        """(n,) of the position, in (-pi, pi]."""
        return torch.atan2(self.position[:, 1], self.position[:, 0])

    @property
    def elevation(self) -> Tensor:
        """(n,) of the position, in [-pi/2, pi/2]."""
        return torch.asin((self.position[:, 2] / self.radius.clamp(min=1e-12)).clamp(-1, 1))

    def world_to_clip(self, near: float = 1e-2, far: float = 1e2, aspect: float = 1.0) -> Tensor:
        """(n, 4, 4) matrices to clip space: x/w, y/w in [-1, 1] inside the picture, w the distance along the axis."""
        return perspective(self.fov_y, near, far, aspect) @ torch.linalg.inv(self.camera_to_world)

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Origins (n, 3) and unit directions (n, h, w, 3) through the pixel centres, row 0 at the top."""
        tangent = torch.tan(self.fov_y / 2)[:, None, None]  # (n, 1, 1)
        y = 1 - (torch.arange(height).to(tangent) + 0.5) / height * 2  # (h,)
        x = ((torch.arange(width).to(tangent) + 0.5) / width * 2 - 1) * width / height  # (w,)
        local = torch.stack(
            [
                (tangent * x).expand(-1, height, -1),
                (tangent * y[:, None]).expand(-1, -1, width),
                -torch.ones_like(tangent).expand(-1, height, width),
            ],
            dim=-1,
        )  # (n, h, w, 3) in camera axes
        world = torch.einsum("nij,nhwj->nhwi", self.camera_to_world[:, :3, :3], local)
        return self.position, torch.nn.functional.normalize(world, dim=-1)


def perspective(fov_y: Tensor, near: float, far: float, aspect: float = 1.0) -> Tensor:
    """(n, 4, 4) OpenGL projection matrices for fields of view (n,); `aspect` is width over height."""
    matrix = torch.zeros((len(fov_y), 4, 4)).to(fov_y)
    matrix[:, 1, 1] = 1 / torch.tan(fov_y / 2)
    matrix[:, 0, 0] = matrix[:, 1, 1] / aspect
    matrix[:, 2, 2] = -(far + near) / (far - near)
    matrix[:, 2, 3] = -2 * far * near / (far - near)
    matrix[:, 3, 2] = -1
    return matrix


def look_at(position: Tensor, target: Tensor, up: Tensor | None = None) -> Tensor:
    """(n, 4, 4) camera-to-world matrices of cameras at `position` (n, 3) that look at `target` (n, 3) or (3,).

    `up` (3,) or (n, 3) defaults to +Z; a camera that looks straight along it takes +X as up instead.
    """
    up = torch.tensor([0.0, 0.0, 1.0]) if up is None else up
    up = up.to(position).expand_as(position)
    backward = torch.nn.functional.normalize(position - target.to(position), dim=1)
    right = torch.linalg.cross(up, backward)
    degenerate = right.norm(dim=1, keepdim=True) < 1e-6
    fallback = torch.tensor([1.0, 0.0, 0.0]).to(position).expand_as(position)
    right = torch.where(degenerate, torch.linalg.cross(fallback, backward), right)
    right = torch.nn.functional.normalize(right, dim=1)
    matrix = torch.eye(4).to(position).repeat(len(position), 1, 1)
    matrix[:, :3, :3] = torch.stack([right, torch.linalg.cross(backward, right), backward], dim=2)
    matrix[:, :3, 3] = position
    return matrix


def orbit(azimuth, elevation, radius, fov_y: float | Tensor = FIELD_OF_VIEW) -> Cameras:
    """Cameras on a sphere that look at the origin.

    Args:
        azimuth, elevation: numbers or (n,) tensors or sequences in radians.
        radius: metres; number or (n,).
        fov_y: vertical field of view in radians; number or (n,).

    They are on the device of the azimuth.
    """
    device = azimuth.device if isinstance(azimuth, Tensor) else None
    given = (azimuth, elevation, radius, fov_y)
    numbers = [torch.as_tensor(value, dtype=torch.float32, device=device).reshape(-1) for value in given]
    azimuth, elevation, radius, fields = torch.broadcast_tensors(*numbers)
    flat = elevation.cos()
    toward = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=1)  # (n, 3)
    return Cameras(look_at(radius[:, None] * toward, torch.zeros_like(toward[0])), fields)


# -- conventions: each pair is its own inverse or has one ------------------------------------------------

_FLIP_YZ = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
# Z-up with front +X to Y-up with front +Z: x -> z, y -> x, z -> y (glTF)
_TO_Y_UP = torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def opengl_to_opencv(camera_to_world: Tensor) -> Tensor:
    """Change camera axes between OpenGL (y up, -z forward) and OpenCV (y down, +z forward); its own inverse."""
    return camera_to_world @ _FLIP_YZ.to(camera_to_world)


def colmap_to_opengl(quaternion: Tensor, translation: Tensor) -> Tensor:
    """(n, 4, 4) camera-to-world matrices of COLMAP's images (its documentation, "Output Format": images.txt).

    Args:
        quaternion: (n, 4) world-to-camera rotations as (w, x, y, z), of any length above 0; camera axes are OpenCV's.
        translation: (n, 3) of the same maps: x_camera = R x_world + t.
    """
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=1, eps=0).unbind(1)
    entries = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    rotation = torch.stack([torch.stack(row, dim=1) for row in entries], dim=1)  # (n, 3, 3) world to camera
    matrix = torch.eye(4).to(translation).repeat(len(translation), 1, 1)
    matrix[:, :3, :3] = rotation.mT
    matrix[:, :3, 3] = -torch.einsum("nij,ni->nj", rotation, translation)
    return opengl_to_opencv(matrix)


def opengl_to_colmap(camera_to_world: Tensor) -> tuple[Tensor, Tensor]:
    """COLMAP's unit quaternions (n, 4), (w, x, y, z) with w >= 0, and translations (n, 3) of (n, 4, 4) matrices."""
    matrix = opengl_to_opencv(camera_to_world)
    rotation = matrix[:, :3, :3].mT
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(1) for row in rotation.unbind(1))
    products = [  # 4 q q^T, of which each row is the quaternion times a number: the longest is the most exact
        [1 + a + e + i, h - f, c - g, d - b],
        [h - f, 1 + a - e - i, b + d, c + g],
        [c - g, b + d, 1 - a + e - i, f + h],
        [d - b, c + g, f + h, 1 - a - e + i],
    ]
    rows = torch.stack([torch.stack(row, dim=1) for row in products], dim=1)  # (n, 4, 4)
    longest = rows.diagonal(dim1=1, dim2=2).argmax(1)
    quaternion = torch.nn.functional.normalize(rows[torch.arange(len(rows)), longest], dim=1)
    quaternion = torch.where(quaternion[:, :1] < 0, -quaternion, quaternion)
    return quaternion, -torch.einsum("nij,nj->ni", rotation, matrix[:, :3, 3])


def llff_to_opengl(pose: Tensor) -> Tensor:
    """(n, 4, 4) camera-to-world matrices of LLFF's (n, 3, 4), whose columns are [down, right, back | position].

    Source: the section on poses_bounds.npy in the README of Local Light Field Fusion (1905.00889).
    """
    down, right, back, position = pose.unbind(2)
    matrix = torch.eye(4).to(pose).repeat(len(pose), 1, 1)
    matrix[:, :3] = torch.stack([right, -down, back, position], dim=2)
    return matrix


def opengl_to_llff(camera_to_world: Tensor) -> Tensor:
    """LLFF's (n, 3, 4) of camera-to-world matrices (n, 4, 4): the inverse of `llff_to_opengl`."""
    right, up, back, position = camera_to_world[:, :3].unbind(2)
    return torch.stack([-up, right, back, position], dim=2)


def world_to_gltf(points: Tensor) -> Tensor:
    """(..., 3) points from our world (Z up, front +X) to glTF's (Y up, front +Z)."""
    return points @ _TO_Y_UP[:3, :3].to(points).T


def gltf_to_world(points: Tensor) -> Tensor:
    """(..., 3) points from glTF's world to ours."""
    return points @ _TO_Y_UP[:3, :3].to(points)


def relative_view(source: Cameras, target: Cameras) -> Tensor:
    """(n, 4) Zero-1-to-3's T = [d polar, sin d azimuth, cos d azimuth, d radius] (2303.11328 section 3.2)."""
    polar = -(target.elevation - source.elevation)  # polar angle counts from +Z
    turn = target.azimuth - source.azimuth
    return torch.stack([polar, turn.sin(), turn.cos(), target.radius - source.radius], dim=1)


def mvdream_numbers(cameras: Cameras) -> Tensor:
    """(n, 16) MVDream's camera condition: the flattened camera-to-world matrix with a unit-length position."""
    matrix = cameras.camera_to_world.clone()
    matrix[:, :3, 3] = torch.nn.functional.normalize(matrix[:, :3, 3], dim=1)
    return matrix.flatten(1)


def degrees(values: float | Sequence[float]) -> Tensor:
    """Degrees, as people give them, to a radians tensor (n,)."""
    return torch.deg2rad(torch.as_tensor(values, dtype=torch.float32).reshape(-1))
