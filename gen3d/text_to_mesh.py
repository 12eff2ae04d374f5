"""From a sentence to a textured mesh: DreamFusion, then the mesh stage. The work behind `gen3d text-to-mesh`.

mesh, build = text_to_mesh("a red mug", Backbone.load("toybox-sd"), Path("mug.run"))
save_mesh("mug.glb", mesh)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from core2d.backbone import Backbone, Denoiser
from core2d.checkpoints import newest_checkpoint
from core2d.errors import InputError
from core2d.guidance import ViewPrompts
from core2d.run import pick_device, pick_dtype, plain, read_run, remove, run_folder, sha256, start_run, write_json
from core2d.toybox import world
from core2d.toybox.captions import background_phrase
from core2d.training import train
from gen3d.dreamfusion import BOUND, DreamFusionTask, Model, training_recipe
from gen3d.memory import memory_needed
from gen3d.mesh import Build, TexturedMesh, build_mesh, load_mesh, save_mesh
from gen3d.pictures import around as around
from gen3d.pictures import picture as picture
from gen3d.pictures import save_turntable, save_views, seen_from, sides
from gen3d.recipes import QUALITIES, DreamFusionConfig, TextToMeshRecipe

Result = tuple[list[Path], Mapping[str, Any]]

FINEST_SHAPE = 0.03  # metres, about a pixel and a half of what a 64-pixel prior sees: what is smaller is noise
SETTINGS = ("prompts", "model", "quality", "steps", "views", "seed", "dtype")  # what a result depends on
RESULT = "result.json"  # in a run folder, once its mesh is written


def text_to_mesh(
    prompt: str,
    prior: Denoiser,
    run: Path,
    config: DreamFusionConfig | None = None,
    views: str = "auto",
    seed: int = 0,
    resume: bool = False,
) -> tuple[TexturedMesh, Build]:
    """Optimise a field for a prompt and make a mesh of it.

    Args:
        prompt: one object, without view or background.
        prior: a backbone or an oracle.
        run: folder of checkpoints and log; with `resume` the newest checkpoint there is gone on with.
        config: how; `QUALITIES` has three.
        views: "auto" uses the prior's camera token where it has one, "words" describes the view.
        seed: decides everything that is random.

    Raises:
        InputError: the field stayed empty or diverged, or the prompt is too long for the prior.
    """
    config = config or QUALITIES["normal"]
    task = DreamFusionTask(Model(seed), prior, prompt, config, views, seed)
    try:
        result = train(task, training_recipe(config, seed), run, resume=resume)
    except FloatingPointError as error:
        raise InputError(f"the optimisation of {prompt!r} diverged: {error}; try another seed") from error
    task.model.load_state_dict(result.ema)
    return mesh_of(task.model)


@torch.no_grad()
def mesh_of(model: Model) -> tuple[TexturedMesh, Build]:
    """The surface of an optimised field, with its albedo as texture."""
    field = model.field
    bounds = torch.tensor([[-BOUND] * 3, [BOUND] * 3], device=next(field.parameters()).device)
    return build_mesh(
        lambda x: field.smooth_density(x, FINEST_SHAPE),
        lambda x: field.color(x, torch.zeros_like(x)),
        bounds,
        resolution=80,
        texture_size=512,
    )


def mesh_of_run(folder: Path, device: torch.device | str = "cpu") -> TexturedMesh:
    """The mesh of a run of text-to-mesh as it stands: of the averaged weights in its newest checkpoint.

    Raises:
        InputError: not such a run, one without a checkpoint, or an empty field.
    """
    saved_recipe(folder)
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InputError(f"{folder} has no checkpoint yet: go on with gen3d text-to-mesh --resume {folder}")
    model = Model(0)
    try:
        model.load_state_dict(load_file(checkpoint / "model.safetensors") | load_file(checkpoint / "ema.safetensors"))
    except (RuntimeError, SafetensorError, OSError) as error:  # of another shape, or damaged
        raise InputError(f"{checkpoint} does not hold a field that this version can read") from error
    return mesh_of(model.to(device))[0]


# -- the command -----------------------------------------------------------------------------------------------


def run(recipe: TextToMeshRecipe) -> Result:
    """Follow `gen3d text-to-mesh` for one prompt."""
    recipe.check()
    folder = recipe.resume
    if folder is not None:
        recipe = recipe_of_run(folder, recipe)
        recipe.check()
    prior = load_prior(recipe)
    return make_mesh(recipe, prior, resume=folder)


def load_prior(recipe: TextToMeshRecipe) -> Backbone:
    """The model of a recipe, after which is said what the work with it takes."""
    prior = Backbone.load(recipe.model, pick_device(recipe.device), pick_dtype(recipe.dtype))
    config = config_of(recipe)
    for prompt in recipe.all_prompts():
        check_length(prior, prompt, recipe.views)
    sys.stderr.write(f"{config.steps} steps, {memory_needed(prior, config, recipe.views)}\n")
    return prior


def make_mesh(recipe: TextToMeshRecipe, prior: Backbone, resume: Path | None = None) -> Result:
    """Everything that the recipe of one prompt asks for; with `resume`, from the newest checkpoint of that run."""
    started = time.perf_counter()
    (prompt,) = recipe.prompts
    assert recipe.output is not None
    folder = resume or start_anew(run_folder(recipe.output), recipe)
    mesh, build = text_to_mesh(
        prompt, prior, folder, config_of(recipe), recipe.views, recipe.seed, resume=resume is not None
    )
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
    write_json(folder / RESULT, {"recipe": settings_of(recipe), "outputs": hashes, "metrics": metrics})
    seen = load_mesh(recipe.output)  # what others will see
    if recipe.preview is not None:
        outputs.append(save_views(recipe.preview, seen_from(seen, sides(8), size=192)))
    if recipe.turntable is not None:
        outputs.append(save_turntable(recipe.turntable, seen))
    return outputs, metrics


def config_of(recipe: TextToMeshRecipe) -> DreamFusionConfig:
    """The quality, with the steps that were asked for."""
    config = QUALITIES[recipe.quality]
    return config if recipe.steps is None else replace(config, steps=recipe.steps)


def settings_of(recipe: TextToMeshRecipe) -> dict[str, Any]:
    """What the mesh depends on, as JSON has it."""
    return plain({name: value for name, value in asdict(recipe).items() if name in SETTINGS})


def check_length(prior: Denoiser, prompt: str, views: str) -> None:
    """Refuse a prompt that is too long with what will be said after it, before anything is written."""
    said = [prompt]
    if prior.has_camera_token:
        said = [f"{prompt}, {background_phrase(None, word)}" for word in world.COLOR_NAMES]
    if views == "words" or not prior.has_camera_token:
        said = [text for one in said for text in ViewPrompts().prompts(one)]
    prior.encode_text(said)


# -- runs ------------------------------------------------------------------------------------------------------


def start_anew(folder: Path, recipe: TextToMeshRecipe) -> Path:
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
    return start_run(folder, recipe)


def saved_recipe(folder: Path) -> dict[str, Any]:
    """The recipe in the manifest of a run.

    Raises:
        InputError: not a run of text-to-mesh.
    """
    manifest = read_run(folder)
    saved = manifest.get("recipe") if isinstance(manifest, dict) else None
    if not isinstance(saved, dict) or saved.pop("name", None) != TextToMeshRecipe.__name__:
        raise InputError(f"{folder} is not a run of gen3d text-to-mesh")
    return saved


def recipe_of_run(folder: Path, given: TextToMeshRecipe) -> TextToMeshRecipe:
    """The recipe that a run was started with; its output lies beside it.

    Where the work is done, and turntable and preview, may be asked for anew.
    """
    saved = saved_recipe(folder)
    beside = folder if folder.name not in ("", "..") else folder.resolve()
    try:
        saved |= {name: saved[name] and Path(saved[name]) for name in ("turntable", "preview")}
        saved |= {"prompts": tuple(saved["prompts"]), "output": beside.parent / Path(saved["output"]).name}
        recipe = TextToMeshRecipe(**(saved | {"resume": None, "json": given.json}))
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder} is a run of another version: start it anew") from error
    asked: dict[str, Any] = {"turntable": given.turntable, "preview": given.preview}
    if given.device != "auto":
        asked["device"] = given.device
    return replace(recipe, **{name: value for name, value in asked.items() if value is not None})
