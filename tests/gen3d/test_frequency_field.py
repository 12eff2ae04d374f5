"""NeRF's first field: its encoding and its network, against both written out by hand."""

import math

import pytest
import torch
from helpers.gen3d_cases import normal, points
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from gen3d.fields.frequency_field import FrequencyField, positional_encoding


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(seed: int = 0) -> FrequencyField:
    return FrequencyField(16, 4, seeded(seed))


def looks(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points in the cube [-1, 1]^3 and unit directions."""
    return 2 * points(seed, count) - 1, normalize(normal(seed + 1, count, 3), dim=1)


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 6))
def test_encoding_is_what_the_formula_says(count: int, axes: int, frequencies: int) -> None:
    x = normal(count, count, axes).double()
    encoded = positional_encoding(x, frequencies)
    assert encoded.shape == (count, axes + 2 * axes * frequencies)
    for row, numbers in zip(x.tolist(), encoded.tolist(), strict=True):
        expected = list(row)
        for power in range(frequencies):
            expected += [math.sin(2**power * value) for value in row] + [math.cos(2**power * value) for value in row]
        assert numbers == pytest.approx(expected, abs=1e-12)


def test_the_published_sizes() -> None:
    field = FrequencyField(generator=seeded())
    shapes = {name: tuple(value.shape) for name, value in field.named_parameters() if name.endswith("weight")}
    trunk = {f"trunk.{layer}.weight": (256, 256) for layer in range(8)}
    trunk |= {"trunk.0.weight": (256, 63), "trunk.5.weight": (256, 256 + 63)}
    heads = {"density_layer.weight": (1, 256), "feature_layer.weight": (256, 256)}
    heads |= {"color_layer.weight": (128, 256 + 27), "last_layer.weight": (3, 128)}
    assert shapes == trunk | heads
    assert sum(value.numel() for value in field.parameters()) == 595_844


@pytest.mark.parametrize(("depth", "joins"), [(1, 0), (2, 0), (3, 2), (4, 3), (8, 5)])
def test_network_is_what_the_paper_draws(depth: int, joins: int) -> None:
    field = FrequencyField(16, depth, seeded()).double()
    x, directions = (part.double() for part in looks(50))
    weights = dict(field.named_parameters())

    def layer(name: str, seen: Tensor) -> Tensor:
        return seen @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    encoding = positional_encoding(x, 10)
    hidden = encoding
    for index in range(depth):
        seen = torch.cat([encoding, hidden], 1) if index == joins and joins else hidden
        hidden = layer(f"trunk.{index}", seen).clamp(min=0)
    number = layer("density_layer", hidden)[:, 0]
    seen = torch.cat([layer("feature_layer", hidden), positional_encoding(directions, 4)], 1)
    expected = 1 / (1 + torch.exp(-layer("last_layer", layer("color_layer", seen).clamp(min=0))))

    density, color = field(x, directions)
    torch.testing.assert_close(density, number.clamp(min=0))
    torch.testing.assert_close(color, expected)
    assert torch.equal(field.density(x), density) and torch.equal(field.color(x, directions), color)
    noise = normal(7, 50).double()
    noisy, same = field(x, directions, noise)
    torch.testing.assert_close(noisy, (number + noise).clamp(min=0))
    assert torch.equal(same, color)


def test_density_does_not_see_the_direction_and_colour_does() -> None:
    field = small()
    x, directions = looks(20)
    density, color = field(x, directions)
    behind, other = field(x, -directions)
    assert torch.equal(density, behind) and not torch.allclose(color, other)
    assert (density >= 0).all() and (color > 0).all() and (color < 1).all()


def test_parameters_come_from_the_generator() -> None:
    one, same, other = small(1), small(1), small(2)
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(one.trunk[0].weight, other.trunk[0].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(12, 18))
def test_no_field_starts_empty(seed: int) -> None:
    """Where ReLU is 0 nothing is learned; seed 12 was empty everywhere with a bias of 0."""
    with torch.no_grad():
        density = FrequencyField(generator=seeded(seed)).density(looks(500)[0])
    assert float((density > 0).float().mean()) > 0.5


def test_normals_point_against_the_gradient() -> None:
    field = small().double()
    x = looks(40)[0].double()
    step = 1e-7
    ends = [[field.number(x + side * step * axis) for side in (1, -1)] for axis in torch.eye(3).double()]
    slope = torch.stack([(one - other) / (2 * step) for one, other in ends], 1)
    expected = normalize(-slope, dim=1)
    torch.testing.assert_close(field.normal(x), expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        seen = field.normal(x)
    assert not seen.requires_grad and not x.requires_grad
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(40).double())


def test_normals_teach_the_parameters() -> None:
    field = small().double()
    x = looks(10)[0].double()
    weight = field.trunk[1].weight
    assert isinstance(weight, Tensor)
    (gradient,) = torch.autograd.grad(field.normal(x)[:, 0].sum(), weight)
    row, column = divmod(int(gradient.abs().argmax()), weight.shape[1])
    ends = []
    for move in (1e-6, -2e-6):
        with torch.no_grad():
            weight[row, column] += move
        ends.append(field.normal(x)[:, 0].sum().item())
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(gradient[row, column]), rel=1e-3)


def test_no_point_and_what_does_not_fit() -> None:
    density, color = small()(torch.zeros(0, 3), torch.zeros(0, 3))
    assert density.shape == (0,) and color.shape == (0, 3)
    with pytest.raises(ValueError, match=r"got \(3,\) and 4"):
        positional_encoding(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="got width 15, depth 8"):
        FrequencyField(width=15)
    with pytest.raises(ValueError, match="got width 16, depth 0"):
        FrequencyField(width=16, depth=0)
