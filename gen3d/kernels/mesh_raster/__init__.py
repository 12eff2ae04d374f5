"""What makes a rasterised mesh differentiable: barycentric coordinates, blending by them, textures, and smooth
silhouettes.

Which triangle a pixel sees is found by `core2d.kernels.raster` and has no gradient. The operations here take that as
given, and have one (Laine et al. 2020, "Modular Primitives for High-Performance Differentiable Rendering",
2011.03277; written from the paper).

Backends: torch (any device, float64), Numba (CPU).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core2d.kernels.dispatch import pick
from gen3d.kernels.mesh_raster import torch_twin

BACKENDS = ("torch", "numba")


def barycentrics(clip: Tensor, corners: Tensor, found: Tensor, backend: str = "auto") -> Tensor:
    """Give the barycentric coordinates that the rasteriser found their gradient to the vertices (paper, section 3.2).

    Args:
        clip: (b, v, 4) clip-space vertices.
        corners: (b, h, w, 3) int32 rows of the image's vertices that a pixel sees the triangle of, -1 where none.
        found: (b, h, w, 3) of `core2d.kernels.raster`, 0 where nothing is seen.
        backend: "auto" picks Numba on the CPU and torch elsewhere; `LIFTKIT_BACKEND` forces one.

    Returns:
        (b, h, w, 3): the numbers of `found`.
    """
    kernel = _kernel(backend, clip)
    if kernel is None:
        return torch_twin.barycentrics(clip, corners)
    return _Barycentrics.apply(clip.contiguous(), corners, found, kernel)  # type: ignore[no-any-return]


@torch.no_grad()
def slopes(clip: Tensor, corners: Tensor, backend: str = "auto") -> Tensor:
    """How fast barycentric coordinates change with a pixel to the right, and with one down; without gradient.

    Args: as of `barycentrics`.

    Returns:
        (b, h, w, 3, 2), 0 where nothing is seen.
    """
    kernel = _kernel(backend, clip)
    return (kernel or torch_twin).slopes(clip.detach().contiguous(), corners)


def blend(values: Tensor, rows: Tensor, weights: Tensor, backend: str = "auto") -> Tensor:
    """Weighted sums of rows of a table: vertices over a triangle (section 3.3).

    Args:
        values: (m, c) the table.
        rows: (n, k) int32 of it; one below 0 counts nothing.
        weights: (n, k).
        backend: as of `barycentrics`.

    Returns:
        (n, c), differentiable in values and weights.
    """
    if values.ndim != 2 or rows.ndim != 2 or rows.shape != weights.shape:
        shapes = f"{tuple(values.shape)}, {tuple(rows.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"blend needs values (m, c), rows (n, k) and weights (n, k); got {shapes}")
    kernel = _kernel(backend, values)
    if kernel is None:
        return torch_twin.blend(values, rows, weights)
    return _Blend.apply(values.contiguous(), rows.contiguous(), weights.contiguous(), kernel)  # type: ignore[no-any-return]


def look_up(table: Tensor, levels: Tensor, uv: Tensor, footprint: Tensor, backend: str = "auto") -> Tensor:
    """Texels of a pyramid around points, blended over about the area of a pixel (section 3.4).

    Args:
        table: (m, c) texels of all levels, one level after the other, row after row.
        levels: (l, 3) int32 width, height and first row in the table of each level.
        uv: (n, 2) from the top left corner, 1 at the bottom right; the border texels go on for ever.
        footprint: (n, 2, 2) what (u, v) change with a pixel to the right, and with one down.
        backend: as of `barycentrics`.

    Returns:
        (n, c), differentiable in the table and, but for the choice of levels, in uv.
    """
    kernel = _kernel(backend, table)
    if kernel is None:
        return torch_twin.look_up(table, levels, uv, footprint)
    return _LookUp.apply(  # type: ignore[no-any-return]
        table.contiguous(), levels.contiguous(), uv.to(table).contiguous(), footprint.to(table).contiguous(), kernel
    )


def antialias(
    image: Tensor, clip: Tensor, faces: Tensor, across: Tensor, face: Tensor, depth: Tensor, backend: str = "auto"
) -> Tensor:
    """Mix neighbouring pixels where a silhouette passes between their centres (section 3.5).

    Args:
        image: (b, h, w, c) what the pixel centres see.
        clip: (b, v, 4) clip-space vertices.
        faces: (f, 3) int32 rows of the vertices.
        across: (f, 3) int32 of `across_edges`.
        face: (b, h, w) int32 rows of `faces`, -1 where nothing is seen.
        depth: (b, h, w) along the view axis, inf where nothing is seen.
        backend: as of `barycentrics`.

    Returns:
        (b, h, w, c), differentiable in image and clip.
    """
    kernel = _kernel(backend, image)
    if kernel is None:
        return torch_twin.antialias(image, clip, faces, across, face, depth)
    return _Antialias.apply(  # type: ignore[no-any-return]
        image.contiguous(), clip.contiguous(), faces, across, face, depth, kernel
    )


@torch.no_grad()
def across_edges(faces: Tensor, backend: str = "auto") -> Tensor:
    """Across each edge of each triangle, the corner of the triangle on the other side.

    Args:
        faces: (f, 3) int32 rows of vertices.
        backend: as of `barycentrics`.

    Returns:
        (f, 3) int32: for the edge opposite to a corner, that corner's counterpart as 3 face + corner, or -1 where no
        triangle is there, or more than one.
    """
    if pick(backend, BACKENDS, faces) == "numba":
        from gen3d.kernels.mesh_raster import numba_kernel

        return numba_kernel.across_edges(faces.contiguous())
    return torch_twin.across_edges(faces)


def _kernel(backend: str, tensor: Tensor) -> ModuleType | None:
    """The compiled kernel; None for the twin."""
    if pick(backend, BACKENDS, tensor) == "torch":
        return None
    if tensor.dtype != torch.float32:
        raise ValueError(f"the compiled mesh kernels work in float32, not {tensor.dtype}: use backend='torch'")
    from gen3d.kernels.mesh_raster import numba_kernel

    return numba_kernel


class _Barycentrics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clip: Tensor, corners: Tensor, found: Tensor, kernel: ModuleType) -> Tensor:
        ctx.save_for_backward(clip, corners, found)
        ctx.kernel = kernel
        return found.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        clip, corners, found = (tensor.detach() for tensor in ctx.saved_tensors)
        return ctx.kernel.barycentrics_backward(grad.contiguous(), clip, corners, found), None, None, None


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, weights: Tensor, kernel: ModuleType) -> Tensor:
        ctx.save_for_backward(values, rows, weights)
        ctx.kernel = kernel
        return kernel.blend(values.detach(), rows, weights.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        values, rows, weights = (tensor.detach() for tensor in ctx.saved_tensors)
        to_values, _, to_weights, _ = ctx.needs_input_grad
        grads = ctx.kernel.blend_backward(grad.contiguous(), values, rows, weights, to_values, to_weights)
        return grads[0], None, grads[1], None


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, levels: Tensor, uv: Tensor, footprint: Tensor, kernel: ModuleType) -> Tensor:
        ctx.save_for_backward(table, levels, uv, footprint)
        ctx.kernel = kernel
        return kernel.look_up(table.detach(), levels, uv.detach(), footprint.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
        saved = (tensor.detach() for tensor in ctx.saved_tensors)
        grad_table, grad_uv = ctx.kernel.look_up_backward(grad.contiguous(), *saved)
        return grad_table, None, grad_uv, None, None


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, clip: Tensor, faces: Tensor, across: Tensor, face: Tensor, depth: Tensor,
        kernel: ModuleType,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(image, clip, faces, across, face, depth)
        ctx.kernel = kernel
        return kernel.antialias(image.detach(), clip.detach(), faces, across, face, depth)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = (tensor.detach() for tensor in ctx.saved_tensors)
        grad_image, grad_clip = ctx.kernel.antialias_backward(grad.contiguous(), *saved)
        return grad_image, grad_clip, None, None, None, None, None
