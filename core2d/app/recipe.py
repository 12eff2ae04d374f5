"""What each command of `core2d` can be asked for: frozen dataclasses, whose docstrings become `--help`.

Nothing here imports torch, so that `--help` and wrong arguments are answered at once. `check()` refuses
what can be refused without loading a model or asking for a device; every system calls it first.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.app.errors import InputError
from core2d.app.registry import bundled

LONGEST_PROMPT = 1000  # characters; no text encoder that we know reads as much
STRONGEST = 100  # that a LoRA is added; beyond 2 or so pictures fall apart
LOUDEST = 10  # that an image prompt counts, as `core2d.adapters.ip_adapter` has it

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
OptionalOutput = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
ImagePrompts = Annotated[tuple[str, ...], tyro.conf.arg(metavar="PICTURE[@SCALE]")]
Masks = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="MASK")]
Loras = Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE[@STRENGTH]")]
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
class PromptedRecipe(Recipe):
    """What every command has that can be told in pictures what to make."""

    image_prompt: ImagePrompts = ()
    """Pictures that say what to make, such as mug.png@0.6 (IP-Adapter); a scale of 1 where none is named. Beside them
    the prompt may be empty ("")."""
    image_prompt_mask: Masks = ()
    """Where each of them counts: one picture each, in their order, white where it does."""
    ip_adapter: str = "toybox-ip-adapter"
    """What hears them: a bundled name, a folder, or a file such as ip-adapter_sd15.safetensors, with the folder
    image_encoder beside it."""

    def check(self) -> None:
        super().check()
        pictures = self.image_prompts
        for picture, scale in pictures.items():
            check_between(f"--image-prompt {picture}, its scale", scale, 0, LOUDEST)
        if self.image_prompt_mask and len(self.image_prompt_mask) != len(pictures):
            counts = f"{len(self.image_prompt_mask)} masks for {len(pictures)} image prompts"
            raise InputError(f"{counts}: give one for each, or none")
        for mask in self.image_prompt_mask:
            if not mask.expanduser().is_file():
                raise InputError(f"--image-prompt-mask {mask}: no such file")
        if self.ip_adapter != PromptedRecipe.ip_adapter and not pictures:
            raise InputError("--ip-adapter needs a picture to hear: give --image-prompt")
        if pictures and self.ip_adapter not in bundled() and not Path(self.ip_adapter).expanduser().exists():
            raise InputError(f"no IP-Adapter at {self.ip_adapter}: name a file or a folder by --ip-adapter")

    def check_words(self, prompt: str, example: str = "a red mug") -> None:
        """As `check_prompt`; beside an image prompt none is needed."""
        if self.image_prompt and not prompt.strip():
            return
        check_prompt(prompt, example)

    @property
    def image_prompts(self) -> dict[Path, float]:
        """The pictures of --image-prompt and their scales; InputError where one is not there, or no number."""
        return files_and_strengths("--image-prompt", self.image_prompt)


@dataclass(frozen=True, kw_only=True)
class DrawingRecipe(PromptedRecipe):
    """What every command that draws single pictures from words has."""

    model: str = "toybox-sd"
    """A bundled model (see `core2d models`), a diffusers folder, or a hub id in the local cache."""
    steps: int = 25
    """Denoising steps."""
    cfg: float = 5.0
    """Classifier-free guidance scale: 1 follows the prompt freely, more follows it closely."""
    negative_prompt: str = ""
    """What the images should not show."""
    num_images: int = 1
    """Images for each prompt, from this seed on: those of one prompt stand in one row."""
    scheduler: Literal["ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc"] | None = None
    """How the noise is taken away step by step; None takes the scheduler of the model's folder."""

    def check(self) -> None:
        super().check()
        check_prompt_length(self.negative_prompt)
        check_between("--steps", self.steps, 1, 1000)
        check_between("--cfg", self.cfg, 0, 100)
        check_between("--num-images", self.num_images, 1, 1024)


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
    """Raise `InputError` for a prompt that no text encoder reads to its end, or that is no text."""
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # how Python hands over bytes that it cannot decode
        raise InputError("a prompt is no text in the encoding of this terminal: use UTF-8, such as with LC_ALL=C.UTF-8")
    if len(prompt) > LONGEST_PROMPT:
        raise InputError(f"a prompt has {len(prompt)} characters: the limit is {LONGEST_PROMPT}")


def file_and_strength(option: str, said: str) -> tuple[Path, float]:
    """The file or folder of FILE or FILE@STRENGTH, and its strength, 1 if none is named; the whole name is tried first.

    Raises:
        InputError: there is no file, or the strength is no number from -100 to 100.
    """
    name, at, strength = said.rpartition("@")
    if not at or _is_there(Path(said).expanduser()):
        name, strength = said, "1"
    is_number = re.fullmatch(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)", strength)
    file = Path(name).expanduser()
    if not _is_there(file):
        raise InputError(f"{option} {name if is_number else said}: no such file")
    if not is_number or abs(float(strength)) > STRONGEST:
        raise InputError(f"{option} {said}: give a file, or FILE@STRENGTH such as {name}@0.8, up to {STRONGEST}")
    return file, float(strength)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except OSError:  # a name that is too long for the file system
        return False


def files_and_strengths(option: str, said: Iterable[str]) -> dict[Path, float]:
    """The same of several, in their order; InputError also where a file is given twice."""
    found: dict[Path, float] = {}
    for one in said:
        file, strength = file_and_strength(option, one)
        if file in found:
            raise InputError(f"{option} {one}: it is given twice")
        found[file] = strength
    return found


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
