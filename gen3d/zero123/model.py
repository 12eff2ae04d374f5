"""Zero-1-to-3 (Liu et al. 2023, 2303.11328): what one picture shows, seen from elsewhere.

    the picture  -> CLIP embedding, joined with the view (R, T) -> context tokens of the UNet      (section 3.2)
                 -> latent, joined with the noisy latent along the channels
    noise        -> the picture from the other view, by a diffusion sampler under guidance
    any render   -> score distillation towards the picture from its view                           (section 3.3)

A view is T = [d polar, sin d azimuth, cos d azimuth, d radius], in radians, of the wanted camera against that of the
picture (`core2d.prior.cameras.relative_view`). The polar angle counts from +Z, so a camera further up has a negative d
polar.

    model = Zero123.load("zero123-xl.ckpt")
    views = NovelViews(model)(picture, orbit_views(12), seed=0).images  # (3, H, W) on white -> (12, 3, H, W)
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.registry import resolve
from core2d.prior.base import LatentPrior
from core2d.prior.condition import Condition, Inputs
from gen3d.zero123.formats import Report, Zero123Parts, read_zero123

USUAL_ELEVATION = math.radians(20.0)  # of a picture of which nothing is known


@dataclass(frozen=True)
class Reference:
    """What the model takes from pictures.

    Attributes:
        embedding: (b, e) of the CLIP image tower: projected, not normalised.
        latents: (b, c, h, w) mode of the posterior, not scaled by the autoencoder's factor.
        polar: (b,) angle of the camera from +Z in radians, for models that want it (Stable Zero123).
    """

    embedding: Tensor
    latents: Tensor
    polar: Tensor

    def __getitem__(self, rows: slice) -> Reference:
        """Some of the pictures."""
        return Reference(self.embedding[rows], self.latents[rows], self.polar[rows])

    def expand(self, rows: int) -> Reference:
        """One picture seen as many."""
        return Reference(*(part.expand(rows, *part.shape[1:]) for part in (self.embedding, self.latents, self.polar)))


class Zero123(LatentPrior):
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
        self.device, self.dtype, self.world = parts.unet.device, parts.unet.dtype, parts.world

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

    def encode_text(self, prompts: list[str]) -> Condition:
        raise InputError("Zero-1-to-3 is told what to draw by a picture, not by words")

    @torch.no_grad()
    def see(self, images: Tensor, elevation: float | Tensor = 0.0) -> Reference:
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
        return Reference(self.embed(images), latents, polar.to(self.device))

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

    def condition(self, seen: Reference, views: Tensor) -> Condition:
        """What the UNet is told of one picture, or of n, and views (n, 4)."""
        if views.ndim != 2 or views.shape[1] != 4:
            raise ValueError(f"views are (n, 4) as `relative_view` gives them, got {tuple(views.shape)}")
        seen, views = seen.expand(len(views)), views.to(seen.embedding)
        if self.parts.absolute_elevation:  # Stable Zero123 wants the picture's own polar angle instead of a distance
            views = torch.cat([views[:, :3], seen.polar[:, None].to(views)], dim=1)
        tokens = self.parts.projection(*(part.to(self.dtype) for part in (seen.embedding, views, seen.latents)))
        return Condition(tokens, channels=seen.latents.to(self.dtype))

    @property
    def denoiser(self) -> torch.nn.Module:
        return self.parts.unet

    def with_denoiser(self, denoiser: torch.nn.Module) -> Zero123:
        other = copy.copy(self)
        other.parts = replace(self.parts, unet=denoiser)  # pyright: ignore[reportArgumentType]
        return other

    def answer(self, inputs: Inputs) -> Tensor:
        if inputs.channels is None:
            raise ValueError("Zero-1-to-3 is told of a picture: its condition needs the latent as `channels`")
        return self.parts.unet(
            inputs.sample, inputs.t, encoder_hidden_states=inputs.tokens, return_dict=False, **inputs.residuals()
        )[0]


def nothing(condition: Condition) -> Condition:
    """The unconditional row of guidance: zeros for both, the tokens and the latent (section 3.2)."""
    return condition.map(torch.zeros_like)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
