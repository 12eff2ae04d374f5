"""A textured mesh, as it goes through this package and out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gen3d.mesh import topology


@dataclass(frozen=True)
class TexturedMesh:
    """A triangle mesh in our world: Z up, front +X, metres.

    Attributes:
        vertices: (v, 3) float32; vertices are split along the seams of the texture.
        faces: (f, 3) int32, counter-clockwise seen from outside.
        uv: (v, 2) float32 from the top left corner of the texture, or None.
        texture: (h, w, 3) uint8 sRGB, row 0 at the top, or None.
        colors: (v, 3) uint8 sRGB, one per vertex, or None; a texture goes before them.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    colors: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, dtype in (("vertices", np.float32), ("faces", np.int32), ("uv", np.float32)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, np.ascontiguousarray(value, dtype))
        if (problem := self._misfit()) is not None:
            raise ValueError(problem)

    def _misfit(self) -> str | None:
        count = len(self.vertices)
        for name, columns in (("vertices", 3), ("faces", 3), ("uv", 2), ("colors", 3)):
            value = getattr(self, name)
            rows = len(self.faces) if name == "faces" else count
            if value is not None and value.shape != (rows, columns):
                return f"{name} must be ({rows}, {columns}), not {value.shape}"
        if not len(self.faces) or self.faces.min() < 0 or self.faces.max() >= count:
            return f"faces must be rows of the {count} vertices, at least one face"
        if not np.isfinite(self.vertices).all() or (self.uv is not None and not np.isfinite(self.uv).all()):
            return "vertices and uv must be finite"
        if self.texture is not None and (self.texture.ndim != 3 or self.texture.shape[2] != 3 or self.uv is None):
            return f"a texture is (h, w, 3) and needs uv; it is {self.texture.shape}"
        if any(image is not None and image.dtype != np.uint8 for image in (self.texture, self.colors)):
            return "texture and colors are uint8"
        return None

    @property
    def bounds(self) -> np.ndarray:
        """(2, 3) low and high corner in metres."""
        return np.stack([self.vertices.min(0), self.vertices.max(0)])

    def normals(self) -> np.ndarray:
        """(v, 3) unit normals, smooth over the seams of the texture."""
        return topology.normals(self.vertices, self.faces)

    def vertex_colors(self) -> np.ndarray | None:
        """(v, 3) uint8: the texture at the vertices where there is one, else `colors`."""
        if self.texture is None or self.uv is None:
            return self.colors
        height, width = self.texture.shape[:2]
        column = (self.uv[:, 0] * width).astype(int).clip(0, width - 1)
        row = (self.uv[:, 1] * height).astype(int).clip(0, height - 1)
        return self.texture[row, column]
