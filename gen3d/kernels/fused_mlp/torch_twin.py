"""The multilayer perceptron in plain torch: on the CPU also the fast one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import linear, relu


def mlp(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """See `gen3d.kernels.fused_mlp.mlp`."""
    for weight in weights[:-1]:
        x = relu(linear(x, weight))  # (n, width)
    return linear(x, weights[-1])  # (n, outputs)
