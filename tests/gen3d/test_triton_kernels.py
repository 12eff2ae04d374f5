"""The Triton kernels of gen3d: equal to their twins interpreted, compiled with no GPU, run where one is."""

import pytest
import torch
from helpers.gen3d_ahead import JOBS
from helpers.gen3d_cases import Distances, hash_grids, networks, rays
from helpers.triton_subprocess import ROOT, TRITON_MISSING, WHY_MISSING, run_interpreted, run_script

from gen3d.kernels.compositing import composite
from gen3d.kernels.fused_mlp import mlp
from gen3d.kernels.hash_grid import HashGridLayout, encode

needs_triton = pytest.mark.skipif(TRITON_MISSING, reason=WHY_MISSING)


def assert_close(cases: dict[str, Distances], tolerance: float) -> None:
    for name, apart in cases.items():
        assert max(apart.values(), default=0.0) <= tolerance, f"{name}: {apart}"


@needs_triton
def test_the_kernels_equal_their_twins_in_the_interpreter() -> None:
    answer = run_interpreted(ROOT / "tests/helpers/gen3d_interpreted.py")
    assert {kernel: len(cases) for kernel, cases in answer.items()} == {
        "hash_grid": 7,
        "fused_mlp": 5,
        "fused_mlp in half precision": 5,
        "compositing": 5,
    }
    for kernel, cases in answer.items():
        assert_close(cases, 4e-3 if "half" in kernel else 1e-5)


@needs_triton
def test_the_kernels_compile_ahead_of_time() -> None:
    built = run_script(ROOT / "tests/helpers/gen3d_ahead.py", interpret=False, seconds=300)
    assert set(built) == set(JOBS)
    for name, targets in built.items():
        assert set(targets) == {"80", "90"}
        assert all(size["ptx"] > 1000 and size["cubin"] > 1000 for size in targets.values()), name


@needs_triton
def test_tensors_on_the_cpu_are_refused() -> None:
    layout = HashGridLayout(2, 2, 8, 4, 2.0)
    with pytest.raises(ValueError, match="needs CUDA tensors; x is on cpu"):
        encode(torch.zeros(1, 3), torch.zeros(layout.entries, 2), layout, "triton")
    with pytest.raises(ValueError, match="needs CUDA tensors; x is on cpu"):
        mlp(torch.zeros(1, 4), [torch.zeros(16, 4), torch.zeros(1, 16)], "triton")
    one = torch.ones(1)
    with pytest.raises(ValueError, match="needs CUDA tensors; one is on cpu"):
        composite(one, one, one[:, None], one, torch.tensor([0, 1]), "triton")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@needs_triton
def test_the_kernels_equal_their_twins_on_a_gpu() -> None:
    assert_close(hash_grids("triton", "cuda"), 2e-5)
    assert_close(networks("triton", "cuda"), 2e-5)
    assert_close(networks("triton", "cuda", torch.float16), 4e-3)
    assert_close(rays("triton", "cuda"), 2e-5)
