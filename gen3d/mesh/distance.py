"""Signed distance to a closed mesh."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor
from trimesh.triangles import closest_point

from gen3d.mesh import topology

NEAREST = 12  # triangles looked at for a point: those whose centres are nearest
ON_EDGE = 1e-6  # barycentric coordinate below which the nearest point is on an edge


class MeshDistance:
    """Points to metres from the surface of a mesh, negative inside.

    The nearest point is looked for on the triangles whose centres are nearest: that is exact where neighbouring
    triangles are of about one size, as iso-surfaces have them. The sign is that of the pseudonormal there (Baerentzen
    and Aanaes 2005): of the face, of both faces of an edge, or of all around a vertex by their angles.

    Args:
        vertices: (v, 3) metres.
        faces: (f, 3), counter-clockwise seen from outside; seams of UV are closed.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        vertices, faces, _ = topology.merge_positions(np.asarray(vertices, np.float64), faces)
        faces = faces[topology.areas(vertices, faces) > 0]
        self.faces, self.triangles = faces, vertices[faces]  # (f, 3), (f, 3, 3)
        self.tree = KDTree(self.triangles.mean(1))
        cross = np.cross(self.triangles[:, 1] - self.triangles[:, 0], self.triangles[:, 2] - self.triangles[:, 0])
        self.face_normals = cross / np.linalg.norm(cross, axis=1, keepdims=True)  # (f, 3)
        edges = topology.edges(faces)
        self.of_face = edges.of_face  # (f, 3): the edge after each corner
        self.edge_normals = _sums(edges.of_face, np.repeat(self.face_normals[:, None], 3, 1), len(edges.ends))  # (e, 3)
        angles = _angles(self.triangles)[..., None]  # (f, 3, 1)
        self.vertex_normals = _sums(faces, angles * self.face_normals[:, None], len(vertices))  # (v, 3)

    def __call__(self, x: Tensor) -> Tensor:
        """(n,) float32 for points (n, 3), on their device; without gradient."""
        points = x.detach().cpu().double().numpy()
        count = min(NEAREST, len(self.faces))
        near = self.tree.query(points, k=count)[1].reshape(len(points), count)  # (n, k)
        asked = np.repeat(points, count, 0)
        places = closest_point(self.triangles[near.ravel()], asked).reshape(len(points), count, 3)
        apart = np.linalg.norm(places - points[:, None], axis=2)  # (n, k)
        best, every = apart.argmin(1), np.arange(len(points))
        face, place = near[every, best], places[every, best]  # (n,), (n, 3)
        outward = np.einsum("ni,ni->n", points - place, self._pseudonormals(face, place))
        return torch.from_numpy(np.where(outward < 0, -1, 1) * apart[every, best]).to(x)

    def _pseudonormals(self, face: np.ndarray, place: np.ndarray) -> np.ndarray:
        """(n, 3), of any length, at places (n, 3) on faces (n,)."""
        weights = _barycentric(self.triangles[face], place)  # (n, 3)
        zero = weights < ON_EDGE
        found = self.face_normals[face]
        on_edge, at_vertex = zero.sum(1) == 1, zero.sum(1) == 2
        opposite = zero.argmax(1)  # the corner that the edge does not have; the edge comes after the next corner
        found[on_edge] = self.edge_normals[self.of_face[face, (opposite + 1) % 3]][on_edge]
        found[at_vertex] = self.vertex_normals[self.faces[face, weights.argmax(1)]][at_vertex]
        return found


def _sums(rows: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """(count, 3) sums of values (f, 3, 3) by rows (f, 3)."""
    return np.stack([np.bincount(rows.ravel(), values[..., axis].ravel(), count) for axis in range(3)], 1)


def _angles(triangles: np.ndarray) -> np.ndarray:
    """(f, 3) radians at the corners of triangles (f, 3, 3)."""
    one, two = np.roll(triangles, -1, 1) - triangles, np.roll(triangles, -2, 1) - triangles
    cosine = (one * two).sum(2) / np.maximum(np.linalg.norm(one, axis=2) * np.linalg.norm(two, axis=2), 1e-300)
    return np.arccos(cosine.clip(-1, 1))


def _barycentric(triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 3) of points (n, 3) in the planes of triangles (n, 3, 3)."""
    one, two = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    offset = points - triangles[:, 0]
    a, b, c = (one * one).sum(1), (one * two).sum(1), (two * two).sum(1)
    d, e = (one * offset).sum(1), (two * offset).sum(1)
    second, third = (c * d - b * e) / (a * c - b * b), (a * e - b * d) / (a * c - b * b)
    return np.stack([1 - second - third, second, third], 1)
