"""Zero-1-to-3 (Liu et al. 2023, 2303.11328): what one picture shows, seen from elsewhere.

    the picture  -> CLIP embedding, joined with the view (R, T) -> context tokens of the UNet      (section 3.2)
                 -> latent, joined with the noisy latent along the channels
    noise        -> the picture from the other view, by a diffusion sampler under guidance
    any render   -> score distillation towards the picture from its view                           (section 3.3)

A view is T = [d polar, sin d azimuth, cos d azimuth, d radius], in radians, of the wanted camera against that of the
picture (`core2d.cameras.relative_view`). The polar angle counts from +Z, so a camera further up has a negative d polar.

    model = Zero123.load("zero123-xl.ckpt")
    views = NovelViews(model)(picture, orbit_views(12), seed=0)  # (3, H, W) on white -> (12, 3, H, W)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn import functional as F

from core2d.backbone import Camera, LatentDenoiser
from core2d.cameras import Cameras, relative_view
from core2d.errors import InputError
from core2d.guidance import ScoreDistillation, ScoreDistillationConfig
from core2d.models import resolve
from core2d.models.families import TextCondition
from core2d.models.schedulers import make_scheduler
from core2d.run import pick_device, pick_dtype
from core2d.sampling import Guided, denoise
from core2d.schedule import Prediction
from core2d.text_to_image import LARGEST_BATCH, POSITIONS_AT_ONCE
from gen3d.zero123_formats import Report, Zero123Parts, read_zero123

GUIDANCE = 3.0  # of the paper's demo
USUAL_ELEVATION = math.radians(20.0)  # of a picture of which nothing is known


@dataclass(frozen=True)
class Seen:
    """What the model takes from pictures.

    Attributes:
        embedding: (b, e) of the CLIP image tower: projected, not normalised.
        latents: (b, c, h, w) mode of the posterior, not scaled by the autoencoder's factor.
        polar: (b,) angle of the camera from +Z in radians, for models that want it (Stable Zero123).
    """

    embedding: Tensor
    latents: Tensor
    polar: Tensor

    def expand(self, rows: int) -> Seen:
        """One picture seen as many."""
        return Seen(*(part.expand(rows, *part.shape[1:]) for part in (self.embedding, self.latents, self.polar)))


class Zero123(LatentDenoiser):
    """A published or bundled checkpoint, frozen.

    Args:
        parts: its modules, and what is known about them.
    """

    has_camera_token = False

    def __init__(self, parts: Zero123Parts) -> None:
        super().__init__(parts.vae, parts.scheduler_config, parts.unet.config["sample_size"])
        self.parts = parts
        for module in self.modules():
            module.requires_grad_(False).eval()
        self.device, self.dtype = parts.unet.device, parts.unet.dtype

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
    ) -> Zero123:
        """Load a bundled model, a folder in either diffusers layout, or a file in the original layout."""
        return cls.load_with_report(name_or_path, device, dtype)[0]

    @classmethod
    def load_with_report(
        cls,
        name_or_path: str | Path,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
    ) -> tuple[Zero123, Report]:
        """As `load`, with what was found in the file.

        Raises:
            InputError: no such model or device, or a checkpoint that does not fit.
        """
        device = pick_device(device) if isinstance(device, str) else device
        dtype = pick_dtype(dtype) if isinstance(dtype, str) else dtype or torch.float32
        path = Path(name_or_path)
        parts, report = read_zero123(path if path.is_file() else resolve(name_or_path), dtype)
        return cls(parts).to(device), report

    def modules(self) -> tuple[torch.nn.Module, ...]:
        """UNet, autoencoder, image tower and projection."""
        return (self.parts.unet, self.parts.vae, self.parts.image_encoder, self.parts.projection)

    def to(self, device: torch.device) -> Zero123:
        """Move everything to a device; the model itself, for chaining."""
        for module in self.modules():
            module.to(device)
        self.device = self.parts.unet.device
        return self

    def encode_text(self, prompts: list[str]) -> TextCondition:
        raise InputError("Zero-1-to-3 is told what to draw by a picture, not by words")

    @torch.no_grad()
    def see(self, images: Tensor, elevation: float | Tensor = 0.0) -> Seen:
        """Look at pictures (b, 3, H, W) in [0, 1], of objects on white.

        Args:
            elevation: of their cameras in radians, one or (b,); only Stable Zero123 uses it.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"Zero-1-to-3 looks at pictures (b, 3, H, W), got {tuple(images.shape)}")
        images = _resized(images.to(self.device), (self.image_size, self.image_size))
        shift, scale = self._latent_statistics(images)
        latents = self.encode_images(images) / scale + shift  # joined unscaled, as the original does
        polar = math.pi / 2 - torch.as_tensor(elevation, dtype=torch.float32).expand(len(images))
        return Seen(self.embed(images), latents, polar.to(self.device))

    def embed(self, images: Tensor) -> Tensor:
        """(b, e) embeddings of pictures (b, 3, H, W) in [0, 1].

        They are resized as the original does it: bicubic, corner to corner, without a filter against aliasing.
        """
        encoder = self.parts.image_encoder
        side: Any = encoder.config.image_size
        if images.shape[2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", align_corners=True)
        mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (self.parts.image_mean, self.parts.image_std))
        return encoder(((images - mean) / std).to(encoder.dtype)).image_embeds.to(images.dtype)

    def condition(self, seen: Seen, views: Tensor) -> TextCondition:
        """What the UNet is told of one picture, or of n, and views (n, 4)."""
        if views.ndim != 2 or views.shape[1] != 4:
            raise ValueError(f"views are (n, 4) as `relative_view` gives them, got {tuple(views.shape)}")
        seen, views = seen.expand(len(views)), views.to(seen.embedding)
        if self.parts.absolute_elevation:  # Stable Zero123 wants the picture's own polar angle instead of a distance
            views = torch.cat([views[:, :3], seen.polar[:, None].to(views)], dim=1)
        tokens = self.parts.projection(*(part.to(self.dtype) for part in (seen.embedding, views, seen.latents)))
        return TextCondition(tokens, latents=seen.latents.to(self.dtype))

    def network(self, x_t: Tensor, t: int | Tensor, condition: TextCondition, camera: Camera | None = None) -> Tensor:
        if camera is not None:
            raise InputError("Zero-1-to-3 has no camera token: its condition holds the view")
        condition = condition.expand(len(x_t)).to(self.device, self.dtype)
        assert condition.latents is not None
        steps = torch.as_tensor(t, device=self.device).expand(len(x_t))  # (b,)
        joined = torch.cat([x_t.to(self.device, self.dtype), condition.latents], dim=1)  # (b, 2c, h, w)
        return self.parts.unet(joined, steps, encoder_hidden_states=condition.tokens, return_dict=False)[0].to(x_t)


