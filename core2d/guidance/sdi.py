"""Score distillation via inversion (2405.15891): the noise is not drawn, but found from the picture.

    gradient = w(t) (eps_cfg(x_t) - kappa),    x_t = alpha_t z + sigma_t kappa    equation 10

kappa is the noise at which DDIM sampling, turned around, arrives from the picture. With it distillation follows the
path that sampling in 2D would take; noise that is drawn anew in every step averages over paths: pictures get smooth.
"""

from torch import Tensor

from core2d.guidance.base import Tell
from core2d.guidance.inversion import invert
from core2d.guidance.sds import ScoreDistillation, ScoreDistillationConfig, Told
from core2d.prior.base import Prior
from core2d.prior.schedule import Prediction


class ScoreDistillationByInversion(ScoreDistillation):
    """SDI.

    Args:
        prior, config, seed, tell: as for `ScoreDistillation`; the seed decides the times alone.
        steps: of the inversion; 10 as published.
        inversion_scale: guidance of the inversion. None takes that of the settings with its sign turned, as published
            (-7.5), and none where the settings have none.
    """

    def __init__(
        self,
        prior: Prior,
        config: ScoreDistillationConfig | None = None,
        seed: int = 0,
        tell: Tell | None = None,
        steps: int = 10,
        inversion_scale: float | None = None,
    ):
        super().__init__(prior, config, seed, tell)
        if steps < 1:
            raise ValueError(f"an inversion needs at least one step, not {steps}")
        forward = self.config.guidance_scale
        backward = forward if forward == 1 else -forward
        self.steps, self.inversion_scale = steps, backward if inversion_scale is None else inversion_scale

    def gradient(self, latents: Tensor, compared: Tensor, t: Tensor, noise: Tensor, told: Told) -> Tensor:
        wanted = self.condition(told)
        without = self.unconditional(wanted)

        def predict(x: Tensor, at: Tensor) -> Prediction:
            if self.inversion_scale == 1:
                return self.prior.predict(x, at, wanted)
            return self.prior.predict_cfg(x, at, wanted, without, self.inversion_scale)

        x_t, _ = invert(self.prior, latents, t, self.steps, predict)
        alpha, sigma = self.prior.schedule.alpha_sigma(t, latents)
        return super().gradient(latents, compared, t, (x_t - alpha * latents) / sigma, told)
