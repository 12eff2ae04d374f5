"""The work behind `gen3d novel-views`: a picture as people have it, and its object from other views."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from core2d.adapters.options import lora_files, with_loras
from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.outputs import plain
from core2d.app.provenance import digests
from core2d.app.recipe import files_and_strengths
from core2d.app.registry import bundled, resolve
from core2d.media.pictures import to_uint8
from core2d.media.sheets import check_singles, save_sheet
from core2d.media.videos import write_video
from core2d.prior.cameras import degrees
from core2d.toybox import world
from gen3d.data.single_picture import Subject, on_background, read_subject
from gen3d.data.toybox_likeness import ADVICE, KNOWN, likeness
from gen3d.data.toybox_matting import FOLDER as MATTING
from gen3d.data.toybox_matting import load_matting
from gen3d.zero123.formats.folders import borrowed
from gen3d.zero123.model import USUAL_ELEVATION, Zero123
from gen3d.zero123.pipeline import NovelViews, view_by
from gen3d.zero123.recipe import NovelViewsRecipe, PictureRecipe

Result = tuple[list[Path], Mapping[str, Any]]

COLUMNS = 6


def follow(recipe: NovelViewsRecipe) -> Result:
    """Follow `gen3d novel-views`."""
    recipe.check()
    is_film = recipe.output.suffix.lower() == ".mp4"
    if not is_film and len(recipe.azimuths) > 1:
        check_singles(recipe.output)
    model = with_loras(load_model(recipe), files_and_strengths("--lora", recipe.lora))
    subject = subject_of(recipe, model)
    azimuths, elevations = degrees(recipe.azimuths), degrees(recipe.elevation)
    pictures = NovelViews(model, recipe.scheduler)(
        on_background(subject.rgba),
        view_by(azimuths, elevations.expand_as(azimuths)),
        elevation=USUAL_ELEVATION if recipe.picture_elevation is None else math.radians(recipe.picture_elevation),
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.cfg,
        seed=recipe.seed,
    ).images
    if not pictures.isfinite().all():
        raise InputError(f"the model gave numbers that are not finite in {recipe.dtype}: try --dtype float32")
    inputs = inputs_of(recipe, subject) | digests(lora_files(recipe.lora))
    outputs = _write(recipe, inputs, pictures.float().cpu())
    facts = {"views": len(pictures), "size": pictures.shape[-1], "foreground_by": subject.found_by}
    return outputs, facts


def load_model(recipe: PictureRecipe) -> Zero123:
    """The model of a recipe; what is odd about its checkpoint is said."""
    model, report = Zero123.load_with_report(recipe.model, pick_device(recipe.device), pick_dtype(recipe.dtype))
    if report.is_odd:
        sys.stderr.write(f"{report}\n")
    return model


def files_of_model(name_or_path: str) -> dict[str, Path]:
    """What a model is loaded from: its file, or its folder and those that it borrows parts from."""
    path = Path(name_or_path)
    if path.is_file():
        return {"model": path}
    folder = resolve(name_or_path)
    return {"model": folder, **{f"its {part}": place for part, place in borrowed(folder).items()}}


def inputs_of(recipe: PictureRecipe, subject: Subject) -> dict[str, str]:
    """Hashes of all that the views of an object are made of."""
    files = {**files_of_model(recipe.model), "picture": recipe.picture}
    if subject.found_by == "mask" and recipe.mask is not None:
        files["mask"] = recipe.mask
    if subject.found_by == "matting net":
        files["matting"] = bundled()[MATTING]
    return digests(files)


def subject_of(recipe: PictureRecipe, model: Zero123) -> Subject:
    """The object in the picture, as the model wants to see it; how it was found is said."""
    is_ours = model.world == world.NAME
    subject = read_subject(
        recipe.picture,
        model.image_size,
        recipe.mask,
        recipe.foreground,
        margin=model.parts.margin,
        recentre=recipe.recentre,
        matting=load_matting() if is_ours and MATTING in bundled() else None,
    )
    sys.stderr.write(f"the object was found by {subject.found_by}\n")
    if is_ours and "toybox-clip" in bundled():
        embedding = model.see(on_background(subject.rgba)[None]).embedding
        if likeness(embedding) < KNOWN:
            sys.stderr.write(f"{ADVICE}\n")
    return subject


def _write(recipe: NovelViewsRecipe, inputs: Mapping[str, str], pictures: Tensor) -> list[Path]:
    """A film, or the single pictures and their sheet; each says how it was made."""
    settings = plain(asdict(recipe))
    for name in ("output", "json", "device"):
        settings.pop(name)
    if recipe.output.suffix.lower() == ".mp4":
        text = {"recipe": settings, "inputs": inputs}
        return [write_video(recipe.output, iter(to_uint8(pictures)), recipe.fps, text)]
    told = {"recipe": json.dumps(settings), "inputs": json.dumps(inputs)}
    texts = [told | {"azimuth": angle, "seed": recipe.seed + i} for i, angle in enumerate(recipe.azimuths)]
    return save_sheet(recipe.output, pictures, texts, told, min(COLUMNS, len(pictures)))
