"""Adapters as commands are told of them: `--lora FILE[@STRENGTH]`, `--image-prompt PICTURE[@SCALE]`.

    prior = with_loras(prior, files_and_strengths("--lora", recipe.lora))
    pipeline, telling = with_image_prompts(pipeline, recipe)
    inputs = digests(lora_files(recipe.lora) | image_prompt_files(recipe))

What is told without torch is read by `core2d.app.recipe.files_and_strengths`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from core2d.adapters.adaptable import Drawing, prior_of
from core2d.adapters.ip_adapter import ImagePrompt, prompted, seen_by
from core2d.adapters.ip_adapter_files import adapter_file, read_ip_adapter
from core2d.adapters.lora import UNET, Lora, LoraAdapter, fuse
from core2d.adapters.lora_files import read_lora
from core2d.app.errors import InputError
from core2d.app.recipe import PromptedRecipe, files_and_strengths
from core2d.app.registry import bundled
from core2d.files.loading import read_json
from core2d.media.pictures import WHITE, read_image
from core2d.prior.backbone import OURS, Backbone
from core2d.prior.base import LatentPrior
from core2d.prior.condition import copy_of
from core2d.prior.image_tower import PART, ImageTower

BLACK = (0, 0, 0)
AnyPrior = TypeVar("AnyPrior", bound=LatentPrior)


def with_loras(prior: AnyPrior, loras: Mapping[Path, float]) -> AnyPrior:
    """The same prior with low-rank changes of its denoiser and of its text encoders; this one stays as it is.

    Args:
        loras: files, in the order in which they are added, and how strongly: 1 is as trained, 0 changes nothing.

    Raises:
        InputError: a file cannot be read, or is of another model: the first key that does not fit is named.
    """
    for file, strength in loras.items():
        lora = read_lora(file)
        with said_of(file):
            prior = with_lora(prior, lora, strength)
    return prior


def with_lora(prior: AnyPrior, lora: Lora, strength: float = 1.0) -> AnyPrior:
    """The same of a LoRA that has been read."""
    if not isinstance(prior, Backbone):  # which has no words, and so nothing that could be changed beside its denoiser
        return prior.with_adapters(LoraAdapter(lora, strength))
    words = Lora({part: layers for part, layers in lora.parts.items() if part != UNET})
    encoders = {part: copy_of(prior.family.parts[part]) for part in words.parts if part in prior.family.models}
    fuse(encoders, words, strength)
    adapters = [LoraAdapter(Lora({UNET: lora.unet}), strength)] if lora.unet else []
    return prior.with_text_encoders(**encoders).with_adapters(*adapters)  # pyright: ignore[reportReturnType]


@contextmanager
def said_of(file: Path | str) -> Iterator[None]:
    """Say of which of several files it is that something does not fit."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def lora_files(said: Iterable[str]) -> dict[str, Path]:
    """What results depend on, by name: the files of `--lora`."""
    return {f"lora {file}": file for file in files_and_strengths("--lora", said)}


def with_image_prompts(drawing: Drawing, recipe: PromptedRecipe) -> tuple[Drawing, dict[str, Tensor]]:
    """The same prior or pipeline with the image prompts of a recipe, and what it is to be told by `telling`.

    Raises:
        InputError: a picture, a mask, the adapter or its image tower cannot be read, or they do not fit together.
    """
    pictures = recipe.image_prompts
    if not pictures:
        return drawing, {}
    prior, file = prior_of(drawing), adapter_file(recipe.ip_adapter)
    shown = [(_pixels(picture, WHITE), scale) for picture, scale in pictures.items()]
    masks = [read_mask(mask) for mask in recipe.image_prompt_mask] or [None] * len(shown)
    model = read_ip_adapter(file).model
    with said_of(file):
        tower, prompts = tower_of(file, prior).to(prior.device), []
        for (picture, scale), mask in zip(shown, masks, strict=True):
            seen, nothing = seen_by(model, tower, picture)
            prompts.append(ImagePrompt(model, seen, scale, mask, nothing))
        return prompted(drawing, prompts)


def tower_of(adapter: Path, prior: LatentPrior) -> ImageTower:
    """The image tower that belongs to the file of an adapter: see `tower_folder`, or else the model's own.

    Raises:
        InputError: there is none.
    """
    folder, own = tower_folder(adapter), getattr(prior, "image_encoder", None)
    if folder is not None:
        return ImageTower.load(folder)
    if own is None:
        raise InputError(f"no image tower reads pictures for it: put its folder {PART} beside it")
    return ImageTower(own)


def tower_folder(adapter: Path) -> Path | None:
    """Where the image tower of an adapter lies: the bundled one that its folder names, or the one beside it.

    Raises:
        InputError: its folder names one that is not there.
    """
    said = read_json(adapter.parent / OURS).get(PART) if (adapter.parent / OURS).is_file() else None
    if said is None:
        return adapter.parent / PART if (adapter.parent / PART).is_dir() else None
    if said not in list(bundled()):
        raise InputError(f"{adapter.parent / OURS} names the image tower {said!r}: only bundled models can be named")
    beside = adapter.resolve().parent.parent / said  # where a family lies elsewhere
    return beside if beside.is_dir() else bundled()[said]


def read_mask(path: Path) -> Tensor:
    """(1, 1, H, W) of a picture file: 1 where it is brighter than half, 0 elsewhere.

    Raises:
        InputError: it cannot be read, or is white nowhere.
    """
    mask = (_pixels(path, BLACK).mean(1, keepdim=True) > 0.5).float()
    if not mask.any():
        raise InputError(f"{path} is white nowhere: an image prompt would count nowhere")
    return mask


def _pixels(path: Path, background: tuple[int, int, int]) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(read_image(path.expanduser(), background)).permute(2, 0, 1)[None].float() / 255


def image_prompt_files(recipe: PromptedRecipe) -> dict[str, Path]:
    """What results depend on, by name: pictures, masks, and what hears them."""
    pictures = recipe.image_prompts
    if not pictures:
        return {}
    file = adapter_file(recipe.ip_adapter)
    tower = tower_folder(file)
    found = {"ip adapter": file} if tower is None else {"ip adapter": file, "image tower": tower}
    found |= {f"image prompt {number}": picture for number, picture in enumerate(pictures)}
    return found | {f"image prompt mask {n}": mask.expanduser() for n, mask in enumerate(recipe.image_prompt_mask)}
