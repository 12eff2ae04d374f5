"""The whole way from a field to a textured mesh."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gen3d.mesh.check import MeshReport, check_mesh
from gen3d.mesh.clean import Cleaning, clean
from gen3d.mesh.iso import Density, extract_surface
from gen3d.mesh.mesh import TexturedMesh
from gen3d.mesh.texture import Color, bake
from gen3d.mesh.uv import unwrap


@dataclass(frozen=True)
class Build:
    """How a mesh was made.

    Attributes:
        level: density of the surface in 1 / metre.
        spacing: metres between the grid points that it was found on.
        cleaning: what was left out and filled.
        coverage: share of the area whose colour was asked of the field, in [0, 1].
        report: the checks of the result.
    """

    level: float
    spacing: float
    cleaning: Cleaning
    coverage: float
    report: MeshReport


def build_mesh(
    density: Density,
    color: Color,
    bounds: Tensor,
    resolution: int = 128,
    face_budget: int = 20_000,
    texture_size: int = 1024,
    level: float | None = None,
) -> tuple[TexturedMesh, Build]:
    """Extract, clean, unwrap and paint the surface of a field.

    Args:
        density: points (n, 3) to densities (n,) in 1 / metre.
        color: points (n, 3) to sRGB colours (n, 3) in [0, 1].
        bounds: (2, 3) low and high corner in metres; the field is asked on its device.
        resolution: grid points along the longest side of what is in the box.
        face_budget: most faces wanted.
        texture_size: texels along a side.
        level: density of the surface; found by itself where None.

    Raises:
        InputError: the field is empty, full, or not finite.
    """
    surface = extract_surface(density, bounds, resolution, level)
    vertices, faces, cleaning = clean(surface.vertices, surface.faces, face_budget)
    rows, faces, uv = unwrap(vertices, faces, texture_size)
    vertices = vertices[rows]
    texture, coverage = bake(color, vertices, faces, uv, texture_size, bounds.device)
    mesh = TexturedMesh(vertices, faces, uv, texture)
    return mesh, Build(surface.level, surface.spacing, cleaning, coverage, check_mesh(mesh))
