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


@dataclass(frozen=True)
class Over:
    """A picture that is drawn over: where the drawing begins, and what of it stays.

    Attributes:
        latents: (b, c, h, w) of the picture.
        mask: (b, 1, h, w) 1 where is drawn. Elsewhere each step ends in the picture's latents, as noisy as they are to
            be then (Lugmayr et al. 2022, 2201.09865, equation 8); 1 everywhere keeps nothing.
        strength: share of the denoising that is done, in (0, 1]: 1 begins with noise alone, less with the picture under
            as much noise as is left then (2108.01073).
    """

    latents: Tensor
    mask: Tensor
    strength: float = 1.0

    def __getitem__(self, rows: slice) -> Over:
        return Over(self.latents[rows], self.mask[rows], self.strength)

    def begin(self, noise: Tensor, scheduler: Any) -> tuple[Tensor, int]:
        """What the denoising begins with, of noise (b, c, h, w), and its first step.

        Raises:
            InputError: a scheduler that cannot add noise, or no step is left.
        """
        if not hasattr(scheduler, "add_noise"):
            raise InputError(f"{type(scheduler).__name__} cannot draw over a picture: take another scheduler")
        steps = scheduler.num_inference_steps
        first = steps - min(int(steps * self.strength), steps)
        if first == steps:
            raise InputError(f"a strength of {self.strength} of {steps} steps leaves none: give more of either")
        if self.strength == 1:
            return noise * getattr(scheduler, "init_noise_sigma", 1.0), first
        return self._noisy(noise, scheduler, first), first

    def after(self, step: int, latents: Tensor, noise: Tensor, scheduler: Any) -> Tensor:
        """Latents after a step, with the picture where it stays."""
        last = step + 1 == len(scheduler.timesteps)
        stays = self.latents if last else self._noisy(noise, scheduler, step + 1)
        return (1 - self.mask) * stays + self.mask * latents

    def _noisy(self, noise: Tensor, scheduler: Any, step: int) -> Tensor:
        return scheduler.add_noise(self.latents, noise, scheduler.timesteps[step : step + 1])


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
