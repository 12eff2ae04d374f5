"""The work behind `gen3d export`, `gen3d render` and `gen3d mesh check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core2d.app.devices import pick_device
from core2d.app.errors import InputError
from core2d.app.program import Outcome
from gen3d.mesh import TexturedMesh, check_mesh, load_mesh, save_mesh
from gen3d.mesh.pictures import in_view, save_turntable, save_views, seen_from
from gen3d.results.recipe import ExportRecipe, MeshCheckRecipe, RenderRecipe

Result = tuple[list[Path], Mapping[str, Any]]


def export(recipe: ExportRecipe) -> Result:
    """Follow `gen3d export`."""
    recipe.check()
    if is_of_nerf(recipe.source):
        from gen3d.nerf.export import export_scene

        return export_scene(recipe)
    if recipe.is_of_a_scene:
        raise InputError(f"{recipe.source} is no run of gen3d nerf: --as, --colors and --box are of those only")
    mesh = mesh_at(recipe.source, pick_device(recipe.device))
    return save_mesh(recipe.output, mesh), {"faces": len(mesh.faces)}


def render(recipe: RenderRecipe) -> Result:
    """Follow `gen3d render`."""
    recipe.check()
    device = pick_device(recipe.device)
    if is_of_nerf(recipe.source):
        from gen3d.nerf.export import render_scene

        return render_scene(recipe)
    if recipe.path is not None:
        raise InputError(f"{recipe.source} is no run of gen3d nerf: a mesh has --azimuth and --turntable")
    mesh, lighted = in_view(mesh_at(recipe.source, device)), not is_of_a_picture(recipe.source)
    outputs = []
    if recipe.output is not None:
        pictures = seen_from(mesh, recipe.azimuth, recipe.elevation, recipe.size, device, lighted)
        outputs.append(save_views(recipe.output, pictures))
    if recipe.turntable is not None:
        outputs.append(save_turntable(recipe.turntable, mesh, recipe.elevation, recipe.size, device, lighted))
    return outputs, {"faces": len(mesh.faces)}


def check(recipe: MeshCheckRecipe) -> Outcome:
    """Follow `gen3d mesh check`: the fields of `MeshReport`, problems last."""
    recipe.check()
    report = check_mesh(load_mesh(recipe.mesh))
    facts = asdict(report)
    if not recipe.json:  # for a person: without what does not apply
        facts = {name: in_words(value) for name, value in facts.items() if value is not None}
    return Outcome([], facts, status=int(bool(report.problems)))


def in_words(value: Any) -> str:
    """Four digits of a number, several things side by side."""
    if isinstance(value, tuple):
        return " ".join(map(in_words, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_of_nerf(source: Path) -> bool:
    """Whether the source is a run of gen3d nerf."""
    from gen3d.nerf.command import is_nerf_run

    return source.is_dir() and is_nerf_run(source)


def is_of_a_picture(source: Path) -> bool:
    """Whether the source is a run of gen3d image-to-3d, whose colours have the light of the picture in them."""
    if not source.is_dir():
        return False
    from gen3d.shaping.runs import saved_recipe

    return saved_recipe(source)["name"] == "ImageTo3DRecipe"


def mesh_at(source: Path, device: torch.device) -> TexturedMesh:
    """The mesh of a run folder, or of a file.

    Raises:
        InputError: neither, or no surface in it.
    """
    if not source.is_dir():
        return load_mesh(source)
    from gen3d.shaping.runs import mesh_of_run  # brings in the whole optimisation

    return mesh_of_run(source, device)
