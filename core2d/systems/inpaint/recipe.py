"""What `core2d inpaint` and `core2d outpaint` are told. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, check_output
from core2d.app.recipe import DrawingRecipe, Loras, Output, check_between, files_and_strengths
from core2d.app.registry import resolve

LOSSY = (".jpg", ".jpeg")
WIDEST = 400  # per cent of a picture, or
LARGEST = 64_000_000  # pixels, as of pictures that are read


@dataclass(frozen=True, kw_only=True)
class PaintRecipe(DrawingRecipe):
    """What is told of both commands."""

    picture: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE")]
    """A picture of any size."""
    output: Output
    """Image to write: .png or .webp, which lose nothing; of several a sheet, and a folder of the single ones."""
    strength: float = 1.0
    """How much is drawn anew: 1 begins with noise, less with what is there, under as much noise."""
    context: float = 0.5
    """How much of the picture around what is drawn the model is shown, in lengths of what is drawn."""
    feather: float | None = None
    """Pixels over which the drawing is fitted to the colours beside it; None takes what suits the size, 0 fits none."""
    lora: Loras = ()
    """LoRAs to add, such as style.safetensors@0.8; a strength of 1 where none is named."""

    def check(self) -> None:
        super().check()
        check_between("--strength", self.strength, 0, 1)
        if int(self.steps * self.strength) < 1:
            raise InputError(f"--strength {self.strength} of --steps {self.steps} leaves no step: give more of either")
        check_between("--context", self.context, 0, 100)
        if self.feather is not None:
            check_between("--feather", self.feather, 0, 1000)
        files_and_strengths("--lora", self.lora)
        if self.output.suffix.lower() in LOSSY:
            raise InputError(f"cannot write {self.output}: JPEG would change pixels that stay; name a .png or .webp")
        check_output(self.output, [suffix for suffix in IMAGE_SUFFIXES if suffix not in LOSSY])
        resolve(self.model)
        if not self.picture.expanduser().is_file():
            raise InputError(f"no picture at {self.picture}")


@dataclass(frozen=True, kw_only=True)
class InpaintRecipe(PaintRecipe):
    """Draw a part of a picture anew; the rest stays as it is, to the byte."""

    mask: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MASK")]
    """A picture of the same size: white where is drawn, black where the picture stays."""
    prompt: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")]
    """What the whole picture is to show."""

    def check(self) -> None:
        super().check()
        self.check_words(self.prompt)
        if not self.mask.expanduser().is_file():
            raise InputError(f"no mask at {self.mask}: give a picture, white where is drawn")


@dataclass(frozen=True, kw_only=True)
class OutpaintRecipe(PaintRecipe):
    """Draw a picture on beyond its edges; the picture itself stays as it is, to the byte."""

    prompt: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")]
    """What the wider picture is to show."""
    left: str = "0"
    """How much wider to the left: pixels, such as 32, or a share of the picture's width, such as 25%."""
    right: str = "0"
    """How much wider to the right."""
    top: str = "0"
    """How much higher above: pixels, or a share of the picture's height."""
    bottom: str = "0"
    """How much higher below."""

    def check(self) -> None:
        super().check()
        self.check_words(self.prompt)
        if not any(self.wider(1000, 1000)):
            raise InputError("nothing to draw: say how much wider, such as --left 32 or --right 25%")

    def wider(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Pixels to the left, to the right, above and below of a picture of this size.

        Raises:
            InputError: no such number, or a canvas that is too large.
        """
        said = (("--left", self.left, width), ("--right", self.right, width),
                ("--top", self.top, height), ("--bottom", self.bottom, height))  # fmt: skip
        left, right, top, bottom = (_pixels(*one) for one in said)
        if (width + left + right) * (height + top + bottom) > LARGEST:
            raise InputError(f"a canvas of {width + left + right} x {height + top + bottom} pixels is too large: "
                             "at most 64 million")  # fmt: skip
        return left, right, top, bottom


def _pixels(option: str, said: str, length: int) -> int:
    """Of 32 or 25%, for a picture of this length."""
    found = re.fullmatch(r"([0-9]{1,8}(?:\.[0-9]{1,8})?)(%?)", said.strip())
    if not found or (not found[2] and "." in found[1]):
        raise InputError(f"{option} {said}: give pixels such as 32, or a share such as 25%")
    if not found[2]:
        return int(found[1])
    check_between(f"{option} in per cent", float(found[1]), 0, WIDEST)
    return round(float(found[1]) / 100 * length)
