"""The work behind `core2d lora train`, `core2d dreambooth` and `core2d lora fuse`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from core2d.adapters.lora import lora_of
from core2d.adapters.lora_files import write_lora
from core2d.adapters.lora_learning import NAME, low_rank
from core2d.adapters.options import with_loras
from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, remove
from core2d.app.provenance import digests
from core2d.app.recipe import files_and_strengths
from core2d.app.registry import resolve
from core2d.app.runs import check_free, check_inputs, read_run, recipe_of_run, run_folder, start_run, working_in
from core2d.prior.backbone import Backbone
from core2d.systems.dreambooth.pictures import read_subject, subject_files
from core2d.systems.dreambooth.recipe import DreamBoothRecipe, LoraFuseRecipe, LoraTrainRecipe, SubjectRecipe
from core2d.systems.dreambooth.task import DreamBoothTask, drawn, encoded, whole_copy
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.training.checkpoints import set_aside
from core2d.training.loop import TrainingRecipe, TrainingResult, train

Result = tuple[list[Path], Mapping[str, Any]]

LATENTS = "latents.safetensors"  # in a run folder: what it learns from
DRAWING_STEPS = 25  # of `TextToImage`


def train_lora(recipe: LoraTrainRecipe) -> Result:
    """Follow `core2d lora train`."""
    return _follow(recipe)


def dreambooth(recipe: DreamBoothRecipe) -> Result:
    """Follow `core2d dreambooth`."""
    return _follow(recipe)


def fuse_loras(recipe: LoraFuseRecipe) -> Result:
    """Follow `core2d lora fuse`."""
    recipe.check()
    base = Backbone.load(recipe.model, pick_device(recipe.device))
    prior = with_loras(base, files_and_strengths("LoRA", recipe.lora))
    TextToImage(prior).save_pretrained(recipe.output, pick_dtype(recipe.dtype))
    return [recipe.output], {"loras": len(recipe.lora)}


# -- a training, begun or gone on with -----------------------------------------------------------------------------


def _follow(recipe: SubjectRecipe) -> Result:
    recipe.check()
    if recipe.resume is not None:
        return _go_on(recipe, recipe.resume)
    assert recipe.output is not None
    run = run_folder(recipe.output)
    check_free(run)
    files = digests({"model": resolve(recipe.model), **_files_of(recipe.folder)})
    prior = Backbone.load(recipe.model, pick_device(recipe.device))
    prior.encode_text(list(_called(recipe)))  # that a name is too long is said before anything is done
    pictures = read_subject(recipe.folder, prior.image_size, recipe.flip)
    with working_in(run):
        set_aside(run)
        for earlier in (LATENTS, "previews"):  # of another run, which this one may not be taken for
            remove(run / earlier)
        start_run(run, recipe, files)
        sys.stderr.write(f'{len(pictures)} pictures of "{recipe.subject}"\n')
        _save_latents(run, encoded(prior, pictures), _draw_kept(prior, recipe))
        return _learn(recipe, prior, run)


def _go_on(given: SubjectRecipe, run: Path) -> Result:
    """Take a run from where it stopped to its output, which lies beside it."""
    with working_in(run, resume=True):
        saved: Any = recipe_of_run(run, type(given))
        beside = run if run.name not in ("", "..") else run.resolve()
        output = beside.parent / saved.output.name
        minutes = saved.minutes if given.minutes is None else given.minutes
        recipe = replace(saved, resume=None, json=given.json, output=output, minutes=minutes, device=given.device)
        recipe.check_work()
        pictures = [name for name in read_run(run).get("inputs", {}) if name != "model"]  # which the run has as latents
        check_inputs(run, digests({"model": resolve(recipe.model)}), own=pictures)
        return _learn(recipe, Backbone.load(recipe.model, pick_device(recipe.device)), run, resume=True)


def _learn(recipe: SubjectRecipe, prior: Backbone, run: Path, resume: bool = False) -> Result:
    """Train in a run folder that `working_in` keeps, and write what was learned."""
    subject, kept = _read_latents(run)
    if isinstance(recipe, LoraTrainRecipe):
        tuned, layers = low_rank(prior, recipe.rank, recipe.layers_of(prior.world), recipe.seed)
    else:
        tuned, layers = whole_copy(prior)
    called, output = _called(recipe), recipe.output
    assert output is not None
    told = prior.encode_text([called[0], *recipe.kept(prior.world)])
    task = DreamBoothTask(layers, tuned, subject, kept, told, recipe.preservation, called, seed=recipe.seed)
    result = _trained(task, recipe.training(prior.world), run, resume, prior.device)
    layers.load_state_dict(result.ema)
    if isinstance(recipe, LoraTrainRecipe):
        write_lora(output, lora_of(tuned.denoiser, NAME), recipe.style)
    else:
        TextToImage(tuned).save_pretrained(output)
    metrics = {"pictures": len(subject), "kept": len(kept), "steps": result.step,
               "seconds_of_training": round(result.seconds, 1)}  # fmt: skip
    return [output], metrics


def _trained(
    task: DreamBoothTask, recipe: TrainingRecipe, run: Path, resume: bool, device: torch.device
) -> TrainingResult:
    try:
        return train(task, recipe, run, resume=resume, device=device)
    except FloatingPointError as error:
        raise InputError(f"the training diverged: {error}; try a lower --learning-rate") from error


# -- what it learns from -------------------------------------------------------------------------------------------


def _files_of(folder: Path) -> dict[str, Path]:
    """Every picture and mask, by name."""
    pictures = subject_files(folder)
    files = [*pictures, *(mask for mask in pictures.values() if mask is not None)]
    return {f"picture {file.relative_to(folder).as_posix()}": file for file in files}


def _called(recipe: SubjectRecipe) -> tuple[str, ...]:
    """The names of the subject and, where the prior is preserved, of its kind."""
    return (recipe.subject, recipe.called_kind) if recipe.preservation else (recipe.subject,)


def _draw_kept(prior: Backbone, recipe: SubjectRecipe) -> Tensor:
    prompts = recipe.kept(prior.world)
    if not prompts:
        side = prior.latent_size
        return torch.zeros(0, prior.latent_channels, side, side)
    others = len(prompts) - recipe.kind_pictures
    and_others = f" and {others} of other prompts" if others else ""
    said = f'drawing {recipe.kind_pictures} pictures of "{recipe.called_kind}"{and_others}, to stay with'
    sys.stderr.write(f"{said}\n")
    with tqdm(total=len(prompts) * DRAWING_STEPS, unit="step", desc="as before", disable=None, leave=False) as bar:

        def advance(pictures: int) -> None:
            bar.update(pictures)

        return drawn(prior, prompts, recipe.seed, advance)


def _save_latents(run: Path, subject: Tensor, kept: Tensor) -> None:
    with atomic_path(run / LATENTS) as temporary:
        save_file({"subject": subject.contiguous(), "kept": kept.contiguous()}, temporary)


def _read_latents(run: Path) -> tuple[Tensor, Tensor]:
    try:
        found = load_file(run / LATENTS)
        return found["subject"], found["kept"]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{run / LATENTS} is missing or damaged: start the run anew") from error
