"""The run folders of optimised fields: begun, gone on with, and the mesh in each of them saved and shown."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from core2d.app.errors import InputError
from core2d.app.outputs import write_json
from core2d.app.provenance import digests
from core2d.app.recipe import Recipe
from core2d.app.runs import read_part, read_run, recipe_of_run, start_run
from core2d.training.checkpoints import newest_checkpoint, set_aside
from core2d.training.loop import PhasedTask, Task, TrainingRecipe, train
from gen3d.mesh import Build, TexturedMesh, build_mesh, load_mesh, save_mesh
from gen3d.mesh.pictures import save_turntable, save_views, seen_from, sides
from gen3d.shaping.model import BOUND, Model

FINEST_SHAPE = 0.03  # metres, about a pixel and a half of what a 64-pixel prior sees: what is smaller is noise
RESULT = "result.json"  # in a run folder, once its mesh is written
LEVEL = "level.json"  # in a run folder, where something beside the field says at which density its surface is
COMMANDS = {"TextToMeshRecipe": "text-to-mesh", "ImageTo3DRecipe": "image-to-3d"}  # recipe -> command that follows it

Result = tuple[list[Path], Mapping[str, Any]]


Shaping = TypeVar("Shaping", bound=Recipe)  # of a command that shapes a field: text-to-mesh, image-to-3d


def optimise(
    task: Task[Model] | PhasedTask[Model],
    recipe: TrainingRecipe,
    run: Path,
    resume: bool,
    what: str = "the picture",
    device: torch.device | None = None,
) -> Model:
    """Follow a task to its end: its model, with the averaged field.

    Args:
        what: is made, in words.
        device: where; None for whatever accelerator there is.

    Raises:
        InputError: the field diverged.
    """
    try:
        result = train(task, recipe, run, resume=resume, device=device)
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
    return mesh_of(model.to(device), level_of_run(folder))[0]


def level_of_run(folder: Path) -> float | None:
    """The density of the surface of a run, where something beside its field says so.

    Raises:
        InputError: the file that says so is damaged.
    """
    path = folder / LEVEL
    level = read_part(path) if path.exists() else None
    if level is not None and not (type(level) in (int, float) and math.isfinite(level) and level > 0):
        raise InputError(f"{path} holds {str(level)[:40]}, which is no density: start the run anew")
    return level


def start_anew(folder: Path, recipe: Recipe, inputs: Mapping[str, str] | None = None) -> Path:
    """Begin a run in a folder that `core2d.app.runs.working_in` keeps; `inputs` are hashes of what it depends on."""
    set_aside(folder)
    (folder / LEVEL).unlink(missing_ok=True)
    return start_run(folder, recipe, inputs)


def saved_recipe(folder: Path, *names: str) -> dict[str, Any]:
    """The recipe in the manifest of a run, under "name" what it is called.

    Args:
        names: of the recipes that will do; all that optimise a field if there are none.

    Raises:
        InputError: not such a run.
    """
    saved, names = read_run(folder).get("recipe"), names or tuple(COMMANDS)
    if not isinstance(saved, dict) or saved.get("name") not in names:
        raise InputError(f"{folder} is not a run of gen3d {' or '.join(COMMANDS[name] for name in names)}")
    return saved


def recipe_to_go_on(folder: Path, given: Shaping) -> Shaping:
    """The recipe that a run was started with; its output lies beside it.

    Where the work is done, and turntable and preview, may be asked for anew.

    Args:
        folder: the run.
        given: what is asked for now, of the same kind.

    Raises:
        InputError: not a run of that kind, or one of another version.
    """
    kind, beside = type(given), folder if folder.name not in ("", "..") else folder.resolve()
    saved_recipe(folder, kind.__name__)
    recipe: Any = recipe_of_run(folder, kind)
    if recipe.output is None:
        raise InputError(f"{folder} does not say what its output is: start it anew")
    asked = {name: getattr(given, name) for name in ("turntable", "preview") if getattr(given, name) is not None}
    if given.device != "auto":
        asked["device"] = given.device
    return replace(recipe, resume=None, json=given.json, output=beside.parent / recipe.output.name, **asked)


def save_result(
    recipe: Any,
    folder: Path,
    mesh: TexturedMesh,
    build: Build,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    started: float,
    lighted: bool = True,
) -> Result:
    """Write the mesh, what the run is remembered by, and the turntable and preview that were asked for.

    Args:
        recipe: of the command; its `output`, `preview` and `turntable` say where to.
        folder: the run.
        settings: what the mesh depends on, as JSON has it; `inputs` are hashes of what was loaded for it.
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
    made = digests({path.name: path for path in outputs})
    write_json(folder / RESULT, {"recipe": settings, "inputs": inputs, "outputs": made, "metrics": metrics})
    seen = load_mesh(recipe.output)  # what others will see
    if recipe.preview is not None:
        outputs.append(save_views(recipe.preview, seen_from(seen, sides(8), size=192, lighted=lighted)))
    if recipe.turntable is not None:
        outputs.append(save_turntable(recipe.turntable, seen, lighted=lighted))
    return outputs, metrics
