"""Small multilayer perceptrons without bias, of one width, with ReLU between layers (tiny-cuda-nn's kind).

Backends: torch (any device and dtype; on the CPU the matrix products of torch are already what there is to have) and
Triton (CUDA), which keeps a block of rows on the chip through all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core2d.kernels.dispatch import pick
from gen3d.kernels.fused_mlp import torch_twin

BACKENDS = ("torch", "triton")
WIDTHS = (16, 32, 64, 128)  # of hidden layers that are fused
WIDEST = 128  # input or output that is fused


def mlp(x: Tensor, weights: Sequence[Tensor], backend: str = "auto") -> Tensor:
    """y = W_last relu(... relu(W_1 relu(W_0 x))).

    Args:
        x: (n, inputs).
        weights: at least one matrix (rows = outputs of its layer, columns = inputs), as torch.nn.Linear keeps them.
        backend: "auto" picks Triton on CUDA where `fits`, torch elsewhere; `LIFTKIT_BACKEND` forces one.

    Returns:
        (n, outputs), in the dtype of x, or that of autocast where it is on.

    Raises:
        ValueError: shapes do not fit together, or Triton was asked for and the network is not one it fuses.
    """
    sizes = [x.shape[-1], *(len(weight) for weight in weights)]
    chained = all(weight.shape == (sizes[k + 1], sizes[k]) for k, weight in enumerate(weights))
    if x.ndim != 2 or not weights or not chained:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (x, *weights))
        raise ValueError(f"mlp needs x (n, inputs) and weights that chain; got {shapes}")
    chosen = pick(backend, BACKENDS, x)
    if chosen == "torch" or (backend == "auto" and not fits(sizes)):
        return torch_twin.mlp(x, weights)
    if not fits(sizes):
        allowed = f"hidden layers of one width out of {WIDTHS} and at most {WIDEST} inputs and outputs"
        raise ValueError(f"the triton mlp needs {allowed}; got sizes {sizes}")
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weights = x.to(dtype), [weight.to(dtype) for weight in weights]
    return _FusedMLP.apply(x, *weights)  # type: ignore[no-any-return]


def fits(sizes: Sequence[int]) -> bool:
    """Whether Triton fuses a network of these layer sizes, inputs first."""
    inputs, *hidden, outputs = sizes
    return len(set(hidden)) == 1 and hidden[0] in WIDTHS and 1 <= inputs <= WIDEST and 1 <= outputs <= WIDEST


class _FusedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        from gen3d.kernels.fused_mlp import triton_kernel

        x, weights = x.contiguous(), tuple(weight.contiguous() for weight in weights)
        out, activations = triton_kernel.forward(x, weights, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(x, activations, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from gen3d.kernels.fused_mlp import triton_kernel

        x, activations, *weights = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        grad_x, grad_weights = triton_kernel.backward(grad.contiguous(), x, activations, weights, needs_x)
        return grad_x, *grad_weights
