"""Novel views: what one picture shows, seen from elsewhere (2303.11328, section 3.2)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from core2d.app.errors import InputError
from core2d.prior.sampling import Guided, denoise
from core2d.prior.schedulers import make_scheduler
from core2d.systems.text_to_image.pipeline import LARGEST_BATCH, POSITIONS_AT_ONCE
from gen3d.zero123.model import Reference, Zero123, nothing

GUIDANCE = 3.0  # of the paper's demo


def orbit_views(count: int) -> Tensor:
    """(count, 4) views at equal steps around the object, counter-clockwise from above; the first is the picture's."""
    return view_by(2 * math.pi * torch.arange(count) / count, torch.zeros(count))


def view_by(azimuth: Tensor, elevation: Tensor, radius: Tensor | float = 0.0) -> Tensor:
    """(n, 4) views of cameras that moved by these angles (n,) in radians (elevation up) and by metres outwards."""
    further = torch.as_tensor(radius, dtype=azimuth.dtype).expand_as(azimuth)
    return torch.stack([-elevation, azimuth.sin(), azimuth.cos(), further], dim=1)


class NovelViews:
    """A model and a scheduler that together draw a picture's object from other views.

    Args:
        model: see there.
        scheduler: of diffusers, by name or made; None for the one of the checkpoint.
    """

    def __init__(self, model: Zero123, scheduler: SchedulerMixin | str | None = None) -> None:
        self.model = model
        self.scheduler = make_scheduler(model.scheduler_config, scheduler)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, device: str = "cpu", dtype: str | torch.dtype | None = None
    ) -> NovelViews:
        """As `Zero123.load`."""
        return cls(Zero123.load(name_or_path, device, dtype))

    @torch.no_grad()
    def __call__(
        self,
        picture: Tensor,
        views: Tensor,
        *,
        elevation: float | Tensor = 0.0,
        num_inference_steps: int = 50,
        guidance_scale: float = GUIDANCE,
        generator: list[torch.Generator] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> Tensor:
        """(n, 3, H, W) pictures in [0, 1] of the model's size.

        Args:
            picture: (3, H, W), or one for each view (n, 3, H, W), in [0, 1], of an object on white.
            views: (n, 4), see `relative_view`, `view_by` and `orbit_views`.
            elevation: of the picture's camera in radians, for Stable Zero123.
            guidance_scale: uncond + scale (cond - uncond); 1 and less switch guidance off.
            generator: one for each view; else view i starts from seed + i, whatever is drawn beside it.
            batch_size: views at once; it does not change results.

        Raises:
            InputError: a number of steps or generators that is not possible.
        """
        if not 1 <= num_inference_steps <= self.model.num_train_timesteps:
            raise InputError(f"{num_inference_steps} denoising steps are not possible")
        generators = generator or [torch.Generator().manual_seed(seed + i) for i in range(len(views))]
        if len(generators) != len(views):
            raise InputError(f"{len(generators)} generators for {len(views)} views: give one for each, or a seed")
        side = self.model.latent_size
        seen = self.model.see(picture if picture.ndim == 4 else picture[None], elevation).expand(len(views))
        noise = randn_tensor(
            (len(views), self.model.latent_channels, side, side), generators, self.model.device, torch.float32
        )
        at_once = batch_size or max(1, min(LARGEST_BATCH, POSITIONS_AT_ONCE // side**2))
        done = []
        for start in range(0, len(views), at_once):
            rows = slice(start, start + at_once)
            scheduler = make_scheduler(self.model.scheduler_config, self.scheduler)
            scheduler.set_timesteps(num_inference_steps, device=self.model.device)
            part = Reference(seen.embedding[rows], seen.latents[rows], seen.polar[rows])
            condition = self.model.condition(part, views[rows])
            unconditional = nothing(condition) if guidance_scale > 1 else None
            guide = Guided(self.model, condition, unconditional, guidance_scale)
            latents = denoise(guide, noise[rows] * scheduler.init_noise_sigma, scheduler, generators[rows])
            done.append(self.model.decode(latents))
        return torch.cat(done)
