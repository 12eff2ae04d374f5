"""The hash grid against numbers worked out by hand, and its backends against each other."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.gen3d_cases import hash_grids, normal, points
from torch import Tensor, nn

from gen3d.kernels.hash_grid import HashGridLayout, encode, initial_table, tinycudann_backend, torch_twin

BACKENDS = pytest.mark.parametrize("backend", ["torch", "numba"])
# scales 3, 7, 15; resolutions 4, 8, 16; 64 and 512 vertices fit into 2^9 entries, 4096 do not
SMALL = HashGridLayout(levels=3, features=2, log2_table=9, coarsest=4, growth=2.0)


def numbered(layout: HashGridLayout) -> Tensor:
    """A table whose entry i holds (i, -i)."""
    row = torch.arange(layout.entries, dtype=torch.float32)
    return torch.stack([row, -row], 1)


def test_levels_are_dense_while_they_fit() -> None:
    assert SMALL.scales.tolist() == [3, 7, 15]
    assert SMALL.resolutions.tolist() == [4, 8, 16]
    assert SMALL.offsets.tolist() == [0, 64, 64 + 512, 64 + 512 + 512]
    assert SMALL.hashed.tolist() == [False, False, True]
    assert (SMALL.entries, SMALL.outputs) == (1088, 6)


def test_resolutions_round_up_and_levels_start_at_multiples_of_eight() -> None:
    layout = HashGridLayout(levels=2, features=1, log2_table=19, coarsest=3, growth=1.5)
    assert layout.scales.tolist() == [2, 3.5]
    assert layout.resolutions.tolist() == [3, 5]  # ceil(3.5) + 1
    assert layout.offsets.tolist() == [0, 32, 32 + 128]  # 27 and 125 vertices
    assert not layout.hashed.any()


def test_the_papers_grid_has_the_number_of_parameters_that_tiny_cuda_nn_says() -> None:
    # levels of 16^3, 24^3, ... 2^19 entries, as its log prints them for base 16, growth 1.5, 2^19
    layout = HashGridLayout(levels=16, features=2, log2_table=19, coarsest=16, growth=1.5)
    assert layout.resolutions[:6].tolist() == [16, 24, 36, 54, 81, 122]
    sizes = [16**3, 24**3, 36**3, 157464, 2**19]  # 54^3 = 157,464 is a multiple of eight; 81^3 passes 2^19
    assert (layout.offsets[1:6] - layout.offsets[:5]).tolist() == sizes


def test_reaching_ends_at_the_finest_resolution() -> None:
    layout = HashGridLayout.reaching(96, levels=8, coarsest=8, log2_table=15)
    assert layout.resolutions[0] == 8
    assert layout.resolutions[-1] in (96, 97)  # 8 growth^7 - 1 is 95 up to rounding, and is rounded up
    assert HashGridLayout.reaching(8, levels=1, coarsest=8, log2_table=15).resolutions.tolist() == [8]


def test_rows_of_vertices() -> None:
    vertex = torch.tensor([1, 2, 3])
    assert int(torch_twin.rows(vertex, SMALL, 0)) == 1 + 2 * 4 + 3 * 16
    assert int(torch_twin.rows(vertex, SMALL, 1)) == 64 + 1 + 2 * 8 + 3 * 64
    # modulo 512: 2 * 2654435761 is 354 and 3 * 805459861 is 191; 1 ^ 354 ^ 191 = 476
    assert int(torch_twin.rows(vertex, SMALL, 2)) == 576 + 476


@BACKENDS
def test_a_point_sits_half_a_cell_further(backend: str) -> None:
    x = torch.tensor([[0.25, 0.5, 0.75]])  # times 3 plus 0.5: cell (1, 2, 2), inside it (0.25, 0, 0.75)
    found = encode(x, numbered(SMALL), SMALL, backend)[0]
    near, far = 1 + 2 * 4 + 2 * 16, 1 + 2 * 4 + 3 * 16
    expected = 0.25 * (near + 0.25) + 0.75 * (far + 0.25)
    torch.testing.assert_close(found[:2], torch.tensor([expected, -expected]))


@BACKENDS
def test_the_far_corner_wraps_around(backend: str) -> None:
    # cell (3, 3, 3), in its middle; the vertices count {3, 4} + 4 {3, 4} + 16 {3, 4} modulo 64
    found = encode(torch.ones(1, 3), numbered(SMALL), SMALL, backend)[0, 0]
    torch.testing.assert_close(found, torch.tensor((63 + 0 + 3 + 4 + 15 + 16 + 19 + 20) / 8))


@BACKENDS
def test_an_encoding_is_linear_inside_a_cell_and_continuous_between(backend: str) -> None:
    table = normal(0, SMALL.entries, 2)
    x = torch.tensor([[(1.5 - 0.5) / 15, 0.31, 0.62]])  # the middle of a cell of the finest level along x
    step = torch.tensor([[0.4 / 15, 0, 0]])
    left, middle, right = (encode(x + k * step, table, SMALL, backend) for k in (-1, 0, 1))
    torch.testing.assert_close(middle[:, 4:], (left + right)[:, 4:] / 2, rtol=0, atol=1e-5)
    edge = torch.tensor([[1.5 / 15, 0.31, 0.62]])
    below, above = (encode(edge + k * 1e-6, table, SMALL, backend) for k in (-1, 1))
    torch.testing.assert_close(below, above, rtol=0, atol=1e-3)


def test_numba_equals_the_twin() -> None:
    for name, apart in hash_grids("numba").items():
        assert max(apart.values(), default=0.0) <= 1e-5, f"{name}: {apart}"


def test_the_gradient_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from gen3d.kernels.hash_grid import numba_kernel

    table, x = normal(1, SMALL.entries, 2), points(2, 999)
    gradients = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(numba_kernel.numba, "get_num_threads", lambda threads=threads: threads)
        gradients.append(numba_kernel.backward_table(normal(3, 999, 6), x, table, SMALL))
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_gradients_of_the_twin() -> None:
    layout = HashGridLayout(levels=2, features=2, log2_table=5, coarsest=3, growth=1.5)
    x = points(4, 3).double().requires_grad_()
    table = normal(5, layout.entries, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, table: encode(x, table, layout), (x, table))
    assert torch.autograd.gradgradcheck(lambda x: encode(x, table.detach(), layout), (x,))


def test_gradients_are_only_made_where_they_are_asked_for() -> None:
    table = normal(1, SMALL.entries, 2).requires_grad_()
    out = encode(points(1, 5), table, SMALL, "numba")
    (gradient,) = torch.autograd.grad(out.sum(), table)
    torch.testing.assert_close(gradient.sum(0), torch.full((2,), 15.0))  # weights add up to one, 3 levels, 5 points
    assert not encode(points(1, 5), table.detach(), SMALL, "numba").requires_grad


def test_tiny_cuda_nn_parameters_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoding(nn.Module):
        """Stands in for theirs: one flat parameter vector, configured by a dictionary."""

        def __init__(self, inputs: int, config: dict[str, Any], dtype: torch.dtype) -> None:
            super().__init__()
            assert (inputs, dtype, config["otype"], config["interpolation"]) == (3, torch.float32, "HashGrid", "Linear")
            names = ["n_levels", "n_features_per_level", "log2_hashmap_size", "base_resolution", "per_level_scale"]
            self.layout = HashGridLayout(*(config[name] for name in names))
            self.params = nn.Parameter(torch.zeros(self.layout.entries * self.layout.features))

        def forward(self, x: Tensor) -> Tensor:
            return torch_twin.encode(x, self.params.view(-1, self.layout.features), self.layout)

    monkeypatch.setitem(sys.modules, "tinycudann", SimpleNamespace(Encoding=Encoding))
    tinycudann_backend._encoding.cache_clear()
    table, x = normal(6, SMALL.entries, 2).requires_grad_(), points(7, 11)
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        encode(x, table, SMALL, "tinycudann")
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    theirs = encode(x, table, SMALL, "tinycudann")
    monkeypatch.undo()
    tinycudann_backend._encoding.cache_clear()
    ours = encode(x, table, SMALL, "torch")
    assert torch.equal(theirs, ours)
    (one,), (other,) = (torch.autograd.grad(out.square().sum(), table) for out in (theirs, ours))
    assert torch.equal(one, other)


def test_tiny_cuda_nn_is_named_where_it_is_missing() -> None:
    with pytest.raises(ImportError, match="tinycudann is not installed"):
        encode(points(0, 1), numbered(SMALL), SMALL, "tinycudann")


def test_the_first_table() -> None:
    table = initial_table(SMALL, torch.Generator().manual_seed(3))
    assert table.shape == (SMALL.entries, 2)
    assert 0.9e-4 < float(table.abs().amax()) <= 1e-4 and abs(float(table.mean())) < 5e-6
    assert torch.equal(table, initial_table(SMALL, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    "shape",
    [{"levels": 0}, {"features": 3}, {"log2_table": 25}, {"coarsest": 1}, {"growth": 0.9}, {"growth": 2.5}],
)
def test_no_such_grid(shape: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no hash grid has this shape"):
        HashGridLayout(**shape)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = numbered(SMALL)
    with pytest.raises(ValueError, match=r"needs x \(n, 3\) and table \(1088, 2\); got \(4, 2\)"):
        encode(torch.zeros(4, 2), table, SMALL)
    with pytest.raises(ValueError, match="float32"):
        encode(torch.zeros(4, 3), table.double(), SMALL, "numba")
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        encode(torch.zeros(4, 3), table, SMALL, "fast")
    monkeypatch.setenv("LIFTKIT_BACKEND", "opengl")
    with pytest.raises(ValueError, match="unknown backend 'opengl'"):
        encode(torch.zeros(4, 3), table, SMALL)
