"""The command `genvideo`."""

from collections.abc import Sequence

from core2d.app.program import Command, run_program

COMMANDS = {
    "text-to-video": Command("genvideo.animatediff", "TextToVideoRecipe"),
    "pose": Command("genvideo.pose", "PoseRecipe"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `genvideo` with `arguments` (those of the process by default)."""
    run_program("genvideo", "The 2D diffusion prior of core2d, lifted into time.", COMMANDS, arguments)


if __name__ == "__main__":
    main()
