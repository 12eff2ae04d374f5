"""The ground that every command stands on: outputs that are whole or absent, run folders, one report.

Imports nothing heavy: torch comes in when it is needed.
"""

import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core2d.app.errors import InputError
from core2d.app.outputs import plain, write_json
from core2d.app.provenance import machine, sha256, versions

if TYPE_CHECKING:
    pass


# -- outputs: whole or absent --------------------------------------------------------------------------


# -- run folders ---------------------------------------------------------------------------------------


def run_folder(output: str | Path) -> Path:
    """The run folder that belongs to an output: `a/mug.glb` has `a/mug.run`."""
    return Path(output).with_suffix(".run")


def start_run(folder: str | Path, recipe: Any, inputs: Iterable[str | Path] = ()) -> Path:
    """Make a run folder, or take over the one of an earlier run, and write its `run.json`.

    The manifest tells how a result came to be: command, recipe, versions, machine, seed, hashes of the
    inputs. `core2d.training.loop.train` keeps its log and checkpoints in the same folder.

    Args:
        folder: where, usually `run_folder(output)`.
        recipe: a dataclass.
        inputs: files that the result depends on.

    Raises:
        InputError: something that is not a run is in the way.
    """
    folder = Path(folder)
    if folder.exists():
        read_run(folder)  # raises unless it is one of ours: never write into what is not
    write_json(folder / "run.json", describe_run(recipe, inputs))
    return folder


def read_run(folder: str | Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        InputError: `folder` is not a run.
    """
    try:
        return loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is not a run folder: it has no readable run.json") from error


def describe_run(recipe: Any, inputs: Iterable[str | Path] = ()) -> dict[str, Any]:
    """What `run.json` holds, and what benchmarks write beside their numbers."""
    if not is_dataclass(recipe) or isinstance(recipe, type):
        raise ValueError(f"a recipe is an instance of a dataclass, not {recipe!r}")
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "recipe": {"name": type(recipe).__name__, **plain(asdict(recipe))},
        "seed": getattr(recipe, "seed", None),
        "versions": versions(),
        "machine": machine(),
        "inputs": {Path(path).name: sha256(path) for path in inputs},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


# -- commands ------------------------------------------------------------------------------------------


# -- devices -------------------------------------------------------------------------------------------
