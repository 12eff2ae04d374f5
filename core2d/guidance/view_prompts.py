"""View-dependent prompts: the words that tell a prior without a camera token from where it looks.

DreamFusion (2209.14988 section 3.2) appends the words of the nearest view. Between two views we mix their text
embeddings instead, as Perp-Neg (2304.04968) does, so that the description never jumps on the way around.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.prior.base import Prior
from core2d.prior.cameras import Cameras
from core2d.prior.condition import Condition

VIEWS = ("front", "side", "back", "overhead")
OVERHEAD_ABOVE = math.radians(60.0)  # elevation
WINDOW = math.radians(45.0)  # front and back reach this far to either side


@dataclass(frozen=True)
class ViewPrompts:
    """How a view is put into words.

    Attributes:
        template: with {prompt} and {view}; a published model may know "{view} view of {prompt}" better.
        words: for front, side, back and overhead.
        interpolate: mix the embeddings of the two nearest views, or take those of the window that the camera is in.
    """

    template: str = "{prompt}, {view} view"
    words: tuple[str, str, str, str] = VIEWS
    interpolate: bool = True

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template or "{view}" not in self.template:
            raise InputError(f"the view template {self.template!r} needs both {{prompt}} and {{view}}")

    def prompts(self, prompt: str) -> list[str]:
        """The four prompts: front, side, back, overhead."""
        said = [self.template.replace("{view}", word).replace("{prompt}", prompt) for word in self.words]
        return said if prompt else [text.removeprefix(", ") for text in said]  # where an image prompt says what it is

    def condition(self, prior: Prior, prompt: str, cameras: Cameras) -> Condition:
        """n rows: what each camera sees. Prompts of views that no camera has are not encoded."""
        choose = view_weights if self.interpolate else view_windows
        weights = choose(cameras.azimuth, cameras.elevation)  # (n, 4)
        seen = [view for view in range(len(VIEWS)) if weights[:, view].any()]
        prompts = self.prompts(prompt)
        return mix(prior.encode_text([prompts[view] for view in seen]), weights[:, seen])


def view_weights(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """(n, 4) shares of front, side, back and overhead that sum to 1, continuous in the azimuth.

    Args:
        azimuth: (n,) radians from the front, counter-clockwise.
        elevation: (n,) radians; above 60 degrees the view is overhead and nothing else.
    """
    quarters = folded(azimuth) / (math.pi / 2)  # (n,) 0 front, 1 either side, 2 back
    front, back = (1 - quarters).clamp(min=0), (quarters - 1).clamp(min=0)
    around = torch.stack([front, 1 - front - back, back, torch.zeros_like(front)], dim=1)  # (n, 4)
    return _overhead_if_high(around, elevation)


def view_windows(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """(n, 4) with a single 1: front and back are within 45 degrees, side is between. Arguments as for
    `view_weights`.
    """
    angle = folded(azimuth)  # (n,)
    front, back = (angle < WINDOW).to(angle), (angle > math.pi - WINDOW).to(angle)
    around = torch.stack([front, 1 - front - back, back, torch.zeros_like(front)], dim=1)  # (n, 4)
    return _overhead_if_high(around, elevation)


def folded(azimuth: Tensor) -> Tensor:
    """(n,) angles from the front in [0, pi], whichever side they are on."""
    return ((azimuth.double() + math.pi) % (2 * math.pi) - math.pi).abs()


def is_overhead(elevation: Tensor) -> Tensor:
    """(n,) bool."""
    return elevation > OVERHEAD_ABOVE


def _overhead_if_high(around: Tensor, elevation: Tensor) -> Tensor:
    overhead = torch.eye(len(VIEWS)).to(around)[3]  # (4,)
    return torch.where(is_overhead(elevation)[:, None], overhead, around)


def mix(conditions: Condition, weights: Tensor) -> Condition:
    """n mixtures of v encoded prompts by weights (n, v).

    A token counts as real where it is real in any prompt that takes part.
    """

    def blend(part: Tensor) -> Tensor:
        return torch.einsum("nv,v...->n...", weights.to(part), part)

    mixed = replace(conditions, mask=None).map(blend)
    if conditions.mask is None:
        return mixed
    takes_part = (weights != 0).to(conditions.mask)  # (n, v)
    mask = (takes_part[:, :, None] * conditions.mask).amax(dim=1)  # (n, v, tokens) -> (n, tokens)
    return replace(mixed, mask=mask)
