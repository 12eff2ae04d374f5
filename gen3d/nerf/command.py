"""The work behind `gen3d nerf` and `gen3d eval`: runs of NeRF, started, gone on with, loaded and measured."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from core2d.app.devices import pick_device
from core2d.app.errors import InputError
from core2d.app.outputs import write_json
from core2d.app.provenance import digests
from core2d.app.runs import (
    MANIFEST,
    check_free,
    check_inputs,
    check_run,
    read_part,
    read_run,
    recipe_of_run,
    start_run,
    working_in,
)
from core2d.media.pictures import save_image, to_uint8
from core2d.training.checkpoints import newest_checkpoint, set_aside
from core2d.training.loop import train
from gen3d.data.photographs import Photographs
from gen3d.data.pictures import Split
from gen3d.data.placement import Placement
from gen3d.data.placing import place
from gen3d.data.scene import READERS, CapturedScene, CapturedView, load_scene
from gen3d.nerf.recipe import VANILLA_ON_A_CPU, EvalRecipe, FastConfig, NerfRecipe, VanillaConfig
from gen3d.nerf.task import (
    BACKGROUNDS,
    FastModel,
    FastTask,
    Model,
    NerfTask,
    VanillaModel,
    VanillaTask,
    doubtful_views,
    look,
    psnr,
    ssim,
    training_recipe,
)

Result = tuple[list[Path], Mapping[str, Any]]

PLACEMENT, METRICS, STRIP = "placement.json", "metrics.json", "views.png"  # in a run folder
STRIP_VIEWS, STRIP_WIDTH = 4, 200  # held-out views beside their photographs, and their width in pixels
POOR = 18.0  # dB on the training views: no scene that was understood is worse


@dataclass(frozen=True)
class NerfRun:
    """A run as it stands.

    Attributes:
        folder: where it lies.
        recipe: how it was started.
        scene: its photographs and cameras.
        placement: from the scene's world to model space.
        model: with the averaged weights of the newest checkpoint, on its device.
    """

    folder: Path
    recipe: NerfRecipe
    scene: CapturedScene
    placement: Placement
    model: Model

    def photographs(self, split: Split) -> Photographs:
        """Those of a split, in model space.

        Raises:
            InputError: the split has none.
        """
        views = self.scene.of(split)
        if not views:
            there = ", ".join(sorted({view.split for view in self.scene.views}))
            raise InputError(f"{self.recipe.data} has no {split} views: its splits are {there}")
        return in_model_space(views, self.placement)


def follow(recipe: NerfRecipe) -> Result:
    """Follow `gen3d nerf`."""
    started = time.perf_counter()
    recipe.check()
    if recipe.resume is not None:
        return go_on(recipe, recipe.resume, started)
    folder = recipe.output
    assert folder is not None
    check_free(folder)
    check_run(folder)
    scene, device = scene_of(recipe), pick_device(recipe.device)
    photographs, inputs = Photographs(scene.of("train")), inputs_of(scene)
    placement, recipe = place(scene, photographs), replace(recipe, device=str(device))
    with working_in(folder):
        start_anew(folder, recipe, placement, inputs)
        return learn(recipe, folder, device, scene, photographs, started)


def go_on(given: NerfRecipe, folder: Path, started: float) -> Result:
    """Train a run on to its end."""
    with working_in(folder, resume=True):
        recipe = saved_recipe(folder)
        scene = scene_of(recipe)
        check_inputs(folder, inputs_of(scene))
        device, photographs = pick_device(given.device), Photographs(scene.of("train"))
        return learn(recipe, folder, device, scene, photographs, started, resume=True)


def learn(
    recipe: NerfRecipe,
    folder: Path,
    device: torch.device,
    scene: CapturedScene,
    photographs: Photographs,
    started: float,
    resume: bool = False,
) -> Result:
    """Train a field in a run folder that `working_in` keeps, and measure it; `photographs` are those to learn from."""
    placement = placement_of(folder)
    task = task_of(recipe, device, scene, placement, photographs)
    minutes = None if recipe.minutes is None else max(0.0, recipe.minutes - (time.perf_counter() - started) / 60)
    settings = training_recipe(task.model.config, recipe.seed, recipe.steps, minutes)
    try:
        result = train(task, settings, folder, resume=resume, device=device)
    except FloatingPointError as error:
        raise InputError(f"the training on {recipe.data} diverged: {error}; try another --seed") from error
    task.model.load_state_dict(result.ema)
    train_views = scene.of("train")
    metrics: dict[str, Any] = {"steps": result.step, "seconds_of_training": round(result.seconds, 2)}
    metrics |= {"training_views": len(train_views), "skipped": list(scene.skipped)}
    warn_of_doubtful_views(task, train_views)
    held_out = first_split(scene, "test", "val")
    outputs = [folder]
    if held_out is not None:
        seen = in_model_space(scene.of(held_out), placement)
        metrics |= {"split": held_out, **measure(task.model, seen, recipe.background)}
        outputs.append(save_strip(folder / STRIP, task.model, seen, recipe.background))
    write_json(folder / METRICS, metrics)
    return outputs, metrics


def evaluate(recipe: EvalRecipe) -> Result:
    """Follow `gen3d eval`."""
    recipe.check()
    found = load_run(recipe.source, pick_device(recipe.device))
    return [], {"split": recipe.split, **measure(found.model, found.photographs(recipe.split), found.recipe.background)}


# -- runs ------------------------------------------------------------------------------------------------------


def is_nerf_run(folder: Path) -> bool:
    """Whether a folder is a run of `gen3d nerf`."""
    recipe = read_run(folder).get("recipe") if (folder / MANIFEST).is_file() else None
    return isinstance(recipe, dict) and recipe.get("name") == NerfRecipe.__name__


def load_run(folder: Path, device: torch.device | str = "cpu") -> NerfRun:
    """A run with the averaged weights of its newest checkpoint.

    Raises:
        InputError: not such a run, one without a checkpoint, or its scene has gone.
    """
    recipe = saved_recipe(folder)
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InputError(f"{folder} has no checkpoint yet: go on with gen3d nerf --resume {folder}")
    scene, placement = scene_of(recipe), placement_of(folder)
    model = model_of(recipe, placement, len(scene.of("train")))
    try:
        model.load_state_dict(load_file(checkpoint / "model.safetensors") | load_file(checkpoint / "ema.safetensors"))
    except (RuntimeError, SafetensorError, OSError) as error:  # of another shape, or damaged
        raise InputError(f"{checkpoint} does not hold a field that this version can read") from error
    return NerfRun(folder, recipe, scene, placement, model.to(device).eval())


def saved_recipe(folder: Path) -> NerfRecipe:
    """The recipe in the manifest of a run.

    Raises:
        InputError: not a run of `gen3d nerf`, or one of another version.
    """
    read_run(folder)
    if not is_nerf_run(folder):
        raise InputError(f"{folder} is not a run of gen3d nerf")
    recipe = replace(recipe_of_run(folder, NerfRecipe), output=folder, resume=None)
    recipe.check()
    return recipe


def start_anew(folder: Path, recipe: NerfRecipe, placement: Placement, inputs: Mapping[str, str]) -> None:
    """Begin a run in a folder that `working_in` keeps; checkpoints of an earlier one are set aside."""
    set_aside(folder)
    for name in (PLACEMENT, METRICS, STRIP):
        (folder / name).unlink(missing_ok=True)
    assert recipe.data is not None
    start_run(folder, replace(recipe, data=recipe.data.resolve()), inputs)
    write_json(folder / PLACEMENT, placement.to_json())


def inputs_of(scene: CapturedScene) -> dict[str, str]:
    """Hashes of all that a scene is read from, by their names in its folder."""
    files = [
        file for pattern in READERS[scene.kind].DESCRIBED_IN for file in scene.folder.glob(pattern) if file.is_file()
    ]
    files += [file for view in scene.views for file in (view.path, view.mask) if file is not None]
    return digests({Path(os.path.relpath(file, scene.folder)).as_posix(): file for file in sorted(set(files))})


def placement_of(folder: Path) -> Placement:
    """Where the scene of a run was put."""
    path = folder / PLACEMENT
    try:
        return Placement.from_json(read_part(path))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not say where the scene was put: start the run anew") from error


def scene_of(recipe: NerfRecipe) -> CapturedScene:
    assert recipe.data is not None
    return load_scene(recipe.data, skip_missing=recipe.skip_missing, downscale=recipe.downscale)


def first_split(scene: CapturedScene, *order: Split) -> Split | None:
    """The first of some splits that has views."""
    return next((split for split in order if scene.of(split)), None)


def in_model_space(views: list[CapturedView], placement: Placement) -> Photographs:
    return Photographs(views).moved(placement)


def model_of(recipe: NerfRecipe, placement: Placement, cameras: int) -> Model:
    """A fresh model for a scene; how large that of the paper is depends on where its run began."""
    moving = cameras if recipe.refine_poses else 0
    if recipe.system == "fast":
        return FastModel(FastConfig(), recipe.seed, placement.unbounded, moving)
    began_on = recipe.device if recipe.device != "auto" else pick_device().type
    return VanillaModel(VANILLA_ON_A_CPU if began_on == "cpu" else VanillaConfig(), recipe.seed, moving)


def task_of(
    recipe: NerfRecipe, device: torch.device, scene: CapturedScene, placement: Placement, photographs: Photographs
) -> FastTask | VanillaTask:
    """What is trained; `photographs` are those to learn from, in the scene's world."""
    shown = first_split(scene, "val", "test")
    kind = FastTask if recipe.system == "fast" else VanillaTask
    return kind(
        model_of(recipe, placement, len(photographs)).to(device),  # pyright: ignore[reportArgumentType]
        photographs.moved(placement).to(device),
        in_model_space(scene.of(shown)[:1], placement) if shown else None,
        recipe.background,
        recipe.seed,
    )


