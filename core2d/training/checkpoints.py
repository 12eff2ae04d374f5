"""Checkpoints that are whole or absent, whenever the process is killed: safetensors, and JSON for the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from core2d.app.outputs import atomic_path, remove

KEPT_CHECKPOINTS = 2


def newest_checkpoint(root: Path) -> Path | None:
    """The complete checkpoint of the highest step under `root`, or None."""
    return max(filter(_complete, root.glob("step-*")), key=_step_of, default=None)


def write_checkpoint(root: Path, step: int, tensors: dict[str, dict[str, Tensor]], facts: dict[str, object]) -> None:
    """Write `root/step-NNNNNN/`, whole or absent whenever the process is killed; then drop the oldest."""
    with atomic_path(root / f"step-{step:06d}") as temporary:
        temporary.mkdir()
        for kind, named in tensors.items():
            ready = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
            save_file(ready, temporary / f"{kind}.safetensors")
        sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
        (temporary / "state.json").write_text(json.dumps({**facts, "files": sizes}, indent=1))
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
    _flush(root)
    for old in sorted(root.glob("step-*"), key=_step_of)[:-KEPT_CHECKPOINTS]:
        remove(old)


def set_aside(folder: Path) -> None:
    """Move the checkpoints of a run folder, if it has any, to `checkpoints.previous/`: they may be hours of work."""
    checkpoints, previous = folder / "checkpoints", folder / "checkpoints.previous"
    if newest_checkpoint(checkpoints) is not None:
        remove(previous)
        checkpoints.replace(previous)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _complete(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / "state.json").read_text())["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):  # a deletion that was cut short, or a disk that lost a file's end
        return False


def _flush(path: Path) -> None:
    """Make a file, or a folder's list of names, survive a power cut."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
