"""Fields: encodings of direction, density and colour, normals, where they begin."""

import math

import numpy as np
import pytest
import torch
from helpers.gen3d_cases import normal, points
from torch import Tensor
from torch.nn.functional import normalize, softplus

from gen3d.fields.activations import truncated_exp
from gen3d.fields.background import Background
from gen3d.fields.config import BackgroundConfig, FieldConfig, HashGridConfig
from gen3d.fields.directions import spherical_harmonics
from gen3d.fields.hash_grid_field import HashGridField

GRID = HashGridConfig(levels=4, coarsest=4, finest=24, log2_table=10)
ALBEDO = FieldConfig(grid=GRID, width=16)
PHOTOGRAPH = FieldConfig(grid=GRID, width=16, view_dependent=True, density="exp", blob=0.0, bound=1.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ball(seed: int, count: int, low: float, high: float) -> Tensor:
    """Points (n, 3) between two distances from the origin."""
    radius = low + (high - low) * points(seed, count)[:, :1]
    return radius * normalize(normal(seed + 1, count, 3), dim=1)


def wavy(config: FieldConfig = ALBEDO) -> HashGridField:
    """A field whose table says something."""
    field = HashGridField(config, seeded())
    with torch.no_grad():
        field.table.copy_(normal(1, *field.table.shape))
    return field


def test_spherical_harmonics_are_orthonormal() -> None:
    # Gauss-Legendre in z and equal steps around it integrate polynomials of degree 6 exactly
    z, weight = np.polynomial.legendre.leggauss(8)
    turn = np.arange(16) * 2 * math.pi / 16
    z, weight, turn = (torch.from_numpy(a) for a in (np.repeat(z, 16), np.repeat(weight, 16), np.tile(turn, 8)))
    flat = (1 - z * z).sqrt()
    harmonics = spherical_harmonics(torch.stack([flat * turn.cos(), flat * turn.sin(), z], 1), 4)
    products = torch.einsum("ni,nj,n->ij", harmonics, harmonics, weight * 2 * math.pi / 16)
    torch.testing.assert_close(products, torch.eye(16).double())
    with pytest.raises(ValueError, match="not 5"):
        spherical_harmonics(torch.ones(1, 3), 5)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_bands_come_one_after_the_other(degree: int) -> None:
    directions = normalize(normal(0, 2, 5, 3), dim=-1)
    bands = spherical_harmonics(directions, degree)
    assert bands.shape == (2, 5, degree**2)
    assert torch.equal(bands, spherical_harmonics(directions, 4)[..., : degree**2])
    # the squares of a band add up to (2 l + 1) / 4 pi in any direction
    band = bands[..., (degree - 1) ** 2 :].square().sum(-1)
    torch.testing.assert_close(band, torch.full((2, 5), (2 * degree - 1) / (4 * math.pi)))


def test_the_exponentials_gradient_is_truncated() -> None:
    x = torch.tensor([-3.0, 0.0, 14.0, 20.0], requires_grad=True)
    y = truncated_exp(x)
    assert torch.equal(y, x.exp())
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([-3.0, 0, 14, 15]).exp())


@pytest.mark.parametrize("config", [ALBEDO, PHOTOGRAPH])
def test_together_is_one_after_the_other(config: FieldConfig) -> None:
    field = wavy(config)
    x = (points(1, 50) * 2 - 1) * config.bound * 1.2
    directions = normalize(normal(2, 50, 3), dim=1)
    density, color = field(x, directions)
    assert torch.equal(density, field.density(x)) and torch.equal(color, field.color(x, directions))
    assert density.shape == (50,) and color.shape == (50, 3)
    assert (density >= 0).all() and (color > 0).all() and (color < 1).all()
    outside = (x.abs() > config.bound).any(1)
    assert 10 < int(outside.sum()) < 40
    assert (density[outside] == 0).all() and (density[~outside] > 0).all()
    other = field.color(x, -directions)
    assert torch.equal(other, color) is not config.view_dependent


