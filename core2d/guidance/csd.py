"""Classifier score distillation (2310.19415): only what the words change.

    gradient = w(t) (eps(x_t, y) - eps(x_t, "")),    equation 6

SDS under guidance of scale s is the plain SDS and (s - 1) times this; here the plain part, which averages over all that
the prior could have drawn, is left out. So there is no scale to choose.
"""

from torch import Tensor

from core2d.guidance.sds import ScoreDistillation, Told


class ClassifierScoreDistillation(ScoreDistillation):
    """CSD. `guidance_scale` and `rescale` of its settings are not used."""

    def gradient(self, latents: Tensor, compared: Tensor, t: Tensor, noise: Tensor, told: Told) -> Tensor:
        x_t = self.prior.add_noise(latents, noise, t)
        wanted = self.condition(told).expand(len(x_t))
        without = self.unconditional(wanted).expand(len(x_t)).told_also(wanted)
        towards = self.prior.predict(x_t, t, wanted)
        return self.weight(towards) * self.between(towards, self.prior.predict(x_t, t, without))
