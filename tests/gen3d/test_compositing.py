"""Compositing against closed forms and NeRF's dense formula, and its backends against each other."""

import math

import pytest
import torch
from helpers.gen3d_cases import packed, rays
from torch import Tensor

from gen3d.kernels.compositing import composite, ray_indices, visible

BACKENDS = pytest.mark.parametrize("backend", ["torch", "numba"])


def nerf_weights(density: Tensor, delta: Tensor) -> Tensor:
    """The formula of the paper, on (r, k) samples: no early stop."""
    alpha = 1 - torch.exp(-density * delta)
    transmittance = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1), 1)[:, :-1]
    return alpha * transmittance


@BACKENDS
def test_a_uniform_medium(backend: str) -> None:
    # density 2 over 3 metres from 1: what light sees of distance t falls as 2 exp(-2 (t - 1))
    n, density = 3000, 2.0
    t = 1 + (torch.arange(n) + 0.5) * 3 / n
    color = torch.tensor([[0.2, 0.5, 1.0]]).expand(n, -1)
    whole = torch.full((n,), density), torch.full((n,), 3 / n)
    seen = composite(*whole, color, t, torch.tensor([0, n]), backend)
    opacity = 1 - math.exp(-6)
    mean = (1 + 1 / density) - (4 + 1 / density) * math.exp(-6)  # integral of 2 t exp(-2 (t - 1)) from 1 to 4
    torch.testing.assert_close(seen.opacity, torch.tensor([opacity]))
    torch.testing.assert_close(seen.color, opacity * color[:1])
    torch.testing.assert_close(seen.depth, torch.tensor([mean]), rtol=1e-4, atol=0)


@BACKENDS
def test_it_is_the_formula_of_the_paper(backend: str) -> None:
    _, (density, delta, color, t) = packed([12] * 7, 3.0)
    seen = composite(density, delta, color, t, torch.arange(8) * 12, backend)
    weights = nerf_weights(density.view(7, 12), delta.view(7, 12))
    assert float(weights.sum(1).amax()) < 1 - 1e-4  # none reaches the early stop
    torch.testing.assert_close(seen.weights.view(7, 12), weights)
    torch.testing.assert_close(seen.opacity, weights.sum(1))
    torch.testing.assert_close(seen.color, torch.einsum("rk,rkc->rc", weights, color.reshape(7, 12, 5)))
    torch.testing.assert_close(seen.depth, (weights * t.view(7, 12)).sum(1))


@BACKENDS
def test_the_early_stop_loses_at_most_a_ten_thousandth(backend: str) -> None:
    _, (density, delta, color, t) = packed([100] * 50, 8.0)
    density.requires_grad_()
    offsets = torch.arange(51) * 100
    seen = composite(density, delta, color, t, offsets, backend)
    exact = nerf_weights(density.detach().view(50, 100).double(), delta.view(50, 100).double())
    lost = torch.einsum("rk,rkc->rc", exact, color.reshape(50, 100, 5).double()) - seen.color.detach()
    assert 1e-6 < float(lost.amax()) <= 1e-4 + 1e-6
    assert float(lost.amin()) > -1e-6

    before = visible((density * delta).detach(), offsets)
    assert 0.1 < float(before.float().mean()) < 0.9
    light = 1 - exact.cumsum(1) + exact  # that reaches each sample
    sure = (light / 1e-4 - 1).abs() > 1e-3
    assert torch.equal(before.view(50, 100)[sure], (light >= 1e-4)[sure])
    torch.testing.assert_close(seen.weights[before], exact.float().flatten()[before], rtol=1e-4, atol=1e-7)
    assert (seen.weights[~before] == 0).all()
    (gradient,) = torch.autograd.grad(seen.color.sum(), density)
    assert float(gradient[~before].abs().amax()) < 1e-12 < 1e-10 < float(gradient[before].abs().amin())


def test_numba_equals_the_twin() -> None:
    for name, apart in rays("numba").items():
        assert max(apart.values(), default=0.0) <= 1e-5, f"{name}: {apart}"


def test_gradients_of_the_twin() -> None:
    offsets, inputs = packed([3, 0, 4, 1], 3.0)
    inputs = [tensor.double().requires_grad_() for tensor in inputs]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        seen = composite(*inputs, offsets)  # type: ignore[arg-type]
        return seen.color, seen.opacity, seen.depth, seen.weights

    assert torch.autograd.gradcheck(run, inputs)


@BACKENDS
def test_rays_do_not_see_each_other(backend: str) -> None:
    # a thousand opaque rays before it must not cost the last one its precision
    offsets, inputs = packed([50] * 1000 + [20], 200.0)
    alone = [tensor[-20:] for tensor in inputs]
    one = composite(*inputs, offsets, backend)  # type: ignore[arg-type]
    other = composite(*alone, torch.tensor([0, 20]), backend)  # type: ignore[arg-type]
    torch.testing.assert_close(one.color[-1:], other.color)
    torch.testing.assert_close(one.weights[-20:], other.weights)


def test_ray_indices() -> None:
    assert ray_indices(torch.tensor([0, 2, 2, 5]), 5).tolist() == [0, 0, 2, 2, 2]
    assert ray_indices(torch.tensor([0]), 0).tolist() == []


def test_half_precision_is_computed_in_full() -> None:
    offsets, inputs = packed([7, 9], 1.0)
    half = [tensor.half() for tensor in inputs]
    seen = composite(*half, offsets)  # type: ignore[arg-type]
    expected = composite(*(tensor.float() for tensor in half), offsets)  # type: ignore[arg-type]
    assert torch.equal(seen.color, expected.color) and seen.color.dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    offsets, (density, delta, color, t) = packed([2, 3], 1.0)
    with pytest.raises(ValueError, match=r"got \(5,\), \(4,\), \(5, 5\) and \(5,\)"):
        composite(density, delta[1:], color, t, offsets)
    with pytest.raises(ValueError, match="int64"):
        composite(density, delta, color, t, offsets.int())
    with pytest.raises(ValueError, match="float32"):
        composite(density.double(), delta, color, t, offsets, "numba")