# -- measuring -------------------------------------------------------------------------------------------------


def measure(model: Model, photographs: Photographs, background: str) -> dict[str, Any]:
    """PSNR in dB and SSIM, the means over the views, and what they depend on."""
    found = []
    for view in range(len(photographs)):
        truth, seen, _ = look(model, photographs, view, BACKGROUNDS[background])
        found.append((psnr(seen, truth), ssim(seen, truth)))
    means = np.mean(found, axis=0)
    shown = "black" if background == "black" else "white"  # random ones are measured on white
    return {"psnr": float(means[0]), "ssim": float(means[1]), "background": shown, "views": len(found)}


def save_strip(path: Path, model: Model, photographs: Photographs, background: str) -> Path:
    """Some held-out views: photographs above, what the field shows below."""
    count = min(STRIP_VIEWS, len(photographs))
    chosen = np.linspace(0, len(photographs) - 1, count).round().astype(int).tolist()
    columns = []
    for view in chosen:
        stride = max(1, round(photographs.size_of(view)[1] / STRIP_WIDTH))
        truth, seen, _ = look(model, photographs, view, BACKGROUNDS[background], stride)
        columns.append(to_uint8(torch.cat([truth, seen], 1)[None])[0])  # (2 h, w, 3)
    height = max(len(column) for column in columns)
    padded = [np.pad(c, ((0, height - len(c)), (0, 0), (0, 0)), constant_values=255) for c in columns]
    return save_image(path, np.concatenate(padded, 1))


def warn_of_doubtful_views(task: NerfTask, views: list[CapturedView]) -> None:
    """Say on stderr where poses and photographs seem to disagree, and by what it shows."""
    median, doubtful = doubtful_views(task)
    if median < POOR:
        sys.stderr.write(
            f"warning: the training views themselves are shown with {median:.1f} dB only (less than {POOR:g}): poses "
            "and photographs may disagree, or the training was too short; see views.png, try --refine-poses\n"
        )
    elif doubtful:
        named = ", ".join(f"{views[view].path.name} ({value:.1f} dB)" for view, value in doubtful[:5])
        sys.stderr.write(
            f"warning: {len(doubtful)} of {len(views)} training views do not fit the others (median {median:.1f} dB): "
            f"{named}; their poses may be wrong: check or remove them, or try --refine-poses\n"
        )