def test_activations() -> None:
    x = ball(3, 20, 0, 0.9)
    field = wavy()
    number = field.number(x)
    torch.testing.assert_close(field.density(x), softplus(number))
    blob = 10 * (1 - x.norm(dim=1) / 0.5)
    torch.testing.assert_close(number - blob, field.density_network(field._encode(x))[:, 0])
    field = wavy(PHOTOGRAPH)
    torch.testing.assert_close(field.density(x), torch.exp(field.density_network(field._encode(x))[:, 0] - 1))


def test_training_starts_from_a_ball() -> None:
    field = HashGridField(ALBEDO, seeded())
    inside, outside = (field.density(ball(4, 100, *ends)).detach() for ends in ((0, 0.2), (0.8, 1.0)))
    assert float(inside.min()) > 5 and float(outside.max()) < 0.01
    assert 0.45 < float(field.color(points(5, 9), points(6, 9)).detach().mean()) < 0.55


def test_normals_of_the_ball_point_outwards() -> None:
    field = HashGridField(ALBEDO, seeded())
    x = ball(7, 100, 0.3, 0.7)
    outwards = normalize(x, dim=1)
    assert float((field.normal(x).detach() * outwards).sum(1).min()) > 0.99
    assert float((field.analytic_normal(x) * outwards).sum(1).min()) > 0.999


def test_finite_differences_approach_the_analytic_normals() -> None:
    field = wavy()
    x = points(8, 400) * 1.8 - 0.9
    exact = field.analytic_normal(x)
    close = (field.normal(x, epsilon=1e-3).detach() * exact).sum(1)
    assert float(close.median()) > 0.999  # a kink of the grid may lie between four points
    torch.testing.assert_close(exact.norm(dim=1), torch.ones(400))
    assert not exact.requires_grad
    coarse = (field.normal(x).detach() * exact).sum(1)
    assert 0.5 < float(coarse.median()) < float(close.median())


@pytest.mark.parametrize("config", [ALBEDO, PHOTOGRAPH])
def test_gradients_reach_every_parameter(config: FieldConfig) -> None:
    field = wavy(config)
    x = points(9, 200) - 0.5
    density, color = field(x, normalize(normal(2, 200, 3), dim=1))
    loss = density.square().sum() + color.square().sum() + field.normal(x)[:, 0].sum()
    loss.backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_fields_of_one_seed_are_equal_and_can_be_saved() -> None:
    one, other, third = (HashGridField(ALBEDO, seeded(seed)) for seed in (1, 1, 2))
    x = points(10, 30) - 0.5
    assert torch.equal(one(x, x)[1], other(x, x)[1]) and not torch.equal(one(x, x)[1], third(x, x)[1])
    third.load_state_dict(one.state_dict())
    assert torch.equal(one(x, x)[1], third(x, x)[1])


def test_nothing_asked_nothing_answered() -> None:
    for config in (ALBEDO, PHOTOGRAPH):
        field = HashGridField(config)
        nowhere = torch.zeros(0, 3)
        density, color = field(nowhere, nowhere)
        assert density.shape == (0,) and color.shape == (0, 3)
        assert field.normal(nowhere).shape == field.analytic_normal(nowhere).shape == (0, 3)


def test_float64_runs_on_the_twin() -> None:
    field = wavy()
    x = points(11, 40).double() - 0.5
    expected = field(x.float(), x.float())
    for one, other in zip(field.double()(x, x), expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one.float(), other, rtol=1e-4, atol=1e-5)


def test_background() -> None:
    background = Background(BackgroundConfig(degree=4), seeded())
    directions = normalize(normal(12, 2, 3, 3), dim=-1)
    color = background(directions)
    assert color.shape == (2, 3, 3) and (color > 0).all() and (color < 1).all()
    assert background(torch.zeros(0, 3)).shape == (0, 3)
    color.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in background.parameters())
