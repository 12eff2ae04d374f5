"""Machine code is kept where there is a place for it, and kernels run everywhere."""

import errno
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from numba.core.caching import IndexDataCacheFile

from core2d.kernels import numba_cache, places

ROOT = Path(__file__).resolve().parents[2]
KERNEL = """
from core2d.kernels.numba_cache import njit
@njit()
def add(a, b): return a + b
print(add(2, 3), add.stats.cache_path, sum(add.stats.cache_hits.values()))
"""


def run_kernel(folder: Path, **environment: str) -> tuple[str, str, int]:
    """The sum, where the code is kept, and how often it was found there; with nothing but this environment."""
    (folder / "kernel.py").write_text(KERNEL)
    done = subprocess.run([sys.executable, "kernel.py"], cwd=folder, env={"PYTHONPATH": str(ROOT), **environment},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stderr == ""
    total, place, hits = done.stdout.split()
    return total, place, int(hits)


NO_PACKAGE = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator,UserWideCacheLocator"}  # as of another's install


def test_code_is_kept_in_the_home_of_who_cannot_write_the_package(tmp_path: Path) -> None:
    home = {**NO_PACKAGE, "HOME": str(tmp_path / "home")}
    assert [run_kernel(tmp_path, **home)[2] for _ in range(2)] == [0, 1]
    assert run_kernel(tmp_path, **home)[1].startswith(str(tmp_path / "home" / ".cache" / "numba"))


def test_without_a_home_code_is_kept_among_the_temporary_files(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    without = {**NO_PACKAGE, "HOME": "/proc/nowhere", "TMPDIR": str(temporary)}
    own = temporary / f"liftkit-{os.getuid()}"
    assert [run_kernel(tmp_path, **without)[2] for _ in range(2)] == [0, 1]
    assert run_kernel(tmp_path, **without)[1].startswith(str(own / "numba"))
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    own.chmod(0o777)  # others could put code there
    assert run_kernel(tmp_path, **without) == ("5", "None", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernel.py", "tmp"]


def test_damaged_code_is_compiled_anew(tmp_path: Path) -> None:
    place = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert [run_kernel(tmp_path, **place)[2] for _ in range(2)] == [0, 1]
    for suffix in ("nbi", "nbc"):
        (file,) = (tmp_path / "kept").rglob(f"*add*.{suffix}")
        file.write_bytes(b"\x80\x04damaged")
        assert [run_kernel(tmp_path, **place)[::2] for _ in range(2)] == [("5", 0), ("5", 1)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_does_not_keep_a_kernel_from_running(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        saved.append(1)
        raise OSError(number, os.strerror(number))

    saved: list[int] = []
    monkeypatch.setattr(IndexDataCacheFile, "load", lambda *_: None)
    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    assert numba_cache.njit()(lambda a: a + 1)(2) == 3 and saved


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    own = tmp_path / f"liftkit-{os.getuid()}"
    own.symlink_to(tmp_path)
    assert places.own_folder() is None
    own.unlink()
    own.touch()
    assert places.own_folder() is None
    own.unlink()
    assert places.own_folder() == own
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: own.stat().st_uid + 1)
        own.rename(tmp_path / f"liftkit-{os.getuid()}")
        assert places.own_folder() is None
    monkeypatch.chdir(tmp_path)  # what Python falls back to where no temporary folder can be written
    assert places.own_folder() is None


def test_triton_is_given_a_place_only_where_it_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(**environment: str) -> str | None:
        for name in ("TRITON_CACHE_DIR", "TRITON_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        places.give_triton_a_place.__wrapped__()
        return os.environ.get("TRITON_CACHE_DIR")

    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert place(HOME=str(tmp_path / "home")) is None
    assert place(HOME="/proc/nowhere") == str(tmp_path / f"liftkit-{os.getuid()}" / "triton")
    assert place(HOME="/proc/nowhere", TRITON_CACHE_DIR="/mine") == "/mine"
    assert place(HOME="/proc/nowhere", TRITON_HOME="/mine") is None
