"""Published models out of wheels: pinned, opened as a zip, whole or not at all."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from core2d.app.errors import InputError
from core2d.files import wheels
from core2d.files.wheels import CACHE, PUBLISHED, Published, fetch, fetched, models_folder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with one model and code that must not run, pinned as "pose"."""
    file = tmp_path / "package-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("package/__init__.py", "raise SystemExit('run')")
        archive.writestr("package/a/model.tflite", b"weights")
    _pin(monkeypatch, file, ("package/a/model.tflite",))
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return file


def _pin(monkeypatch: pytest.MonkeyPatch, file: Path, members: tuple[str, ...], sha256: str | None = None) -> None:
    found = sha256 or hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(wheels, "PUBLISHED", {"pose": Published("package==1", found, members, (), "MIT", "a test")})


def test_named_files_are_taken_out_and_nothing_else(wheel: Path) -> None:
    with pytest.raises(InputError, match="core2d models get pose"):
        fetched("pose")
    assert fetch("pose", lambda published, folder: wheel) == fetched("pose")
    (file,) = fetched("pose")
    assert file.read_bytes() == b"weights" and [one.name for one in file.parent.iterdir()] == ["model.tflite"]


def test_another_file_is_refused(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pin(monkeypatch, wheel, ("package/a/model.tflite",), "0" * 64)
    with pytest.raises(InputError, match="not the file that was pinned"):
        fetch("pose", lambda published, folder: wheel)
    assert not models_folder().exists()


def test_a_missing_file_leaves_nothing_behind(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pin(monkeypatch, wheel, ("package/a/model.tflite", "../outside"))
    with pytest.raises(InputError, match="does not hold"):
        fetch("pose", lambda published, folder: wheel)
    assert not models_folder().exists()
    wheel.write_bytes(b"no zip")
    _pin(monkeypatch, wheel, ("package/a/model.tflite",))
    with pytest.raises(InputError, match="as a zip"):
        fetch("pose", lambda published, folder: wheel)


def test_pins_are_whole() -> None:
    for published in PUBLISHED.values():
        assert len(published.sha256) == 64 and "==" in published.package and published.licence
        names = [Path(member).name for member in published.members]
        assert len(set(names)) == len(names)
