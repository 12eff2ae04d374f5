"""A picture of four colours on a square metre and what is seen of it from the front; bodies of Toybox as meshes."""

import numpy as np

from core2d.prior.cameras import orbit
from core2d.toybox.sample import mesh_of
from core2d.toybox.scene import Scene
from gen3d.mesh import TexturedMesh, render_mesh

RED, GREEN, BLUE, SAND = (200, 40, 40), (40, 180, 60), (50, 60, 220), (220, 200, 120)
QUARTERS = np.array([[RED, GREEN], [BLUE, SAND]], np.uint8)
PICTURE = QUARTERS.repeat(16, 0).repeat(16, 1)  # (32, 32, 3)
FRONT = orbit(0.0, 0.0, 3.0, fov_y=2 * float(np.arctan(0.5 / 3)))  # a square metre fills the picture


def quarters(mesh: TexturedMesh, cells: int = 2) -> np.ndarray:
    """The colours in the middle of `cells` times `cells` squares of the square metre, seen from its front."""
    picture = render_mesh(mesh, FRONT, 32 * cells, lighted=False)[0]  # (4, h, w)
    assert (picture[3] == 1).float().mean() > 0.95
    return (picture[:3, 16::32, 16::32] * 255).round().movedim(0, -1).numpy()


def is_near(found: np.ndarray, expected: np.ndarray, most: float = 2.0) -> bool:
    """Whether two arrays of colours in [0, 255] differ by no more than `most`."""
    return bool(np.abs(found.astype(float) - np.asarray(expected, float)).max() <= most)


def textured_body(scene: Scene) -> TexturedMesh:
    """The body of a Toybox scene; every face has its own corners, since colours are per face."""
    body = mesh_of(scene)
    colors = np.repeat(np.asarray(body.visual.face_colors)[:, :3], 3, axis=0)  # pyright: ignore
    corners = np.asarray(body.triangles).reshape(-1, 3)
    return TexturedMesh(corners, np.arange(len(corners)).reshape(-1, 3), colors=colors)
