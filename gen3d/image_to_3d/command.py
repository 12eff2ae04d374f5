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

from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.outputs import plain
from core2d.app.runs import run_folder
from core2d.media.pictures import read_image, save_image
from gen3d.data.single_picture import on_background
from gen3d.image_to_3d.recipe import ANEW, IMAGE_QUALITIES, ImageTo3DConfig, ImageTo3DRecipe
from gen3d.image_to_3d.task import elevation_of, image_to_3d
from gen3d.shaping.runs import Result, recipe_of_run, save_result, start_anew
from gen3d.zero123.command import subject_of
from gen3d.zero123.model import Zero123

SUBJECT = "subject.png"  # in a run folder: the object as the model sees it
PATHS = ("picture", "mask", "turntable", "preview")


def follow(recipe: ImageTo3DRecipe) -> Result:
    """Follow `gen3d image-to-3d`."""
    recipe.check()
    started, folder = time.perf_counter(), recipe.resume
    if folder is not None:
        recipe = recipe_of_run(folder, recipe, PATHS)
        recipe.check_work()
    zero123, report = Zero123.load_with_report(recipe.model, pick_device(recipe.device), pick_dtype(recipe.dtype))
    if report.is_odd:
        sys.stderr.write(f"{report}\n")
    resume = folder is not None
    if folder is None:
        assert recipe.output is not None
        found = subject_of(recipe, zero123).rgba
        folder = run_folder(recipe.output)
        (folder / SUBJECT).unlink(missing_ok=True)  # of an earlier run: this one's manifest may never name it
        save_image(start_anew(folder, recipe) / SUBJECT, found)
    subject = read_back(folder / SUBJECT)  # whether begun or gone on with
    elevation = elevation_said(recipe.picture_elevation, zero123, subject)
    config = config_of(recipe)
    sys.stderr.write(f"{config.steps} steps\n")
    mesh, build = image_to_3d(subject, zero123, folder, config, elevation, recipe.seed, resume)
    outputs, metrics = save_result(recipe, folder, mesh, build, settings_of(recipe), started, lighted=False)
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
