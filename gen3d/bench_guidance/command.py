"""The work behind `gen3d bench-guidance`: all runs, a table of them and a picture. It may be stopped and started again.

bench.json   bench.png   bench.run/
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from core2d.app.devices import pick_device, pick_dtype
from core2d.app.outputs import plain, write_json
from core2d.app.program import Outcome
from core2d.app.provenance import digests
from core2d.app.registry import assets_folder, resolve
from core2d.app.runs import check_free, check_run, locked, recipe_of_run, run_folder, start_run
from core2d.media.pictures import image_grid, save_image, to_uint8
from core2d.prior.backbone import Backbone
from core2d.prior.base import Prior
from core2d.toybox.judge import load_picture_judge
from gen3d.bench_guidance.bench import Trial, make_missing, mesh_of_trial
from gen3d.bench_guidance.recipe import BenchGuidanceRecipe, class_and_color
from gen3d.bench_guidance.scores import Truth, summary, table
from gen3d.dreamfusion.pipeline import check_length
from gen3d.dreamfusion.recipe import QUALITIES
from gen3d.mesh import render_mesh
from gen3d.toybox import mesh_scores

RUNS = "runs"  # in the run folder
SIDES, SIDE_SIZE = (30.0, 120.0, 210.0, 300.0), 128  # of the picture: degrees, pixels


def follow(recipe: BenchGuidanceRecipe) -> Outcome:
    """Follow `gen3d bench-guidance`."""
    recipe.check()
    folder = run_folder(recipe.output)
    check_free(folder)
    if not check_run(folder):
        recipe_of_run(folder, BenchGuidanceRecipe)  # the run of another command stays as it is
    source = digests({"judge": assets_folder() / "toybox-judge"} | prior_files(recipe))
    trials = trials_of(recipe, source)
    with locked(folder):
        start_run(folder, recipe, source)
        try:
            runs = make_missing(trials, priors_of(recipe), load_picture_judge(), folder / RUNS, say)
        except KeyboardInterrupt:  # there is nothing to --resume
            say("what was finished is kept: give the same command again to go on")
            raise KeyboardInterrupt from None
        of_each = {name: [run for run in runs if run["settings"]["guidance"] == name] for name in recipe.compared}
        guidances = {name: summary(made, recipe.seed) for name, made in of_each.items()}
        write_json(recipe.output, {"asked": asked(recipe), "inputs": source, "guidances": guidances, "runs": runs})
        picture = save_picture(recipe, trials, folder / RUNS)
    told = guidances if recipe.json else table(guidances)
    return Outcome([recipe.output, picture], told)


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def asked(recipe: BenchGuidanceRecipe) -> dict[str, Any]:
    """What the table is of."""
    return plain({
        "prior": "exact oracle" if recipe.oracle else recipe.model, "prompts": recipe.prompts,
        "guidance": recipe.compared, "seeds": recipe.seeds, "first_seed": recipe.seed, "quality": recipe.quality,
        "budget": recipe.evaluations,
    })  # fmt: skip


def prior_files(recipe: BenchGuidanceRecipe) -> dict[str, Path]:
    return {} if recipe.oracle else {"model": resolve(recipe.model)}


def truths_of(recipe: BenchGuidanceRecipe) -> list[Truth]:
    """Of each prompt, once. An oracle knows one body of it; of a model any body of that class is right."""
    shapes = 1 if recipe.oracle else mesh_scores.SHAPES
    return [Truth(*class_and_color(prompt), recipe.seed, shapes) for prompt in dict.fromkeys(recipe.prompts)]


def trials_of(recipe: BenchGuidanceRecipe, source: dict[str, str]) -> list[Trial]:
    """All runs, prompt by prompt, so that a bench that was stopped has compared some of them to the end."""
    return [
        Trial(name, truth, recipe.seed + number, recipe.evaluations, QUALITIES[recipe.quality],
              {**source, "prior": "oracle" if recipe.oracle else "model", "dtype": recipe.dtype})
        for truth in truths_of(recipe) for number in range(recipe.seeds) for name in recipe.compared
    ]  # fmt: skip


def priors_of(recipe: BenchGuidanceRecipe):
    """Who judges the pictures of a prompt: one model for all, or an oracle of each; made when first asked for."""
    device = pick_device(recipe.device)

    @functools.cache
    def model() -> Backbone:
        prior = Backbone.load(recipe.model, device, pick_dtype(recipe.dtype))
        for prompt in recipe.prompts:
            check_length(prior, prompt, "auto")
        return prior

    @functools.lru_cache(maxsize=1)
    def oracle(truth: Truth) -> Prior:
        return mesh_scores.oracle_of(truth.body(), device)

    return oracle if recipe.oracle else lambda truth: model()


def save_picture(recipe: BenchGuidanceRecipe, trials: Sequence[Trial], runs: Path) -> Path:
    """The truth, and below it what each guidance made of it with the first seed: four sides of each prompt.

    Where no mesh came of a run it is white. The picture says of itself which rows and columns they are.
    """
    truths = truths_of(recipe)
    shown = {(trial.guidance, trial.truth): trial for trial in trials if trial.seed == recipe.seed}
    rows = [np.concatenate([drawn_truth(truth) for truth in truths])]
    rows += [np.concatenate([drawn(shown[name, truth], runs) for truth in truths]) for name in recipe.compared]
    text = {"rows": json.dumps(["truth", *recipe.compared]), "columns": json.dumps([one.prompt for one in truths])}
    grid = image_grid(np.concatenate(rows), len(SIDES) * len(truths))
    return save_image(recipe.output.with_suffix(".png"), grid, text)


def drawn_truth(truth: Truth) -> np.ndarray:
    """(4, s, s, 3) uint8."""
    return (truth.drawn(SIDES, SIDE_SIZE).rgb.clip(0, 1) * 255).round().astype(np.uint8)


def drawn(trial: Trial, runs: Path) -> np.ndarray:
    """(4, s, s, 3) uint8 of what came of a trial."""
    mesh = mesh_of_trial(runs, trial)
    if mesh is None:
        return np.full((len(SIDES), SIDE_SIZE, SIDE_SIZE, 3), 255, np.uint8)
    seen: Tensor = render_mesh(mesh, mesh_scores.cameras(SIDES), SIDE_SIZE)[:, :3]
    return to_uint8(seen)
