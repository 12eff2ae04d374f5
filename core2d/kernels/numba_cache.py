"""Numba's machine code: kept from one process to the next where there is a place for it, compiled anew where not.

By itself Numba refuses to compile where neither its module's folder nor the user's cache can be written, makes a folder
called ~ where a user has no home, and fails where what it kept is damaged or the disk is full.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numba
from numba.core import config
from numba.core.caching import FunctionCache

from core2d.kernels.places import has_home, own_folder


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit(cache=True, ...)`, of which only speed depends on whether the code can be kept."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(**options)(function)
        if has_a_place():
            with contextlib.suppress(RuntimeError):  # no place for this one
                dispatcher._cache = KeptCode(function)
        return dispatcher

    return compiled


class KeptCode(FunctionCache):
    """Numba's cache of a function; what cannot be read is compiled anew, what cannot be written is not kept."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with contextlib.suppress(Exception):  # what is damaged fails in every way
            return super().load_overload(sig, target_context)
        with contextlib.suppress(Exception):
            self.flush()  # so that it can be kept from now on

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


@functools.cache
def has_a_place() -> bool:
    """Whether code can be kept; where Numba finds no place by itself, it is given one."""
    if has_home() and _is_found():
        return True
    own = own_folder()
    if own is None:
        return False
    config.CACHE_DIR = str(own / "numba")  # pyright: ignore[reportAttributeAccessIssue]
    return _is_found()


def _is_found() -> bool:
    """Whether Numba finds a place for code of this package."""
    try:
        FunctionCache(_is_found)
    except (RuntimeError, OSError):  # none, or one that is named and cannot be used
        return False
    return True
