"""From noise to latents: the loop in which a diffusers scheduler asks a prior (DDIM: 2010.02502, equation 12)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.prior.base import Prior, rescale_contrast
from core2d.prior.condition import Condition

OnStep = Callable[[int, Any, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass(frozen=True)
class Guided:
    """The prior with its conditions filled in: the guided output at (x_t, t), as schedulers want it.

    Attributes:
        unconditional: None switches guidance off.
        scale: of uncond + scale (cond - uncond).
        rescale: in [0, 1], against over-saturation (2305.08891 section 3.4).
    """

    prior: Prior
    condition: Condition
    unconditional: Condition | None
    scale: float
    rescale: float = 0.0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        if self.unconditional is None:
            return self.prior.network(x_t, t, self.condition)
        guided, with_text = self.prior.network_cfg(x_t, t, self.condition, self.unconditional, self.scale)
        return rescale_contrast(guided, with_text, self.rescale) if self.rescale else guided


def generators_for(
    given: torch.Generator | list[torch.Generator] | None, seed: int | None, offsets: Sequence[int], what: str
) -> list[torch.Generator]:
    """One generator for each sample, so that a sample does not depend on what is drawn beside it.

    Args:
        given: one for each sample; a single one for a single sample.
        seed: instead: sample i starts from seed + offsets[i]. Without either, torch's global generator decides.
        offsets: one for each sample.
        what: samples are called, such as "images".

    Raises:
        InputError: both are given, or too few or too many.
    """
    if given is not None:
        if seed is not None:
            raise InputError("give a seed or generators, not both")
        generators = [given] if isinstance(given, torch.Generator) else list(given)
        if len(generators) != len(offsets):
            raise InputError(f"{len(generators)} generators for {len(offsets)} {what}: give one for each, or a seed")
        return generators
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    return [torch.Generator().manual_seed(seed + offset) for offset in offsets]


def check_steps(prior: Prior, steps: int) -> None:
    """InputError for a number of denoising steps that the prior's schedule does not have."""
    if not 1 <= steps <= prior.num_train_timesteps:
        raise InputError(f"{steps} denoising steps are not possible: give 1 to {prior.num_train_timesteps}")


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
