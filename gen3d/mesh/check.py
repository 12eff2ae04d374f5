"""What is right and wrong with a mesh, in numbers and in sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gen3d.mesh import topology
from gen3d.mesh.mesh import TexturedMesh
from gen3d.mesh.texture import coverage, draw_uv, to_painted

LEAST_COVERAGE = 0.99
NO_AREA = 1e-12  # of the squared diagonal
UV_SLACK = 1e-5


@dataclass(frozen=True)
class MeshReport:
    """The checks of one mesh; geometry is that of merged positions, so that UV seams do not count as borders.

    Attributes:
        vertices, faces: of the mesh as it is, split along seams.
        watertight: every edge has exactly two faces.
        bodies: parts that share no edge.
        consistent: neighbouring faces agree about the outside.
        outward: the volume is positive.
        euler: vertices - edges + faces; 2 for a ball, 0 for a ring.
        volume: cubic metres, means something only for a watertight mesh.
        area: square metres.
        bounds: low and high corner in metres.
        open_edges: with one face.
        crowded_edges: with more than two faces (not manifold).
        flat_faces: without area.
        uv_range: smallest and largest texture coordinate, or None.
        texture_size: width and height in texels, or None.
        texture_coverage: share of the area that has its own place in the texture, or None.
        problems: what is wrong, one sentence each.
    """

    vertices: int
    faces: int
    watertight: bool
    bodies: int
    consistent: bool
    outward: bool
    euler: int
    volume: float
    area: float
    bounds: tuple[tuple[float, ...], tuple[float, ...]]
    open_edges: int
    crowded_edges: int
    flat_faces: int
    uv_range: tuple[float, float] | None
    texture_size: tuple[int, int] | None
    texture_coverage: float | None
    problems: tuple[str, ...]


def check_mesh(mesh: TexturedMesh) -> MeshReport:
    """Look a mesh over."""
    vertices, faces, _ = topology.merge_positions(mesh.vertices, mesh.faces)
    edges = topology.edges(faces)
    pairs = edges.uses == 2
    area = topology.areas(vertices, faces)
    volume = float(topology.volumes(vertices, faces).sum())
    low, high = mesh.bounds.tolist()
    facts = {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "watertight": bool(pairs.all()),
        "bodies": int(topology.parts(faces).max()) + 1,
        "consistent": bool((edges.turns[pairs] == 0).all()),
        "outward": volume > 0,
        "euler": len(np.unique(faces)) - len(edges.ends) + len(faces),
        "volume": volume,
        "area": float(area.sum()),
        "bounds": (tuple(low), tuple(high)),
        "open_edges": int((edges.uses == 1).sum()),
        "crowded_edges": int((edges.uses > 2).sum()),
        "flat_faces": int((area <= NO_AREA * float(((mesh.bounds[1] - mesh.bounds[0]) ** 2).sum())).sum()),
        "uv_range": None if mesh.uv is None else (float(mesh.uv.min()), float(mesh.uv.max())),
        "texture_size": None if mesh.texture is None else (mesh.texture.shape[1], mesh.texture.shape[0]),
        "texture_coverage": _coverage(mesh),
    }
    return MeshReport(**facts, problems=tuple(_problems(facts)))


def _coverage(mesh: TexturedMesh) -> float | None:
    if mesh.texture is None or mesh.uv is None:
        return None
    placed = draw_uv(mesh.uv, mesh.faces, max(mesh.texture.shape[:2])).mask[0].numpy()  # (s, s)
    if not placed.any():
        return 0.0
    return coverage(mesh.vertices, mesh.faces, mesh.uv, to_painted(placed)[0])


def _problems(facts: dict) -> list[str]:
    found = []
    if facts["open_edges"]:
        found.append(f"The surface is open: {facts['open_edges']} edges have one face only.")
    if facts["crowded_edges"]:
        found.append(f"The surface is not manifold: {facts['crowded_edges']} edges have more than two faces.")
    if not facts["consistent"]:
        found.append("Neighbouring faces disagree about which side is outside.")
    elif facts["watertight"] and not facts["outward"]:
        found.append("The faces look inward.")
    if facts["bodies"] > 1:
        found.append(f"There are {facts['bodies']} separate bodies instead of one.")
    if facts["flat_faces"]:
        found.append(f"{facts['flat_faces']} faces have no area.")
    uv_range, share = facts["uv_range"], facts["texture_coverage"]
    if uv_range and not (-UV_SLACK <= uv_range[0] and uv_range[1] <= 1 + UV_SLACK):
        found.append(f"Texture coordinates leave [0, 1]: they reach from {uv_range[0]:.3f} to {uv_range[1]:.3f}.")
    if share is not None and share < LEAST_COVERAGE:
        found.append(f"Only {100 * share:.1f} % of the surface has a place in the texture.")
    return found
