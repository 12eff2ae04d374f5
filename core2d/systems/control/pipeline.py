"""A pipeline of any kind that follows maps: what is told, as ControlNets on its prior and maps of its pictures.

    controls = [Control(read_controlnet("depth"), read_map(Path("map.png"), 64, 64), weight=0.8)]
    pipeline, telling = controlled(TextToImage.from_pretrained("toybox-sd"), controls)
    pipeline("a red mug", telling=telling, seed=0).images[0]

It works the same with `genvideo.AnimateDiff`, where a map may have a row for each frame, and with a prior alone, for
score distillation: `tell=lambda condition, images, cameras: condition.telling(**telling)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from core2d.adapters.controlnet import UNTOLD, ControlNet
from core2d.app.errors import InputError
from core2d.prior.base import LatentPrior
from core2d.prior.condition import Adapter


class Adaptable(Protocol):
    """A prior or a pipeline."""

    def with_adapters(self, *adapters: Adapter) -> Self: ...


Drawing = TypeVar("Drawing", bound=Adaptable)


@dataclass(frozen=True)
class Control:
    """A ControlNet and the map that it is told.

    Attributes:
        network: of this model, see `core2d.adapters.controlnet`.
        map: (3, H, W) for all pictures, or a row for each picture or frame (n, 3, H, W), in [0, 1].
        weight, start, end, guess: see `core2d.adapters.controlnet.ControlNet`.
    """

    network: ControlNetModel
    map: Tensor
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False


def controlled(drawing: Drawing, controls: Sequence[Control]) -> tuple[Drawing, dict[str, Tensor]]:
    """The same prior or pipeline with ControlNets, which add up, and what it is to be told by `telling`.

    Raises:
        InputError: a ControlNet of another model, or numbers that are out of their range.
    """
    prior = _prior_of(drawing)
    adapters, telling = [], {}
    for number, one in enumerate(controls):
        name = f"control_{number}"
        adapter = ControlNet(one.network, name, one.weight, one.start, one.end, prior.num_train_timesteps, one.guess)
        adapter.check_fit(prior)
        adapters.append(adapter)
        telling[name] = one.map if one.map.ndim == 4 else one.map[None]  # (1 or n, 3, H, W)
    return drawing.with_adapters(*adapters), telling


def without_words(controls: Sequence[Control], telling: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the row without words is told of guessing ControlNets, by `telling_without_words`: nothing."""
    maps = zip(controls, telling.items(), strict=True)
    return {name: torch.full_like(seen[:1], UNTOLD) for one, (name, seen) in maps if one.guess}


def _prior_of(drawing: Any) -> LatentPrior:
    """A prior itself, or that of a pipeline, whatever it calls it."""
    found = [drawing, *(getattr(drawing, name, None) for name in ("backbone", "prior"))]
    priors = [one for one in found if isinstance(one, LatentPrior)]
    if not priors:
        raise InputError(f"{type(drawing).__name__} has no network that could follow a map")
    return priors[0]
