"""A signed distance and a colour, and how they are rendered as a volume (NeuS, Wang et al. 2021, 2106.10689)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from gen3d.fields.config import FieldConfig
from gen3d.fields.hash_grid_field import HashGridField

SHARPNESS_RATE = 10.0  # a step of the optimiser changes the logarithm of s by so many times the learning rate


class SDFField(nn.Module):
    """Metres to the surface, negative inside, in the cube [-bound, bound]^3; it starts as a ball.

    The hash grid and its networks are those of a density field, whose number before the activation is minus the
    distance: a network's number and a cone, radius - |x|, that the grid then bends.

    Args:
        config: its shape; of `gain`, the network's number is multiplied by it, and `density` and the blob do not count.
        radius: of the ball, in metres.
        sharpness: s of the paper at the start, per metre: a surface looks about 4 / s metres thick.
        generator: draws the first parameters.
    """

    def __init__(
        self,
        config: FieldConfig | None = None,
        radius: float = 0.4,
        sharpness: float = 20.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        config = FieldConfig() if config is None else config
        self.numbers = HashGridField(replace(config, blob=radius, blob_radius=radius), generator)
        self.log_sharpness = nn.Parameter(torch.tensor(sharpness).log() / SHARPNESS_RATE)

    @property
    def sharpness(self) -> Tensor:
        """() s, learned: 1 / s is the deviation of the bell that density makes around the surface."""
        return (SHARPNESS_RATE * self.log_sharpness).exp()

    def distance(self, x: Tensor) -> Tensor:
        """(n,) metres."""
        return -self.numbers.number(x)

    def gradient(self, x: Tensor, epsilon: float | None = None) -> Tensor:
        """(n, 3) of the distance, of length 1 where it is one: central differences, differentiable in the parameters.

        Over a cell of the finest grid to either side, or `epsilon` metres.
        """
        shape = self.numbers.config
        epsilon = 2 * shape.bound / shape.grid.finest if epsilon is None else epsilon
        steps = epsilon * torch.eye(3, device=x.device, dtype=x.dtype)  # (3, 3)
        around = torch.cat([x[:, None] + steps, x[:, None] - steps], 1)  # (n, 6, 3)
        ahead, behind = self.distance(around.reshape(-1, 3)).view(-1, 2, 3).unbind(1)  # (n, 3) each
        return (ahead - behind) / (2 * epsilon)

    def normal(self, x: Tensor) -> Tensor:
        """(n, 3) unit vectors out of the object."""
        return self.numbers.normal(x)

    def color(self, x: Tensor, directions: Tensor) -> Tensor:
        """(n, 3) RGB in [0, 1]."""
        return self.numbers.color(x, directions)


def eikonal_loss(field: SDFField, x: Tensor, epsilon: float | None = None) -> Tensor:
    """How far the gradient at points (n, 3) is from length 1, squared, in the mean (eq. 15)."""
    return (field.gradient(x, epsilon).norm(dim=1) - 1).square().mean()


class NeuS:
    """An SDF field as `gen3d.render.volume` asks for it, for samples that stand for `step` metres of a ray.

    A sample's alpha is (P(before) - P(after)) / P(before), or 0 where the ray leaves the object, with P the logistic
    function of s times the distance at both ends of what the sample stands for (eq. 13). As optical thickness, of which
    alpha is 1 - exp(-thickness), that is a difference of logarithms, which never divides by what underflows.

    Args:
        field: the distance and the colour.
        step: metres between samples, as `render_rays` is told.
    """

    def __init__(self, field: SDFField, step: float) -> None:
        self.field, self.step = field, step

    def __call__(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (n,) and colour (n, 3) at the middles x (n, 3) of samples of rays along directions (n, 3)."""
        half = self.step / 2 * directions  # (n, 3)
        before, after = self.field.distance(torch.cat([x - half, x + half])).chunk(2)  # (n,) each
        return thickness(before, after, self.field.sharpness) / self.step, self.field.color(x, directions)

    def density(self, x: Tensor) -> Tensor:
        """(n,) of a ray that goes straight at the surface: no direction has more. For the occupancy grid.

        Pictures must be rendered with `prune=False`: a ray that passes by sees less than this.
        """
        distance, half = self.field.distance(x), self.step / 2
        return thickness(distance + half, distance - half, self.field.sharpness) / self.step

    def color(self, x: Tensor, directions: Tensor) -> Tensor:
        """(n, 3) RGB in [0, 1]."""
        return self.field.color(x, directions)

    def normal(self, x: Tensor) -> Tensor:
        """(n, 3) unit vectors out of the object."""
        return self.field.normal(x)


def thickness(before: Tensor, after: Tensor, sharpness: Tensor) -> Tensor:
    """(n,) optical thickness between two places of a ray, from the distances there (n,): -log(1 - alpha) of eq. 13."""
    return (logsigmoid(sharpness * before) - logsigmoid(sharpness * after)).clamp(min=0)
