"""What the commands `core2d`, `gen3d` and `genvideo` are built from, and how every one of them ends. No torch here.

A command is a recipe and a function that follows it. Only the recipe is needed to answer `--help` or a wrong argument,
so the function's system is imported when it is called.
"""

import contextlib
import errno
import io
import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from json import dumps
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from core2d import __version__
from core2d.app.devices import peak_memory_gb, pick_device
from core2d.app.errors import InputError
from core2d.app.outputs import plain


class Outcome(NamedTuple):
    """What a command has done.

    Attributes:
        outputs: files that were written.
        metrics: names and values, for the report.
        complaint: what went wrong all the same; it ends the command with one line and exit status 2, after the report.
        status: exit status, where there is no complaint.
    """

    outputs: Sequence[Path]
    metrics: Mapping[str, Any]
    complaint: str = ""
    status: int = 0


Result = Outcome | tuple[Sequence[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Command:
    """A command of a folder: its recipe stands in the folder's `recipe.py`, the work behind it in its `command.py`.

    Attributes:
        package: dotted name of the folder.
        recipe: name of the class.
        function: name of the function, which takes a recipe and gives an `Outcome`, or its first two parts; a folder
            of one command calls it `follow`.
        module: where the function stands, if not in the folder's `command.py`.
    """

    package: str
    recipe: str
    function: str = "follow"
    module: str = ""

    def recipe_type(self) -> type:
        return getattr(import_module(f"{self.package}.recipe"), self.recipe)

    def follow(self, recipe: Any) -> Outcome:
        work: Callable[[Any], Result] = getattr(import_module(self.module or f"{self.package}.command"), self.function)
        return Outcome(*work(recipe))  # pyright: ignore[reportArgumentType]


def run_program(name: str, about: str, commands: Mapping[str, Command], arguments: Sequence[str] | None = None) -> None:
    """Find the command that `arguments` begin with, read its recipe, follow it and report.

    Args:
        name: what the user typed, such as `core2d`.
        about: one line for `--help`.
        commands: by their words, such as `toybox sheet`.
        arguments: without the name of the program; by default those of this process.
    """
    started = time.perf_counter()
    make_streams_safe()
    with main_guard():
        words = list(sys.argv[1:] if arguments is None else arguments)
        if words[:1] == ["--version"]:
            write_line(f"{name} {__version__}")
            return
        command = next((known for known in commands if words[: known.count(" ") + 1] == known.split()), None)
        if command is None:
            answer_without_command(name, about, commands, words)
            return
        recipe_type = commands[command].recipe_type()
        recipe = read_recipe(recipe_type, f"{name} {command}", words[command.count(" ") + 1 :])
        recipe.check()
        if getattr(recipe, "device", "auto") not in ("auto", "cpu"):
            pick_device(recipe.device)  # a device that is not there is refused before anything is loaded
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the report
            outcome = commands[command].follow(recipe)
        report(outcome.outputs, outcome.metrics, getattr(recipe, "seed", None), started, recipe.json)
        if outcome.complaint:
            fail(outcome.complaint)
        if outcome.status:
            raise SystemExit(outcome.status)


def answer_without_command(name: str, about: str, commands: Mapping[str, Command], words: Sequence[str]) -> None:
    """Help for a program or for a group such as `toybox`; anything else is an error."""
    group = [word for word in words if word not in ("-h", "--help")]
    prefix = " ".join(group)
    within = {known: pair for known, pair in commands.items() if not group or known.startswith(f"{prefix} ")}
    if group and not within:
        known = f"its commands are {', '.join(commands)}" if commands else "it has none in this release"
        raise InputError(f"{prefix!r} is no command of {name}: {known}")
    write_line(f"usage: {' '.join([name, *group])} {'COMMAND ... ' if within else ''}[--help]\n\n{about}")
    if within:
        width = max(map(len, within))
        write_line("\ncommands:")
        for known, command in within.items():
            write_line(f"  {known:{width}}  {(command.recipe_type().__doc__ or '').splitlines()[0]}")
        write_line(f"\n`{name} COMMAND --help` tells the options of a command; `{name} --version` its version.")


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


# -- how it ends -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def main_guard() -> Iterator[None]:
    """Turn `InputError` and a full disk into one line and exit status 2, Ctrl-C (and SIGTERM) into status 130."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped job cleans up as on Ctrl-C
    try:
        yield
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt as stop:
        said = (
            f": {stop}; go on with --resume" if stop.args else ""
        )  # the loop says at which step, and where it is saved
        sys.stderr.write(f"interrupted{said}\n")
        raise SystemExit(130) from None
    except Exception as error:
        if not is_disk_full(error):
            raise
        fail("no space is left on the disk: free some and try again (a run goes on with --resume)")
    finally:
        signal.signal(signal.SIGTERM, before)


def is_disk_full(error: Exception) -> bool:
    """Whether a file could not be written for want of space; safetensors and ffmpeg say it in words only."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def fail(message: str) -> NoReturn:
    """Say `error: message` in one line on stderr and leave with exit status 2."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    raise SystemExit(2)


def report(outputs: Sequence[Path], metrics: Mapping[str, Any], seed: int | None, started: float, json: bool) -> None:
    """Say what a command did, on stdout: one JSON object, or a few lines for a person.

    Args:
        outputs: files that were written.
        metrics: names and values.
        seed: the seed of the command, None where it has none.
        started: `time.perf_counter()` when the command began.
        json: one object and nothing else.
    """
    seconds = round(time.perf_counter() - started, 2)
    if json:
        found = {
            "outputs": outputs,
            "metrics": metrics,
            "seconds": seconds,
            "peak_memory_gb": peak_memory_gb(),
            "seed": seed,
        }
        write_line(dumps(plain(found)))
        return
    for name, value in metrics.items():
        write_line(f"{name}: {_for_a_person(value)}")
    for output in outputs:
        write_line(f"wrote {output} ({seconds:.1f} s)")


def _for_a_person(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_for_a_person(entry)}" for name, entry in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_line(line: str) -> None:
    """Say a line on stdout, as long as somebody reads it."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # as of `core2d models | head -1`: what comes after is not wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_streams_safe() -> None:
    """Show letters that a terminal's encoding lacks as their escapes, here and in libraries; let streams be closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
