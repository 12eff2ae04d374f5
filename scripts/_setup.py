"""What demo.py and test.py begin with: `.venv` with liftkit in it. Uses the standard library only."""

import ctypes.util
import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
PINNED_TORCH = "torch==2.13.0"  # where no NVIDIA driver is, so that a CPU build is taken where one is offered


def environment(extra: str = "") -> Path:
    """Make `.venv` and install the checkout into it, unless that was done before for the same pyproject.toml.

    Args:
        extra: an optional dependency group, such as `test`.

    Returns:
        The Python of the environment.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - pip has not had the chance to refuse it
        sys.exit(f"error: liftkit needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    python = FOLDER / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        print(f"making {FOLDER}", flush=True)
        try:
            venv.create(FOLDER, with_pip=True)
        except subprocess.CalledProcessError:  # half an environment would look whole the next time
            shutil.rmtree(FOLDER)
            sys.exit("error: this Python makes no environments with pip (on Debian: apt install python3-venv)")
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = FOLDER / f"liftkit-{extra or 'plain'}.sha256"
    if not (stamp.exists() and stamp.read_text() == wanted):
        install(python, extra)
        stamp.write_text(wanted)
    return python


def install(python: Path, extra: str) -> None:
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    if not has_nvidia_driver():
        # Where it is not offered for this Python, pyproject.toml decides.
        subprocess.run([*pip, PINNED_TORCH], check=False)
    done = subprocess.run([*pip, "--editable", f"{ROOT}[{extra}]" if extra else str(ROOT)], check=False)
    if done.returncode:
        sys.exit(f"error: pip could not install liftkit into {FOLDER}; its own words are above")


def has_nvidia_driver() -> bool:
    return bool(shutil.which("nvidia-smi") or ctypes.util.find_library("cuda") or Path("/proc/driver/nvidia").exists())
