"""What is worth doing on the day that an NVIDIA GPU is there: `python scripts/gpu_check.py`. Not yet run on a GPU.

    python scripts/gpu_check.py --list
    python scripts/gpu_check.py --only cuda-tests kernels
    python scripts/gpu_check.py --only prior --minutes 8

Stages in order of worth, each of about `--minutes` at most: the CUDA tests; the Triton kernels against their floors;
a NeRF of a Toybox object after 5, 15 and 60 seconds; then the judge, the VAE, CLIP, the prior and the motion modules at
recipes for a GPU, and their evaluation. A training that its minutes cut
short goes on in the next call. What came out is under --out: one JSON of all stages, the JSON of the evaluation, and
the trained folders packed into weights/assets.tar.000, ... of at most 16 MiB (`--join weights/assets.json FOLDER`
unpacks them). Data and checkpoints stay under --runs. Steps and batches are estimates until a GPU has run them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from measure.measure import (
    ROOT,
    Item,
    Numbers,
    ResultFile,
    command,
    join_folder,
    packed_stills,
    print_list,
    print_table,
    run_items,
    say,
    select,
    source_of,
    split_folder,
)
from measure.toybox_photographs import write_photographs

from core2d.app.errors import InputError
from core2d.app.outputs import remove, write_json
from core2d.app.program import main_guard
from core2d.app.provenance import machine

if TYPE_CHECKING:
    from torch import Tensor

SEED = 3000  # of the meshes that are timed
SIZE = 64  # pixels of a training picture
# Changes to the recipes of `core2d.bundled`: large batches keep a GPU busy where two cores had to be spared.
RECIPES: dict[str, dict[str, Any]] = {
    "judge": {"steps": 8_000, "batch_size": 256},
    "vae": {"steps": 16_000, "batch_size": 96, "ema_decay": 0.998, "checkpoint_every": 2_000},
    "clip": {"steps": 8_000, "batch_size": 256, "ema_decay": 0.998, "checkpoint_every": 2_000},
    "prior": {"steps": 30_000, "batch_size": 256, "ema_decay": 0.9995, "checkpoint_every": 2_000},
    "motion": {"steps": 20_000, "batch_size": 24, "ema_decay": 0.999, "checkpoint_every": 2_000},
}
# kept free for the scores, on the CPU
SCORING_MINUTES = {"judge": 0.7, "vae": 0.5, "clip": 0.5, "prior": 1.5, "motion": 1.5}
NERF_SECONDS = (5, 15, 60)
RASTER_CASES = ((64, 128), (512, 128), (16, 512), (4, 1024))  # pictures, pixels of a side


@dataclass(frozen=True)
class Plan:
    """Where everything goes, and for how long."""

    out: Path
    runs: Path
    minutes: float
    pictures: int
    steps: int | None
    fresh: bool

    @property
    def assets(self) -> Path:
        return self.runs / "assets"


def stages_of(plan: Plan) -> list[Item]:
    """All stages in order of worth."""
    sd, clip = plan.assets / "toybox-sd", plan.assets / "toybox-clip"
    judge = plan.assets / "toybox-judge" / "picture.safetensors"
    trained, finished = (sd / "vae", clip, judge), {"finished": 1}
    return [
        Item("cuda-tests", "the tests that need a GPU", partial(cuda_tests, plan),
             at_least={"tests_passed": 1}, at_most={"tests_failed": 0}),
        Item("kernels", "the Triton rasteriser against its floor", kernels, at_most={"different_faces": 0}),
        Item("nerf", "PSNR of held-out views of a Toybox object at 200x200, in dB", partial(nerf, plan)),
        Item("judge", "train the picture judge", partial(train_stage, "judge", plan), finished),
        Item("vae", "train the autoencoder", partial(train_stage, "vae", plan), finished),
        Item("clip", "train CLIP", partial(train_stage, "clip", plan), finished),
        Item("prior", "train the prior", partial(train_stage, "prior", plan), finished, needs=trained),
        Item("motion", "train the motion modules", partial(train_stage, "motion", plan), finished,
             needs=(sd / "unet",)),
        Item("evaluate", "score what was trained, on the reporting seeds", partial(evaluate, plan),
             needs=(*trained, sd / "unet")),
    ]  # fmt: skip


# -- tests and kernels -----------------------------------------------------------------------------------------


def cuda_tests(plan: Plan) -> Numbers:
    """`pytest -m cuda` in a process of its own; its words go to the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        call = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-rs", f"--junitxml={report}"]
        subprocess.run(call, cwd=ROOT, env=environment(), stdout=sys.stderr, timeout=60 * plan.minutes, check=False)
        suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, "pytest wrote a report without a suite"
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    return {"tests_passed": passed, "tests_failed": failed, "tests_skipped": count["skipped"]}


