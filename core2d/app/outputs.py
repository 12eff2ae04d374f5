"""Outputs that are whole or absent, whenever a command is stopped. No torch here."""

import contextlib
import math
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

from core2d.app.errors import InputError

MESH_SUFFIXES = (".glb", ".obj", ".ply", ".stl")  # what gen3d.mesh writes
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # what core2d.media.pictures writes


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`; rename to `path` when the body ends well.

    The name has the suffix of `path` and does not exist yet: the body makes a file or a folder there. On
    any failure, Ctrl-C included, it is removed, with the parent folders that had to be made for it, and what
    was at `path` before is untouched. A file is replaced in one step; a folder takes two renames, and the old
    one is kept until the new one has its name.
    """
    target = Path(path).resolve()  # through symbolic links: the link stays, its file is replaced
    made = make_folders(target.parent)
    temporary = target.parent / f".{secrets.token_hex(6)}.tmp{target.suffix}"
    try:
        yield temporary
        _take_the_name(temporary, target)
    except BaseException:
        remove(temporary)
        for folder in made:  # deepest first; one that others have filled meanwhile stays
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def make_folders(folder: Path) -> list[Path]:
    """Make `folder` with its parents; return those that were missing, deepest first."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _take_the_name(temporary: Path, target: Path) -> None:
    if not (temporary.is_dir() and target.is_dir()):
        temporary.replace(target)
        return
    old = target.parent / f".{secrets.token_hex(6)}.old"
    target.replace(old)  # a folder can only be renamed onto an empty one
    try:
        temporary.replace(target)
    except BaseException:
        old.replace(target)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_output(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Refuse an output that could not be written, before any work is done for it.

    Args:
        path: the file that will be written; missing folders are fine.
        suffixes: what its name may end in, such as `(".png", ".jpg")`; upper case is taken too.

    Returns:
        `path` as a `Path`.

    Raises:
        InputError: unknown suffix, a folder at that place, or a place where nothing can be written.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        known = ", ".join(suffixes)
        raise InputError(f"cannot write {path}: its name must end in one of {known}")
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; name a file in it")
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # a name that is too long for the file system fails here
        there = next(parent for parent in path.resolve().parents if parent.exists())
        with tempfile.TemporaryFile(dir=there):
            pass  # permission bits say too little (root, read-only mounts): write for real
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        text = dumps(plain(value), indent=2, ensure_ascii=False) + "\n"
        # Bytes of a file's name that are no text become \\udcXX, which JSON reads back as what they were.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def plain(value: Any) -> Any:
    """`value` as JSON can say it: paths as text, numbers of numpy and torch as numbers, NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
