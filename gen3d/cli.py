"""The command `gen3d`."""

from collections.abc import Sequence

from core2d.cli import run_program


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `gen3d` with `arguments` (those of the process by default)."""
    about = "The 2D diffusion prior of core2d, lifted into space. This release brings no commands for it."
    run_program("gen3d", about, {}, arguments)
