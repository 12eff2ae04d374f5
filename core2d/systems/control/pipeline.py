"""A pipeline of any kind that follows maps: what is told, as ControlNets on its prior and maps of its pictures.

    controls = [Control(read_controlnet("depth"), read_map(Path("map.png"), 64, 64), weight=0.8)]
    pipeline, telling = controlled(TextToImage.from_pretrained("toybox-sd"), controls)
    pipeline("a red mug", telling=telling, seed=0).images[0]

It works the same with `genvideo.AnimateDiff`, where a map may have a row for each frame, and with a prior alone, for
score distillation: `tell=lambda condition, images, cameras: condition.telling(**telling)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from core2d.adapters.adaptable import Drawing, prior_of
from core2d.adapters.controlnet import UNTOLD, ControlNet
from core2d.prior.condition import INSTEAD


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
    prior = prior_of(drawing)
    adapters, telling = [], {}
    for number, one in enumerate(controls):
        name = f"control_{number}"
        adapter = ControlNet(one.network, name, one.weight, one.start, one.end, prior.num_train_timesteps, one.guess)
        adapter.check_fit(prior)
        adapters.append(adapter)
        telling[name] = one.map if one.map.ndim == 4 else one.map[None]  # (1 or n, 3, H, W)
        if one.guess:
            telling[name + INSTEAD] = torch.full_like(telling[name], UNTOLD)
    return drawing.with_adapters(*adapters), telling
