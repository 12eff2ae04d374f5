"""Which implementation of a kernel runs."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

from core2d.kernels.places import give_triton_a_place

KNOWN = ("torch", "numba", "triton", "tinycudann")


def pick(backend: str, choices: tuple[str, ...], tensor: Tensor) -> str:
    """The name of the backend to run.

    Args:
        backend: "auto" or one of `choices`. `LIFTKIT_BACKEND` stands in for "auto"; where it names a backend that
            this operation does not have but others do, "auto" stays.
        choices: the backends of this operation.
        tensor: decides for "auto": Triton on CUDA, Numba on the CPU, each where the operation has it; the torch
            twin on other devices and for float64.

    Raises:
        ValueError: nobody knows such a backend, or this operation does not have the one asked for.
    """
    chosen = _pick(backend, choices, tensor)
    if chosen == "triton":
        give_triton_a_place()
    return chosen


def _pick(backend: str, choices: tuple[str, ...], tensor: Tensor) -> str:
    if backend == "auto":
        backend = os.environ.get("LIFTKIT_BACKEND", "auto")
        if backend in KNOWN and backend not in choices:
            backend = "auto"
    if backend not in ("auto", *choices):
        raise ValueError(f"unknown backend {backend!r}: choose one of auto, {', '.join(choices)}")
    if backend != "auto":
        return backend
    fast = {"cuda": "triton", "cpu": "numba"}.get(tensor.device.type, "torch")
    if fast not in choices or tensor.dtype == torch.float64 or (fast == "triton" and not _has_triton()):
        return "torch"
    return fast


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
