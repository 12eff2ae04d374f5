"""The command `core2d`, and the few lines that `gen3d` and `genvideo` build theirs from.

A command is a recipe and a function that follows it. Only the recipe is needed to answer `--help` or a
wrong argument, so the function imports its system when it is called.
"""

import contextlib
import io
import itertools
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core2d import __version__
from core2d.errors import InputError
from core2d.run import fail, main_guard, pick_device, report

Result = tuple[Sequence[Path], Mapping[str, Any]]
Command = tuple[type, Callable[[Any], Result]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `core2d` with `arguments` (those of the process by default)."""
    from core2d import recipes

    commands: dict[str, Command] = {
        "text-to-image": (recipes.TextToImageRecipe, text_to_image),
        "models": (recipes.ModelsRecipe, models),
        "toybox sheet": (recipes.ToyboxSheetRecipe, toybox_sheet),
        "toybox sample": (recipes.ToyboxSampleRecipe, toybox_sample),
        "toybox clip": (recipes.ToyboxClipRecipe, toybox_clip),
    }
    about = "A 2D latent diffusion prior, and the small world that it learned from."
    run_program("core2d", about, commands, arguments)


def text_to_image(recipe: Any) -> Result:
    from core2d.text_to_image import run

    return run(recipe)


def toybox_sheet(recipe: Any) -> Result:
    from core2d.toybox.commands import sheet

    return sheet(recipe)


def toybox_sample(recipe: Any) -> Result:
    from core2d.toybox.commands import sample

    return sample(recipe)


def toybox_clip(recipe: Any) -> Result:
    from core2d.toybox.commands import clip

    return clip(recipe)


def models(recipe: Any) -> Result:
    """Size on disk and card title of every bundled model."""
    from core2d.models import bundled

    return [], {name: describe_model(folder) for name, folder in sorted(bundled().items())}


def describe_model(folder: Path) -> dict[str, Any]:
    """Megabytes (1e6 bytes) in `folder`, and the first line of its card that is text."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    card = (folder / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)  # without the hub's front matter
    title = next((line.strip("# ") for line in text.splitlines() if line.strip("# ")), "")
    return {"megabytes": round(size / 1e6, 2), "card": title}


# -- any program ---------------------------------------------------------------------------------------


def run_program(name: str, about: str, commands: Mapping[str, Command], arguments: Sequence[str] | None = None) -> None:
    """Find the command that `arguments` begin with, read its recipe, follow it and report.

    Args:
        name: what the user typed, such as `core2d`.
        about: one line for `--help`.
        commands: from the words of a command, such as `toybox sheet`, to its recipe and function.
        arguments: without the name of the program; by default those of this process.
    """
    started = time.perf_counter()
    with main_guard():
        words = list(sys.argv[1:] if arguments is None else arguments)
        if words[:1] == ["--version"]:
            print(f"{name} {__version__}")
            return
        command = next((known for known in commands if words[: known.count(" ") + 1] == known.split()), None)
        if command is None:
            answer_without_command(name, about, commands, words)
            return
        recipe_type, follow = commands[command]
        recipe = read_recipe(recipe_type, f"{name} {command}", words[command.count(" ") + 1 :])
        recipe.check()
        if getattr(recipe, "device", "auto") not in ("auto", "cpu"):
            pick_device(recipe.device)  # a device that is not there is refused before anything is loaded
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the report
            outputs, metrics = follow(recipe)
        report(outputs, metrics, getattr(recipe, "seed", None), started, recipe.json)


def answer_without_command(name: str, about: str, commands: Mapping[str, Command], words: Sequence[str]) -> None:
    """Help for a program or for a group such as `toybox`; anything else is an error."""
    group = [word for word in words if word not in ("-h", "--help")]
    prefix = " ".join(group)
    within = {known: pair for known, pair in commands.items() if not group or known.startswith(f"{prefix} ")}
    if group and not within:
        known = f"its commands are {', '.join(commands)}" if commands else "it has none in this release"
        raise InputError(f"{prefix!r} is no command of {name}: {known}")
    print(f"usage: {' '.join([name, *group])} {'COMMAND ... ' if within else ''}[--help]\n\n{about}")
    if within:
        width = max(map(len, within))
        print("\ncommands:")
        for known, (recipe_type, _) in within.items():
            print(f"  {known:{width}}  {(recipe_type.__doc__ or '').splitlines()[0]}")
        print(f"\n`{name} COMMAND --help` tells the options of a command; `{name} --version` its version.")


def read_recipe(recipe_type: type, program: str, words: Sequence[str]) -> Any:
    """Build a recipe from command-line words; a wrong word ends the program with one line on stderr."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(recipe_type, prog=program, args=words, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as leaving:
        if not leaving.code:
            raise  # --help
        fail(f"{first_complaint(said.getvalue())} (see {program} --help)")


def first_complaint(box: str) -> str:
    """The sentence in tyro's error box: what stands between its title and the next rule."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)  # without colours
    lines = [line.strip("│ ") for line in text.splitlines()]
    title, *rest = [line for line in lines if line] or [""]
    below = itertools.dropwhile(_is_rule, rest)
    return " ".join(itertools.takewhile(lambda line: not _is_rule(line), below)) or title


def _is_rule(line: str) -> bool:
    return not line.strip("─-╭╮╰╯")
