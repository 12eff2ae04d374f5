"""Many prompts, one folder: a mesh and a run for each, and a contact sheet of all. It may be stopped and started again.

meshes/a-red-mug.glb   meshes/a-red-mug.run/   ...   meshes/contact-sheet.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core2d.app.errors import InputError
from core2d.app.program import Outcome
from core2d.app.provenance import changed_inputs, changed_settings, digests, in_short
from core2d.app.runs import check_free, check_run, locked, read_part, read_run, run_folder, working_in
from core2d.guidance.base import Tell
from core2d.media.pictures import image_grid, save_image
from core2d.media.sheets import stem_of
from core2d.prior.backbone import Backbone
from gen3d.dreamfusion.pipeline import SETTINGS, follow_one, inputs_of, load_prior, make_mesh, settings_of
from gen3d.dreamfusion.recipe import CONTACT_SHEET, TextToMeshRecipe
from gen3d.mesh import load_mesh
from gen3d.mesh.pictures import seen_from, sides
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
    check_free(recipe.output)
    prompts = recipe.all_prompts()
    ones = [replace(recipe, prompts=(p,), prompts_file=None, output=mesh_path(recipe.output, p)) for p in prompts]
    missing = {one: why for one in ones if (why := undone(one)) is not None}
    for one in missing:
        one.check()  # what is in the way of any of them is said before the first is made
        check_run(run_of(one))
    asked = replace(recipe, prompts=tuple(one.prompts[0] for one in missing))
    prior, tell = load_prior(asked) if missing else (None, None)
    with locked(recipe.output):
        failed = {} if prior is None else make_all(prior, missing, tell)
        made = [one for one in ones if one.prompts[0] not in failed]
        outputs = [one.output for one in made if one.output is not None]
        if outputs:
            outputs.append(save_contact_sheet(recipe, outputs, [one.prompts[0] for one in made]))
    metrics = {"made": len(missing) - len(failed), "done_before": len(ones) - len(missing), "failed": failed}
    return outputs, metrics


def make_all(prior: Backbone, ones: Mapping[TextToMeshRecipe, str], tell: Tell | None) -> dict[str, str]:
    """Make a mesh for each recipe of one prompt, and say why it is made; why the others could not be made."""
    failed: dict[str, str] = {}
    for number, (one, why) in enumerate(ones.items(), 1):
        (prompt,) = one.prompts
        sys.stderr.write(f"mesh {number} of {len(ones)}: {prompt} ({why})\n")
        try:
            with working_in(run_of(one)) as folder:
                make_mesh(one, prior, folder, resume=half_done(one), tell=tell)
        except InputError as error:
            failed[prompt] = str(error)
            sys.stderr.write(f"no mesh of {prompt!r}: {error}\n")
    return failed


def mesh_path(folder: Path, prompt: str) -> Path:
    """Where the mesh of a prompt lies, whatever the other prompts are."""
    return folder / f"{stem_of(prompt, 'mesh')}.glb"


def run_of(recipe: TextToMeshRecipe) -> Path:
    """The run folder of one prompt."""
    assert recipe.output is not None
    return run_folder(recipe.output)


def undone(recipe: TextToMeshRecipe) -> str | None:
    """Why the mesh of one prompt is to be made; None if it is there, made of the same, and untouched."""
    assert recipe.output is not None
    path = run_of(recipe) / RESULT
    if not path.exists():
        return "not made yet"
    try:
        result = read_part(path)
        before = {part: dict(result[part]) for part in ("recipe", "inputs", "outputs")}
    except (InputError, KeyError, TypeError, ValueError):
        return f"{path} cannot be read"
    files = {name: recipe.output.with_name(Path(name).name) for name in before["outputs"]}
    outputs = digests({name: file for name, file in files.items() if file.is_file()})
    changed = changed_settings(before["recipe"], settings_of(recipe))
    changed += changed_inputs(before["inputs"], inputs_of(recipe)) + changed_inputs(before["outputs"], outputs)
    return in_short(changed) or None


def half_done(recipe: TextToMeshRecipe) -> bool:
    """Whether the run of one prompt was started with the same settings and inputs, to go on with."""
    folder = run_of(recipe)
    try:
        saved = saved_recipe(folder, TextToMeshRecipe.__name__)
        inputs = read_run(folder).get("inputs")
    except InputError:
        return False
    settings = {name: value for name, value in saved.items() if name in SETTINGS}
    return settings == settings_of(recipe) and inputs == inputs_of(recipe)


def save_contact_sheet(recipe: TextToMeshRecipe, meshes: Sequence[Path], prompts: Sequence[str]) -> Path:
    """Write a row of eight views for each mesh; the picture says of itself which prompts they are, in their order."""
    assert recipe.output is not None
    rows = [view for mesh in meshes for view in seen_from(load_mesh(mesh), sides(SHEET_SIDES), size=SHEET_SIZE)]
    text = {"prompts": json.dumps(list(prompts))}
    if recipe.prompts_file is not None:
        text["inputs"] = json.dumps(digests({"prompts": recipe.prompts_file}))
    return save_image(recipe.output / CONTACT_SHEET, image_grid(np.stack(rows), SHEET_SIDES), text)
