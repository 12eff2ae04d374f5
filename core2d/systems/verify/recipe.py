"""What `core2d verify` is told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from core2d.app.errors import InputError
from core2d.app.registry import resolve


@dataclass(frozen=True, kw_only=True)
class VerifyRecipe:
    """Say what a file of weights is and what loaders would lose of it; exit status 1 if something is lost silently."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A .safetensors, .ckpt, .pth, .pt or .bin file, or a folder of diffusers or peft."""
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """The model that it is for (bundled, a diffusers folder, or a hub id); None finds it by shapes."""
    json: bool = False
    """Print exactly one JSON object on stdout instead of text."""

    def check(self) -> None:
        """Raise `InputError` for the first value that cannot be used."""
        if not self.file.expanduser().exists():
            raise InputError(f"nothing at {self.file}: give a file of weights, or a folder of diffusers")
        if self.model is not None:
            resolve(self.model)