def nothing(condition: TextCondition) -> TextCondition:
    """The unconditional row of guidance: zeros for both, the tokens and the latent (section 3.2)."""
    return condition.map(torch.zeros_like)


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
            part = Seen(seen.embedding[rows], seen.latents[rows], seen.polar[rows])
            condition = self.model.condition(part, views[rows])
            unconditional = nothing(condition) if guidance_scale > 1 else None
            guide = Guided(self.model, condition, unconditional, guidance_scale)
            latents = denoise(guide, noise[rows] * scheduler.init_noise_sigma, scheduler, generators[rows])
            done.append(self.model.decode(latents))
        return torch.cat(done)


class ViewDistillation(ScoreDistillation):
    """Score distillation towards what a picture shows from the camera of each render (section 3.3).

    Args:
        model: see there.
        seen: of one picture.
        source: the camera of that picture.
        config: of the distillation; its guidance scale is that of zeros for both conditions.
    """

    def __init__(
        self, model: Zero123, seen: Seen, source: Cameras, config: ScoreDistillationConfig, seed: int = 0
    ) -> None:
        if config.views != "auto":
            raise InputError(f'Zero-1-to-3 is told the view by itself: leave views at "auto", not "{config.views}"')
        super().__init__(model, config, seed)
        self.model, self.seen, self.source = model, seen, source

    def predict(self, x_t: Tensor, t: Tensor, prompt: str, cameras: Cameras | None) -> Prediction:
        if cameras is None:
            raise ValueError("Zero-1-to-3 needs to know from where a render is seen")
        condition = self.model.condition(self.seen, relative_view(self.source, cameras))
        scale, rescale = self.config.guidance_scale, self.config.rescale
        if scale == 1:
            return self.model.predict(x_t, t, condition)
        return self.model.predict_cfg(x_t, t, condition, nothing(condition), scale, rescale, rescale_on="x0")


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
