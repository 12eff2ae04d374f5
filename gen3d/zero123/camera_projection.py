"""The context of Zero-1-to-3 (Liu et al. 2023, 2303.11328, section 3.2): what is seen and how far the camera moves.

`CameraProjection` is that of the paper. `PictureReader` is for small models, which it lets start from all that a prior
with a camera token (`core2d.prior.camera_token`) knows.
"""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from core2d.prior.camera_token import CameraToken


class CameraProjection(ModelMixin, ConfigMixin):
    """Joins a CLIP image embedding and the four numbers of a view to one context token (`cc_projection`).

    Args:
        embedding_dim: of the image embedding, and of the token.
        view_dim: numbers of a view.
    """

    @register_to_config
    def __init__(self, embedding_dim: int = 768, view_dim: int = 4) -> None:
        super().__init__()
        self.projection = nn.Linear(embedding_dim + view_dim, embedding_dim)
        with torch.no_grad():  # starts as the image embedding alone, whatever the view
            self.projection.weight.zero_()
            self.projection.weight[:, :embedding_dim] = torch.eye(embedding_dim)
            self.projection.bias.zero_()

    def forward(self, embedding: Tensor, view: Tensor, latents: Tensor) -> Tensor:
        """What the UNet attends to, (b, 1, d).

        Args:
            embedding: (b, d) projected, not normalised image embeddings.
            view: (b, 4).
            latents: (b, c, h, w) of the pictures, unscaled; not looked at here.
        """
        return self.projection(torch.cat([embedding, view.to(embedding)], dim=1))[:, None]


class PictureReader(ModelMixin, ConfigMixin):
    """Reads a picture as a prior with a camera token would be told of it: some words, and where the camera stands.

    One token of a view against an unknown one teaches a small UNet nothing in a short training: it would have to find
    out from which side the picture was taken and turn that, all inside its attention. Where the objects have a front,
    as in Toybox, that is a question of its own with an answer of its own; the turned camera is one addition of angles,
    and what it looks like the prior knows.

    Args:
        embedding_dim: of the image embedding, and of a token.
        latent_channels: of the picture's latent.
        tokens: how many words; the camera token is one more.
        hidden_dim: of the features that words and camera are read from.
    """

    @register_to_config
    def __init__(
        self, embedding_dim: int = 128, latent_channels: int = 4, tokens: int = 10, hidden_dim: int = 128
    ) -> None:
        super().__init__()
        self.looks = nn.Sequential(
            nn.Conv2d(latent_channels, 48, 3, padding=1), nn.SiLU(),
            nn.Conv2d(48, 96, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(96, 96, 3, stride=2, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 96, hidden_dim), nn.SiLU(),
        )  # fmt: skip
        self.says = nn.Sequential(
            nn.Linear(hidden_dim + embedding_dim, hidden_dim), nn.SiLU(),
            nn.Linear(hidden_dim, tokens * embedding_dim), nn.Unflatten(1, (tokens, embedding_dim)),
        )  # fmt: skip
        self.stands = nn.Linear(hidden_dim, 4)
        self.camera_token = CameraToken(embedding_dim)

    def forward(self, embedding: Tensor, view: Tensor, latents: Tensor) -> Tensor:
        """What the UNet attends to, (b, tokens + 1, d). Arguments as for `CameraProjection`."""
        words, stand = self.read(embedding, latents)
        return torch.cat([words, self.camera_token(moved(stand, view).to(words), words)], dim=1)

    def read(self, embedding: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Words (b, tokens, d), and (b, 4) sine and cosine of the camera's azimuth, its elevation and its radius."""
        features = self.looks(latents.to(embedding))  # (b, hidden_dim)
        words = self.says(torch.cat([features, embedding], dim=1))
        azimuth, rest = self.stands(features).float().split(2, dim=1)
        return words, torch.cat([F.normalize(azimuth, dim=1), rest], dim=1)


def standing(sphere: Tensor) -> Tensor:
    """The (n, 4) numbers that a reader gives of cameras (n, 3), each polar angle, azimuth and radius."""
    polar, azimuth, radius = sphere.unbind(1)
    return torch.stack([azimuth.sin(), azimuth.cos(), math.pi / 2 - polar, radius], dim=1)


def moved(stand: Tensor, view: Tensor) -> Tensor:
    """The (n, 5) `core2d.prior.camera_token.camera_features` of cameras that stood so (n, 4) and moved by views (n,
    4).
    """
    sin, cos, elevation, radius = stand.unbind(1)
    polar, sin_turn, cos_turn, further = view.to(stand).unbind(1)
    elevation = elevation - polar
    turned = [sin * cos_turn + cos * sin_turn, cos * cos_turn - sin * sin_turn]  # sine and cosine of the sum
    return torch.stack([*turned, elevation.sin(), elevation.cos(), radius + further], dim=1)
