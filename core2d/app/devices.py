"""Where and in which number format things are computed. torch comes in when it is needed."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core2d.app.errors import InputError

if TYPE_CHECKING:
    import torch


def peak_memory_gb() -> float:
    """Most memory that this process has held, in GB (1e9 bytes).

    That of the CUDA device once one was used, otherwise that of the host; NaN where the system does not tell.
    """
    if used := gpu_memory():
        return round(used / 1e9, 3)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's peak too: Linux carries it over exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) * 1024 / 1e9, 3)
    try:
        import resource
    except ImportError:
        return math.nan
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9, 3)  # bytes on macOS


def gpu_memory() -> int:
    """Most bytes that this process has held on its CUDA device; 0 where it did not work there."""
    torch = sys.modules.get("torch")  # asked only where it is in use already
    return torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_initialized() else 0


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


def has_bfloat16(device: "torch.device") -> bool:
    """Whether a device computes in bfloat16, and does not only store it.

    A CPU without instructions for it, as in most laptops, takes ten to forty times as long as in float32 (convolutions
    of torch 2.13 under AVX2).
    """
    import torch

    if device.type != "cpu":
        return True
    able = getattr(torch.cpu, "get_capabilities", dict)()  # torch below 2.11 does not tell
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one of ARM


def half_where_fast(device: "torch.device") -> "torch.autocast":
    """Autocast to bfloat16 on a device that computes in it; on others float32 as it is."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
