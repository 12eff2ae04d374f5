"""What a result depends on: versions, the machine, and hashes of all that was loaded. No torch here."""

import contextlib
import hashlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


VERSIONS_OF = ("liftkit", "torch", "diffusers", "transformers", "numpy", "numba")


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
