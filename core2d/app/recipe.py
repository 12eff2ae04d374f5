"""What each command of `core2d` can be asked for: frozen dataclasses, whose docstrings become `--help`.

Nothing here imports torch, so that `--help` and wrong arguments are answered at once. `check()` refuses
what can be refused without loading a model or asking for a device; every system calls it first.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.app.errors import InputError

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
