"""Novel views: what one picture shows, seen from elsewhere (2303.11328, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from core2d.prior.condition import Adapter
from core2d.prior.sampling import Guided, check_steps, denoise, generators_for
from core2d.prior.schedulers import STABLE_DIFFUSION_SETTINGS, make_scheduler
from core2d.systems.text_to_image.pipeline import LARGEST_BATCH, POSITIONS_AT_ONCE
from gen3d.zero123.formats import write_zero123
from gen3d.zero123.model import Zero123, nothing

GUIDANCE = 3.0  # of the paper's demo

StepCallback = Callable[["NovelViews", int, Any, dict[str, Tensor]], dict[str, Tensor] | None]


def orbit_views(count: int) -> Tensor:
    """(count, 4) views at equal steps around the object, counter-clockwise from above; the first is the picture's."""
    return view_by(2 * math.pi * torch.arange(count) / count, torch.zeros(count))


def view_by(azimuth: Tensor, elevation: Tensor, radius: Tensor | float = 0.0) -> Tensor:
    """(n, 4) views of cameras that moved by these angles (n,) in radians (elevation up) and by metres outwards."""
    further = torch.as_tensor(radius, dtype=azimuth.dtype).expand_as(azimuth)
    return torch.stack([-elevation, azimuth.sin(), azimuth.cos(), further], dim=1)


@dataclass(frozen=True)
class NovelViewsOutput:
    """`images`: (n, 3, H, W) in [0, 1]."""

    images: Tensor


class NovelViews:
    """A model and a scheduler that together draw a picture's object from other views.

    Args:
        model: see there.
        scheduler: of diffusers, by name or made; None for the one of the checkpoint.
    """

    def __init__(self, model: Zero123, scheduler: SchedulerMixin | str | None = None) -> None:
        self.model = model
        self.scheduler_config = model.scheduler_config | STABLE_DIFFUSION_SETTINGS
        self.scheduler = make_scheduler(self.scheduler_config, scheduler)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, device: str = "cpu", dtype: str | torch.dtype | None = None
    ) -> NovelViews:
        """As `Zero123.load`."""
        return cls(Zero123.load(name_or_path, device, dtype))

    def with_adapters(self, *adapters: Adapter) -> NovelViews:
        """The same pipeline with adapters on its model (`core2d.prior.condition`); this one stays as it is."""
        return NovelViews(self.model.with_adapters(*adapters), self.scheduler)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model as a folder that `from_pretrained` opens; weights in `dtype` if one is given."""
        write_zero123(Path(folder), self.model.parts, "diffusers", dtype)

    @torch.no_grad()
    def __call__(
        self,
        picture: Tensor,
        views: Tensor,
        *,
        elevation: float | Tensor = 0.0,
        num_inference_steps: int = 50,
        guidance_scale: float = GUIDANCE,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        scheduler: SchedulerMixin | str | None = None,
        telling: Mapping[str, Tensor] | None = None,
        batch_size: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> NovelViewsOutput:
        """Draw n pictures of the model's size.

        Args:
            picture: (3, H, W), or one for each view (n, 3, H, W), in [0, 1], of an object on white.
            views: (n, 4), see `relative_view`, `view_by` and `orbit_views`.
            elevation: of the picture's camera in radians, for Stable Zero123.
            guidance_scale: uncond + scale (cond - uncond); 1 and less switch guidance off.
            generator: one for each view.
            seed: instead of generators: view i starts from seed + i, whatever is drawn beside it.
            scheduler: another one for this call, by name or made.
            telling: what adapters are told, by name: (n, ...), or (1, ...) for all views alike (`with_adapters`).
            batch_size: views at once; it does not change results.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": ...}) in each step of each batch; may
                return a dict with other latents.

        Raises:
            InputError: a number of steps or generators that is not possible.
        """
        check_steps(self.model, num_inference_steps)
        generators = generators_for(generator, seed, range(len(views)), "views")
        side = self.model.latent_size
        reference = self.model.see(picture if picture.ndim == 4 else picture[None], elevation).expand(len(views))
        shape = (len(views), self.model.latent_channels, side, side)
        noise = randn_tensor(shape, generators, self.model.device, torch.float32)
        at_once = batch_size or max(1, min(LARGEST_BATCH, POSITIONS_AT_ONCE // side**2))
        on_step = None if callback_on_step_end is None else partial(callback_on_step_end, self)
        done = []
        for start in range(0, len(views), at_once):
            rows = slice(start, start + at_once)
            step = make_scheduler(self.scheduler_config, scheduler or self.scheduler)
            step.set_timesteps(num_inference_steps, device=self.model.device)
            condition = self.model.condition(reference[rows], views[rows])
            if telling:
                condition = condition.telling(
                    **{n: part if len(part) == 1 else part[rows] for n, part in telling.items()}
                )
            unconditional = nothing(condition) if guidance_scale > 1 else None
            guide = Guided(self.model, condition, unconditional, guidance_scale)
            latents = denoise(guide, noise[rows] * step.init_noise_sigma, step, generators[rows], on_step)
            done.append(self.model.decode(latents))
        images = torch.cat(done)
        return NovelViewsOutput(images) if return_dict else (images,)  # pyright: ignore[reportReturnType]
