"""The items of `benchmark.py --suite prior`: how fast Toybox, the rasteriser and text to image are."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measure.measure import ROOT, Item, Numbers, best_of, command, packed_stills, stock_pipeline
from measure.suite import Suite

from core2d.bundled.scores import GUIDANCE, STEPS
from core2d.kernels.raster import rasterize
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox.render import render
from core2d.toybox.scene import moment, still

PICTURES = 2048
CHUNK = 512  # scenes drawn at a time, as `core2d.toybox.dataset.draw` does
HELP = {  # number -> program and words
    "core2d": ("core2d",),
    "text_to_image": ("core2d", "text-to-image"),
    "toybox_sheet": ("core2d", "toybox", "sheet"),
    "toybox_sample": ("core2d", "toybox", "sample"),
    "toybox_clip": ("core2d", "toybox", "clip"),
    "models": ("core2d", "models"),
    "gen3d": ("gen3d",),
    "genvideo": ("genvideo",),
}


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`."""
    folder = assets / "toybox-sd"
    return [
        Item("toybox-images", "64x64 stills a second, 2x2 supersampling, scenes included", partial(toybox_images, seed),
             at_least={"images_per_second": 400}),
        Item("toybox-clips", "64x64 frames of clips a second, likewise", partial(toybox_clips, seed),
             at_least={"frames_per_second": 200}),
        Item("raster", "the Numba rasteriser against its torch twin", partial(raster, seed),
             at_most={"different_faces": 0}),
        Item("text-to-image-1", "one picture, command to file", partial(text_to_image, folder, seed, 1),
             at_most={"median_seconds": 15}, needs=(folder,)),
        Item("text-to-image-64", "64 pictures, command to files", partial(text_to_image, folder, seed, 64),
             at_most={"median_seconds": 35}, needs=(folder,)),
        Item("help", "seconds of --help, best of five", help_seconds, at_most=dict.fromkeys(HELP, 0.5)),
        Item("step", "a guided denoising step, ours against stock diffusers", partial(step, folder, seed),
             needs=(folder,)),
    ]  # fmt: skip


# -- items -----------------------------------------------------------------------------------------------------


def toybox_images(seed: int) -> Numbers:
    return {"images_per_second": PICTURES / best_of(5, lambda: draw(lambda i: still(seed, i))), "images": PICTURES}


def toybox_clips(seed: int) -> Numbers:
    seconds = best_of(5, lambda: draw(lambda i: moment(seed, i // 16, i % 16, 16)))
    return {"frames_per_second": PICTURES / seconds, "frames": PICTURES}


def draw(scene_of: Callable[[int], Any]) -> None:
    for start in range(0, PICTURES, CHUNK):
        render([scene_of(i) for i in range(start, start + CHUNK)], size=64, supersampling=2)


def raster(seed: int) -> Numbers:
    """Both backends on the same four Toybox meshes at 128x128, which is 64x64 with 2x2 samples."""
    scene = packed_stills(seed, 4)
    drawn = {name: rasterize(*scene, 128, 128, backend=name) for name in ("numba", "torch")}  # warms up, too
    # every pixel of the twin looks at every triangle: seconds, so twice will do
    seconds = {name: best_of(runs, partial(rasterize, *scene, 128, 128, backend=name))
               for name, runs in (("numba", 20), ("torch", 2))}  # fmt: skip
    return {
        "triangles": len(scene[1]),
        "numba_ms": 1e3 * seconds["numba"],
        "torch_ms": 1e3 * seconds["torch"],
        "torch_over_numba": seconds["torch"] / seconds["numba"],
        "different_faces": int((drawn["numba"].face != drawn["torch"].face).sum()),
    }


def text_to_image(folder: Path, seed: int, count: int) -> Numbers:
    """Wall clock of the command in a process of its own, imports, loading and files included; three runs."""
    seconds, reports = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as outputs:
            words = ["text-to-image", "a red mug", "--model", folder, "--device", "cpu", "--steps", STEPS,
                     "--cfg", GUIDANCE, "--num-images", count, "--seed", seed, "--json",
                     "-o", Path(outputs) / "out.png"]  # fmt: skip
            started = time.perf_counter()
            said = command("core2d", *words)
            seconds.append(time.perf_counter() - started)
            reports.append(json.loads(said))
    peak = max(report["peak_memory_gb"] for report in reports)
    return {"best_seconds": min(seconds), "median_seconds": median(seconds), "peak_memory_gb": peak}


def help_seconds() -> Numbers:
    return {name: best_of(5, partial(command, *words, "--help")) for name, words in HELP.items()}


def step(folder: Path, seed: int) -> Numbers:
    """Median seconds between the ends of two steps, guidance included; ours and stock take turns.

    Stock runs under inference_mode and without a progress bar; both have the same threads, noise, scheduler and
    number format. Text encoding and decoding lie outside the steps.
    """
    ours, stock = TextToImage.from_pretrained(folder), stock_pipeline(folder)
    numbers: Numbers = {}
    shape = (ours.backbone.latent_channels, ours.backbone.latent_size, ours.backbone.latent_size)
    for batch in (1, 8):
        latents = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))
        took: dict[str, list[float]] = {"ours": [], "stock": []}
        for turn, (name, pipeline) in itertools.product(range(4), (("ours", ours), ("stock", stock))):
            spans = step_spans(pipeline, latents)
            took[name] += spans if turn else []  # the first turn warms up
        middle = {name: 1e3 * median(spans) for name, spans in took.items()}
        numbers |= {f"{name}_ms_batch_{batch}": value for name, value in middle.items()}
        numbers[f"stock_over_ours_batch_{batch}"] = middle["stock"] / middle["ours"]
    return numbers


def step_spans(pipeline: Any, latents: torch.Tensor, **more: Any) -> list[float]:
    """Seconds of each step but the first, of a pipeline with diffusers' arguments and `more` of them."""
    ends: list[float] = []

    def note(*_: Any) -> dict[str, Any]:
        ends.append(time.perf_counter())
        return {}

    with torch.inference_mode():
        pipeline(
            ["a red mug"] * len(latents), num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=latents.clone(),
            output_type="latent", callback_on_step_end=note, **more,
        )  # fmt: skip
    return np.diff(ends).tolist()


SUITE = Suite(items_of, Path(__file__), (ROOT / "core2d" / "systems" / "text_to_image" / "command.py",))
