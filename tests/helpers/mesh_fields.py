"""Density fields whose surfaces are known, and a mesh with arrows that tells its axes."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gen3d.mesh import TexturedMesh

Field = Callable[[Tensor], Tensor]
BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
PEAK = 40.0  # 1 / metre


def soft(distance: Field, peak: float = PEAK, width: float = 0.004) -> Field:
    """A density that rises from nothing to `peak` over a few `width` around the zero of a signed distance."""
    return lambda points: peak * torch.sigmoid(-distance(points) / width)


def sphere(points: Tensor, radius: float = 0.6, center: tuple[float, float, float] = (0, 0, 0)) -> Tensor:
    return (points - torch.tensor(center)).norm(dim=1) - radius


def torus(points: Tensor) -> Tensor:
    return torch.hypot(points[:, :2].norm(dim=1) - 0.55, points[:, 2]) - 0.18


def block(points: Tensor) -> Tensor:
    return (points.abs() - torch.tensor([0.5, 0.4, 0.3])).amax(1)


def mug(points: Tensor) -> Tensor:
    """Thin walls and a handle: two rings joined, Euler number -2."""
    ring = points[:, :2].norm(dim=1)
    wall = torch.maximum((ring - 0.4).abs() - 0.035, points[:, 2].abs() - 0.45)
    floor = torch.maximum(ring - 0.42, (points[:, 2] + 0.43).abs() - 0.03)
    handle = torch.hypot(torch.hypot(points[:, 1] - 0.4, points[:, 2]) - 0.22, points[:, 0]) - 0.04
    return torch.minimum(torch.minimum(wall, floor), handle)


# name -> (signed distance, volume in cubic metres, Euler number)
SOLIDS: dict[str, tuple[Field, float, int]] = {
    "sphere": (sphere, 4 / 3 * math.pi * 0.6**3, 2),
    "torus": (torus, 2 * math.pi**2 * 0.55 * 0.18**2, 0),
    "box": (block, 1.0 * 0.8 * 0.6, 2),
}


def checker(points: Tensor) -> Tensor:
    """Cells of 0.2 m, no two axes alike: (n, 3) colours."""
    odd = torch.floor(points * 5 + 0.37).sum(1, keepdim=True) % 2  # (n, 1)
    return odd * (0.25 + 0.25 * (points + 1)) + (1 - odd) * torch.tensor([0.9, 0.2, 0.1])


ARROWS = {"up": (0.0, 0.0, 1.0), "front": (0.7, 0.0, 0.0), "left": (0.0, 0.4, 0.0)}  # where their tips are


def arrows() -> TexturedMesh:
    """Three thin pyramids from near the origin, up, front and left, red, green and blue; each closed."""
    vertices, faces, colors = [], [], []
    for index, tip in enumerate(ARROWS.values()):
        axis = np.array(tip) / np.linalg.norm(tip)
        first = np.roll(axis, 1) * 0.05
        second = np.cross(axis, first)
        base = len(vertices)
        vertices += [first, second, -first, -second, np.array(tip)]
        sides = [(k, (k + 1) % 4, 4) for k in range(4)]
        faces += [[base + corner for corner in face] for face in (*sides, (0, 3, 2), (0, 2, 1))]
        colors += [np.eye(3, dtype=np.uint8)[index] * 255] * 5
    offset = np.repeat(np.eye(3)[[2, 0, 1]] * 0.01, 5, axis=0)  # apart, so that no two share a position
    offset[4::5] = 0
    return TexturedMesh(np.array(vertices) + offset, np.array(faces), colors=np.array(colors))


def quad(texture: np.ndarray) -> TexturedMesh:
    """A square metre that faces +X and shows its texture upright, seen from the front."""
    vertices = np.array([[0, -0.5, 0.5], [0, 0.5, 0.5], [0, 0.5, -0.5], [0, -0.5, -0.5]])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    return TexturedMesh(vertices, np.array([[0, 3, 2], [0, 2, 1]]), uv, texture)


def psnr(found: Tensor, expected: Tensor) -> float:
    return -10 * math.log10(float(((found - expected) ** 2).mean()) + 1e-12)
