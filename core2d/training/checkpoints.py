"""Checkpoints that are whole or absent, whenever the process is killed: safetensors, and JSON for the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, remove

KEPT_CHECKPOINTS = 2
STATE = "state.json"


def newest_checkpoint(root: Path) -> Path | None:
    """The complete checkpoint of the highest step under `root`, or None.

    Raises:
        InputError: there is none, but one whose state.json is damaged.
    """
    found = _checkpoints(root)
    newest = next(filter(_complete, reversed(found)), None)
    damaged = [path / STATE for path in found if (path / STATE).exists() and _sizes(path) is None]
    if newest is None and damaged:
        raise InputError(f"{damaged[-1]} is damaged, and there is no other checkpoint: start the run anew")
    return newest


def write_checkpoint(root: Path, step: int, tensors: dict[str, dict[str, Tensor]], facts: dict[str, object]) -> None:
    """Write `root/step-NNNNNN/`, whole or absent whenever the process is killed; then drop the oldest."""
    with atomic_path(root / f"step-{step:06d}") as temporary:
        temporary.mkdir()
        for kind, named in tensors.items():
            ready = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
            save_file(ready, temporary / f"{kind}.safetensors")
        sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
        (temporary / STATE).write_text(json.dumps({**facts, "files": sizes}, indent=1))
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
    _flush(root)
    for old in _checkpoints(root)[:-KEPT_CHECKPOINTS]:
        remove(old)


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """What a complete checkpoint says of itself: step, seconds, recipe and, of a task with several, phases.

    Raises:
        InputError: it is damaged.
    """
    facts = json.loads((checkpoint / STATE).read_text())
    kinds = {"step": int, "seconds": (int, float), "recipe": dict}
    phases = facts.get("phases", [])
    if not all(isinstance(facts.get(name), kind) for name, kind in kinds.items()) or not (
        isinstance(phases, list) and all(isinstance(phase, dict) and "name" in phase for phase in phases)
    ):
        raise InputError(f"{checkpoint / STATE} is damaged: start the run anew")
    return facts


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one kind in a checkpoint.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged: start the run anew") from error


def set_aside(folder: Path) -> None:
    """Move the checkpoints of a run folder, if it has any, to `checkpoints.previous/`: they may be hours of work."""
    checkpoints, previous = folder / "checkpoints", folder / "checkpoints.previous"
    if any(map(_complete, _checkpoints(checkpoints))):
        remove(previous)
        checkpoints.replace(previous)
    remove(checkpoints)  # what is left is damaged


def _checkpoints(root: Path) -> list[Path]:
    """All under `root` that look like one, by their steps."""
    found = (path for path in root.glob("step-*") if path.name.removeprefix("step-").isdecimal())
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _complete(checkpoint: Path) -> bool:
    sizes = _sizes(checkpoint)
    if sizes is None:
        return False
    try:
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except OSError:  # a deletion that was cut short, or a disk that lost a file
        return False


def _sizes(checkpoint: Path) -> dict[str, int] | None:
    """Name -> bytes of the files of a checkpoint; None where nothing there says so."""
    try:
        files = json.loads((checkpoint / STATE).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return files if isinstance(files, dict) and files else None


def _flush(path: Path) -> None:
    """Make a file, or a folder's list of names, survive a power cut."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
