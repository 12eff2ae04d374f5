"""Adapters as commands are told of them: `--lora FILE[@STRENGTH]`.

    prior = with_loras(prior, files_and_strengths("--lora", recipe.lora))
    inputs = digests(lora_files(recipe.lora))

What is told without torch is read by `core2d.app.recipe.files_and_strengths`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from core2d.adapters.lora import UNET, Lora, LoraAdapter, fuse
from core2d.adapters.lora_files import read_lora
from core2d.app.errors import InputError
from core2d.app.recipe import files_and_strengths
from core2d.prior.backbone import Backbone
from core2d.prior.base import LatentPrior
from core2d.prior.condition import copy_of

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
