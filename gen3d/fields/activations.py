"""From a network's number to density."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

STEEPEST = 15.0  # above this number, exp's gradient stays what it is there


def truncated_exp(x: Tensor) -> Tensor:
    """exp(x), with a gradient that never exceeds exp(15): one bad step then cannot blow up all later ones."""
    return _TruncatedExp.apply(x)  # type: ignore[no-any-return]


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.exp(x.clamp(max=STEEPEST))
