"""The field of the first NeRF paper: two encodings by sines and a deep network (2003.08934, 5.1 and appendix A)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

POINT_FREQUENCIES, DIRECTION_FREQUENCIES = 10, 4  # of the two encodings
FIRST_BIAS = 0.5  # of density: from 0, one field in twenty starts empty everywhere, where ReLU has no gradient to leave


def positional_encoding(x: Tensor, frequencies: int) -> Tensor:
    """Coordinates beside their sines and cosines at doubling frequencies (eq. 4).

    As in the authors' program, x itself comes first and frequencies are 1, 2, 4, ... radians per unit: the paper's
    text has pi times that, and leaves x out.

    Args:
        x: (n, d).
        frequencies: how many, 0 or more; L below.

    Returns:
        (n, d + 2 d L): x, sin(x), cos(x), sin(2 x), cos(2 x), sin(4 x), ..., each of d numbers.
    """
    if x.ndim != 2 or frequencies < 0:
        raise ValueError(f"positional_encoding needs (n, d) and a count; got {tuple(x.shape)} and {frequencies}")
    scales = 2.0 ** torch.arange(frequencies, device=x.device, dtype=x.dtype)  # (L,)
    angles = x[:, None] * scales[:, None]  # (n, L, d)
    waves = torch.stack([angles.sin(), angles.cos()], dim=2)  # (n, L, 2, d)
    return torch.cat([x, waves.flatten(1)], dim=1)


class FrequencyField(nn.Module):
    """A density that depends on the point and a colour that depends on the direction too; everywhere, without bounds.

    The trunk sees the encoded point at its start and again half-way. Its last layer gives the density's number, and a
    feature that one more layer, half as wide, turns into colour together with the encoded direction.

    Args:
        width: units of a layer of the trunk, even.
        depth: layers of the trunk, at least 1; below 3 the point is not seen again.
        generator: draws the first weights, U(-b, b) with b = sqrt(6 / (inputs + outputs)) of each layer (Glorot).
            Biases start at 0, that of density a little above.
    """

    def __init__(self, width: int = 256, depth: int = 8, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if width < 2 or width % 2 or depth < 1:
            raise ValueError(f"a FrequencyField needs an even width and a depth; got width {width}, depth {depth}")
        self.joins = depth // 2 + 1  # the layer that sees the point again: the sixth of eight
        point, direction = (3 + 6 * count for count in (POINT_FREQUENCIES, DIRECTION_FREQUENCIES))
        inputs = [point, *[width] * (depth - 1)]
        if self.joins < depth:
            inputs[self.joins] += point
        self.trunk = nn.ModuleList(_linear(count, width, generator) for count in inputs)
        self.density_layer = _linear(width, 1, generator)
        nn.init.constant_(self.density_layer.bias, FIRST_BIAS)
        self.feature_layer = _linear(width, width, generator)
        self.color_layer = _linear(width + direction, width // 2, generator)
        self.last_layer = _linear(width // 2, 3, generator)

    def forward(self, x: Tensor, directions: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Density (n,) and colour (n, 3) at x (n, 3), seen along directions (n, 3).

        With noise (n,), that is added to the number before it becomes density: in training it keeps fields of real
        scenes from being half there (appendix A).
        """
        hidden = self._trunk(x)
        number = self._number(hidden)
        return relu(number if noise is None else number + noise), self._color(hidden, directions)

    def density(self, x: Tensor) -> Tensor:
        """(n,) per metre."""
        return relu(self.number(x))

    def color(self, x: Tensor, directions: Tensor) -> Tensor:
        """(n, 3) RGB in [0, 1]."""
        return self._color(self._trunk(x), directions)

    def normal(self, x: Tensor) -> Tensor:
        """(n, 3) unit normals by differentiating the number before the activation, whose gradient never vanishes.

        Differentiable in the parameters where gradients are recorded.
        """
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.number(at).sum(), at, create_graph=training)
        return normalize(-slope, dim=1)

    def number(self, x: Tensor) -> Tensor:
        """(n,) what ReLU turns into density."""
        return self._number(self._trunk(x))

    def _trunk(self, x: Tensor) -> Tensor:
        encoding = positional_encoding(x, POINT_FREQUENCIES)
        hidden = encoding
        for index, layer in enumerate(self.trunk):
            hidden = relu(layer(torch.cat([encoding, hidden], dim=1) if index == self.joins else hidden))
        return hidden  # (n, width)

    def _number(self, hidden: Tensor) -> Tensor:
        return self.density_layer(hidden)[:, 0]

    def _color(self, hidden: Tensor, directions: Tensor) -> Tensor:
        seen = [self.feature_layer(hidden), positional_encoding(directions, DIRECTION_FREQUENCIES).to(hidden)]
        return torch.sigmoid(self.last_layer(relu(self.color_layer(torch.cat(seen, dim=1)))))


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    limit = math.sqrt(6 / (inputs + outputs))
    with torch.no_grad():
        layer.weight.uniform_(-limit, limit, generator=generator)
        layer.bias.zero_()
    return layer
