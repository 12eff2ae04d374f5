"""What a result depends on: versions, the machine, and hashes of all that was loaded. No torch here."""

import contextlib
import functools
import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from core2d.app.devices import gpu_memory
from core2d.app.errors import InputError

VERSIONS_OF = ("liftkit", "torch", "diffusers", "transformers", "numpy", "numba")
SAID = 4  # of many differences
# What is loaded of a folder: weights, configs and vocabularies of a model, or the frames of a clip.
LOADED = (".safetensors", ".json", ".txt", ".model", ".png")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, without importing them."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """System, processor kind, cores that this process may use, and the GPU in use, if any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    accelerator = sys.modules["torch"].cuda.get_device_name() if gpu_memory() else None
    return {"system": platform.system(), "processor": platform.machine(), "cores": cores, "accelerator": accelerator}


# -- hashes ------------------------------------------------------------------------------------------------------------


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal; a file that stays as it is is read once in a process."""
    path = Path(path).resolve()
    found = path.stat()
    return _sha256(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@functools.cache
def _sha256(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: str | Path) -> str:
    """SHA-256 of what a run loads: of a file, or of names and contents of all that is loaded of a folder (`LOADED`).

    Raises:
        InputError: it cannot be read.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return sha256(path)
        files = {file.relative_to(path): file for file in path.rglob("*") if file.suffix.lower() in LOADED}
        whole = hashlib.sha256()
        for name in sorted(files, key=Path.as_posix):
            if files[name].is_file() and not any(part.startswith(".") for part in name.parts):
                whole.update(f"{name.as_posix()} {sha256(files[name])}\n".encode(errors="surrogateescape"))
        return whole.hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror or error}") from error


def digests(files: Mapping[str, str | Path]) -> dict[str, str]:
    """What each part of a run is called -> hash of the file or folder that it is loaded from."""
    return {name: digest(path) for name, path in files.items()}


def changed_settings(before: Any, now: Mapping[str, Any]) -> list[str]:
    """Which settings are not as they were, in words.

    Args:
        before: as JSON gave them back; anything may have become of them.
        now: those of today, as JSON will have them.
    """
    old = before if isinstance(before, Mapping) else {}
    names = [name for name in {**now, **old} if old.get(name) != now.get(name)]
    return [f"{name} was {old.get(name)!r} and is {now.get(name)!r}" for name in names]


def changed_inputs(before: Any, now: Mapping[str, str]) -> list[str]:
    """Which hashes are not as they were, in words.

    Args:
        before: as JSON gave them back; anything may have become of them.
        now: those of today.
    """
    old = before if isinstance(before, Mapping) else {}
    names = [name for name in {**now, **old} if old.get(name) != now.get(name)]
    became = {name: "is gone" if name not in now else "is new" if name not in old else "has changed" for name in names}
    return [f"{name} {what}" for name, what in became.items()]


def in_short(said: Sequence[str]) -> str:
    """Some of many things that are to be said."""
    more = f" and {len(said) - SAID} more" if len(said) > SAID else ""
    return ", ".join(said[:SAID]) + more
