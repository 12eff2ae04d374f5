"""Where the machine code of kernels can be kept: homes that are missing or full, and what stands in for them."""

from __future__ import annotations

import functools
import os
import stat
import tempfile
from pathlib import Path


def has_home() -> bool:
    """Whether the user has one: a number without a name, as containers run under, has none."""
    return Path(os.path.expanduser("~")).is_absolute()  # noqa: PTH111  (`Path.home` raises)


def own_folder() -> Path | None:
    """A folder of this user alone among the temporary files, since what lies in it is run; None where there is none."""
    try:
        temporary = Path(tempfile.gettempdir())
        folder = temporary / f"liftkit-{os.getuid()}"
        if temporary == Path.cwd():  # what Python falls back to: nobody wants code there
            return None
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_ours = found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077
    return folder if is_ours and stat.S_ISDIR(found.st_mode) else None


@functools.cache
def give_triton_a_place() -> None:
    """Name a folder for Triton's code, unless the user has named one or has a home where it can lie."""
    if "TRITON_CACHE_DIR" in os.environ or "TRITON_HOME" in os.environ:
        return
    own = None if has_home() and can_write(Path.home() / ".triton") else own_folder()
    if own is not None:
        os.environ["TRITON_CACHE_DIR"] = str(own / "triton")


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True  # permission bits say too little
    except OSError:
        return False
