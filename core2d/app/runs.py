"""Run folders: how a result came to be, and what it can be gone on with. One process at a time works in one. No torch.

with working_in(folder):  # refused while another process does
    start_run(folder, recipe, digests({"model": model}))
    ...  # checkpoints, log, result
"""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from json import loads
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from core2d.app.errors import InputError
from core2d.app.outputs import make_folders, plain, remove, write_json
from core2d.app.provenance import changed_inputs, in_short, machine, versions

MANIFEST, LOCK = "run.json", ".lock"  # in a run folder
TRIES = 1000  # of taking a lock that others take and remove all the time
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # of some network file systems

Recipe = TypeVar("Recipe")


def run_folder(output: str | Path) -> Path:
    """The run folder that belongs to an output: `a/mug.glb` has `a/mug.run`."""
    return Path(output).with_suffix(".run")


# -- how a result came to be -------------------------------------------------------------------------------------------


def start_run(folder: str | Path, recipe: Any, inputs: Mapping[str, str] | None = None) -> Path:
    """Begin a run in a folder that `working_in` keeps, new or of an earlier run: write its `run.json`.

    The manifest tells how a result came to be: command, recipe, versions, machine, seed, hashes of the inputs.
    `core2d.training.loop.train` keeps its log and checkpoints in the same folder; those of an earlier run are to be set
    aside before the manifest names another recipe.

    Args:
        folder: where, usually `run_folder(output)`.
        recipe: a dataclass.
        inputs: what the result depends on, see `core2d.app.provenance.digests`.
    """
    folder = Path(folder)
    write_json(folder / MANIFEST, describe_run(recipe, inputs))
    return folder


def describe_run(recipe: Any, inputs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `run.json` holds, and what benchmarks write beside their numbers."""
    if not is_dataclass(recipe) or isinstance(recipe, type):
        raise ValueError(f"a recipe is an instance of a dataclass, not {recipe!r}")
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "recipe": {"name": type(recipe).__name__, **plain(asdict(recipe))},
        "seed": getattr(recipe, "seed", None),
        "versions": versions(),
        "machine": machine(),
        "inputs": dict(inputs or {}),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def read_run(folder: str | Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        InputError: `folder` is not a run.
    """
    try:
        found = read_part(Path(folder) / MANIFEST)
    except InputError as error:
        raise InputError(f"{folder} is not a run folder: it has no readable {MANIFEST}") from error
    if not isinstance(found, dict):
        raise InputError(f"{folder} is not a run folder: {MANIFEST} does not hold an object")
    return found


def read_part(path: Path) -> Any:
    """What a JSON file of a run holds.

    Raises:
        InputError: it is missing, damaged or cannot be read.
    """
    try:
        return loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is missing, or is no JSON that can be read: start the run anew") from error


def recipe_of_run(folder: Path, kind: type[Recipe]) -> Recipe:
    """The recipe that a run was started with, each value of the type that its field has.

    Raises:
        InputError: not a run of such a recipe, or one of another version, or damaged.
    """
    saved = read_run(folder).get("recipe")
    if not isinstance(saved, dict) or saved.get("name") != kind.__name__:
        raise InputError(f"{folder} is not a run of {kind.__name__}")
    hints, values = get_type_hints(kind), {name: value for name, value in saved.items() if name != "name"}
    try:
        return kind(**{name: as_type(value, hints[name]) for name, value in values.items()})
    except (KeyError, TypeError) as error:
        why = f"{folder} is a run of another version, or its {MANIFEST} is damaged"
        raise InputError(f"{why}: start it anew") from error


def as_type(value: Any, hint: Any) -> Any:
    """A value that JSON gave back, as a field of such a type holds it: a path, a tuple.

    Raises:
        TypeError: it is of another type.
    """
    kinds, parts = get_origin(hint), get_args(hint)
    if kinds in (Union, UnionType):
        for part in parts:
            with contextlib.suppress(TypeError):
                return as_type(value, part)
    elif kinds is Literal and value in parts and not isinstance(value, bool):
        return value
    elif kinds is tuple and isinstance(value, list):
        wanted = parts[:1] * len(value) if parts[1:] == (...,) else parts
        if len(wanted) == len(value):
            return tuple(map(as_type, value, wanted))
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif type(value) is hint or (hint is float and type(value) is int):
        return value
    raise TypeError(f"{value!r} is no {hint}")


def check_inputs(folder: Path, now: Mapping[str, str], own: Sequence[str] = ()) -> None:
    """Refuse to go on with a run that began with something else.

    Args:
        folder: the run.
        now: hashes of what will be loaded.
        own: names of inputs that are not loaded again: the run has what it took from them.
    """
    before = read_run(folder).get("inputs")
    if isinstance(before, dict):
        before = {name: value for name, value in before.items() if name not in own}
    changed = changed_inputs(before, now)
    if changed:
        raise InputError(f"cannot go on with {folder}: since it began, {in_short(changed)}; start it anew")


# -- one process at a time ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def working_in(folder: str | Path, resume: bool = False) -> Iterator[Path]:
    """Keep a run folder to this process while the body runs.

    If the body fails before its first checkpoint, nothing stays of a run that is new.

    Args:
        folder: a new one, or that of an earlier run.
        resume: only the latter will do.

    Raises:
        InputError: another process works in it, it is not a run, or it cannot be written.
    """
    folder = Path(folder)
    if resume:
        read_run(folder)
    is_new = check_run(folder)
    with locked(folder):
        try:
            yield folder
        except BaseException:
            if is_new and not any(folder.glob("checkpoints/step-*")):
                for path in folder.iterdir():
                    if path.name != LOCK:
                        remove(path)
            raise


def check_run(folder: Path) -> bool:
    """Whether a run folder is to be made; False where there is one already.

    Raises:
        InputError: something that is not a run is in the way.
    """
    if not folder.exists() or (folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}):
        return True
    read_run(folder)
    return False


def check_free(folder: Path) -> None:
    """Refuse a folder in which another process works, before anything is loaded for it; changes nothing."""
    with contextlib.suppress(FileNotFoundError), (folder / LOCK).open("rb") as file:
        _lock(file.fileno(), folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process while the body runs: `.lock` in it holds the number of the process.

    The lock ends with the process, however that ends. The folder is made if it is missing; if it is still empty then,
    it is removed again.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    made: list[Path] = []
    try:
        handle = _locked_file(folder, made)
        try:
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)  # before others can have it: they would lock a file without a name
            os.close(handle)
    finally:
        for empty in made:  # deepest first; those that were filled stay
            with contextlib.suppress(OSError):
                empty.rmdir()


def _locked_file(folder: Path, made: list[Path]) -> int:
    """The descriptor of the lock; `made` gets the folders that were missing, deepest first.

    Whoever held it before may remove it, and the folder with it, at any moment: what counts is the file of that name.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            made[:0] = make_folders(folder)
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and tries_left:
                continue
            raise InputError(f"cannot write into {folder}: {error.strerror or error}") from error
        try:
            _lock(handle, folder)
            with contextlib.suppress(FileNotFoundError):
                if (folder / LOCK).stat().st_ino == os.fstat(handle).st_ino:
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise InputError(f"{folder} is in use by other processes: wait, or name another output")


def _lock(handle: int, folder: Path) -> None:
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # a system without such locks
        return
    try:
        flock(handle, LOCK_EX | LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return
        number = os.pread(handle, 20, 0).decode("ascii", "replace")
        holder = f"process {number}" if number.isdecimal() else "another process"
        raise InputError(f"{folder} is in use by {holder}: wait, or name another output") from error
