"""Variational score distillation (ProlificDreamer, 2305.16213): against what the pictures of the field look like.

    gradient = w(t) (eps_cfg(x_t, y) - eps_phi(x_t, y, camera)),    equation 9

eps_phi is the prior with low-rank layers that learn to draw the field's own pictures (equation 10) while the field
learns from both. SDS is the case in which the field is taken for one certain picture, whose score is the noise; with
the learned score, guidance of ordinary strength does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core2d.adapters.lora_learning import low_rank
from core2d.app.errors import InputError
from core2d.guidance.base import Tell, images_for
from core2d.guidance.sds import ScoreDistillation, ScoreDistillationConfig, Told
from core2d.prior.base import LatentPrior, Prior
from core2d.prior.cameras import Cameras
from core2d.training.task import step_seed

LEARNING_STREAM = 5  # of the noise that the low-rank layers learn from


class VariationalScoreDistillation(ScoreDistillation):
    """VSD; a guidance that learns (`core2d.guidance.base.Learning`).

    The view is told to the layers as it is told to the prior, by its camera token or in words; the published code adds
    an embedding of its own, for want of one.

    Args:
        prior, config, seed, tell: as for `ScoreDistillation`; published with a guidance scale of 7.5.
        rank: of the low-rank layers, beside the projections of attention.

    Raises:
        InputError: the prior has no network that could learn, as an oracle has none.
    """

    def __init__(
        self,
        prior: Prior,
        config: ScoreDistillationConfig | None = None,
        seed: int = 0,
        tell: Tell | None = None,
        rank: int = 4,
    ):
        super().__init__(prior, config, seed, tell)
        if not isinstance(prior, LatentPrior):
            raise InputError(f"variational score distillation needs a network that learns, and {type(prior).__name__} "
                             "has none")  # fmt: skip
        self.learned, self.learner = low_rank(prior, rank, "attention", seed)

    def gradient(self, latents: Tensor, compared: Tensor, t: Tensor, noise: Tensor, told: Told) -> Tensor:
        x_t = self.prior.add_noise(latents, noise, t)
        towards = self.predict(x_t, t, told)
        return self.weight(towards) * self.between(towards, self.learned.predict(x_t, t, self.condition(told)))

    def learner_loss(self, images: Tensor, prompt: str, cameras: Cameras | None, step: int) -> Tensor:
        """Mean squared error of the noise in the field's pictures, at times all over the schedule (equation 10)."""
        with torch.no_grad():
            images = images_for(self.prior, images, step)  # (b, 3, H, W)
            latents = self.prior.encode_images(images)  # (b, c, h, w)
            condition = self.condition(Told(prompt, images, cameras))
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, LEARNING_STREAM))
        t = torch.randint(1, self.prior.num_train_timesteps, (len(latents),), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        predicted = self.learned.predict(self.prior.add_noise(latents, noise, t), t, condition)
        return (predicted.eps - noise).square().mean()
