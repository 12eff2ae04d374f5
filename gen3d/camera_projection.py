"""The context of Zero-1-to-3 (Liu et al. 2023, 2303.11328, section 3.2): what is seen and how far the camera moves."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class CameraProjection(ModelMixin, ConfigMixin):
    """Joins a CLIP image embedding and the four numbers of a view to context tokens (`cc_projection` of the paper).

    The published models have one linear layer and one token. A small UNet does not find out in a short training from
    which side a picture was taken; beside the linear layer it can have two hidden ones that also see the picture's
    latent, and several tokens: one token is the same for every place, since attention has no choice.

    Args:
        embedding_dim: of the image embedding, and of a token.
        view_dim: numbers of a view.
        tokens: how many tokens are made.
        hidden_dim: of two hidden layers whose tokens are added to those of the linear one; 0 for none.
        picture_dim: numbers of the picture's latent, which the hidden layers see.
    """

    @register_to_config
    def __init__(
        self, embedding_dim: int = 768, view_dim: int = 4, tokens: int = 1, hidden_dim: int = 0, picture_dim: int = 0
    ) -> None:
        super().__init__()
        self.tokens, self.looks = tokens, picture_dim > 0
        self.projection = nn.Linear(embedding_dim + view_dim, embedding_dim * tokens)
        with torch.no_grad():  # starts as the image embedding alone, whatever the view
            self.projection.weight.zero_()
            self.projection.weight[:, :embedding_dim] = torch.eye(embedding_dim).repeat(tokens, 1)
            self.projection.bias.zero_()
        self.hidden: nn.Module | None = None
        if hidden_dim:
            seen = embedding_dim + view_dim + picture_dim
            self.hidden = nn.Sequential(
                nn.Linear(seen, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim), nn.SiLU()
            )
            self.output = nn.Linear(hidden_dim, embedding_dim * tokens)
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def forward(self, embedding: Tensor, view: Tensor, latents: Tensor) -> Tensor:
        """What the UNet attends to, (b, tokens, d).

        Args:
            embedding: (b, d) projected, not normalised image embeddings.
            view: (b, 4).
            latents: (b, c, h, w) of the pictures, unscaled; only hidden layers look at them.
        """
        joined = torch.cat([embedding, view.to(embedding)], dim=1)  # (b, d + 4)
        output = self.projection(joined)
        if self.hidden is not None:
            output = output + self.output(self.features(embedding, view, latents))
        return output.unflatten(1, (self.tokens, -1))

    def features(self, embedding: Tensor, view: Tensor, latents: Tensor) -> Tensor:
        """(b, hidden_dim) of the second hidden layer."""
        assert self.hidden is not None
        picture = [latents.flatten(1).to(embedding)] if self.looks else []
        return self.hidden(torch.cat([embedding, view.to(embedding), *picture], dim=1))
