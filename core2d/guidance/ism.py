"""Interval score matching (LucidDreamer, 2311.11284): two neighbouring times on one path, which is no chance.

    gradient = w(t) (eps(x_t, t, y) - eps(x_s, s, "")),    t = s + interval    equation 17

x_s is made from the picture by DDIM inversion without words, and x_t from x_s by one step more. So the same picture is
always led the same way, where SDS leads it elsewhere with every noise.
"""

import torch
from torch import Tensor

from core2d.guidance.base import Tell
from core2d.guidance.inversion import invert, move
from core2d.guidance.sds import ScoreDistillation, ScoreDistillationConfig, Told
from core2d.prior.base import Prior


class IntervalScoreMatching(ScoreDistillation):
    """ISM.

    Args:
        prior, config, seed, tell: as for `ScoreDistillation`; the seed decides the times alone.
        interval: t - s, as a fraction of the schedule; 0.05 as published.
        steps: of the inversion to s. The paper's steps are 0.2 of the schedule long.
    """

    def __init__(
        self,
        prior: Prior,
        config: ScoreDistillationConfig | None = None,
        seed: int = 0,
        tell: Tell | None = None,
        interval: float = 0.05,
        steps: int = 3,
    ):
        super().__init__(prior, config, seed, tell)
        if not 0 < interval < 1 or steps < 1:
            raise ValueError(f"an interval of {interval} after {steps} steps: give a fraction, and a step or more")
        self.interval, self.steps = interval, steps

    def gradient(self, latents: Tensor, compared: Tensor, t: Tensor, noise: Tensor, told: Told) -> Tensor:
        wanted = self.condition(told).expand(len(latents))
        without = self.unconditional(wanted).expand(len(latents)).told_also(wanted)
        earlier = (t - max(1, round(self.interval * self.prior.num_train_timesteps))).clamp(min=1)
        x_s, _ = invert(self.prior, latents, earlier, self.steps, lambda x, at: self.prior.predict(x, at, without))
        before = self.prior.predict(x_s, earlier, without)
        x_t = move(self.prior, before, t)
        towards = self.predict(x_t, t, told)
        away = self.prior.schedule.prediction(before.eps, x_t, t, kind="epsilon")
        return torch.as_tensor(self.weight(towards) * self.between(towards, away))
