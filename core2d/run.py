"""The ground that every command stands on: outputs that are whole or absent, run folders, one report.

Imports nothing heavy: torch comes in when it is needed.
"""

import contextlib
import errno
import hashlib
import math
import os
import platform
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib import metadata
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from core2d.errors import InputError

if TYPE_CHECKING:
    import torch

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # what core2d.media writes
VERSIONS_OF = ("liftkit", "torch", "diffusers", "transformers", "numpy", "numba")


# -- outputs: whole or absent --------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`; rename to `path` when the body ends well.

    The name has the suffix of `path` and does not exist yet: the body makes a file or a folder there. On
    any failure, Ctrl-C included, it is removed, with the parent folders that had to be made for it, and what
    was at `path` before is untouched. A file is replaced in one step; a folder takes two renames, and the old
    one is kept until the new one has its name.
    """
    target = Path(path).resolve()  # through symbolic links: the link stays, its file is replaced
    made = _make_folders(target.parent)
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


def _make_folders(folder: Path) -> list[Path]:
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


# -- run folders ---------------------------------------------------------------------------------------


def run_folder(output: str | Path) -> Path:
    """The run folder that belongs to an output: `a/mug.glb` has `a/mug.run`."""
    return Path(output).with_suffix(".run")


def start_run(folder: str | Path, recipe: Any, inputs: Iterable[str | Path] = ()) -> Path:
    """Make a run folder, or take over the one of an earlier run, and write its `run.json`.

    The manifest tells how a result came to be: command, recipe, versions, machine, seed, hashes of the
    inputs. `core2d.training.train` keeps its log and checkpoints in the same folder.

    Args:
        folder: where, usually `run_folder(output)`.
        recipe: a dataclass.
        inputs: files that the result depends on.

    Raises:
        InputError: something that is not a run is in the way.
    """
    folder = Path(folder)
    if folder.exists():
        read_run(folder)  # raises unless it is one of ours: never write into what is not
    write_json(folder / "run.json", describe_run(recipe, inputs))
    return folder


def read_run(folder: str | Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        InputError: `folder` is not a run.
    """
    try:
        return loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is not a run folder: it has no readable run.json") from error


def describe_run(recipe: Any, inputs: Iterable[str | Path] = ()) -> dict[str, Any]:
    """What `run.json` holds, and what benchmarks write beside their numbers."""
    if not is_dataclass(recipe) or isinstance(recipe, type):
        raise ValueError(f"a recipe is an instance of a dataclass, not {recipe!r}")
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "recipe": {"name": type(recipe).__name__, **plain(asdict(recipe))},
        "seed": getattr(recipe, "seed", None),
        "versions": versions(),
        "machine": machine(),
        "inputs": {Path(path).name: sha256(path) for path in inputs},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


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
    torch = sys.modules.get("torch")  # asked only where it is in use already
    accelerator = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_initialized() else None
    return {"system": platform.system(), "processor": platform.machine(), "cores": cores, "accelerator": accelerator}


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(dumps(plain(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


# -- commands ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def main_guard() -> Iterator[None]:
    """Turn `InputError` and a full disk into one line and exit status 2, Ctrl-C (and SIGTERM) into status 130."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped job cleans up as on Ctrl-C
    try:
        yield
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    except Exception as error:
        if not is_disk_full(error):
            raise
        fail("no space is left on the disk: free some and try again (a run goes on with --resume)")
    finally:
        signal.signal(signal.SIGTERM, before)


def is_disk_full(error: Exception) -> bool:
    """Whether a file could not be written for want of space; safetensors and ffmpeg say it in words only."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def fail(message: str) -> NoReturn:
    """Say `error: message` in one line on stderr and leave with exit status 2."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    raise SystemExit(2)


def report(outputs: Sequence[Path], metrics: Mapping[str, Any], seed: int | None, started: float, json: bool) -> None:
    """Say what a command did, on stdout: one JSON object, or a few lines for a person.

    Args:
        outputs: files that were written.
        metrics: names and values.
        seed: the seed of the command, None where it has none.
        started: `time.perf_counter()` when the command began.
        json: one object and nothing else.
    """
    seconds = round(time.perf_counter() - started, 2)
    if json:
        found = {
            "outputs": outputs,
            "metrics": metrics,
            "seconds": seconds,
            "peak_memory_gb": peak_memory_gb(),
            "seed": seed,
        }
        sys.stdout.write(dumps(plain(found)) + "\n")
        return
    for name, value in metrics.items():
        sys.stdout.write(f"{name}: {_for_a_person(value)}\n")
    for output in outputs:
        sys.stdout.write(f"wrote {output} ({seconds:.1f} s)\n")


def _for_a_person(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_for_a_person(entry)}" for name, entry in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def peak_memory_gb() -> float:
    """Most memory that this process has held, in GB (1e9 bytes).

    That of the CUDA device once one was used, otherwise that of the host; NaN where the system does not tell.
    """
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 1e9, 3)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's peak too: Linux carries it over exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) * 1024 / 1e9, 3)
    try:
        import resource
    except ImportError:
        return math.nan
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9, 3)  # bytes on macOS


# -- devices -------------------------------------------------------------------------------------------


def pick_device(name: str = "auto") -> "torch.device":
    """The device called `name`: auto, cpu, cuda, cuda:N or mps.

    Raises:
        InputError: no such device on this machine.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(f"cuda:{index}" for index in range(gpus))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name == "auto":
        return torch.device("cuda:0" if gpus else there[-1])
    if (name + ":0" if name == "cuda" else name) not in there:
        raise InputError(f"--device {name}: this machine has {', '.join(there)}")
    return torch.device(name)


def pick_dtype(name: str = "float32") -> "torch.dtype":
    """The number format called `name`: float32, float16 or bfloat16.

    Raises:
        InputError: no such format.
    """
    import torch

    formats = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in formats:
        raise InputError(f"--dtype {name}: give one of {', '.join(formats)}")
    return formats[name]
