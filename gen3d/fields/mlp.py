"""A small network without bias, on the fused kernel."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gen3d.kernels.fused_mlp import mlp


class MLP(nn.Module):
    """Layers of one width with ReLU between them, no bias.

    Args:
        inputs, outputs: numbers that go in and come out.
        width, layers: units of a hidden layer, and how many of those; 0 makes a linear map.
        generator: draws the first weights, U(-b, b) with b = sqrt(6 / (inputs + outputs)) of each layer.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, layers: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        sizes = [inputs, *[width] * layers, outputs]
        self.weights = nn.ParameterList()
        for columns, rows in pairwise(sizes):
            limit = math.sqrt(6 / (columns + rows))
            self.weights.append(nn.Parameter(torch.empty(rows, columns).uniform_(-limit, limit, generator=generator)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        weights = list(self.weights)
        return mlp(x.reshape(-1, x.shape[-1]), weights).reshape(*x.shape[:-1], len(weights[-1]))
