"""The small network: against torch's own layers, and which backend takes which network."""

import pytest
import torch
from helpers.gen3d_cases import networks, normal
from torch import nn

from core2d.kernels.dispatch import pick
from gen3d.kernels.fused_mlp import fits, mlp


def test_it_is_a_stack_of_linear_layers() -> None:
    layers = [nn.Linear(columns, rows, bias=False) for columns, rows in ((5, 16), (16, 16), (16, 3))]
    weights = [layer.weight for layer in layers]
    x = normal(0, 9, 5)
    assert torch.equal(mlp(x, weights), layers[2](layers[1](layers[0](x).relu()).relu()))
    assert torch.equal(mlp(x, weights[:1]), layers[0](x))


def test_gradients_of_the_twin() -> None:
    inputs = [normal(k, *shape).double().requires_grad_() for k, shape in enumerate([(4, 3), (6, 3), (6, 6), (2, 6)])]
    assert torch.autograd.gradcheck(lambda x, *weights: mlp(x, weights), inputs)


def test_the_cases_of_the_triton_kernel_run_on_the_twin() -> None:
    assert all(max(apart.values(), default=0.0) == 0.0 for apart in networks("torch").values())


def test_which_networks_are_fused() -> None:
    assert fits([3, 16, 1]) and fits([128, 128, 128, 128])
    assert not fits([3, 1]) and not fits([3, 24, 1]) and not fits([3, 16, 32, 1]) and not fits([129, 16, 1])
    with pytest.raises(ValueError, match=r"hidden layers of one width out of \(16, 32, 64, 128\)"):
        mlp(torch.zeros(2, 3), [torch.zeros(24, 3), torch.zeros(1, 24)], "triton")


def test_the_environment_forces_only_what_an_operation_has(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = normal(0, 2, 3), [normal(1, 4, 3)]
    monkeypatch.setenv("LIFTKIT_BACKEND", "numba")  # the hash grid has it, this has not
    assert torch.equal(mlp(x, weights), x @ weights[0].T)
    assert pick("auto", ("torch", "numba"), x.double()) == "numba"
    assert pick("torch", ("torch", "numba"), x) == "torch"
    monkeypatch.delenv("LIFTKIT_BACKEND")
    assert pick("auto", ("torch", "numba"), x) == "numba"
    assert pick("auto", ("torch", "numba"), x.double()) == "torch"
    assert pick("auto", ("torch", "triton"), x) == "torch"
    with pytest.raises(ValueError, match="unknown backend 'numba': choose one of auto, torch, triton"):
        mlp(x, weights, "numba")


def test_shapes_that_do_not_chain_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights that chain; got \(2, 3\), \(4, 5\)"):
        mlp(torch.zeros(2, 3), [torch.zeros(4, 5)])
    with pytest.raises(ValueError, match="weights that chain"):
        mlp(torch.zeros(2, 3), [])
