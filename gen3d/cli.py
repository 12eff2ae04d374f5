"""The command `gen3d`."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from core2d.cli import Command, Result, run_program
from core2d.run import fail


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `gen3d` with `arguments` (those of the process by default)."""
    from gen3d import nerf_recipes, recipes, zero123_recipes

    told: dict[str, Any] = {}  # what was reported and decides about the exit status
    commands: dict[str, Command] = {
        "text-to-mesh": (recipes.TextToMeshRecipe, partial(text_to_mesh, told)),
        "image-to-3d": (zero123_recipes.ImageTo3DRecipe, image_to_3d),
        "novel-views": (zero123_recipes.NovelViewsRecipe, novel_views),
        "nerf": (nerf_recipes.NerfRecipe, partial(nerf, time.perf_counter())),
        "eval": (nerf_recipes.EvalRecipe, evaluate),
        "export": (recipes.ExportRecipe, export),
        "render": (recipes.RenderRecipe, render),
        "mesh check": (recipes.MeshCheckRecipe, partial(mesh_check, told)),
    }
    about = "The 2D diffusion prior of core2d, lifted into space."
    run_program("gen3d", about, commands, arguments)
    if failed := told.get("failed"):
        fail(f"{len(failed)} of {told['prompts']} prompts made no mesh: {'; '.join(failed.values())}")
    if told.get("problems"):
        raise SystemExit(1)


def text_to_mesh(told: dict[str, Any], recipe: Any) -> Result:
    if not recipe.makes_a_folder:
        from gen3d.text_to_mesh import run

        return run(recipe)
    from gen3d import gallery

    outputs, metrics = gallery.run(recipe)
    told.update(failed=metrics["failed"], prompts=len(recipe.all_prompts()))
    return outputs, metrics


def image_to_3d(recipe: Any) -> Result:
    from gen3d.picture_to_mesh import run

    return run(recipe)


def novel_views(recipe: Any) -> Result:
    from gen3d.novel_views import run

    return run(recipe)


def nerf(started: float, recipe: Any) -> Result:
    from gen3d.nerf_run import run

    return run(recipe, started)


def evaluate(recipe: Any) -> Result:
    from gen3d.nerf_run import evaluate

    return evaluate(recipe)


def export(recipe: Any) -> Result:
    from gen3d.commands import export

    return export(recipe)


def render(recipe: Any) -> Result:
    from gen3d.commands import render

    return render(recipe)


def mesh_check(told: dict[str, Any], recipe: Any) -> Result:
    from gen3d.commands import check

    outputs, metrics = check(recipe)
    told.update(problems=metrics["problems"] != "none" and bool(metrics["problems"]))
    return outputs, metrics
