"""What each command of `core2d` can be asked for: frozen dataclasses, whose docstrings become `--help`.

Nothing here imports torch, so that `--help` and wrong arguments are answered at once. `check()` refuses
what can be refused without loading a model or asking for a device; every system calls it first.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.errors import InputError
from core2d.models import resolve
from core2d.run import IMAGE_SUFFIXES, check_output

LONGEST_PROMPT = 1000  # characters; no text encoder that we know reads as much

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Prompts = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT...", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every command that computes something has."""

    seed: int = 0
    """Where all randomness starts: the same seed gives the same result."""
    device: str = "auto"
    """auto (a GPU when there is one), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the computation."""
    json: bool = False
    """Print exactly one JSON object on stdout instead of text."""

    def check(self) -> None:
        """Raise `InputError` for the first value that cannot be used."""
        check_between("--seed", self.seed, 0, 2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class TextToImageRecipe(Recipe):
    """Draw images from text with a diffusion prior."""

    prompts: Prompts
    """What to draw. Several images make a sheet; the single ones lie in a folder beside it (out/000.png, ...)."""
    output: Output
    """Image to write: .png, .jpg or .webp."""
    model: str = "toybox-sd"
    """A bundled model (see `core2d models`), a diffusers folder, or a hub id in the local cache."""
    steps: int = 25
    """Denoising steps."""
    cfg: float = 5.0
    """Classifier-free guidance scale: 1 follows the prompt freely, more follows it closely."""
    negative_prompt: str = ""
    """What the images should not show."""
    num_images: int = 1
    """Images for each prompt: those of one prompt stand in one row."""
    scheduler: Literal["ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc"] | None = None
    """How the noise is taken away step by step; None takes the scheduler of the model's folder."""

    def check(self) -> None:
        super().check()
        if not self.prompts:
            raise InputError('no prompt: give at least one, such as "a red mug"')
        for prompt in self.prompts:
            check_prompt(prompt)
        check_prompt_length(self.negative_prompt)
        check_between("--steps", self.steps, 1, 1000)
        check_between("--cfg", self.cfg, 0, 100)
        check_between("--num-images", self.num_images, 1, 1024)
        check_output(self.output, IMAGE_SUFFIXES)
        resolve(self.model)


@dataclass(frozen=True, kw_only=True)
class ToyboxRecipe(Recipe):
    """What the commands of the Toybox share."""

    output: Output
    """File to write."""
    kind: Literal["object", "doll"] = "object"
    """Objects, or the jointed doll."""
    size: int = 64
    """Height and width of one picture in pixels."""

    def check(self) -> None:
        super().check()
        check_between("--size", self.size, 16, 1024)
        if self.dtype != "float32":
            raise InputError(f"--dtype {self.dtype}: the Toybox renders in float32 only")
        if self.device not in ("auto", "cpu"):
            raise InputError(f"--device {self.device}: the Toybox renders on the CPU only")


@dataclass(frozen=True, kw_only=True)
class ToyboxSampleRecipe(ToyboxRecipe):
    """Draw one sample of the Toybox and print its caption."""

    output: Output
    """Image to write: .png, .jpg or .webp."""
    index: int = 0
    """Which sample of the seed."""

    def check(self) -> None:
        super().check()
        check_between("--index", self.index, 0, 2**31 - 1)
        check_output(self.output, IMAGE_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class ToyboxSheetRecipe(ToyboxRecipe):
    """Draw a sheet of Toybox samples: what the world looks like."""

    output: Output
    """Image to write: .png, .jpg or .webp."""
    rows: int = 8
    """Rows of the sheet."""
    columns: int = 12
    """Samples in a row."""

    def check(self) -> None:
        super().check()
        check_between("--rows", self.rows, 1, 64)
        check_between("--columns", self.columns, 1, 64)
        check_output(self.output, IMAGE_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class ToyboxClipRecipe(ToyboxRecipe):
    """Film one motion of the Toybox and print its caption."""

    output: Output
    """Video to write: .mp4."""
    index: int = 0
    """Which clip of the seed."""
    frames: int = 16
    """Frames of the clip."""
    fps: int = 8
    """Frames a second."""

    def check(self) -> None:
        super().check()
        check_between("--index", self.index, 0, 2**31 - 1)
        check_between("--frames", self.frames, 1, 1000)
        check_between("--fps", self.fps, 1, 120)
        check_output(self.output, (".mp4",))


@dataclass(frozen=True, kw_only=True)
class ModelsRecipe:
    """List the bundled models, with their size on disk and the title of their card."""

    json: bool = False
    """Print exactly one JSON object on stdout instead of text."""

    def check(self) -> None:
        """Nothing can be wrong."""


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Raise `InputError` unless `low <= value <= high` (not a number is neither)."""
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(f"{name} {value}: give a number from {low} to {high}")


def check_prompt(prompt: str, example: str = "a red mug") -> None:
    """Raise `InputError` for a prompt that is empty or endless."""
    if not prompt.strip():
        raise InputError(f'a prompt is empty: say what to make, such as "{example}"')
    check_prompt_length(prompt)


def check_prompt_length(prompt: str) -> None:
    """Raise `InputError` for a prompt that no text encoder reads to its end."""
    if len(prompt) > LONGEST_PROMPT:
        raise InputError(f"a prompt has {len(prompt)} characters: the limit is {LONGEST_PROMPT}")


def read_prompts(path: Path) -> list[str]:
    """The prompts in a text file, one a line, without empty lines and comments.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InputError(f"cannot read the prompts in {path}: {reason}") from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"{path} holds no prompt: write one a line")
    return prompts
