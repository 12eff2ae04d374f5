"""Volume rendering of packed rays (Max, "Optical Models for Direct Volume Rendering", 1995; NeRF equation 3).

The samples of all rays stand one ray after the other, each ray's front to back. A sample of optical thickness
tau = density x length covers alpha = 1 - exp(-tau) of what reaches it, T = exp(-sum of tau before it), and so counts
T alpha. Once less than 1e-4 of the light gets through, the rest of a ray is left out: it counts nothing and gets no
gradient. What is lost of a colour in [0, 1] is at most that.

Backends: torch (any device, float64), Numba (CPU), Triton (CUDA).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core2d.kernels.dispatch import pick
from gen3d.kernels.compositing import torch_twin
from gen3d.kernels.compositing.torch_twin import ray_indices as ray_indices
from gen3d.kernels.compositing.torch_twin import visible as visible

BACKENDS = ("torch", "numba", "triton")


@dataclass(frozen=True)
class Composite:
    """What r rays of n samples see.

    Attributes:
        color: (r, c) sum of weighted sample colours, over black.
        opacity: (r,) in [0, 1].
        depth: (r,) sum of weighted distances; divide by opacity for the mean distance.
        weights: (n,) what each sample counts.
    """

    color: Tensor
    opacity: Tensor
    depth: Tensor
    weights: Tensor


def composite(
    density: Tensor, delta: Tensor, color: Tensor, t: Tensor, ray_offsets: Tensor, backend: str = "auto"
) -> Composite:
    """Blend packed samples; differentiable in all but `ray_offsets`.

    Args:
        density: (n,) per metre, not negative and finite.
        delta: (n,) metres that the sample stands for.
        color: (n, c) any numbers to blend: RGB, or RGB and normals.
        t: (n,) metres from the ray's origin.
        ray_offsets: (r + 1,) int64; ray i has samples ray_offsets[i]:ray_offsets[i + 1].
        backend: "auto" picks Triton on CUDA and Numba on CPU; `LIFTKIT_BACKEND` forces one.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown.
    """
    n = len(density)
    if density.shape != (n,) or delta.shape != (n,) or t.shape != (n,) or color.ndim != 2 or len(color) != n:
        shapes = f"{tuple(density.shape)}, {tuple(delta.shape)}, {tuple(color.shape)} and {tuple(t.shape)}"
        raise ValueError(f"composite needs density (n,), delta (n,), color (n, c) and t (n,); got {shapes}")
    if ray_offsets.ndim != 1 or len(ray_offsets) == 0 or ray_offsets.dtype != torch.int64:
        raise ValueError(f"ray_offsets must be (r + 1,) int64; got {tuple(ray_offsets.shape)} {ray_offsets.dtype}")
    exact = density if density.dtype == torch.float64 else density.float()  # half precision would band
    thickness = exact * delta.to(exact)
    values = torch.cat([color.to(exact), t.to(exact)[:, None]], dim=1)
    match pick(backend, BACKENDS, thickness):
        case "numba":
            from gen3d.kernels.compositing import numba_kernel as kernel
        case "triton":
            from gen3d.kernels.compositing import triton_kernel as kernel
        case _:
            kernel = None
    if kernel is None:
        blended, opacity, weights = torch_twin.blend(thickness, values, ray_offsets)
    elif exact.dtype != torch.float32:
        raise ValueError("the compiled compositing kernels work in float32: use backend='torch' for float64")
    else:
        blended, opacity, weights = _Blend.apply(
            thickness.contiguous(), values.contiguous(), ray_offsets.contiguous(), kernel
        )  # type: ignore[misc]
    return Composite(blended[:, :-1], opacity, blended[:, -1], weights)


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, thickness: Tensor, values: Tensor, ray_offsets: Tensor, kernel: ModuleType
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(thickness, values, ray_offsets)
        ctx.kernel = kernel
        return kernel.forward(thickness.detach(), values.detach(), ray_offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        thickness, values, ray_offsets = (tensor.detach() for tensor in ctx.saved_tensors)
        grads = tuple(grad.contiguous() for grad in grads)
        return *ctx.kernel.backward(*grads, thickness, values, ray_offsets), None, None
