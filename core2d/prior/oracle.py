"""An exact prior: the best possible denoiser of a finite set of latents, with the interface of a backbone.

If the data are n latents x_i with weights p_i, then x_t = alpha x_i + sigma eps is a mixture of n Gaussians
and the mean of x0 given x_t is known (empirical Bayes, 2206.00364 appendix B.3):

    E[x0 | x_t] = sum_i w_i x_i,    w = softmax(log p_i - |x_t - alpha x_i|^2 / (2 sigma^2))

Whatever is built on guidance can be tried on it: what then goes wrong is not the prior's fault.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.prior.backbone import Backbone
from core2d.prior.base import Camera, Generators, Prior
from core2d.prior.camera_token import camera_features
from core2d.prior.condition import Condition
from core2d.prior.schedule import NoiseSchedule

STABLE_DIFFUSION_SCHEDULE: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
}


def mentions(prompt: str, caption: str) -> bool:
    """Whether a caption has every word of a prompt; the empty prompt is in every caption."""
    return set(re.findall(r"\w+", prompt.lower())) <= set(re.findall(r"\w+", caption.lower()))


class OracleBackbone(Prior):
    """Exact scores of a set of latents. A prompt, and a camera, restrict the set that is averaged over.

    A `Condition` of an oracle holds the weights p_i as its tokens (b, n, 1), so conditions may also be
    mixed. The unconditional one weighs all latents the same. A camera keeps the latents of the nearest view
    in the selection.

    Args:
        latents: (n, c, h, w), or images in [-1, 1] as (n, 3, h, w) where `autoencoder` is None.
        captions: what each latent shows; needed for prompts other than "".
        cameras: from where each is seen: `core2d.prior.cameras.Cameras` of n views, or (n, 5) features.
        select: says whether a prompt (first) asks for a caption (second).
        autoencoder: a backbone that encodes and decodes images; its schedule is taken too.
        scheduler_config: another schedule or prediction type than Stable Diffusion's.
        world: see `Prior`.
    """

    dtype = torch.float64  # of the arithmetic; outputs have the dtype of x_t

    def __init__(
        self,
        latents: Tensor,
        captions: list[str] | None = None,
        cameras: Camera | None = None,
        select: Callable[[str, str], bool] = mentions,
        autoencoder: Backbone | None = None,
        scheduler_config: dict[str, Any] | None = None,
        world: str | None = None,
    ):
        views = None if cameras is None else camera_features(cameras).double().to(latents.device)  # (n, 5)
        for name, described in (("captions", captions), ("cameras", views)):
            if described is not None and len(described) != len(latents):
                raise ValueError(f"{len(described)} {name} for {len(latents)} latents")
        self.latents = latents.double()  # (n, c, h, w)
        self.captions, self.views, self.select = captions, views, select
        self.autoencoder = autoencoder
        inherited = autoencoder.scheduler_config if autoencoder else STABLE_DIFFUSION_SCHEDULE
        self.scheduler_config = scheduler_config or inherited
        self.schedule = NoiseSchedule.from_config(self.scheduler_config)
        self.latent_channels, self.latent_size = latents.shape[1], latents.shape[2]
        self.vae_scale_factor = autoencoder.vae_scale_factor if autoencoder else 1
        self.has_camera_token, self.world = views is not None, world
        self.device = latents.device

    def encode_text(self, prompts: list[str]) -> Condition:
        """(b, n, 1) weights of the set for each prompt; InputError if a prompt asks for nothing that is in
        it.
        """
        return Condition(torch.stack([self._weights(prompt) for prompt in prompts])[..., None])

    def _weights(self, prompt: str) -> Tensor:
        if prompt == "":
            chosen = [True] * len(self.latents)
        elif self.captions is None:
            raise InputError("this oracle has no captions, so it knows no prompt but the empty one")
        else:
            chosen = [self.select(prompt, caption) for caption in self.captions]
        if not any(chosen):
            raise InputError(f"nothing in the oracle's set is described by {prompt!r}")
        weights = torch.tensor(chosen, dtype=torch.float64, device=self.device)  # (n,)
        return weights / weights.sum()

    def encode_images(self, images: Tensor, generator: Generators | None = None) -> Tensor:
        return 2 * images - 1 if self.autoencoder is None else self.autoencoder.encode_images(images, generator)

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / 2 + 0.5).clamp(0, 1) if self.autoencoder is None else self.autoencoder.decode(latents)

    def network(self, x_t: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        condition = condition.expand(len(x_t))
        weights = condition.tokens[..., 0]  # (b, n)
        if condition.camera is not None:
            weights = weights * self._nearest_views(condition.camera, weights)
        x0 = self._posterior_mean(x_t.double(), t, weights)
        prediction = self.schedule.prediction(x0, x_t.double(), t, kind="sample")
        return self.schedule.output(prediction).to(x_t.dtype)

    def _posterior_mean(self, x_t: Tensor, t: int | Tensor, weights: Tensor) -> Tensor:
        """E[x0 | x_t] of the weighted set, (b, c, h, w) in float64."""
        alpha, sigma = self.schedule.alpha_sigma(t, x_t.flatten(1))  # (b, 1) each
        noisy, clean = x_t.flatten(1), self.latents.flatten(1)  # (b, d), (n, d)
        # |x - a x_i|^2 without its term |x|^2, which is the same for all i and cancels in the softmax.
        distance = (alpha * clean.square().sum(1) - 2 * noisy @ clean.T) * alpha  # (b, n)
        posterior = (weights.log() - distance / (2 * sigma.square())).softmax(dim=1)  # (b, n)
        return (posterior @ clean).view_as(x_t)

    def _nearest_views(self, camera: Tensor, weights: Tensor) -> Tensor:
        """(b, n) 1 where a latent of the selection is seen from (all but) the nearest view to that of the
        row.
        """
        if self.views is None:
            raise InputError("this oracle has no cameras: describe the view in the prompt")
        wanted = camera.double().to(self.device)  # (b, 5)
        distance = torch.cdist(wanted, self.views).masked_fill(weights == 0, torch.inf)  # (b, n)
        return (distance <= distance.amin(1, keepdim=True) + 1e-6).double()
