"""Many prompts, one folder: a mesh and a run for each, and a contact sheet of all. It may be stopped and started again.

meshes/a-red-mug.glb   meshes/a-red-mug.run/   ...   meshes/contact-sheet.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core2d.app.errors import InputError
from core2d.app.program import Outcome
from core2d.app.provenance import sha256
from core2d.app.runs import run_folder
from core2d.media.pictures import image_grid, save_image
from core2d.media.sheets import stem_of
from gen3d.dreamfusion.pipeline import SETTINGS, follow_one, load_prior, make_mesh, settings_of
from gen3d.dreamfusion.recipe import CONTACT_SHEET, TextToMeshRecipe
from gen3d.mesh import load_mesh
from gen3d.results.pictures import seen_from, sides
from gen3d.shaping.runs import RESULT, Result, saved_recipe

SHEET_SIDES, SHEET_SIZE = 8, 128


def follow(recipe: TextToMeshRecipe) -> Outcome:
    """Follow `gen3d text-to-mesh`."""
    if not recipe.makes_a_folder:
        return Outcome(*follow_one(recipe))
    outputs, metrics = follow_many(recipe)
    failed = metrics["failed"]
    if not failed:
        return Outcome(outputs, metrics)
    asked = len(recipe.all_prompts())
    return Outcome(outputs, metrics, f"{len(failed)} of {asked} prompts made no mesh: {'; '.join(failed.values())}")


def follow_many(recipe: TextToMeshRecipe) -> Result:
    """Follow `gen3d text-to-mesh` for several prompts.

    A mesh that cannot be made is told in the metrics, under `failed`, and does not keep the others from being made.
    """
    recipe.check()
    assert recipe.output is not None
    prompts = recipe.all_prompts()
    ones = [replace(recipe, prompts=(p,), prompts_file=None, output=mesh_path(recipe.output, p)) for p in prompts]
    missing = [one for one in ones if not is_done(one)]
    for one in missing:
        one.check()  # what is in the way of any of them is said before the first is made
    failed = make_all(recipe, missing) if missing else {}
    made = [one for one in ones if one.prompts[0] not in failed]
    outputs = [one.output for one in made if one.output is not None]
    if outputs:
        outputs.append(save_contact_sheet(recipe.output / CONTACT_SHEET, outputs, [one.prompts[0] for one in made]))
    metrics = {"made": len(missing) - len(failed), "done_before": len(ones) - len(missing), "failed": failed}
    return outputs, metrics


def make_all(recipe: TextToMeshRecipe, ones: Sequence[TextToMeshRecipe]) -> dict[str, str]:
    """Make a mesh for each recipe of one prompt, with the settings of `recipe`; why the others could not be made."""
    prior = load_prior(replace(recipe, prompts=tuple(one.prompts[0] for one in ones), prompts_file=None))
    failed: dict[str, str] = {}
    for number, one in enumerate(ones, 1):
        (prompt,) = one.prompts
        sys.stderr.write(f"mesh {number} of {len(ones)}: {prompt}\n")
        try:
            make_mesh(one, prior, resume=half_done(one))
        except InputError as error:
            failed[prompt] = str(error)
            sys.stderr.write(f"no mesh of {prompt!r}: {error}\n")
    return failed


def mesh_path(folder: Path, prompt: str) -> Path:
    """Where the mesh of a prompt lies, whatever the other prompts are."""
    return folder / f"{stem_of(prompt, 'mesh')}.glb"


def is_done(recipe: TextToMeshRecipe) -> bool:
    """Whether the mesh of one prompt is there, made with the same settings, and untouched."""
    assert recipe.output is not None
    try:
        result = json.loads((run_folder(recipe.output) / RESULT).read_text(encoding="utf-8"))
        hashes = {name: sha256(recipe.output.with_name(name)) for name in result["outputs"]}
        return result["recipe"] == settings_of(recipe) and result["outputs"] == hashes
    except (OSError, ValueError, KeyError, TypeError):
        return False


def half_done(recipe: TextToMeshRecipe) -> Path | None:
    """The run of one prompt if it was started with the same settings, to go on with."""
    assert recipe.output is not None
    folder = run_folder(recipe.output)
    try:
        saved: dict[str, Any] = saved_recipe(folder, TextToMeshRecipe.__name__)
    except InputError:
        return None
    same = {name: value for name, value in saved.items() if name in SETTINGS} == settings_of(recipe)
    return folder if same else None


def save_contact_sheet(path: Path, meshes: Sequence[Path], prompts: Sequence[str]) -> Path:
    """Write a row of eight views for each mesh; the picture says of itself which prompts they are, in their order."""
    rows = [view for mesh in meshes for view in seen_from(load_mesh(mesh), sides(SHEET_SIDES), size=SHEET_SIZE)]
    return save_image(path, image_grid(np.stack(rows), SHEET_SIDES), {"prompts": json.dumps(list(prompts))})
