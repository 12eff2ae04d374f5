"""From noise to latents: the loop in which a diffusers scheduler asks a denoiser (DDIM: 2010.02502, equation 12)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core2d.prior.backbone import Prior, rescale_contrast
from core2d.prior.condition import Condition

OnStep = Callable[[int, Any, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass(frozen=True)
class Guided:
    """The denoiser with its conditions filled in: the guided output at (x_t, t), as schedulers want it.

    Attributes:
        unconditional: None switches guidance off.
        scale: of uncond + scale (cond - uncond).
        rescale: in [0, 1], against over-saturation (2305.08891 section 3.4).
        camera: (n or 1, 5) features of the view, where the denoiser knows views.
    """

    backbone: Prior
    condition: Condition
    unconditional: Condition | None
    scale: float
    rescale: float = 0.0
    camera: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        if self.unconditional is None:
            return self.backbone.network(x_t, t, self.condition, self.camera)
        guided, with_text = self.backbone.network_cfg(
            x_t, t, self.condition, self.unconditional, self.scale, self.camera
        )
        return rescale_contrast(guided, with_text, self.rescale) if self.rescale else guided


def denoise(
    guide: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    scheduler: Any,
    generators: list[torch.Generator],
    on_step: OnStep | None = None,
    begin: int = 0,
) -> Tensor:
    """One batch from noise to clean latents, (b, c, h, w) or of whatever shape the guide takes.

    Args:
        guide: the network's output at (x_t, t).
        latents: (b, c, h, w) noise, times the scheduler's `init_noise_sigma`.
        scheduler: of diffusers, its timesteps set.
        generators: one for each sample, for solvers that draw noise.
        on_step: called as (step, timestep, {"latents": ...}); may return a dict with other latents.
        begin: the step to begin with, where `latents` are not pure noise but as noisy as there.
    """
    # Some solvers take no generator; those that do draw the noise of each sample from its own.
    takes_generators = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generators} if takes_generators else {}
    scaled = getattr(scheduler, "scale_model_input", lambda sample, _t: sample)  # those of flow models do not scale
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    for index, t in enumerate(scheduler.timesteps[begin:], begin):
        output = guide(scaled(latents, t), t)
        latents = scheduler.step(output, t, latents, return_dict=False, **options)[0]
        if on_step is not None:
            latents = (on_step(index, t, {"latents": latents}) or {}).get("latents", latents)
    return latents
