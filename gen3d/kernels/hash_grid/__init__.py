"""Multiresolution hash encoding (Mueller et al., "Instant Neural Graphics Primitives", 2022, section 3).

A point in the unit cube is looked up in grids of growing resolution, each a table of learned features: coarse levels
store every vertex, fine ones hash it. The blends of the eight vertices around the point, level after level, are its
encoding. The layout is that of tiny-cuda-nn, so its parameters can be loaded: see `HashGridLayout`.

Backends: torch (any device, float64, differentiable twice), Numba (CPU), Triton (CUDA) and, where a user has it,
tinycudann (CUDA, untested on a device).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core2d.kernels.dispatch import pick
from gen3d.kernels.hash_grid import torch_twin
from gen3d.kernels.hash_grid.layout import HashGridLayout as HashGridLayout

BACKENDS = ("torch", "numba", "triton", "tinycudann")
INITIAL_RANGE = 1e-4  # the paper's: features start in U(-1e-4, 1e-4)


def encode(x: Tensor, table: Tensor, layout: HashGridLayout, backend: str = "auto") -> Tensor:
    """Encode points; gradients flow to the table and, where asked for, to the points.

    Args:
        x: (n, 3) points in the unit cube. Points outside are encoded too, by whatever their vertices' numbers lead to.
        table: (layout.entries, layout.features) learned features.
        layout: where each level's features lie.
        backend: "auto" picks Triton on CUDA and Numba on CPU; `LIFTKIT_BACKEND` forces one.

    Returns:
        (n, layout.outputs): the features of the coarsest level first.

    Raises:
        ValueError: a shape or dtype does not fit, or the backend is unknown.
    """
    if x.ndim != 2 or x.shape[1] != 3 or table.shape != (layout.entries, layout.features):
        wanted = f"x (n, 3) and table ({layout.entries}, {layout.features})"
        raise ValueError(f"encode needs {wanted}; got {tuple(x.shape)} and {tuple(table.shape)}")
    match pick(backend, BACKENDS, table):
        case "numba":
            from gen3d.kernels.hash_grid import numba_kernel as kernel
        case "triton":
            from gen3d.kernels.hash_grid import triton_kernel as kernel
        case "tinycudann":
            from gen3d.kernels.hash_grid import tinycudann_backend

            return tinycudann_backend.encode(x, table, layout)
        case _:
            return torch_twin.encode(x.to(table.dtype), table, layout)
    if table.dtype != torch.float32:
        raise ValueError(f"the compiled hash grids work in float32, the table is {table.dtype}: use backend='torch'")
    return _Encode.apply(x.float().contiguous(), table.contiguous(), layout, kernel)  # type: ignore[no-any-return]


def initial_table(layout: HashGridLayout, generator: torch.Generator | None = None) -> Tensor:
    """(entries, features) float32 in U(-1e-4, 1e-4)."""
    table = torch.empty(layout.entries, layout.features)
    return table.uniform_(-INITIAL_RANGE, INITIAL_RANGE, generator=generator)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, layout: HashGridLayout, kernel: ModuleType) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.layout, ctx.kernel = layout, kernel
        return kernel.forward(x.detach(), table.detach(), layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, table = (tensor.detach() for tensor in ctx.saved_tensors)
        grad = grad.contiguous()
        needs_points, needs_table = ctx.needs_input_grad[:2]
        grad_x = ctx.kernel.backward_points(grad, x, table, ctx.layout) if needs_points else None
        grad_table = ctx.kernel.backward_table(grad, x, table, ctx.layout) if needs_table else None
        return grad_x, grad_table, None, None
