"""The multilayer perceptron on CUDA: a program takes a block of rows through all layers without leaving the chip.

Forward keeps the hidden activations only when a gradient will be asked for. Backward walks a block of rows through the
transposed layers; the gradients of the weights are then one tall matrix product a layer, which cuBLAS does best (and
always in the same order, unlike atomics). float32 products run on the tensor cores in three TF32 parts, which keeps
float32's precision, or in one where torch.backends.cuda.matmul.allow_tf32 says so.

Floors for n rows, h hidden layers of width w, i inputs, o outputs: 2 n w (i + (h - 1) w + o) FLOP forward and twice
that backward; bytes 4 n (i + o) forward, 4 n w h more where activations are kept, and backward reads those, writes as
many and reads both again for the weights. Not yet timed on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

ROWS = 64  # of a program


def forward(x: Tensor, weights: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    """(n, i) to (n, o), and the hidden activations (h, n, w) if `keep`, else nothing in a tensor."""
    width, hidden = len(weights[0]), len(weights) - 1
    out = x.new_empty(len(x), len(weights[-1]))
    activations = x.new_empty(hidden, len(x), width) if keep else x.new_empty(0)
    with _device(x):
        if len(x):
            _forward[(triton.cdiv(len(x), ROWS),)](
                x, weights[0], _middle(weights), weights[-1], activations, out, len(x), **_options(weights, KEEP=keep)
            )
    return out, activations


def backward(
    grad: Tensor, x: Tensor, activations: Tensor, weights: Sequence[Tensor], needs_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients to x (n, i), where needed, and to the weights."""
    grad_hidden = torch.empty_like(activations)  # (h, n, w): before the ReLU
    grad_x = torch.empty_like(x)
    with _device(x):
        if len(x):
            _backward[(triton.cdiv(len(x), ROWS),)](
                grad, activations, weights[0], _middle(weights), weights[-1], grad_hidden, grad_x, len(x),
                **_options(weights, NEEDS_X=needs_x),
            )  # fmt: skip
    into = [x, *activations]  # what each layer took in
    out = [*grad_hidden, grad]  # the gradient of what it gave
    return grad_x if needs_x else None, [g.T @ a for g, a in zip(out, into, strict=True)]


def _device(x: Tensor) -> torch.cuda.device_of:
    if not x.is_cuda and not knobs.runtime.interpret:
        raise ValueError(f"the triton mlp needs CUDA tensors; x is on {x.device}")
    return torch.cuda.device_of(x)


def _middle(weights: Sequence[Tensor]) -> Tensor:
    """(h - 1, w, w): the layers between hidden ones; where there are none, the first weights stand in, unread."""
    return torch.stack(list(weights[1:-1])) if len(weights) > 2 else weights[0]


def _options(weights: Sequence[Tensor], **more: bool) -> dict[str, Any]:
    inputs, outputs = weights[0].shape[1], len(weights[-1])
    return {
        "IN": inputs,
        "OUT": outputs,
        "IN_BLOCK": max(16, triton.next_power_of_2(inputs)),
        "OUT_BLOCK": max(16, triton.next_power_of_2(outputs)),
        "WIDTH": len(weights[0]),
        "HIDDEN": len(weights) - 1,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
        "ROWS": ROWS,
        "num_warps": 4,
        "enable_fp_fusion": True,
        **more,
    }


@triton.jit
def _forward(
    x, first, middle, last, activations, out, count,
    IN: tl.constexpr, OUT: tl.constexpr, IN_BLOCK: tl.constexpr, OUT_BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]  # (ROWS, 1)
    real = rows < count
    inputs = tl.arange(0, IN_BLOCK)
    units = tl.arange(0, WIDTH)
    outputs = tl.arange(0, OUT_BLOCK)
    dtype = x.dtype.element_ty

    taken = tl.load(x + rows * IN + inputs[None, :], real & (inputs < IN)[None, :], 0.0)  # (ROWS, IN_BLOCK)
    enter = tl.load(first + units[None, :] * IN + inputs[:, None], (inputs < IN)[:, None], 0.0)  # (IN_BLOCK, WIDTH)
    hidden = tl.maximum(tl.dot(taken, enter, input_precision=PRECISION), 0.0).to(dtype)  # (ROWS, WIDTH)
    if KEEP:
        tl.store(activations + rows * WIDTH + units[None, :], hidden, real)
    for layer in range(1, HIDDEN):
        weight = tl.load(middle + (layer - 1) * WIDTH * WIDTH + units[None, :] * WIDTH + units[:, None])
        hidden = tl.maximum(tl.dot(hidden, weight, input_precision=PRECISION), 0.0).to(dtype)  # (ROWS, WIDTH)
        if KEEP:
            tl.store(activations + (layer * count + rows) * WIDTH + units[None, :], hidden, real)
    leave = tl.load(last + outputs[None, :] * WIDTH + units[:, None], (outputs < OUT)[None, :], 0.0)
    given = tl.dot(hidden, leave, input_precision=PRECISION)  # (ROWS, OUT_BLOCK)
    tl.store(out + rows * OUT + outputs[None, :], given.to(dtype), real & (outputs < OUT)[None, :])


@triton.jit
def _backward(
    grad, activations, first, middle, last, grad_hidden, grad_x, count,
    IN: tl.constexpr, OUT: tl.constexpr, IN_BLOCK: tl.constexpr, OUT_BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, NEEDS_X: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]  # (ROWS, 1)
    real = rows < count
    inputs = tl.arange(0, IN_BLOCK)
    units = tl.arange(0, WIDTH)
    outputs = tl.arange(0, OUT_BLOCK)
    dtype = grad.dtype.element_ty

    given = tl.load(grad + rows * OUT + outputs[None, :], real & (outputs < OUT)[None, :], 0.0)  # (ROWS, OUT_BLOCK)
    leave = tl.load(last + outputs[:, None] * WIDTH + units[None, :], (outputs < OUT)[:, None], 0.0)
    at = ((HIDDEN - 1) * count + rows) * WIDTH + units[None, :]
    active = tl.load(activations + at, real, 0.0) > 0
    hidden = tl.where(active, tl.dot(given, leave, input_precision=PRECISION), 0.0).to(dtype)  # (ROWS, WIDTH)
    tl.store(grad_hidden + at, hidden, real)
    for step in range(1, HIDDEN):
        layer = HIDDEN - 1 - step
        weight = tl.load(middle + layer * WIDTH * WIDTH + units[:, None] * WIDTH + units[None, :])
        at = (layer * count + rows) * WIDTH + units[None, :]
        active = tl.load(activations + at, real, 0.0) > 0
        hidden = tl.where(active, tl.dot(hidden, weight, input_precision=PRECISION), 0.0).to(dtype)
        tl.store(grad_hidden + at, hidden, real)
    if NEEDS_X:
        enter = tl.load(first + units[:, None] * IN + inputs[None, :], (inputs < IN)[None, :], 0.0)
        back = tl.dot(hidden, enter, input_precision=PRECISION)  # (ROWS, IN_BLOCK)
        tl.store(grad_x + rows * IN + inputs[None, :], back.to(dtype), real & (inputs < IN)[None, :])
