"""Scenes for the rasteriser, and a ray caster that knows nothing of edge functions to judge it by."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Scene(NamedTuple):
    """The first three arguments of `rasterize`."""

    clip: Tensor  # (v, 4) float32
    faces: Tensor  # (f, 3) int32
    face_offsets: Tensor  # (b + 1,) int32


class Rays(NamedTuple):
    """What rays through the pixel centres of one image hit."""

    face: Tensor  # (h, w) int64, -1 where nothing
    barycentric: Tensor  # (h, w, 3) float64
    depth: Tensor  # (h, w) float64
    sure: Tensor  # (h, w) bool: no edge and no second triangle so close that float32 may decide otherwise


def soup(seed: int, triangles: int, images: int = 1, size: float = 1.0, crossing: float = 0.0) -> Scene:
    """Random triangles, about `size` half pictures large; a share `crossing` reaches behind the camera."""
    generator = torch.Generator().manual_seed(seed)
    count = images * triangles
    centre = torch.rand(count, 1, 2, generator=generator) * 2 - 1
    position = centre + (torch.rand(count, 3, 2, generator=generator) - 0.5) * 2 * size
    w = 0.5 + 3 * torch.rand(count, 3, generator=generator)
    clip = torch.cat([position * w[..., None], torch.zeros(count, 3, 1), w[..., None]], -1)
    crosses = torch.rand(count, generator=generator) < crossing
    clip[crosses, 0, 3] *= -1
    faces = torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)
    return Scene(clip.reshape(-1, 4), faces, torch.arange(images + 1, dtype=torch.int32) * triangles)


def jittered_grid(seed: int, cells: int) -> Scene:
    """A sheet of 2 cells^2 triangles that share their vertices; it reaches past the picture's border."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1.3, 1.3, cells + 1)
    position = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    position = position + (torch.rand(position.shape, generator=generator) - 0.5) * 0.9 / cells
    w = 1 + torch.rand(len(position), 1, generator=generator)
    corner = torch.arange(cells)[:, None] * (cells + 1) + torch.arange(cells)
    a, b, c, d = (corner + shift for shift in (0, 1, cells + 1, cells + 2))
    faces = torch.stack([a, b, c, d, c, b], -1).reshape(-1, 3).int()
    clip = torch.cat([position * w, torch.zeros_like(w), w], -1)
    return Scene(clip, faces, torch.tensor([0, len(faces)], dtype=torch.int32))


def cast_rays(scene: Scene, image: int, height: int, width: int, slack: float = 1e-4, near: float = 1e-4) -> Rays:
    """Intersect every ray with every triangle in float64 (Moller and Trumbore 1997).

    (clip x, clip y, w) is a space in which the camera sits at 0 and a ray through NDC (x, y) is t (x, y, 1),
    so the distance t along a ray is w. Hits are also found with triangles `slack` smaller and larger in
    barycentric terms: where both agree and the next hit lies clearly behind, the answer is sure.
    """
    first, last = (int(offset) for offset in scene.face_offsets[image : image + 2])
    if first == last:
        empty = torch.full((height, width), math.inf, dtype=torch.float64)
        return Rays(torch.full((height, width), -1), torch.zeros(height, width, 3), empty, empty > 0)
    corners = scene.clip[scene.faces[first:last].long()][..., [0, 1, 3]].double()  # (n, 3, 3)
    x = (torch.arange(width).double() + 0.5) / width * 2 - 1
    y = 1 - (torch.arange(height).double() + 0.5) / height * 2
    y, x = torch.meshgrid(y, x, indexing="ij")  # (h, w) each
    ray = torch.stack([x, y, torch.ones_like(x)], -1)[None]  # (1, h, w, 3)
    origin, second, third = corners[:, None, None].unbind(-2)  # (n, 1, 1, 3) each
    edge1, edge2 = second - origin, third - origin  # (n, 1, 1, 3) each

    p = torch.linalg.cross(ray, edge2)  # (n, h, w, 3)
    determinant = (edge1 * p).sum(-1)  # (n, h, w)
    q = torch.linalg.cross(-origin, edge1)  # (n, 1, 1, 3)
    u = (-origin * p).sum(-1) / determinant
    v = (ray * q).sum(-1) / determinant
    t = (edge2 * q).sum(-1) / determinant
    barycentric = torch.stack([1 - u - v, u, v], -1)  # (n, h, w, 3)
    inside = barycentric.amin(-1)  # (n, h, w)

    def depths(margin: float) -> Tensor:
        return torch.where((inside >= margin) & (t >= near), t, math.inf)

    depth, face = depths(0.0).min(0)
    loose = depths(-slack)
    ranked = torch.cat([loose, torch.full_like(loose[:1], math.inf)]).sort(0).values
    sure = (depths(slack).amin(0) == ranked[0]) & (ranked[1] > ranked[0] * (1 + slack)) | ranked[0].isinf()
    hit = depth < math.inf
    chosen = barycentric.gather(0, face[None, ..., None].expand(1, -1, -1, 3))[0]
    return Rays(torch.where(hit, face + first, -1), torch.where(hit[..., None], chosen, 0), depth, sure)
