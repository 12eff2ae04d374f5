"""The items of `benchmark.py --suite nerf`: how soon a scene is known, ours against stock parts.

Both systems have the same scene, grid, networks, loss and learning rates, and are looked at in the same three test
views at 200x200, through averaged weights; looking does not count as time. Loading the scene counts for neither.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from measure.measure import Item, Numbers, say
from measure.nerf_quality import SCENE
from measure.stock_nerf import StockNerf, StockSettings, candidates
from measure.suite import Suite
from torch import nn

from core2d.training.loop import train
from gen3d.data.photographs import Photographs
from gen3d.data.placing import place
from gen3d.data.scene import load_scene
from gen3d.nerf.recipe import FastConfig
from gen3d.nerf.task import FastModel, FastTask, look, psnr, training_recipe

WANTED = 30.0  # dB
VIEWS = 3  # test views that are looked at
LOOK_EVERY = 25  # steps of ours
STEPS = 2_000  # of the schedule; far more than are needed
PROBE, LOOK_SECONDS, LONGEST = 15.0, 20.0, 400.0  # seconds: of a candidate, between looks at stock, of stock in all


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite; they use no bundled model."""
    return [
        Item("time-to-30-db", "seconds to 30 dB on the chair, ours against stock parts", partial(time_to_quality, seed),
             at_least={"speedup": 6}, needs=(SCENE,)),
    ]  # fmt: skip


@dataclass
class Watch:
    """A clock that stands still while the field is looked at.

    Attributes:
        curve: seconds and dB of each look.
    """

    started: float = field(default_factory=time.perf_counter)
    looked: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started - self.looked

    def look(self, who: str, quality: Callable[[], float]) -> bool:
        """Take a look; whether the quality that is wanted is reached."""
        seconds, began = self.seconds, time.perf_counter()
        self.curve.append((seconds, quality()))
        self.looked += time.perf_counter() - began
        say(f"{who}: {self.curve[-1][1]:.2f} dB after {seconds:.1f} s")
        return self.curve[-1][1] >= WANTED

    @property
    def time_to_quality(self) -> float:
        """Seconds to the quality that is wanted, between two looks by a straight line; infinite if it never came."""
        before = (0.0, 0.0)
        for now in self.curve:
            if now[1] >= WANTED:
                return before[0] + (now[0] - before[0]) * (WANTED - before[1]) / (now[1] - before[1])
            before = now
        return float("inf")


class Reached(Exception):
    """The quality is there: nothing more needs to be trained."""


@dataclass
class WatchedTask(FastTask):
    """Looks at the test views at each checkpoint."""

    test: Photographs | None = None
    watch: Watch = field(default_factory=Watch)

    def preview(self, model: nn.Module, folder: Path, step: int) -> None:
        assert self.test is not None and isinstance(model, FastModel)
        if self.watch.look("ours", lambda: mean_psnr(model, self.test)):
            raise Reached


def mean_psnr(model: FastModel, test: Photographs | None) -> float:
    assert test is not None
    shown = [look(model, test, view, 1.0)[:2] for view in range(VIEWS)]
    return sum(psnr(seen, truth) for truth, seen in shown) / VIEWS


def time_to_quality(seed: int) -> Numbers:
    scene = load_scene(SCENE)
    photographs = Photographs(scene.of("train"))
    placement = place(scene, photographs)
    known, test = photographs.moved(placement), Photographs(scene.of("test")[:VIEWS]).moved(placement)
    warm_up(known, seed)
    ours = our_watch(known, test, seed)
    best, probes = best_settings(known, test, seed)
    stock = stock_watch(known, test, best, seed, LONGEST)
    reached = stock.time_to_quality < float("inf")
    theirs = stock.time_to_quality if reached else stock.curve[-1][0]  # at least so long
    facts = {f"stock_{name}": float(value) for name, value in asdict(best).items()}
    return {
        "ours_seconds": ours.time_to_quality,
        "stock_seconds": theirs,
        "stock_reached_it": float(reached),
        "stock_psnr_in_the_end": stock.curve[-1][1],
        "speedup": theirs / ours.time_to_quality,
        "candidates": float(len(probes)),
        "worst_candidate_psnr": min(probes),
        "best_candidate_psnr": max(probes),
        **facts,
    }


def warm_up(photographs: Photographs, seed: int) -> None:
    """Compile what is compiled at its first use."""
    with tempfile.TemporaryDirectory() as folder:
        train(
            FastTask(FastModel(FastConfig(), seed), photographs), training_recipe(FastConfig(), seed, 3), Path(folder)
        )


def our_watch(photographs: Photographs, test: Photographs, seed: int) -> Watch:
    recipe = replace(training_recipe(FastConfig(), seed, STEPS), checkpoint_every=LOOK_EVERY)
    task = WatchedTask(FastModel(FastConfig(), seed), photographs, seed=seed, test=test)
    with tempfile.TemporaryDirectory() as folder:
        try:
            task.watch = Watch()
            train(task, recipe, Path(folder))
        except Reached:
            pass
    return task.watch


def best_settings(photographs: Photographs, test: Photographs, seed: int) -> tuple[StockSettings, list[float]]:
    """The candidate that knows one test view best after `PROBE` seconds, and what each of them reached."""
    found = []
    for settings in candidates():
        stock, watch = StockNerf(photographs, settings, seed), Watch()
        while watch.seconds < PROBE:
            stock.step()
        found.append(stock.psnr(test, 0))
        say(f"stock {settings}: {found[-1]:.2f} dB after {stock.steps} steps")
    return candidates()[max(range(len(found)), key=found.__getitem__)], found


def stock_watch(photographs: Photographs, test: Photographs, settings: StockSettings, seed: int, most: float) -> Watch:
    threads = torch.get_num_threads()
    stock, watch = StockNerf(photographs, settings, seed), Watch()
    due = LOOK_SECONDS
    while True:
        stock.step(progress=min(1.0, stock.steps / STEPS))
        if watch.seconds >= due:
            due += LOOK_SECONDS
            done = watch.look("stock", lambda: sum(stock.psnr(test, view) for view in range(VIEWS)) / VIEWS)
            if done or watch.seconds > most:
                break
    torch.set_num_threads(threads)
    return watch


SUITE = Suite(items_of, Path(__file__))
