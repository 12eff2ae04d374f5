"""The command `gen3d`."""

from collections.abc import Sequence
from typing import Any

from core2d.cli import Command, Result, run_program


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `gen3d` with `arguments` (those of the process by default)."""
    from gen3d import recipes

    commands: dict[str, Command] = {"text-to-mesh": (recipes.TextToMeshRecipe, text_to_mesh)}
    about = "The 2D diffusion prior of core2d, lifted into space."
    run_program("gen3d", about, commands, arguments)


def text_to_mesh(recipe: Any) -> Result:
    from gen3d.text_to_mesh import run

    return run(recipe)