def kernels() -> Numbers:
    """Times of the Triton rasteriser on Toybox meshes, with the floor of its docstring at this GPU's rated speeds.

    `ms` is of the kernels alone, replayed as a CUDA graph; `call_ms` has the launches in it.
    """
    import torch
    from triton.runtime import driver
    from triton.testing import do_bench, do_bench_cudagraph, get_dram_gbps, get_max_simd_tflops

    from core2d.kernels.raster import rasterize

    device = torch.cuda.current_device()
    active: Any = driver.active
    clock = active.utils.get_device_properties(device)["sm_clock_rate"]  # kHz
    bandwidth = get_dram_gbps(device) * 1e9  # bytes a second
    speed = get_max_simd_tflops(torch.float32, clock, device) * 1e12  # FLOP a second, not fused
    numbers: Numbers = {"rated_gb_per_second": bandwidth / 1e9, "rated_tflops": speed / 1e12, "different_faces": 0}
    for count, side in RASTER_CASES:
        on_cpu = packed_stills(SEED, count)
        clip, faces, offsets = (tensor.cuda() for tensor in on_cpu)
        draw = partial(rasterize, clip, faces, offsets, side, side, backend="triton")
        expected = rasterize(*on_cpu, side, side, backend="numba").face
        numbers["different_faces"] += int((draw().face.cpu() != expected).sum())
        written, flop = raster_work(clip, faces, offsets, side)
        floor = max(written / bandwidth, flop / speed)  # seconds
        milliseconds: Any = do_bench_cudagraph(draw, return_mode="median")
        seconds = milliseconds / 1e3
        case = {
            "triangles": len(faces),
            "ms": 1e3 * seconds,
            "call_ms": do_bench(draw, return_mode="median"),
            "floor_ms": 1e3 * floor,
            "percent_of_floor": 100 * floor / seconds,
            "gb_per_second": written / seconds / 1e9,
            "tflops": flop / seconds / 1e12,
        }
        numbers |= {f"raster_{count}x{side}_{name}": value for name, value in case.items()}
    return numbers


def raster_work(clip: Tensor, faces: Tensor, face_offsets: Tensor, side: int) -> tuple[int, int]:
    """Bytes and FLOP of the floors in `core2d/kernels/raster/triton_kernel.py`, for pictures of side x side pixels.

    Args:
        clip: (v, 4), all in front of the camera.
        faces: (f, 3); face_offsets: (b + 1,).
    """
    import torch

    from core2d.kernels.raster.triton_kernel import TILE

    x, y, _, w = clip.unbind(1)  # (v,) each
    if w.amin() <= 0:
        raise ValueError("raster_work counts triangles in front of the camera only")
    corners = torch.stack([1 + x / w, 1 - y / w], 1)[faces.long()] * (side / 2)  # (f, 3, 2) in pixels
    first = (corners.amin(1) - 0.5).ceil().clamp(min=0)  # (f, 2) first and last pixel centre of the bounding box
    last = (corners.amax(1) - 0.5).floor().clamp(max=side - 1)
    tiles = (last.div(TILE).floor() - first.div(TILE).floor() + 1) * (last >= first)  # (f, 2)
    hits = int(tiles.prod(1).sum())
    written = 20 * (len(face_offsets) - 1) * side**2 + 112 * len(faces)
    return written, 19 * TILE**2 * hits


# -- training --------------------------------------------------------------------------------------------------


def train_stage(name: str, plan: Plan) -> Numbers:
    """One stage of `scripts/train_bundled.py` with the recipe for a GPU, for what is left of the minutes."""
    from train_bundled import STAGES

    from core2d.bundled.training import TrainingSetup

    started = time.perf_counter()
    pictures = plan.pictures // 3 if name == "judge" else plan.pictures  # rejects are drawn by one process: fewer
    draw_data(name, plan.runs / "data", pictures)
    left = plan.minutes - (time.perf_counter() - started) / 60 - SCORING_MINUTES[name]
    changes = RECIPES[name] | {"minutes": max(left, 0.2)} | ({"steps": plan.steps} if plan.steps else {})
    setup = TrainingSetup(plan.assets, plan.runs, SIZE, pictures, plan.fresh, not plan.fresh, tuple(changes.items()))
    found = STAGES[name].run(setup)
    split_folder(plan.assets, plan.out / "weights")
    line = json.loads((plan.assets / STAGES[name].folder / "training.json").read_text())[-1]
    return {**found, "steps": line["steps"], "train_seconds": line["seconds"], "finished": float(line["finished"])}


def draw_data(name: str, data: Path, pictures: int) -> None:
    """Draw the pictures of a stage with all cores, where its own single process will find them."""
    from core2d.bundled import judges
    from core2d.bundled.world import SEED as GENERATOR_SEED
    from core2d.toybox import world
    from core2d.toybox.dataset import mixed_scene
    from core2d.toybox.scene import still

    if name == "motion":  # draws its own clips
        return
    if name == "judge":  # which sees twice as many
        pictures *= 2
        folder, scene_of = f"v{world.VERSION}-judges-{SIZE}px-{pictures}", partial(still, judges.SEED, kind="object")
    else:
        folder = f"v{world.VERSION}-generators-{SIZE}px-{pictures}"
        scene_of = partial(mixed_scene, GENERATOR_SEED)
    draw_in_parallel(data / folder, scene_of, pictures, SIZE)


