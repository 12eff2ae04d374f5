"""The items of `benchmark.py --suite video`: how fast clips are, by the command and step by step."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from measure.measure import ROOT, Item, Numbers, command
from measure.prior_speed import step_spans
from measure.suite import Suite
from measure.video_quality import stock_pipeline

from genvideo.animatediff.pipeline import FRAMES, AnimateDiff

PROMPT, STEPS = "a red mug spinning clockwise", 25


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`."""
    needs = (assets / "toybox-sd", assets / "toybox-motion", assets / "toybox-video-vae")
    return [
        Item("text-to-video-16", "16 frames, 25 steps, command to file", partial(text_to_video, assets, seed, 16, 3),
             at_most={"median_seconds": 30, "peak_memory_gb": 3}, needs=needs),
        Item("text-to-video-64", "64 frames in windows, command to file", partial(text_to_video, assets, seed, 64, 2),
             at_most={"median_seconds": 110, "peak_memory_gb": 3}, needs=needs),
        Item("step", "a guided denoising step, ours against stock diffusers", partial(step, assets, seed),
             at_most={"ours_over_stock": 1.05}, needs=needs),
    ]  # fmt: skip


def text_to_video(assets: Path, seed: int, frames: int, runs: int) -> Numbers:
    """Wall clock of the command in a process of its own, imports, loading and files included."""
    seconds, reports = [], []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(runs):
            words = ("--model", assets / "toybox-sd", "--motion", assets / "toybox-motion", "--device", "cpu",
                     "--frames", frames, "--steps", STEPS, "--seed", seed, "--json",
                     "-o", Path(folder) / f"{run}.mp4")  # fmt: skip
            started = time.perf_counter()
            said = command("genvideo", "text-to-video", PROMPT, *words)
            seconds.append(time.perf_counter() - started)
            reports.append(json.loads(said))
    peak = max(report["peak_memory_gb"] for report in reports)
    return {"median_seconds": median(seconds), "worst_seconds": max(seconds), "peak_memory_gb": peak}


def step(assets: Path, seed: int) -> Numbers:
    """Median seconds between the ends of two steps of 16 frames, guidance included; ours and stock take turns.

    Stock runs under inference_mode and without a progress bar; both have the same threads, noise, scheduler and
    number format. Text encoding and decoding lie outside the steps.
    """
    ours = AnimateDiff.from_pretrained(assets / "toybox-sd", assets / "toybox-motion")
    stock = stock_pipeline(assets)
    side = ours.prior.latent_size
    latents = torch.randn(1, ours.prior.latent_channels, FRAMES, side, side,
                          generator=torch.Generator().manual_seed(seed))  # fmt: skip
    took: dict[str, list[float]] = {"ours": [], "stock": []}
    for turn, (name, pipeline) in itertools.product(range(4), (("ours", ours), ("stock", stock))):
        spans = step_spans(pipeline, latents, num_frames=FRAMES)
        took[name] += spans if turn else []  # the first turn warms up
    middle = {name: 1e3 * median(spans) for name, spans in took.items()}
    return {**{f"{name}_ms": value for name, value in middle.items()},
            "ours_over_stock": middle["ours"] / middle["stock"]}  # fmt: skip


SUITE = Suite(items_of, Path(__file__), (ROOT / "genvideo" / "animatediff" / "command.py",))
