"""The shapes that everything in Toybox is put together from, each inside the cube [-0.5, 0.5]^3.

`BANK` holds them packed one after the other, ready for the mesh expansion: vertices, normals, faces and offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

SEGMENTS = 16  # around a full turn


@dataclass(frozen=True)
class Bank:
    """Packed primitive meshes: primitive i owns rows vertex_offsets[i]:vertex_offsets[i + 1], faces likewise."""

    names: dict[str, int]
    vertices: np.ndarray  # (v, 3) float32
    normals: np.ndarray  # (v, 3) float32, unit, outward
    faces: np.ndarray  # (f, 3) int32, counted from the primitive's first vertex
    vertex_offsets: np.ndarray  # (n + 1,) int32
    face_offsets: np.ndarray  # (n + 1,) int32


@cache
def bank() -> Bank:
    """All primitives, built once."""
    shapes = _shapes()
    vertices, normals, faces = zip(*shapes.values(), strict=True)
    return Bank(
        names={name: i for i, name in enumerate(shapes)},
        vertices=np.concatenate(vertices).astype(np.float32),
        normals=np.concatenate(normals).astype(np.float32),
        faces=np.concatenate(faces).astype(np.int32),
        vertex_offsets=np.cumsum([0] + [len(v) for v in vertices]).astype(np.int32),
        face_offsets=np.cumsum([0] + [len(f) for f in faces]).astype(np.int32),
    )


Mesh = tuple[np.ndarray, np.ndarray, np.ndarray]


def _shapes() -> dict[str, Mesh]:
    arc = np.linspace(-np.pi / 2, np.pi / 2, 9)
    quarter = np.linspace(0, np.pi / 2, 6)
    sphere = np.stack([0.5 * np.cos(arc), 0.5 * np.sin(arc)], 1)
    dome = np.stack([0.5 * np.cos(quarter), np.sin(quarter) - 0.5], 1)
    return {
        "box": _extrude([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]),
        "prism": _extrude([(-0.5, -0.5), (0.5, -0.5), (0.0, 0.5)]),  # a roof: ridge along X
        "wedge": _extrude([(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5)]),
        "cylinder": _frustum(0.5, 0.5),
        "cone": _frustum(0.5, 0.0),
        "taper": _frustum(0.5, 0.35),  # a little narrower at the top
        "frustum": _frustum(0.5, 0.22),  # much narrower at the top
        "pyramid": _revolve([[(0.5 * 2**0.5, -0.5), (0.0, 0.5)], [(0.0, -0.5), (0.5 * 2**0.5, -0.5)]], 4, np.pi / 4),
        "sphere": _revolve([sphere], smooth=True),
        "dome": _revolve([dome], smooth=True, extra=[[(0.0, -0.5), (0.5, -0.5)]]),
        "cup": _revolve([[(0.0, -0.5), (0.5, -0.5)], [(0.5, -0.5), (0.5, 0.5)], [(0.5, 0.5), (0.42, 0.5)],
                         [(0.42, 0.5), (0.42, -0.3)]]),
        "ring": _torus(0.38, 0.12, 2 * np.pi),
        "handle": _torus(0.38, 0.12, np.pi),  # half a ring, bulging towards +X
    }  # fmt: skip


def _frustum(bottom: float, top: float) -> Mesh:
    caps = [[(0.0, -0.5), (bottom, -0.5)]] + ([[(top, 0.5), (0.0, 0.5)]] if top else [])
    return _revolve([[(bottom, -0.5), (top, 0.5)], *caps])


def _revolve(strips, segments: int = SEGMENTS, turn: float = 0.0, smooth: bool = False, extra=()) -> Mesh:
    """Turn polylines of (radius, z) around Z. Each strip has its own edges; a smooth one shares normals along it."""
    parts = [_revolve_strip(np.asarray(strip, float), segments, turn, smooth) for strip in strips]
    parts += [_revolve_strip(np.asarray(strip, float), segments, turn, False) for strip in extra]
    return _join(parts)


def _revolve_strip(strip: np.ndarray, segments: int, turn: float, smooth: bool) -> Mesh:
    flat_sided = segments < 8  # a pyramid has flat sides, a cone has not
    angles = turn + np.linspace(0, 2 * np.pi, segments + 1)
    edges = np.diff(strip, axis=0)
    outward = np.stack([edges[:, 1], -edges[:, 0]], 1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    if smooth:
        rims = strip
        slopes = np.concatenate([outward[:1], outward[:-1] + outward[1:], outward[-1:]])
        slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
        quads = [(i, i + 1) for i in range(len(strip) - 1)]
    else:
        rims = np.repeat(strip, 2, axis=0)[1:-1]
        slopes = np.repeat(outward, 2, axis=0)
        quads = [(2 * i, 2 * i + 1) for i in range(len(strip) - 1)]
    if flat_sided:
        return _flat_sides(rims, slopes, quads, angles)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)  # (s + 1, 2)
    vertices, normals = (
        np.concatenate([rows[:, None, :1] * ring, np.broadcast_to(rows[:, None, 1:], (len(rows), len(ring), 1))], 2)
        for rows in (rims, slopes)
    )
    stride = segments + 1
    faces = [
        face
        for low, high in quads
        for s in range(segments)
        for face in _quad(low * stride + s, low * stride + s + 1, high * stride + s + 1, high * stride + s)
    ]
    return _clean(vertices.reshape(-1, 3), normals.reshape(-1, 3), np.array(faces))


def _flat_sides(rims, slopes, quads, angles) -> Mesh:
    parts = []
    for low, high in quads:
        for a, b in pairwise(angles):
            middle = (a + b) / 2
            corners = [(*(rims[i, 0] * np.array([np.cos(t), np.sin(t)])), rims[i, 1])
                       for i, t in ((low, a), (low, b), (high, b), (high, a))]  # fmt: skip
            inner = slopes[low, 0] / np.cos((b - a) / 2)  # the face is nearer to the axis than its edges
            normal = np.array([inner * np.cos(middle), inner * np.sin(middle), slopes[low, 1]])
            normals = np.tile(normal / np.linalg.norm(normal), (4, 1))
            parts.append(_clean(np.array(corners), normals, np.array(_quad(0, 1, 2, 3))))
    return _join(parts)


def _extrude(outline) -> Mesh:
    """A convex outline in the YZ plane, counter-clockwise seen from +X, pushed along X."""
    outline = np.asarray(outline, float)
    parts = []
    for x, sign in ((0.5, 1), (-0.5, -1)):
        vertices = np.concatenate([np.full((len(outline), 1), x), outline], 1)
        fan = [(0, i, i + 1)[::sign] for i in range(1, len(outline) - 1)]
        parts.append((vertices, np.tile([float(sign), 0.0, 0.0], (len(outline), 1)), np.array(fan)))
    for a, b in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        corners = np.array([(0.5, *a), (-0.5, *a), (-0.5, *b), (0.5, *b)])
        edge = b - a
        normal = np.array([0.0, edge[1], -edge[0]]) / np.linalg.norm(edge)
        parts.append((corners, np.tile(normal, (4, 1)), np.array(_quad(0, 1, 2, 3))))
    return _join(parts)


def _torus(radius: float, tube: float, sweep: float) -> Mesh:
    """A ring around Z for a full sweep; for half a turn, a handle in the XZ plane that bulges towards +X."""
    around = np.linspace(0, sweep, SEGMENTS + 1) - (sweep / 2 if sweep < 6 else 0)
    across = np.linspace(0, 2 * np.pi, 9)
    u, v = np.meshgrid(around, across, indexing="ij")
    outward = np.stack([np.cos(v) * np.cos(u), np.cos(v) * np.sin(u), np.sin(v)], -1)
    centre = np.stack([np.cos(u), np.sin(u), np.zeros_like(u)], -1) * radius
    vertices, normals = centre + tube * outward, outward
    if sweep < 6:  # lay the handle upright: its ends point to -X, its plane is XZ; fill the cube in X
        vertices, normals = (array[..., [0, 2, 1]] * [1, -1, 1] for array in (vertices, normals))
        vertices = vertices * [2.0, 1.0, 1.0] - [0.5, 0.0, 0.0]
        normals = normals * [0.5, 1.0, 1.0]
        normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    stride = len(across)
    faces = [
        face
        for i in range(SEGMENTS)
        for j in range(stride - 1)
        for face in _quad(i * stride + j, (i + 1) * stride + j, (i + 1) * stride + j + 1, i * stride + j + 1)
    ]
    return vertices.reshape(-1, 3), normals.reshape(-1, 3), np.array(faces)


def _quad(a: int, b: int, c: int, d: int) -> list[tuple[int, int, int]]:
    return [(a, b, c), (a, c, d)]


def _clean(vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray) -> Mesh:
    """Drop triangles without area, such as those at a pole."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    kept = np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-9
    return vertices, normals, faces[kept]


def _join(parts: list[Mesh]) -> Mesh:
    starts = np.cumsum([0] + [len(vertices) for vertices, _, _ in parts])
    faces = [f + start for (_, _, f), start in zip(parts, starts, strict=False)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), np.concatenate(faces)
