"""The work behind `gen3d image-to-3d`: a picture as people have it, and a textured mesh of its object."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.app.outputs import plain
from core2d.app.provenance import digests
from core2d.app.runs import check_free, check_inputs, read_run, run_folder, working_in
from core2d.media.pictures import read_image, save_image
from gen3d.data.single_picture import on_background
from gen3d.shaping.runs import Result, recipe_to_go_on, save_result, start_anew
from gen3d.zero123.command import files_of_model, inputs_of, load_model, subject_of
from gen3d.zero123.image_to_3d.recipe import ANEW, IMAGE_QUALITIES, ImageTo3DConfig, ImageTo3DRecipe
from gen3d.zero123.image_to_3d.task import elevation_of, image_to_3d
from gen3d.zero123.model import Zero123

SUBJECT = "subject.png"  # in a run folder: the object as the model sees it
TAKEN = ("picture", "mask", "matting")  # inputs that a run does not need again: it has its object


def follow(recipe: ImageTo3DRecipe) -> Result:
    """Follow `gen3d image-to-3d`."""
    recipe.check()
    started = time.perf_counter()
    if recipe.resume is not None:
        return go_on(recipe, recipe.resume, started)
    assert recipe.output is not None
    run = run_folder(recipe.output)
    check_free(run)
    zero123 = load_model(recipe)
    subject = subject_of(recipe, zero123)
    with working_in(run):
        save_image(run / SUBJECT, subject.rgba)
        start_anew(run, recipe, inputs_of(recipe, subject) | digests({"subject": run / SUBJECT}))
        return make_mesh(recipe, zero123, run, started)


def go_on(given: ImageTo3DRecipe, run: Path, started: float) -> Result:
    """Take a run from where it stopped to its mesh."""
    with working_in(run, resume=True):
        recipe = recipe_to_go_on(run, given)
        recipe.check_work()
        here = digests({**files_of_model(recipe.model), "subject": run / SUBJECT})
        check_inputs(run, here, own=TAKEN)
        return make_mesh(recipe, load_model(recipe), run, started, resume=True)


def make_mesh(recipe: ImageTo3DRecipe, zero123: Zero123, run: Path, started: float, resume: bool = False) -> Result:
    """The mesh of the object in a run folder that `working_in` keeps, whether begun or gone on with."""
    subject = read_back(run / SUBJECT)
    elevation = elevation_said(recipe.picture_elevation, zero123, subject)
    config, inputs = config_of(recipe), read_run(run).get("inputs", {})
    sys.stderr.write(f"{config.steps} steps\n")
    mesh, build = image_to_3d(subject, zero123, run, config, elevation, recipe.seed, resume)
    outputs, metrics = save_result(recipe, run, mesh, build, settings_of(recipe), inputs, started, lighted=False)
    return outputs, {**metrics, "elevation": round(math.degrees(elevation), 1)}


def read_back(path: Path) -> Tensor:
    """(4, s, s) in [0, 1] of the object in a run folder."""
    pixels = read_image(path)
    if pixels.shape[2] != 4:
        raise InputError(f"{path} is not the object that this run began with: start it anew")
    return torch.from_numpy(pixels).movedim(-1, 0).float() / 255


def elevation_said(given: float | None, zero123: Zero123, subject: Tensor) -> float:
    """In radians: as given in degrees, or as seen; which of them is said."""
    elevation, source = math.radians(given or 0.0), "given"
    if given is None:
        elevation, source = elevation_of(zero123, zero123.see(on_background(subject)[None]))
    if not math.isfinite(elevation):
        raise InputError(f"the model gave numbers that are not finite in {zero123.dtype}: try --dtype float32")
    sys.stderr.write(f"the picture was taken from {math.degrees(elevation):.0f} degrees above ({source})\n")
    return elevation


def config_of(recipe: ImageTo3DRecipe) -> ImageTo3DConfig:
    """The quality, with the steps that were asked for."""
    config = IMAGE_QUALITIES[recipe.quality]
    return config if recipe.steps is None else replace(config, steps=recipe.steps)


def settings_of(recipe: ImageTo3DRecipe) -> dict[str, Any]:
    """What the mesh depends on, as JSON has it."""
    return plain({name: value for name, value in asdict(recipe).items() if name not in (*ANEW, "output")})
