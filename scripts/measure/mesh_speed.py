"""The items of `benchmark.py --suite mesh`: how fast a sentence becomes a mesh, and what it stands on."""

from __future__ import annotations

import copy
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from measure.measure import ROOT, Item, Numbers, best_of, command, stock_pipeline
from measure.stock_sds import StockStep
from measure.suite import Suite
from torch import Tensor

from core2d.prior.backbone import Backbone
from core2d.prior.cameras import orbit
from core2d.toybox import captions
from core2d.toybox.scene import plain
from core2d.training.loop import train
from gen3d.dreamfusion.recipe import QUALITIES
from gen3d.dreamfusion.task import DreamFusionTask
from gen3d.fields.hash_grid_field import HashGridField
from gen3d.kernels.compositing import composite
from gen3d.kernels.fused_mlp import mlp
from gen3d.kernels.hash_grid import encode, initial_table
from gen3d.render.images import camera_rays
from gen3d.render.marching import Samples, march, offsets_of
from gen3d.render.occupancy import OccupancyGrid
from gen3d.shaping.model import BOUND, SAMPLES_ACROSS, Model, training_recipe
from gen3d.toybox.mesh_scores import cameras

PROMPT = "a red mug"
SIZE = 64  # pixels of a side
POINTS = 131_072
RAYS, ON_A_RAY = 8_192, 24  # of the kernels: two pictures of 64x64, and about what is left of their samples
DELTA = 2 * BOUND / SAMPLES_ACROSS  # metres between samples
FIRST, COUNT = 0.6, 16  # where in an optimisation steps are timed, and how many of them


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`."""
    folder = assets / "toybox-sd"
    return [
        Item("text-to-mesh-draft", "a draft, command to file", partial(text_to_mesh, folder, seed, "draft"),
             at_most={"seconds": 60}, needs=(folder,)),
        Item("text-to-mesh-normal", "the normal quality, command to file",
             partial(text_to_mesh, folder, seed, "normal"),
             at_most={"seconds": 180, "peak_memory_gb": 3}, needs=(folder,)),
        Item("hash-grid", "the Numba hash grid against its torch twin, both ways", partial(hash_grid, seed),
             at_least={"numba_speedup": 12}),
        Item("sds-step", "a step of score distillation, ours against stock parts", partial(sds_step, folder, seed),
             at_least={"speedup": 8}, needs=(folder,)),
        Item("kernels", "compositing, marching and networks on the CPU, both ways", partial(kernels, seed)),
    ]  # fmt: skip


# -- commands --------------------------------------------------------------------------------------------------


def text_to_mesh(folder: Path, seed: int, quality: str) -> Numbers:
    """Wall clock of the command in a process of its own, imports, loading and files included.

    A draft goes first: it finds no compiled kernel, and leaves them to the run that counts.
    """
    with tempfile.TemporaryDirectory() as cache:
        cold, _ = timed_command(folder, seed, "draft", cache)
        seconds, peak = timed_command(folder, seed, quality, cache)
    numbers = {"seconds": seconds, "peak_memory_gb": peak}
    return {**numbers, "cold_seconds": cold} if quality == "draft" else numbers


def timed_command(folder: Path, seed: int, quality: str, cache: str) -> tuple[float, float]:
    """Seconds from the start of the process to its end, and its memory in GB; `cache` is that of Numba."""
    with tempfile.TemporaryDirectory() as outputs:
        words = ["text-to-mesh", PROMPT, "-o", Path(outputs) / "mug.glb", "--model", folder, "--device", "cpu",
                 "--quality", quality, "--seed", seed, "--json"]  # fmt: skip
        started = time.perf_counter()
        said = command("gen3d", *words, NUMBA_CACHE_DIR=cache)
        seconds = time.perf_counter() - started
    return seconds, json.loads(said)["peak_memory_gb"]


# -- a step ----------------------------------------------------------------------------------------------------


def sds_step(folder: Path, seed: int) -> Numbers:
    """Mean of 16 steps at 64x64 from the middle of an optimisation, ours and stock from the same field.

    The field, and the occupancy that ours skips empty space by, are those that a draft left. A step is pictures,
    losses, gradients and update; cameras and what is lit are the same for both. Stock runs with the fastest of its
    settings.
    """
    prior = Backbone.load(folder)
    with tempfile.TemporaryDirectory() as run:
        draft = DreamFusionTask(Model(seed), prior, PROMPT, QUALITIES["draft"], seed=seed)
        draft.model.load_state_dict(train(draft, training_recipe(QUALITIES["draft"], seed), Path(run)).ema)
    config = QUALITIES["normal"]
    task = DreamFusionTask(draft.model, prior, PROMPT, config, seed=seed)
    steps = range(int(FIRST * config.steps), int(FIRST * config.steps) + COUNT)
    batches = [task.batch(step, torch.arange(config.views), config.views) for step in steps]
    stock = partial(stock_steps, stock_pipeline(folder), task.model.field)
    fastest = min(itertools.product((False, True), {torch.get_num_threads(), 1}),
                  key=lambda setting: stock(*setting, batches[:4]))  # fmt: skip
    looked, taken = task.model.occupancy.share, samples_of(task.model)
    stock_seconds, ours_seconds = stock(*fastest, batches), our_steps(task, batches)
    return {
        "ours_ms": 1e3 * ours_seconds,
        "stock_ms": 1e3 * stock_seconds,
        "speedup": stock_seconds / ours_seconds,
        "lit_share": fmean(float(batch["shaded"][0]) for batch in batches),
        "occupied_share": looked,
        "our_samples_on_a_ray": taken,
        "stock_bfloat16": float(fastest[0]),
        "stock_threads": fastest[1],
    }


def our_steps(task: DreamFusionTask, batches: list[dict[str, Tensor]]) -> float:
    """Mean seconds of a step of the task; the first one is taken twice, to warm up."""
    model = task.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), task.config.learning_rate, eps=1e-15, weight_decay=0, fused=True)

    def step(batch: dict[str, Tensor]) -> None:
        optimizer.zero_grad()
        task.loss(model, batch)[0].backward()
        optimizer.step()

    return mean_seconds(step, batches)


def stock_steps(
    pipeline: Any, field: HashGridField, bfloat16: bool, threads: int, batches: list[dict[str, Tensor]]
) -> float:
    """Mean seconds of a step from stock parts, on a copy of the field."""
    config = QUALITIES["normal"]
    prompt = f"{PROMPT}, {captions.background_phrase(None, 'white')}"
    stock = StockStep(copy.deepcopy(field), pipeline, prompt, config, bfloat16)
    white = torch.tensor(plain("white"))

    def step(batch: dict[str, Tensor]) -> None:
        views = orbit(batch["azimuth"], batch["elevation"], batch["radius"])
        stock(views, SIZE, white, bool(batch["shaded"][0]), FIRST)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return mean_seconds(step, batches)
    finally:
        torch.set_num_threads(before)


def mean_seconds(step: Callable[[dict[str, Tensor]], None], batches: list[dict[str, Tensor]]) -> float:
    step(batches[0])
    started = time.perf_counter()
    for batch in batches:
        step(batch)
    return (time.perf_counter() - started) / len(batches)


def samples_of(model: Model) -> float:
    """Samples that a ray of a picture has on the average."""
    origins, directions = camera_rays(cameras(), SIZE, SIZE)
    return len(march(origins, directions, model.occupancy, model.step)) / len(origins)


# -- kernels ---------------------------------------------------------------------------------------------------


def hash_grid(seed: int) -> Numbers:
    """131,072 points in the grid of a field, 8 levels of 2 features: forward, and backward to the table."""
    generator = torch.Generator().manual_seed(seed)
    layout = HashGridField().layout
    x = torch.rand(POINTS, 3, generator=generator)
    table = initial_table(layout, generator).requires_grad_()
    gradient = torch.randn(POINTS, layout.outputs, generator=generator)
    numba, twin = both_ways(lambda backend: encode(x, table, layout, backend), gradient)
    return {"numba_ms": numba, "twin_ms": twin, "numba_speedup": twin / numba}


def kernels(seed: int) -> Numbers:
    """Milliseconds of the other kernels and of their twins; on the CPU, networks run in the twin itself."""
    generator = torch.Generator().manual_seed(seed)
    n = RAYS * ON_A_RAY
    density = (20 * torch.rand(n, generator=generator)).requires_grad_()
    color = torch.rand(n, 6, generator=generator).requires_grad_()
    delta, t, rays = torch.full((n,), DELTA), torch.rand(n, generator=generator), torch.full((RAYS,), ON_A_RAY)
    blended = both_ways(
        lambda backend: composite(density, delta, color, t, offsets_of(rays), backend).color,
        torch.randn(RAYS, 6, generator=generator),
    )
    grid, side = OccupancyGrid(48, BOUND), torch.linspace(-1, 1, 48)
    grid.set_mask(torch.cartesian_prod(side, side, side).norm(dim=1).view(48, 48, 48) < 0.7)
    origins, directions = camera_rays(cameras((0.0, 180.0)), SIZE, SIZE)
    marched = both_ways(lambda backend: march(origins, directions, grid, DELTA, backend=backend))
    x = torch.rand(POINTS, 16, generator=generator).requires_grad_()
    weights = [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((32, 16), (1, 32))]
    network = 1e3 * best_of(20, lambda: mlp(x, weights).sum().backward())
    return {
        "compositing_ms": blended[0], "compositing_twin_ms": blended[1], "compositing_speedup": blended[1] / blended[0],
        "marching_ms": marched[0], "marching_twin_ms": marched[1], "marching_speedup": marched[1] / marched[0],
        "network_ms": network,
    }  # fmt: skip


def both_ways(
    work: Callable[[str], Tensor] | Callable[[str], Samples], gradient: Tensor | None = None
) -> tuple[float, float]:
    """Milliseconds of Numba and of the torch twin, each the best of many; backward as well where there is a gradient.

    Both use all threads, which is the default of both and their best.
    """

    def once(backend: str) -> None:
        found = work(backend)
        if gradient is not None:
            assert isinstance(found, Tensor)
            found.backward(gradient)

    for backend in ("numba", "torch"):
        once(backend)  # compiles, and makes the gradients' memory
    numba, twin = (1e3 * best_of(runs, partial(once, name)) for name, runs in (("numba", 20), ("torch", 5)))
    return numba, twin


SUITE = Suite(items_of, Path(__file__), (ROOT / "gen3d" / "dreamfusion" / "command.py",))