def draw_in_parallel(folder: Path, scene_of: Callable[[int], Any], count: int, size: int) -> None:
    """Leave in `folder` what `core2d.toybox.dataset.draw` does, drawn by one process a core.

    Args:
        scene_of: scene of an index; it travels to other processes.
    """
    import numpy as np

    from core2d.toybox.dataset import draw

    if (folder / "captions.json").is_file():
        return
    workers = machine()["cores"]
    say(f"drawing {count} pictures with {workers} processes")
    bounds = [count * part // workers for part in range(workers + 1)]
    jobs = [
        (folder.with_name(f"{folder.name}.part-{start}"), partial(shifted, scene_of, start), stop - start, size)
        for start, stop in pairwise(bounds)
        if stop > start
    ]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(draw_share, *zip(*jobs, strict=True)))
    parts = [draw(*job) for job in jobs]  # opens them
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("rgb", "mask", "camera", "is_still", "labels"):
        np.save(folder / f"{name}.npy", np.concatenate([getattr(part, name) for part in parts]))
    write_json(folder / "captions.json", [caption for part in parts for caption in part.captions])
    for part_folder, *_ in jobs:
        remove(part_folder)


def shifted(scene_of: Callable[[int], Any], start: int, index: int) -> Any:
    return scene_of(start + index)


def draw_share(folder: Path, scene_of: Callable[[int], Any], count: int, size: int) -> None:
    """Draw a process's pictures on one thread: the other cores have theirs."""
    import numba

    from core2d.toybox.dataset import draw

    numba.set_num_threads(1)
    draw(folder, scene_of, count, size)


def nerf(plan: Plan) -> Numbers:
    """`gen3d nerf` on the GPU for 5, 15 and 60 seconds, each a run of its own; loading and imports count."""
    scene = plan.runs / "nerf-scene"
    write_photographs(scene, "windmill", "red", SEED)
    found = {}
    for seconds in NERF_SECONDS:
        run = plan.runs / f"nerf-{seconds}.run"
        told = command("gen3d", "nerf", scene, "-o", run, "--minutes", seconds / 60, "--device", "cuda", "--json")
        metrics = json.loads(told)["metrics"]
        found |= {f"psnr_{seconds}_s": metrics["psnr"], f"steps_{seconds}_s": metrics["steps"]}
    return found


def evaluate(plan: Plan) -> Numbers:
    """scripts/evaluate.py on the trained folders; its own JSON has the numbers."""
    output = plan.out / "quality-prior-gpu.json"
    words = ["--assets", str(plan.assets), "--output", str(output)]
    call = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *words]
    done = subprocess.run(call, cwd=ROOT, env=environment(), stdout=sys.stderr, timeout=60 * plan.minutes, check=False)
    if done.returncode not in (0, 1):  # 1: a bar is missed, or an item waits for the motion judge
        raise RuntimeError("scripts/evaluate.py failed; its own words are above")
    records = json.loads(output.read_text())["items"].values()
    return {"items": len(records), "items_passed": sum(record["passed"] for record in records)}


def environment() -> dict[str, str]:
    """That of this process, with the checkout on the path even where it is not installed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="STAGE", help="run these alone; see --list")
    parser.add_argument("--list", action="store_true", help="show the stages and their state, and stop")
    parser.add_argument("--minutes", type=float, default=8, help="of each stage")
    parser.add_argument("--pictures", type=int, default=192_000, help="that generators train on; judges a third")
    parser.add_argument("--steps", type=int, help="of a training's schedule, instead of this file's")
    parser.add_argument("--fresh", action="store_true", help="run again what is done; trainings start anew")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check/out"), help="folder of results")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu-check"), help="folder of data and checkpoints")
    parser.add_argument("--join", nargs=2, type=Path, metavar=("JSON", "FOLDER"), help="unpack split weights, and stop")
    given = parser.parse_args()
    if given.join:
        join_folder(*given.join)
        return 0
    import torch

    if not (given.list or torch.cuda.is_available()):
        raise InputError("gpu_check needs an NVIDIA GPU that torch can use; this machine has none")
    plan = Plan(given.out.resolve(), given.runs.resolve(), given.minutes, given.pictures, given.steps, given.fresh)
    stages = select(stages_of(plan), given.only)
    results = ResultFile(plan.out / "gpu-check.json", "gpu-check")
    source = source_of(Path(__file__), SEED)
    if given.list:
        print_list(stages, results, source)
        return 0
    passed = True
    for stage in stages:
        unfinished = results.records.get(stage.name, {}).get("numbers", {}).get("finished") == 0
        try:
            passed &= run_items([stage], results, source, given.fresh or unfinished)
        except Exception:  # one stage that fails does not cost the others their GPU
            traceback.print_exc()
            passed = False
    print_table(stages, results)
    return 0 if passed else 1


if __name__ == "__main__":
    with main_guard():
        sys.exit(main())
