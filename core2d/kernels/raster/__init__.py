"""Mesh rasteriser: which triangle is seen through each pixel, and where on it.

Triangles are rasterised in homogeneous coordinates (Olano and Greer, "Triangle Scan Conversion using 2D Homogeneous
Coordinates", 1997): a triangle that crosses the camera plane needs no clipping, and barycentric coordinates come out
perspective-correct. Three backends give the same fragments: a readable torch twin (any device), Numba (CPU) and
Triton (CUDA).
"""

from __future__ import annotations

import torch
from torch import Tensor

from core2d.kernels.dispatch import pick
from core2d.kernels.raster.fragments import Fragments as Fragments

BACKENDS = ("torch", "numba", "triton")


def rasterize(
    clip: Tensor, faces: Tensor, face_offsets: Tensor, height: int, width: int, backend: str = "auto"
) -> Fragments:
    """Find the nearest triangle at the centre of each pixel, for a batch of packed meshes.

    Args:
        clip: (v, 4) clip-space vertices of all meshes; w is the distance along the view axis, x/w and y/w lie in
            [-1, 1] inside the picture, y up.
        faces: (f, 3) int32 rows of `clip`; both windings are drawn.
        face_offsets: (b + 1,) int32; image i draws faces[face_offsets[i]:face_offsets[i + 1]].
        height, width: pixels. Row 0 is the top, pixel centres lie at +0.5.
        backend: "auto" picks Triton on CUDA and Numba on CPU; `LIFTKIT_BACKEND` forces one.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown.
    """
    if clip.ndim != 2 or clip.shape[1] != 4 or faces.ndim != 2 or faces.shape[1] != 3 or face_offsets.ndim != 1:
        shapes = f"clip {tuple(clip.shape)}, faces {tuple(faces.shape)}, face_offsets {tuple(face_offsets.shape)}"
        raise ValueError(f"rasterize needs clip (v, 4), faces (f, 3), face_offsets (b + 1,); got {shapes}")
    match pick(backend, BACKENDS, clip):
        case "numba":
            from core2d.kernels.raster import numba_kernel as kernel
        case "triton":
            from core2d.kernels.raster import triton_kernel as kernel
        case _:
            from core2d.kernels.raster import torch_twin as kernel
    return Fragments(*kernel.rasterize(clip, faces, face_offsets, height, width))


def interpolate(attributes: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Blend vertex attributes over the seen triangles.

    Args:
        attributes: (v, c) float, one row per vertex; gradients flow back to it.
        faces: (f, 3) int32, as given to `rasterize`.
        fragments: of (b, h, w) pixels.

    Returns:
        (b, h, w, c), zero where nothing is seen.
    """
    corners = faces[fragments.face.clamp(min=0).long()].long()  # (b, h, w, 3)
    blended = torch.einsum("bhwkc,bhwk->bhwc", attributes[corners], fragments.barycentric.to(attributes.dtype))
    return blended * fragments.mask[..., None]
