"""From a sentence to a textured mesh: DreamFusion, then the mesh stage. What `gen3d text-to-mesh` does for a prompt.

mesh, build = text_to_mesh("a red mug", Backbone.load("toybox-sd"), Path("mug.run"))
save_mesh("mug.glb", mesh)
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from core2d.adapters.options import image_prompt_files, lora_files, with_image_prompts, with_loras
from core2d.app.devices import pick_device, pick_dtype
from core2d.app.outputs import plain
from core2d.app.provenance import digests
from core2d.app.recipe import files_and_strengths
from core2d.app.registry import resolve
from core2d.app.runs import check_free, check_inputs, run_folder, working_in
from core2d.guidance import ViewPrompts
from core2d.guidance.base import Tell
from core2d.prior.backbone import Backbone
from core2d.prior.base import Prior
from core2d.prior.cameras import Cameras
from core2d.prior.condition import Condition
from core2d.toybox import world
from core2d.toybox.captions import background_phrase
from gen3d.dreamfusion.control import following
from gen3d.dreamfusion.memory import memory_needed
from gen3d.dreamfusion.recipe import QUALITIES, DreamFusionConfig, TextToMeshRecipe
from gen3d.dreamfusion.task import Distill, DreamFusionTask, LearningTask
from gen3d.mesh import Build, TexturedMesh
from gen3d.mesh.pictures import around as around
from gen3d.mesh.pictures import picture as picture
from gen3d.shaping.model import Model, training_recipe
from gen3d.shaping.runs import Result, mesh_of, optimise, recipe_to_go_on, save_result, start_anew

SETTINGS = (  # what a result depends on
    "prompts", "model", "lora", "control", "image_prompt", "image_prompt_mask", "ip_adapter", "quality", "steps",
    "views", "seed", "dtype",
)  # fmt: skip


def text_to_mesh(
    prompt: str,
    prior: Prior,
    run: Path,
    config: DreamFusionConfig | None = None,
    views: str = "auto",
    seed: int = 0,
    resume: bool = False,
    distill: Distill | None = None,
    tell: Tell | None = None,
) -> tuple[TexturedMesh, Build]:
    """Optimise a field for a prompt and make a mesh of it.

    Args:
        prompt: one object, without view or background.
        prior: a backbone or an oracle.
        run: folder of checkpoints and log; with `resume` the newest checkpoint there is gone on with.
        config: how; `QUALITIES` has three.
        views: "auto" uses the prior's camera token where it has one, "words" describes the view.
        seed: decides everything that is random.
        distill: another guidance, made of prior, settings and seed; see `DreamFusionTask`.
        tell: what more the prior is told of each picture, where `distill` is the default one: maps, image prompts.

    Raises:
        InputError: the field stayed empty or diverged, or the prompt is too long for the prior.
    """
    config = config or QUALITIES["normal"]
    task = DreamFusionTask(Model(seed), prior, prompt, config, views, seed, distill, tell)
    phased = LearningTask(task) if len(task.model.learners) else task
    return mesh_of(optimise(phased, training_recipe(config, seed), run, resume, repr(prompt), prior.device))


# -- one prompt of the command ---------------------------------------------------------------------------------


def follow_one(recipe: TextToMeshRecipe) -> Result:
    """Follow `gen3d text-to-mesh` for one prompt."""
    recipe.check()
    if recipe.resume is not None:
        return go_on(recipe, recipe.resume)
    assert recipe.output is not None
    check_free(run_folder(recipe.output))
    loaded = load_prior(recipe)
    with working_in(run_folder(recipe.output)) as folder:
        return make_mesh(recipe, loaded, folder)


def go_on(given: TextToMeshRecipe, folder: Path) -> Result:
    """Take a run from where it stopped to its mesh."""
    with working_in(folder, resume=True):
        recipe = recipe_to_go_on(folder, given)
        recipe.check()
        check_inputs(folder, inputs_of(recipe))
        return make_mesh(recipe, load_prior(recipe), folder, resume=True)


@dataclass(frozen=True)
class Loaded:
    """The prior of a recipe, and what more it is told of each picture."""

    prior: Backbone
    tell: Tell


def load_prior(recipe: TextToMeshRecipe) -> Loaded:
    """The model of a recipe, after which is said what the work with it takes."""
    prior = Backbone.load(recipe.model, pick_device(recipe.device), pick_dtype(recipe.dtype))
    prior = with_loras(prior, files_and_strengths("--lora", recipe.lora))
    prior, telling = with_image_prompts(prior, recipe)
    prior, shapes = following(prior, recipe.controls())
    config = config_of(recipe)
    for prompt in recipe.all_prompts():
        check_length(prior, prompt, recipe.views)
    sys.stderr.write(f"{config.steps} steps, {memory_needed(prior, config)}\n")

    def tell(condition: Condition, images: Tensor, cameras: Cameras | None) -> Condition:
        told = condition.telling(**telling) if telling else condition
        return told if shapes is None else shapes(told, images, cameras)

    return Loaded(prior, tell)


def make_mesh(recipe: TextToMeshRecipe, loaded: Loaded, folder: Path, resume: bool = False) -> Result:
    """Everything that the recipe of one prompt asks for, in a run folder that `working_in` keeps.

    With `resume` the run there is gone on with, from its newest checkpoint.
    """
    started = time.perf_counter()
    (prompt,) = recipe.prompts
    inputs, config = inputs_of(recipe), config_of(recipe)
    if not resume:
        start_anew(folder, recipe, inputs)
    mesh, build = text_to_mesh(
        prompt, loaded.prior, folder, config, recipe.views, recipe.seed, resume, tell=loaded.tell
    )
    return save_result(recipe, folder, mesh, build, settings_of(recipe), inputs, started)


def config_of(recipe: TextToMeshRecipe) -> DreamFusionConfig:
    """The quality, with the steps that were asked for."""
    config = QUALITIES[recipe.quality]
    return config if recipe.steps is None else replace(config, steps=recipe.steps)


def settings_of(recipe: TextToMeshRecipe) -> dict[str, Any]:
    """What the mesh depends on, as JSON has it."""
    return plain({name: value for name, value in asdict(recipe).items() if name in SETTINGS})


def inputs_of(recipe: TextToMeshRecipe) -> dict[str, str]:
    """Hashes of all that the mesh is made of."""
    files = {"model": resolve(recipe.model), **lora_files(recipe.lora), **image_prompt_files(recipe)}
    for number, told in enumerate(recipe.controls()):
        files |= {f"controlnet {number}": told.network, f"shape {number}": told.map}
    return digests(files)


def check_length(prior: Prior, prompt: str, views: str) -> None:
    """Refuse a prompt that is too long with what will be said after it, before anything is written."""
    said = [prompt]
    if prior.world == world.NAME:
        said = [f"{prompt}, {background_phrase(None, word)}".removeprefix(", ") for word in world.COLOR_NAMES]
    if views == "words" or not prior.has_camera_token:
        said = [text for one in said for text in ViewPrompts().prompts(one)]
    prior.encode_text(said)
