"""Score distillation sampling, DreamFusion (2209.14988) equation 3.

    gradient = w(t) (eps_cfg(z_t, t) - eps) dz/dimages,    z_t = alpha_t z + sigma_t eps

The denoiser's own Jacobian is left out: it is only asked what the noise is, without derivatives. The autoencoder's is
not: the gradient reaches the images through the encoder. In the space of images there is no encoder to go through:
the images are drawn towards the decoded x0, as in HiFA (2305.18766 section 3.1).

    guidance = ScoreDistillation(prior, ScoreDistillationConfig(guidance_scale=50, form="x0"))
    loss, info = guidance(images, "a red mug", cameras, step)
    loss.backward()
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.guidance.annealing import TimeRange
from core2d.guidance.base import Info, Tell, images_for, loss_of, require_finite
from core2d.guidance.view_prompts import ViewPrompts
from core2d.prior.base import Prior
from core2d.prior.cameras import Cameras
from core2d.prior.condition import Condition
from core2d.prior.schedule import Prediction
from core2d.training.loop import step_seed

NOISE_STREAM = 1  # so that cameras which a caller draws from (seed, step) have nothing to do with our noise

Weighting = Literal["sds", "uniform", "fantasia3d"]
Form = Literal["eps", "x0"]
Views = Literal["auto", "camera", "words"]
Space = Literal["latent", "image"]


@dataclass(frozen=True, kw_only=True)
class ScoreDistillationConfig:
    """How the prior is asked. The defaults are DreamFusion's.

    MVDream (2308.16512) is `guidance_scale=50, rescale=0.5, weighting="uniform", form="x0"` with
    `times=TimeRange((0.98, 0.98), (0.02, 0.5), 8000)`.

    Attributes:
        guidance_scale: s of uncond + s (cond - uncond), so 1 is the plain conditional prediction.
        rescale: how much of the guided contrast is pulled back to the conditional one (2305.08891 section 3.4), of
            x0 and for each image; in [0, 1].
        negative_prompt: what stands in for "no prompt".
        weighting: w(t) = sigma_t^2 ("sds"), 1 ("uniform") or sqrt(abar_t) (1 - abar_t) ("fantasia3d", 2303.13873).
        form: what w(t) multiplies: eps_cfg - eps, or z - x0_cfg, which is sigma_t / alpha_t times as much.
        space: where the difference is taken: between latents, or between the images and the decoded x0_cfg, which
            needs the form "x0". The gradient of the encoder has fine patterns that change latents much and images
            little; without it an image cannot please the prior with colours that it does not have.
        times: noise levels, and how they move.
        views: the camera token where the prior has one and words elsewhere ("auto"); or what is asked for.
        wording: of the view, where words are used.
    """

    guidance_scale: float = 100.0
    rescale: float = 0.0
    negative_prompt: str = ""
    weighting: Weighting = "sds"
    form: Form = "eps"
    space: Space = "latent"
    times: TimeRange = field(default_factory=TimeRange)
    views: Views = "auto"
    wording: ViewPrompts = field(default_factory=ViewPrompts)

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise InputError(f"a guidance rescale of {self.rescale} is not possible: give 0 to 1")
        for name, kind in (("weighting", Weighting), ("form", Form), ("space", Space), ("views", Views)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(f"unknown {name} {getattr(self, name)!r}: give {', '.join(get_args(kind))}")
        if self.space == "image" and self.form != "x0":
            raise InputError('in the space of images, distillation has the form "x0" only')


@dataclass(frozen=True)
class Told:
    """What a step of guidance is about: the prompt, its images (b, 3, H, W) without gradient, and their cameras."""

    prompt: str
    images: Tensor
    cameras: Cameras | None


class ScoreDistillation:
    """SDS with one prior. Two calls with the same arguments give the same loss: nothing is kept between them.

    Args:
        prior: a backbone, or an oracle.
        config: see there.
        seed: with the step, it decides the times and the noise.
        tell: says what more the prior is told of each picture, such as a map of it for a ControlNet.

    Raises:
        InputError: the camera token is asked for and the prior has none.
    """

    def __init__(
        self, prior: Prior, config: ScoreDistillationConfig | None = None, seed: int = 0, tell: Tell | None = None
    ):
        self.prior, self.config, self.seed, self.tell = prior, config or ScoreDistillationConfig(), seed, tell
        if self.config.views == "camera" and not prior.has_camera_token:
            raise InputError('this model has no camera token: use views="words"')

    def __call__(self, images: Tensor, prompt: str, cameras: Cameras | None, step: int) -> tuple[Tensor, Info]:
        """See `core2d.guidance.base.Guidance`.

        Raises:
            ValueError: images that are not (b, 3, h, h), or neither one camera nor b.
            InputError: images or predictions that are not finite, or a prompt that is too long.
        """
        images = images_for(self.prior, images, step)  # (b, 3, H, W)
        in_images = self.config.space == "image"
        latents = self.prior.encode_images(images.detach() if in_images else images)  # (b, c, h, w)
        compared = images if in_images else latents
        if cameras is not None and len(cameras) not in (1, len(latents)):
            raise ValueError(f"{len(cameras)} cameras for {len(latents)} images; give one, or one for each")
        with torch.no_grad():
            t, noise = self.draw(latents, step)
            told = Told(prompt, images.detach(), cameras)
            gradient = self.gradient(latents, compared.detach(), t, noise, told)
        require_finite(gradient, f"the prior's prediction at step {step} holds NaN or infinity: use dtype float32")
        return loss_of(compared, gradient), {"t": t, "gradient_norm": gradient.flatten(1).norm(dim=1)}

    def gradient(self, latents: Tensor, compared: Tensor, t: Tensor, noise: Tensor, told: Told) -> Tensor:
        """The gradient by what is compared, latents or images: weighted, shaped as that. Other guidances begin here.

        Args:
            latents: (b, c, h, w) of the images.
            compared: these, or the images (b, 3, H, W) themselves.
            t: (b,).
            noise: (b, c, h, w).
        """
        prediction = self.predict(self.prior.add_noise(latents, noise, t), t, told)
        return self.weight(prediction) * self.direction(prediction, compared, noise)

    def draw(self, latents: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Times (b,) and noise (b, c, h, w) of a step, the same on every device."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, NOISE_STREAM))
        t = self.config.times.draw(step, len(latents), self.prior.num_train_timesteps, generator)
        noise = torch.randn(latents.shape, generator=generator)  # in float32, whatever the latents are
        return t.to(latents.device), noise.to(latents)

    def predict(self, x_t: Tensor, t: Tensor, told: Told) -> Prediction:
        """What the guided prior makes of x_t (b, c, h, w) at t (b,)."""
        condition = self.condition(told)
        scale, rescale = self.config.guidance_scale, self.config.rescale
        if scale == 1:
            return self.prior.predict(x_t, t, condition)
        without = self.unconditional(condition)
        return self.prior.predict_cfg(x_t, t, condition, without, scale, rescale, rescale_on="x0")

    def condition(self, told: Told) -> Condition:
        """What the prior is told of each picture, 1 or b rows: words, view, and what `tell` adds."""
        condition = self.describe(told)
        return condition if self.tell is None else self.tell(condition, told.images, told.cameras)

    def unconditional(self, condition: Condition) -> Condition:
        """What guidance leads away from: no words, or negative ones."""
        return self.prior.encode_text([self.config.negative_prompt])

    def describe(self, told: Told) -> Condition:
        """The plain prompt and a camera, or a prompt in which the view is described."""
        if told.cameras is None:
            if self.config.views != "auto":
                raise ValueError(f'views="{self.config.views}" needs cameras')
            return self.prior.encode_text([told.prompt])
        if self.prior.has_camera_token and self.config.views != "words":
            return self.prior.encode_text([told.prompt]).seen_from(told.cameras)
        return self.config.wording.condition(self.prior, told.prompt, told.cameras)

    def direction(self, prediction: Prediction, values: Tensor, noise: Tensor) -> Tensor:
        """Where the values, latents (b, c, h, w) or images (b, 3, H, W), should not go, before it is weighted."""
        if self.config.space == "image":
            return values - self.prior.decode(prediction.x0)
        return values - prediction.x0 if self.config.form == "x0" else prediction.eps - noise

    def between(self, towards: Prediction, away: Prediction) -> Tensor:
        """The direction where two predictions of the same x_t are compared, and no prediction with what was drawn."""
        if self.config.space == "image":
            return self.prior.decode(away.x0) - self.prior.decode(towards.x0)
        return away.x0 - towards.x0 if self.config.form == "x0" else towards.eps - away.eps

    def weight(self, prediction: Prediction) -> Tensor:
        """(b, 1, 1, 1) w(t), of the signal-to-noise ratio alone: flow matching gets what it would get elsewhere."""
        alpha_squared, sigma_squared = prediction.alpha_t.square(), prediction.sigma_t.square()
        abar = alpha_squared / (alpha_squared + sigma_squared)  # the sum is 1 but for flow matching
        if self.config.weighting == "uniform":
            return torch.ones_like(abar)
        if self.config.weighting == "fantasia3d":
            return abar.sqrt() * (1 - abar)
        assert self.config.weighting == "sds", f"the weighting {self.config.weighting!r} has no formula here"
        return 1 - abar
