"""What tells motions apart in the words of a prior that was taught with pictures.

To such a prior "left" and "right" say next to nothing: their tokens differ by a few hundredths of what a colour makes
of them, and low-rank layers that begin at random are slow to find that. Here they begin with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from torch import Tensor

from genvideo.animatediff.motion import IN_MOTION

LAST_TOKENS = 8  # padding, which has read the whole sentence
RIDGE = 1e-5  # of the within-class covariance, in squared units of a token


def discriminants(words: Tensor, labels: Sequence[str], count: int) -> Tensor:
    """Directions in which tokens of different labels differ most, against what else differs (linear discriminants).

    Args:
        words: (n, tokens, d) of captions.
        labels: n, such as their motions.
        count: of directions.

    Returns:
        (count, d): a token times a direction varies by one over all captions, and is zero for their mean.
    """
    tokens = words[:, -LAST_TOKENS:].flatten(0, 1).double()  # (m, d)
    names = sorted(set(labels))
    of = torch.tensor([names.index(label) for label in labels]).repeat_interleave(len(tokens) // len(words))
    mean = tokens.mean(0)
    away = torch.eye(len(mean), dtype=torch.double) - torch.outer(mean, mean) / mean.square().sum()
    tokens = tokens @ away
    means = torch.stack([tokens[of == index].mean(0) for index in range(len(names))])  # (classes, d)
    within = tokens - means[of]
    covariance = within.T @ within / len(tokens) + RIDGE * torch.eye(len(mean), dtype=torch.double)
    root = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(root, (means - means.mean(0)).T, upper=False).T
    _, _, axes = torch.linalg.svd(whitened, full_matrices=False)  # (min(classes, d), d)
    found = torch.linalg.solve_triangular(root.T, axes[:count].T, upper=True).T @ away
    return (found / (tokens @ found.T).std(0)[:, None]).float()


def begin_with(unet: UNetMotionModel, adapter: str, directions: Tensor) -> None:
    """Let the last rows of low-rank layers that read words look into these directions (k, d); they add nothing yet."""
    with torch.no_grad():
        for name, layer in unet.named_modules():
            if name.endswith((".attn2.to_k", ".attn2.to_v")) and IN_MOTION not in name:
                layer.lora_A[adapter].weight[-len(directions) :] = directions  # pyright: ignore
                layer.lora_B[adapter].weight[:, -len(directions) :] = 0.0  # pyright: ignore
