"""The field that most systems train: a hash grid with two small networks (Instant-NGP's shape, DreamFusion's start)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from gen3d.fields.activations import truncated_exp
from gen3d.fields.config import FieldConfig
from gen3d.fields.directions import spherical_harmonics
from gen3d.fields.mlp import MLP
from gen3d.kernels.hash_grid import HashGridLayout, encode, initial_table

GEOMETRY = 15  # numbers that the density network hands to a view-dependent colour network, as in Instant-NGP
DEGREE = 4  # bands of spherical harmonics that such a network sees
# corners of a tetrahedron: four looks at the field give its gradient, where differences along axes take six
TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))


class HashGridField(nn.Module):
    """A density and a colour in the cube [-bound, bound]^3; outside of it there is nothing.

    Without view dependence, colour is a network of its own on the encoding: albedo. With it, colour sees the
    direction and what the density network makes of the point, but not the encoding.

    Args:
        config: its shape.
        generator: draws the first parameters.
    """

    def __init__(self, config: FieldConfig | None = None, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config = FieldConfig() if config is None else config
        grid = config.grid
        self.layout = HashGridLayout.reaching(
            grid.finest, levels=grid.levels, coarsest=grid.coarsest, log2_table=grid.log2_table, features=grid.features
        )
        self.table = nn.Parameter(initial_table(self.layout, generator))
        geometry = GEOMETRY if config.view_dependent else 0
        seen = geometry + DEGREE**2 if config.view_dependent else self.layout.outputs
        self.density_network = MLP(self.layout.outputs, 1 + geometry, config.width, config.density_layers, generator)
        self.color_network = MLP(seen, 3, config.width, config.color_layers, generator)

    def forward(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (n,) and colour (n, 3) at x (n, 3), seen along directions (n, 3); the encoding is shared."""
        encoding = self._encode(x)
        numbers = self.density_network(encoding)
        return self._density(x, self.config.gain * numbers[:, 0]), self._color(encoding, numbers, directions)

    def density(self, x: Tensor) -> Tensor:
        """(n,) per metre."""
        return self._density(x, self._number(x))

    def smooth_density(self, x: Tensor, radius: float) -> Tensor:
        """(n,) per metre without what is smaller than `radius` metres: numbers, before the activation, are averaged.

        The mean over x and the corners of a cube around it, `radius` away.
        """
        corners = torch.tensor(TETRAHEDRON, device=x.device, dtype=x.dtype) / 3**0.5  # (4, 3) unit
        around = torch.cat([torch.zeros_like(corners[:1]), radius * corners, -radius * corners])  # (9, 3)
        numbers = torch.stack([self._number(x + offset) for offset in around])  # (9, n)
        return self._density(x, numbers.mean(0))

    def color(self, x: Tensor, directions: Tensor) -> Tensor:
        """(n, 3) RGB in [0, 1]."""
        encoding = self._encode(x)
        numbers = self.density_network(encoding) if self.config.view_dependent else None
        return self._color(encoding, numbers, directions)

    def normal(self, x: Tensor, epsilon: float | None = None) -> Tensor:
        """(n, 3) unit normals by finite differences over `epsilon` metres: differentiable in the parameters.

        Of the number before the activation, whose gradient points the same way and never underflows. The default
        is a cell of the finest grid: below that, differences show the kinks of the interpolation.
        """
        epsilon = 2 * self.config.bound / self.config.grid.finest if epsilon is None else epsilon
        corners = torch.tensor(TETRAHEDRON, device=x.device, dtype=x.dtype)  # (4, 3)
        numbers = self.number((x[:, None] + epsilon * corners).reshape(-1, 3)).reshape(-1, 4)  # (n, 4)
        return normalize(-(numbers @ corners), dim=1)

    def analytic_normal(self, x: Tensor) -> Tensor:
        """(n, 3) unit normals by differentiating the field, for display: no gradient flows through them."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.number(x).sum(), x)
        return normalize(-slope, dim=1)

    def number(self, x: Tensor) -> Tensor:
        """(n,) what the activation turns into density: the network's number and the blob."""
        return self._number(x) + self._blob(x)

    def _encode(self, x: Tensor) -> Tensor:
        unit = (x / (2 * self.config.bound) + 0.5).clamp(0, 1)
        return encode(unit, self.table, self.layout)

    def _number(self, x: Tensor) -> Tensor:
        return self.config.gain * self.density_network(self._encode(x))[:, 0]

    def _blob(self, x: Tensor) -> Tensor | float:
        if not self.config.blob:
            return 0.0
        return self.config.blob * (1 - x.norm(dim=1) / self.config.blob_radius)

    def _density(self, x: Tensor, number: Tensor) -> Tensor:
        number = number.to(x.dtype) + self._blob(x)  # autocast may have left it in half precision
        density = softplus(number) if self.config.density == "softplus" else truncated_exp(number - 1)
        return density * (x.detach().abs() <= self.config.bound).all(dim=1)

    def _color(self, encoding: Tensor, numbers: Tensor | None, directions: Tensor) -> Tensor:
        if self.config.view_dependent:
            assert numbers is not None
            encoding = torch.cat([spherical_harmonics(directions, DEGREE).to(numbers), numbers[:, 1:]], dim=1)
        return torch.sigmoid(self.color_network(encoding))
