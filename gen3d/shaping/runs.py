"""The run folders of optimised fields: begun, gone on with, and the mesh in each of them saved and shown."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from core2d.app.errors import InputError
from core2d.app.outputs import remove, write_json
from core2d.app.provenance import sha256
from core2d.app.recipe import Recipe
from core2d.app.runs import read_run, start_run
from core2d.training.checkpoints import newest_checkpoint
from core2d.training.loop import Task, TrainingRecipe, train
from gen3d.dreamfusion.recipe import TextToMeshRecipe
from gen3d.image_to_3d.recipe import ImageTo3DRecipe
from gen3d.mesh import Build, TexturedMesh, build_mesh, load_mesh, save_mesh
from gen3d.results.pictures import save_turntable, save_views, seen_from, sides
from gen3d.shaping.model import BOUND, Model

FINEST_SHAPE = 0.03  # metres, about a pixel and a half of what a 64-pixel prior sees: what is smaller is noise
RESULT = "result.json"  # in a run folder, once its mesh is written
LEVEL = "level.json"  # in a run folder, where something beside the field says at which density its surface is
COMMANDS = {"TextToMeshRecipe": "text-to-mesh", "ImageTo3DRecipe": "image-to-3d"}  # recipe -> command that follows it

Result = tuple[list[Path], Mapping[str, Any]]


Shaping = TypeVar("Shaping", TextToMeshRecipe, ImageTo3DRecipe)


def optimise(task: Task[Model], recipe: TrainingRecipe, run: Path, resume: bool, what: str = "the picture") -> Model:
    """Follow a task to its end: its model, with the averaged field.

    Raises:
        InputError: the field diverged; `what` says of which object.
    """
    try:
        result = train(task, recipe, run, resume=resume)
    except FloatingPointError as error:
        raise InputError(f"the optimisation of {what} diverged: {error}; try another seed") from error
    task.model.load_state_dict(result.ema)
    return task.model


@torch.no_grad()
def mesh_of(model: Model, level: float | None = None) -> tuple[TexturedMesh, Build]:
    """The surface of an optimised field, with its albedo as texture.

    Args:
        level: density of the surface in 1 / metre; where the field becomes opaque if None.

    Raises:
        InputError: the field stayed empty.
    """
    field = model.field
    bounds = torch.tensor([[-BOUND] * 3, [BOUND] * 3], device=next(field.parameters()).device)
    return build_mesh(
        lambda x: field.smooth_density(x, FINEST_SHAPE),
        lambda x: field.color(x, torch.zeros_like(x)),
        bounds,
        resolution=80,
        texture_size=512,
        level=level,
    )


def mesh_of_run(folder: Path, device: torch.device | str = "cpu") -> TexturedMesh:
    """The mesh of a run as it stands: of the averaged weights in its newest checkpoint.

    Raises:
        InputError: not such a run, one without a checkpoint, or an empty field.
    """
    command = COMMANDS[saved_recipe(folder)["name"]]
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InputError(f"{folder} has no checkpoint yet: go on with gen3d {command} --resume {folder}")
    model = Model(0)
    try:
        model.load_state_dict(load_file(checkpoint / "model.safetensors") | load_file(checkpoint / "ema.safetensors"))
    except (RuntimeError, SafetensorError, OSError) as error:  # of another shape, or damaged
        raise InputError(f"{checkpoint} does not hold a field that this version can read") from error
    level = json.loads((folder / LEVEL).read_text(encoding="utf-8")) if (folder / LEVEL).is_file() else None
    return mesh_of(model.to(device), level)[0]


def start_anew(folder: Path, recipe: Recipe) -> Path:
    """A run folder without checkpoints: those of an earlier run are set aside before the manifest names another recipe.

    Raises:
        InputError: something that is not a run is in the way.
    """
    if folder.exists():
        read_run(folder)
    checkpoints, previous = folder / "checkpoints", folder / "checkpoints.previous"
    if newest_checkpoint(checkpoints) is not None:
        remove(previous)
        checkpoints.replace(previous)
    (folder / LEVEL).unlink(missing_ok=True)
    return start_run(folder, recipe)


def saved_recipe(folder: Path, *names: str) -> dict[str, Any]:
    """The recipe in the manifest of a run, under "name" what it is called.

    Args:
        names: of the recipes that will do; all that optimise a field if there are none.

    Raises:
        InputError: not such a run.
    """
    manifest, names = read_run(folder), names or tuple(COMMANDS)
    saved = manifest.get("recipe") if isinstance(manifest, dict) else None
    if not isinstance(saved, dict) or saved.get("name") not in names:
        raise InputError(f"{folder} is not a run of gen3d {' or '.join(COMMANDS[name] for name in names)}")
    return saved


def recipe_of_run(folder: Path, given: Shaping, paths: Sequence[str]) -> Shaping:
    """The recipe that a run was started with; its output lies beside it.

    Where the work is done, and turntable and preview, may be asked for anew.

    Args:
        folder: the run.
        given: what is asked for now, of the same kind.
        paths: fields that hold paths, beside the output.

    Raises:
        InputError: not a run of that kind, or one of another version.
    """
    kind, beside = type(given), folder if folder.name not in ("", "..") else folder.resolve()
    saved = saved_recipe(folder, kind.__name__)
    try:
        saved.pop("name")
        saved |= {name: saved[name] and Path(saved[name]) for name in paths}
        saved |= {name: tuple(value) for name, value in saved.items() if isinstance(value, list)}
        saved["output"] = beside.parent / Path(saved["output"]).name
        recipe = kind(**(saved | {"resume": None, "json": given.json}))
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder} is a run of another version: start it anew") from error
    asked: dict[str, Any] = {"turntable": given.turntable, "preview": given.preview}
    if given.device != "auto":
        asked["device"] = given.device
    return replace(recipe, **{name: value for name, value in asked.items() if value is not None})


def save_result(
    recipe: TextToMeshRecipe | ImageTo3DRecipe,
    folder: Path,
    mesh: TexturedMesh,
    build: Build,
    settings: Mapping[str, Any],
    started: float,
    lighted: bool = True,
) -> Result:
    """Write the mesh, what the run is remembered by, and the turntable and preview that were asked for.

    Args:
        recipe: says where to.
        folder: the run.
        settings: what the mesh depends on, as JSON has it.
        started: `time.perf_counter()` when the work began.
        lighted: False if light is in the colours already.
    """
    assert recipe.output is not None
    outputs = save_mesh(recipe.output, mesh)
    report = build.report
    metrics = {
        "faces": report.faces,
        "watertight": report.watertight,
        "bodies": report.bodies,
        "texture_coverage": build.coverage,
        "seconds_of_work": round(time.perf_counter() - started, 2),
        "problems": list(report.problems),
    }
    hashes = {path.name: sha256(path) for path in outputs}
    write_json(folder / RESULT, {"recipe": settings, "outputs": hashes, "metrics": metrics})
    seen = load_mesh(recipe.output)  # what others will see
    if recipe.preview is not None:
        outputs.append(save_views(recipe.preview, seen_from(seen, sides(8), size=192, lighted=lighted)))
    if recipe.turntable is not None:
        outputs.append(save_turntable(recipe.turntable, seen, lighted=lighted))
    return outputs, metrics
