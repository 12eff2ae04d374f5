"""From a sentence to a textured mesh: DreamFusion, then the mesh stage. The work behind `gen3d text-to-mesh`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core2d.backbone import Backbone, Denoiser
from core2d.cameras import Cameras, degrees, orbit
from core2d.errors import InputError
from core2d.media import image_grid, save_image, to_uint8, write_video
from core2d.run import pick_device, pick_dtype, read_run, run_folder, start_run
from core2d.toybox import world
from core2d.training import train
from gen3d.dreamfusion import BOUND, DreamFusionTask, Model, training_recipe
from gen3d.mesh import Build, TexturedMesh, build_mesh, load_mesh, render_mesh, save_mesh
from gen3d.recipes import QUALITIES, DreamFusionConfig, TextToMeshRecipe

ELEVATION = 20.0  # degrees, of previews and turntables
TURNTABLE_FRAMES, TURNTABLE_FPS = 48, 16


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
        InputError: the field stayed empty, or the prompt is too long for the prior.
    """
    config = config or QUALITIES["normal"]
    task = DreamFusionTask(Model(seed), prior, prompt, config, views, seed)
    result = train(task, training_recipe(config, seed), run, resume=resume)
    task.model.load_state_dict(result.ema)
    return mesh_of(task.model)


@torch.no_grad()
def mesh_of(model: Model) -> tuple[TexturedMesh, Build]:
    """The surface of an optimised field, with its albedo as texture."""
    field = model.field
    bounds = torch.tensor([[-BOUND] * 3, [BOUND] * 3], device=next(field.parameters()).device)
    return build_mesh(field.density, lambda x: field.color(x, torch.zeros_like(x)), bounds, texture_size=512)


def around(count: int, elevation: float = ELEVATION) -> Cameras:
    """`count` cameras evenly around the object, the first in front of it."""
    radius = sum(world.CAMERA_RADIUS) / 2
    return orbit(degrees([360.0 * i / count for i in range(count)]), degrees(elevation), radius)


def run(recipe: TextToMeshRecipe) -> tuple[list[Path], Mapping[str, Any]]:
    """Follow `gen3d text-to-mesh`."""
    resumed = recipe.resume is not None
    if recipe.resume is not None:
        recipe = recipe_of_run(recipe.resume, recipe)
    recipe.check()
    assert recipe.output is not None
    started = time.perf_counter()
    prior = Backbone.load(recipe.model, pick_device(recipe.device), pick_dtype(recipe.dtype))
    prior.encode_text([recipe.prompt])  # a prompt that is too long is refused before anything is written
    folder = recipe.resume if recipe.resume is not None else run_folder(recipe.output)
    if not resumed:
        start_run(folder, recipe)
    mesh, build = text_to_mesh(
        recipe.prompt, prior, folder, QUALITIES[recipe.quality], recipe.views, recipe.seed, resumed
    )
    outputs = save_mesh(recipe.output, mesh)
    seen = load_mesh(recipe.output)  # what others will see
    if recipe.preview is not None:
        outputs.append(save_image(recipe.preview, image_grid(picture(seen, around(8), 192), 4)))
    if recipe.turntable is not None:
        frames = np.asarray(to_uint8(picture(seen, around(TURNTABLE_FRAMES), 256)))
        outputs.append(write_video(recipe.turntable, frames, TURNTABLE_FPS))
    metrics = {
        "faces": build.report.faces,
        "watertight": build.report.watertight,
        "bodies": build.report.bodies,
        "texture_coverage": build.coverage,
        "seconds_of_work": round(time.perf_counter() - started, 2),
        "problems": list(build.report.problems),
    }
    return outputs, metrics


def picture(mesh: TexturedMesh, cameras: Cameras, size: int) -> Tensor:
    """(n, 3, size, size) pictures on white, in the light of Toybox."""
    return render_mesh(mesh, cameras, size)[:, :3]


def recipe_of_run(folder: Path, given: TextToMeshRecipe) -> TextToMeshRecipe:
    """The recipe that a run was started with; turntable and preview may be asked for anew."""
    saved = read_run(folder)["recipe"]
    if saved.pop("name") != TextToMeshRecipe.__name__:
        raise InputError(f"{folder} is not a run of gen3d text-to-mesh")
    paths = {name: Path(saved[name]) if saved[name] else None for name in ("output", "turntable", "preview")}
    recipe = TextToMeshRecipe(**{**saved, **paths, "resume": folder, "json": given.json})
    asked = {name: getattr(given, name) for name in ("turntable", "preview") if getattr(given, name) is not None}
    return replace(recipe, **asked)
