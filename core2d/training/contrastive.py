"""Contrastive language-image training (CLIP: Radford et al. 2021, 2103.00020, section 2.3 and figure 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from core2d.training.loop import step_generator


def contrastive_loss(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of matching n pictures with their n captions.

    Args:
        image_embeds, text_embeds: (n, d); normalised here.
        scale: scalar, the inverse temperature.
    """
    logits = scale * F.normalize(image_embeds, dim=-1) @ F.normalize(text_embeds, dim=-1).T  # (n, n)
    diagonal = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2


@dataclass
class ContrastiveTask:
    """Trains a CLIPModel on pictures and tokenised captions. The negatives are those of one process.

    Attributes:
        model: with both towers.
        rows: returns uint8 pictures (n, 3, h, w) of given row numbers.
        tokens: (count, length) int64 token ids of all captions.
        normalise: maps pictures in [0, 1] to what the image tower reads.
    """

    model: CLIPModel
    rows: Callable[[Tensor], Tensor]
    tokens: Tensor
    normalise: Callable[[Tensor], Tensor]
    seed: int = 0

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Random rows, without repeats."""
        if len(self.tokens) < batch_size:
            raise ValueError(f"a batch of {batch_size} needs as many rows, there are {len(self.tokens)}")
        generator = step_generator(self.seed, step)
        chosen = torch.randperm(len(self.tokens), generator=generator)[:batch_size][positions]
        return {"pictures": self.rows(chosen), "tokens": self.tokens[chosen]}

    def loss(self, model: CLIPModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The contrastive loss, and how often the right caption ranks first."""
        pixels = self.normalise(batch["pictures"].float() / 255.0)
        output = model(input_ids=batch["tokens"], pixel_values=pixels)
        scale = model.logit_scale.exp().clamp(max=100.0)
        image_embeds, text_embeds = output.image_embeds.float(), output.text_embeds.float()
        loss = contrastive_loss(image_embeds, text_embeds, scale)
        matched = (image_embeds @ text_embeds.T).argmax(1) == torch.arange(len(pixels), device=pixels.device)
        return loss, {"top1": matched.float().mean()}
