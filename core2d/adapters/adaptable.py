"""What adapters are put on: a prior, or a pipeline of any kind with a prior in it."""

from __future__ import annotations

from typing import Any, Protocol, Self, TypeVar

from core2d.app.errors import InputError
from core2d.prior.base import LatentPrior
from core2d.prior.condition import Adapter


class Adaptable(Protocol):
    """A prior or a pipeline."""

    def with_adapters(self, *adapters: Adapter) -> Self: ...


Drawing = TypeVar("Drawing", bound=Adaptable)


def prior_of(drawing: Any) -> LatentPrior:
    """A prior itself, or that of a pipeline, whatever it calls it.

    Raises:
        InputError: it has none with a network, such as an oracle.
    """
    found = [drawing, *(getattr(drawing, name, None) for name in ("backbone", "prior"))]
    priors = [one for one in found if isinstance(one, LatentPrior)]
    if not priors:
        raise InputError(f"{type(drawing).__name__} has no network that could follow a map or a picture")
    return priors[0]
