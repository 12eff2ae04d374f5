"""The Triton rasteriser: equal to the twin interpreted, compiled with no GPU, run where one is."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from helpers.raster_interpreted import distance, scenes
from helpers.raster_scenes import Scene, soup
from helpers.triton_subprocess import ROOT, TRITON_MISSING, WHY_MISSING, compile_ahead, run_interpreted

from core2d.kernels.raster import Fragments, rasterize

needs_triton = pytest.mark.skipif(TRITON_MISSING, reason=WHY_MISSING)
TABLE = {"corners": "*fp32", "boxes": "*i32", "count": "i32", "height": "i32", "width": "i32"}
PICTURE = {"face_out": "*i32", "barycentric_out": "*fp32", "depth_out": "*fp32"}
KERNELS: dict[str, tuple[dict[str, str], dict[str, Any], int]] = {  # signature, constants, warps
    "_setup": ({"clip": "*fp32", "faces": "*i32", **TABLE}, {"BLOCK": 128}, 4),
    "_draw": ({"face_offsets": "*i32", **TABLE, **PICTURE}, {"TILE": 16, "BLOCK": 128}, 1),
}


@needs_triton
def test_the_kernel_equals_the_twin_in_the_interpreter() -> None:
    answer = run_interpreted(ROOT / "tests/helpers/raster_interpreted.py")
    assert set(answer) == set(scenes())
    for name, apart in answer.items():
        assert (apart["faces"], apart["barycentric"], apart["depth"]) == (0, 0.0, 0.0), f"{name}: {apart}"
    assert all(answer[name]["covered"] > 0 for name in answer if name != "no triangles")


@needs_triton
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernels_compile_ahead_of_time(kernel: str) -> None:
    signature, constants, warps = KERNELS[kernel]
    options = {"num_warps": warps, "enable_fp_fusion": False}
    built = compile_ahead("core2d.kernels.raster.triton_kernel", kernel, signature, constants, **options)
    assert set(built) == {"80", "90"}
    assert all(sizes["ptx"] > 1000 and sizes["cubin"] > 1000 for sizes in built.values())


@needs_triton
def test_tensors_on_the_cpu_are_refused() -> None:
    program = (
        "import torch; from core2d.kernels.raster import rasterize\n"
        "rasterize(torch.ones(3, 4), torch.tensor([[0, 1, 2]]), torch.tensor([0, 1]), 4, 4, 'triton')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.stderr.strip().endswith("ValueError: the triton raster backend needs CUDA tensors; clip is on cpu")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@needs_triton
def test_the_kernel_equals_the_twin_on_a_gpu() -> None:
    cases = {**scenes(), "many": (soup(20, triangles=400, images=4, size=0.2, crossing=0.1), 100, 130)}
    for name, (scene, height, width) in cases.items():
        once, again = (draw_on_gpu(scene, height, width) for _ in range(2))
        assert set(distance(once, again).values()) <= {0, int(again.mask.sum())}, f"{name} varies between runs"
        apart = distance(once, rasterize(*scene, height, width, backend="torch"))
        assert apart["faces"] == 0, f"{name}: {apart}"
        assert max(apart["barycentric"], apart["depth"]) <= 1e-6, f"{name}: {apart}"


def draw_on_gpu(scene: Scene, height: int, width: int) -> Fragments:
    clip, faces, face_offsets = (tensor.cuda() for tensor in scene)
    drawn = rasterize(clip, faces, face_offsets, height, width, backend="triton")
    return Fragments(drawn.face.cpu(), drawn.barycentric.cpu(), drawn.depth.cpu())
