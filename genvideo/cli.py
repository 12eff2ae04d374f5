"""The command `genvideo`."""

from collections.abc import Sequence

from core2d.cli import run_program


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `genvideo` with `arguments` (those of the process by default)."""
    about = "The 2D diffusion prior of core2d, lifted into time. This release brings no commands for it."
    run_program("genvideo", about, {}, arguments)
