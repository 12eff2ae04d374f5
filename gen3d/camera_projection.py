"""The context of Zero-1-to-3 (Liu et al. 2023, 2303.11328, section 3.2): what is seen and how far the camera moves."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class CameraProjection(ModelMixin, ConfigMixin):
    """Joins a CLIP image embedding and the four numbers of a view to context tokens (`cc_projection` of the paper).

    The published models have one linear layer and one token. A small UNet gets what it needs more easily from several
    tokens behind a hidden layer: one token is the same for every place of a picture, since attention has no choice.

    Args:
        embedding_dim: of the image embedding, and of a token.
        view_dim: numbers of a view.
        tokens: how many tokens are made.
        hidden_dim: of a hidden layer whose tokens are added to those of the linear one; 0 for none.
    """

    @register_to_config
    def __init__(self, embedding_dim: int = 768, view_dim: int = 4, tokens: int = 1, hidden_dim: int = 0) -> None:
        super().__init__()
        self.tokens = tokens
        self.projection = nn.Linear(embedding_dim + view_dim, embedding_dim * tokens)
        with torch.no_grad():  # starts as the image embedding alone, whatever the view
            self.projection.weight.zero_()
            self.projection.weight[:, :embedding_dim] = torch.eye(embedding_dim).repeat(tokens, 1)
            self.projection.bias.zero_()
        self.hidden: nn.Module | None = None
        if hidden_dim:
            last = nn.Linear(hidden_dim, embedding_dim * tokens)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.hidden = nn.Sequential(nn.Linear(embedding_dim + view_dim, hidden_dim), nn.SiLU(), last)

    def forward(self, embedding: Tensor, view: Tensor) -> Tensor:
        """(b, d) projected, not normalised image embeddings and (b, 4) views -> (b, tokens, d)."""
        joined = torch.cat([embedding, view.to(embedding)], dim=1)  # (b, d + 4)
        output = self.projection(joined)
        if self.hidden is not None:
            output = output + self.hidden(joined)
        return output.unflatten(1, (self.tokens, -1))
