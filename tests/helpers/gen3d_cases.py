"""Inputs for the kernels of gen3d, and how far a backend's values and gradients are from those of the twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gen3d.kernels.compositing import composite
from gen3d.kernels.fused_mlp import mlp
from gen3d.kernels.hash_grid import HashGridLayout, encode

MIXED = HashGridLayout(levels=5, features=2, log2_table=8, coarsest=4, growth=1.6)  # two dense levels, three hashed
Distances = dict[str, float]  # the worst of values, and of the gradient to each input


def hash_grids(backend: str, device: str = "cpu") -> dict[str, Distances]:
    """What each case is about -> distances of values, grad 0 (points) and grad 1 (table)."""
    faces = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0.3], [-0.3, 0.4, 1.7], [-2.0, 3.1, -0.1]])
    cases = {
        "more points than a block": (MIXED, points(1, 601)),
        "one feature": (HashGridLayout(3, 1, 9, 5, 1.5), points(2, 7)),
        "four features, one level": (HashGridLayout(1, 4, 19, 16, 1.0), points(3, 33)),
        "one point": (MIXED, points(4, 1)),
        "no point": (MIXED, points(5, 0)),
        "faces and outside": (MIXED, faces),
        "not contiguous": (MIXED, points(6, 100)[::2]),
    }
    answer = {}
    for name, (layout, x) in cases.items():
        table = normal(7, layout.features, layout.entries).T  # (e, f), not contiguous

        def run(backend: str, x: Tensor, table: Tensor, layout: HashGridLayout = layout) -> Sequence[Tensor]:
            return [encode(x, table, layout, backend)]

        answer[name] = distance(run, backend, [x.to(device), table.to(device)])
    return answer


def networks(backend: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Distances]:
    """What each case is about -> distances of values, grad 0 (x) and of each weight."""
    cases = {
        "one hidden layer": (70, [16, 32, 4]),
        "odd inputs, one row": (1, [3, 16, 16, 1]),
        "three hidden layers": (65, [35, 64, 64, 64, 3]),
        "wide": (5, [32, 128, 128, 16]),
        "no row": (0, [8, 16, 2]),
    }
    answer = {}
    for name, (rows, sizes) in cases.items():
        weights = [
            (normal(k, sizes[k + 1], sizes[k]) / sizes[k] ** 0.5).to(device, dtype) for k in range(len(sizes) - 1)
        ]
        x = normal(9, sizes[0], rows).T.to(device, dtype)  # not contiguous

        def run(backend: str, x: Tensor, *weights: Tensor) -> Sequence[Tensor]:
            return [mlp(x, weights, backend)]

        answer[name] = distance(run, backend, [x, *weights])
    return answer


def rays(backend: str, device: str = "cpu") -> dict[str, Distances]:
    """What each case is about -> distances of values, grad 0 (density), 1 (delta), 2 (color), 3 (t)."""
    cases = {
        "ragged": ([5, 0, 1, 40, 33, 0, 100], 1.0),
        "opaque": ([64, 3, 90, 0], 60.0),
        "one sample": ([1], 1.0),
        "rays without samples": ([0, 0, 0], 1.0),
        "no ray": ([], 1.0),
    }
    answer = {}
    for name, (counts, density) in cases.items():
        offsets, inputs = packed(counts, density)
        offsets = offsets.to(device)

        def run(backend: str, *inputs: Tensor, offsets: Tensor = offsets) -> Sequence[Tensor]:
            seen = composite(*inputs, offsets, backend)  # type: ignore[arg-type]
            return seen.color, seen.opacity, seen.depth, seen.weights

        answer[name] = distance(run, backend, [tensor.to(device) for tensor in inputs])
    return answer


def packed(counts: list[int], density: float, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Ray offsets, and density (n,), delta (n,), colour (n, 5) and t (n,), the colour not contiguous."""
    offsets = torch.nn.functional.pad(torch.tensor(counts, dtype=torch.int64).cumsum(0), (1, 0))
    n = int(offsets[-1])
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(8, n, generator=generator)
    return offsets, [density * numbers[0], 0.05 + 0.1 * numbers[1], numbers[2:7].T, 1 + numbers[7]]


def points(seed: int, count: int) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(run: Callable[..., Sequence[Tensor]], backend: str, inputs: Sequence[Tensor]) -> Distances:
    """Largest differences between `run` on a backend and on the twin, relative to the twin's largest number."""
    kernel, twin = (_values_and_gradients(run, name, inputs) for name in (backend, "torch"))
    assert kernel.keys() == twin.keys()
    answer = {}
    for name, expected in twin.items():
        assert kernel[name].shape == expected.shape and kernel[name].dtype == expected.dtype, name
        if expected.numel():
            largest = expected.abs().amax().clamp(min=1e-6)
            answer[name] = float((kernel[name] - expected).abs().amax() / largest)
    return answer


def _values_and_gradients(
    run: Callable[..., Sequence[Tensor]], backend: str, inputs: Sequence[Tensor]
) -> dict[str, Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    values = run(backend, *leaves)
    loss = sum((value * normal(k, *value.shape).to(value)).sum() for k, value in enumerate(values))
    gradients = torch.autograd.grad(loss, leaves)  # type: ignore[arg-type]
    named = {f"value {k}": value.detach() for k, value in enumerate(values)}
    return named | {f"grad {k}": gradient for k, gradient in enumerate(gradients)}
