"""The items of `benchmark.py --suite zero123`: how fast novel views are."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from measure.measure import ROOT, Item, Numbers, best_of, command
from measure.suite import Suite

from core2d.media.pictures import save_image
from gen3d.toybox.view_scores import cases
from gen3d.zero123.pipeline import NovelViews, orbit_views

RUNS, STEPS = 5, 25


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`."""
    model = assets / "toybox-zero123"
    needs = (model, assets / "toybox-sd" / "vae", assets / "toybox-clip")
    return [
        Item("novel-views-12", "12 views of one picture, command to file", partial(novel_views, model, seed),
             at_most={"median_seconds": 20}, needs=needs),
        Item("batch", "12 views at once against one after the other", partial(batch, model, seed), needs=needs),
    ]  # fmt: skip


def novel_views(model: Path, seed: int) -> Numbers:
    """`gen3d novel-views --orbit 12`, as often as a median needs."""
    told = []
    with tempfile.TemporaryDirectory() as folder:
        picture = save_image(Path(folder) / "picture.png", cases(seed, count=2, held_out=1)[0].picture)
        for run in range(RUNS):
            words = ("--model", model, "--orbit", 12, "-o", Path(folder) / f"{run}.png", "--json")
            told.append(json.loads(command("gen3d", "novel-views", picture, *words)))
    seconds = [one["seconds"] for one in told]
    peak = max(one["peak_memory_gb"] for one in told)
    return {"median_seconds": median(seconds), "worst_seconds": max(seconds), "peak_memory_gb": peak}


def batch(model: Path, seed: int) -> Numbers:
    """The sampler alone, on the same picture."""
    draw, picture = NovelViews.from_pretrained(model), cases(seed, count=2, held_out=1)[0].picture
    together, apart = (
        best_of(3, partial(draw, picture, orbit_views(12), num_inference_steps=STEPS, batch_size=size))
        for size in (12, 1)
    )
    return {"together_seconds": together, "apart_seconds": apart, "apart_over_together": apart / together}


SUITE = Suite(items_of, Path(__file__), (ROOT / "gen3d" / "zero123" / "command.py",))
