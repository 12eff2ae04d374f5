"""Perp-Neg (2304.04968): other views as negative prompts, as far as they do not contradict the wanted one.

    eps = eps_0 + s (e_p - sum_i w_i perp(e_i, e_p)),    e_* = eps_* - eps_0

with the prediction eps_0 without a prompt, e_p towards the wanted view, and e_i towards the views to avoid, of which
only the part perpendicular to e_p counts. It is against a second face at the back, and costs twice as much as plain
guidance: four rows of the network for each image.
"""

import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.guidance.base import Tell
from core2d.guidance.sds import ScoreDistillation, ScoreDistillationConfig, Told
from core2d.guidance.view_prompts import is_overhead, view_weights
from core2d.prior.base import Prior, rescale_contrast
from core2d.prior.condition import Condition
from core2d.prior.schedule import Prediction

# f(r) = a exp(-b r) + c, the published curves as threestudio ships them. All but the last fall to 0 at r = 1.
FRONT_NEAR_FRONT = (4.0, 0.5, -2.426)  # between front and side, r = share of front
SIDE_NEAR_FRONT = (4.0, 0.5, -2.426)  # between front and side, r = share of side
SIDE_NEAR_BACK = (1.0, 0.5, -0.606)  # between side and back, r = share of side
FRONT_NEAR_BACK = (1.0, 0.5, 0.967)  # between side and back, r = share of side


class PerpNegDistillation(ScoreDistillation):
    """SDS under Perp-Neg, with views in words: a camera token of the prior is not used.

    Args:
        prior, config, seed, tell: as for `ScoreDistillation`; the guidance scale is that of the whole bracket.
        strength: what the published weights of the negatives are multiplied by; 0 is plain guidance.

    Raises:
        InputError: the camera token is asked for.
    """

    def __init__(
        self,
        prior: Prior,
        config: ScoreDistillationConfig | None = None,
        seed: int = 0,
        tell: Tell | None = None,
        strength: float = 1.0,
    ):
        super().__init__(prior, config, seed, tell)
        self.strength = strength
        if self.config.views == "camera":
            raise InputError("Perp-Neg works with view words, not with the camera token: leave one of them")

    def predict(self, x_t: Tensor, t: Tensor, told: Told) -> Prediction:
        if told.cameras is None:
            raise ValueError("Perp-Neg needs cameras")
        prior, rows, wording, cameras = self.prior, len(x_t), self.config.wording, told.cameras
        wanted = self.condition(told).expand(rows)
        front, side = (prior.encode_text([text]) for text in wording.prompts(told.prompt)[:2])
        nothing = self.unconditional(wanted).expand(rows).told_also(wanted)
        others = [one.expand(rows).told_also(wanted, has_words=True) for one in (front, side)]
        conditions = Condition.cat([nothing, wanted, *others])
        everything = prior.predict(torch.cat([x_t] * 4), t.repeat(4), conditions)  # (4b, c, h, w)
        eps_0, eps_wanted, eps_front, eps_side = everything.eps.chunk(4)
        weights = self.strength * negative_weights(cameras.azimuth, cameras.elevation).to(x_t)  # (n, 2)
        bracket = towards = eps_wanted - eps_0  # (b, c, h, w)
        for eps_negative, weight in zip((eps_front, eps_side), weights.unbind(1), strict=True):
            bracket = bracket - weight.view(-1, 1, 1, 1) * perpendicular(eps_negative - eps_0, towards)
        eps = eps_0 + self.config.guidance_scale * bracket
        guided = prior.schedule.prediction(eps, x_t, t, kind="epsilon")
        if not self.config.rescale:
            return guided
        x0 = rescale_contrast(guided.x0, everything.x0.chunk(4)[1], self.config.rescale)
        return prior.schedule.prediction(x0, x_t, t, kind="sample")


def perpendicular(vectors: Tensor, onto: Tensor) -> Tensor:
    """The part of each (b, ...) that is perpendicular to its row of `onto`; all of it where that row is zero."""
    axes = tuple(range(1, vectors.ndim))
    overlap = (vectors * onto).sum(axes, keepdim=True)  # (b, 1, ...)
    length_squared = onto.square().sum(axes, keepdim=True)  # (b, 1, ...)
    return vectors - overlap / length_squared.clamp(min=torch.finfo(onto.dtype).tiny) * onto


def negative_weights(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """(n, 2) weights of "front" and "side" as things to avoid, at least 0; both are 0 overhead.

    Args:
        azimuth: (n,) radians from the front.
        elevation: (n,) radians.
    """
    front, side, back, _ = view_weights(azimuth, torch.zeros_like(elevation)).unbind(1)  # (n,) each
    near_front = torch.stack([decay(front, *FRONT_NEAR_FRONT), decay(side, *SIDE_NEAR_FRONT)], dim=1)  # (n, 2)
    near_back = torch.stack([decay(side, *FRONT_NEAR_BACK), decay(side, *SIDE_NEAR_BACK)], dim=1)  # (n, 2)
    weights = torch.where((back > 0)[:, None], near_back, near_front)
    return weights.masked_fill(is_overhead(elevation)[:, None], 0.0)


def decay(r: Tensor, a: float, b: float, c: float) -> Tensor:
    """a exp(-b r) + c."""
    return a * torch.exp(-b * r) + c
