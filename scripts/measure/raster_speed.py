"""An item of `benchmark.py --suite dreamcraft3d`: the differentiable rasteriser against its torch twin."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from measure.measure import Item, Numbers, best_of
from measure.suite import Suite
from torch import Tensor

from core2d.kernels.raster import Fragments
from core2d.prior.cameras import orbit
from gen3d.render.rasterize import antialias, find, footprint, interpolate, sample, see, to_clip

SIDE = 100  # vertices around a torus each way: 20,000 faces
SIZE = 256  # pixels of a side
TEXELS = 256  # of a side of the texture


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items, for a seed; no models are needed."""
    return [
        Item("raster", "20,000 faces at 256 pixels, a textured picture and its gradients, Numba against the torch twin",
             partial(rasteriser, seed), at_least={"speedup": 10}),
    ]  # fmt: skip


def rasteriser(seed: int) -> Numbers:
    """Milliseconds of a picture with gradients to vertices and texture, and of its two parts: finding the triangles,
    which has no gradient, and all the rest, for which both are given the same triangles.

    The twin tries every triangle at every pixel to find them, and so its share of `speedup` is large: what the
    gradients alone gain is `gradient_speedup`.
    """
    generator = torch.Generator().manual_seed(seed)
    vertices, faces = torus(SIDE)
    texture = torch.rand(TEXELS, TEXELS, 3, generator=generator).requires_grad_()
    gradient = torch.randn(1, SIZE, SIZE, 3, generator=generator)
    clip = to_clip(vertices, orbit(0.3, 0.5, 1.6))
    triangles = find(clip, faces, SIZE, "numba")
    uv, vertices = vertices[:, :2] + 0.5, vertices.requires_grad_()

    def picture(backend: str, found: Fragments | None = None) -> None:
        clip = to_clip(vertices, orbit(0.3, 0.5, 1.6))
        seen = see(clip, faces, found or find(clip, faces, SIZE, backend), backend)
        color = sample(texture, interpolate(uv, seen), footprint(uv, seen), backend)
        antialias(torch.where(seen.mask[..., None], color, 1.0), seen).backward(gradient)

    for backend in ("numba", "torch"):
        picture(backend, triangles)  # compiles, and makes the gradients' memory
    picture("numba")
    numba, twin = (1e3 * best_of(runs, partial(picture, name)) for name, runs in (("numba", 20), ("torch", 1)))
    alone = [1e3 * best_of(runs, partial(picture, name, triangles)) for name, runs in (("numba", 20), ("torch", 5))]
    return {
        "numba_ms": numba, "twin_ms": twin, "speedup": twin / numba,
        "numba_gradient_ms": alone[0], "twin_gradient_ms": alone[1], "gradient_speedup": alone[1] / alone[0],
        "faces": len(faces), "seen_share": float((triangles.face >= 0).float().mean()),
    }  # fmt: skip


def torus(side: int) -> tuple[Tensor, Tensor]:
    """Vertices (side^2, 3) and faces (2 side^2, 3) int32 of a closed torus."""
    turn = torch.arange(side) / side * 2 * math.pi
    around, across = torch.meshgrid(turn, turn, indexing="ij")
    far = 0.4 + 0.15 * across.cos()
    vertices = torch.stack([far * around.cos(), far * around.sin(), 0.15 * across.sin()], -1).reshape(-1, 3)
    a = torch.arange(side * side).view(side, side)
    b, d = a.roll(-1, 0), a.roll(-1, 1)
    c = b.roll(-1, 1)
    faces = torch.cat([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)]).reshape(-1, 3)
    return vertices, faces.int()


SUITE = Suite(items_of, Path(__file__))
