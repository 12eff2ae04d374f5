"""The command `genvideo`."""

from collections.abc import Sequence
from typing import Any

from core2d.cli import Command, Result, run_program


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `genvideo` with `arguments` (those of the process by default)."""
    from genvideo import recipes

    commands: dict[str, Command] = {"text-to-video": (recipes.TextToVideoRecipe, text_to_video)}
    run_program("genvideo", "The 2D diffusion prior of core2d, lifted into time.", commands, arguments)


def text_to_video(recipe: Any) -> Result:
    from genvideo.text_to_video import run

    return run(recipe)
