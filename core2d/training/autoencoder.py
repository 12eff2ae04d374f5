"""Autoencoder and VAE objectives for latent diffusion (Rombach et al. 2022, 2112.10752, section 3.1).

The adversarial term of the paper is left out: an L1 loss on image gradients keeps edges sharp on a small world. The
perceptual term takes the features of any frozen network, such as the image tower of a CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from core2d.training.loop import step_generator


def reconstruction_loss(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L1 + 5 L2 of the weighted difference + L1 of its gradients; with 5, L1 and L2 pull alike at errors of a tenth.

    Args:
        output, target: (b, 3, h, w) in [-1, 1].
        weight: (b, 1, h, w), what a pixel counts for.
    """
    difference = (output - target) * weight
    across = difference.diff(dim=3).abs().mean() + difference.diff(dim=2).abs().mean()
    return difference.abs().mean() + 5 * (difference * (output - target)).mean() + across


def perceptual_loss(output: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Squared distance of unit-length features, mean over places and pictures, summed over layers.

    LPIPS (Zhang et al. 2018, 1801.03924, equation 1) with equal weights.

    Args:
        output, target: of each layer (b, places, channels).
    """
    distances = [
        (F.normalize(ours.float(), dim=-1) - F.normalize(true.float(), dim=-1)).square().sum(-1).mean()
        for ours, true in zip(output, target, strict=True)
    ]
    return torch.stack(distances).sum()


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(logvar)) from N(0, 1), in nats per latent number."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


@dataclass
class AutoencoderTask:
    """Trains an AutoencoderKL; with kl_weight 0 and `sample` False, a plain autoencoder.

    Attributes:
        model: maps (b, 3, h, w) in [-1, 1] to latents and back.
        rows: returns uint8 pictures (n, 3, h, w) and uint8 masks (n, h, w) of given row numbers.
        count: how many rows there are.
        kl_weight: of the KL per latent number.
        body_weight: how much more a pixel of the body counts than one of the background.
        sample: decode a sample of the posterior rather than its mean.
        latent_noise: standard deviation of further noise on the sample, for a decoder of latents that a generator made
            up, and that are a little off.
        features: of pictures (b, 3, h, w) in [-1, 1], one (b, places, channels) a layer, for the perceptual loss.
        perceptual_weight: of that loss.
        coarse: the k latent channels (b, k, h, w) that pictures have in an older autoencoder. The first k channels are
            held to them, so what was trained on the old latents reads the new ones, and the others carry what the old
            ones lost (as coarse codes come first in nested dropout, Rippel et al. 2014, 1402.0915).
        coarse_weight: of the mean squared distance from them.
    """

    model: AutoencoderKL
    rows: Callable[[Tensor], tuple[Tensor, Tensor]]
    count: int
    kl_weight: float = 1e-3
    body_weight: float = 2.0
    sample: bool = True
    latent_noise: float = 0.0
    features: Callable[[Tensor], Sequence[Tensor]] | None = None
    perceptual_weight: float = 0.3
    coarse: Callable[[Tensor], Tensor] | None = None
    coarse_weight: float = 0.5
    seed: int = 0

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Random rows and the posterior's noise."""
        generator = step_generator(self.seed, step)
        chosen = torch.randint(self.count, (batch_size,), generator=generator)[positions]
        pictures, masks = self.rows(chosen)
        factor = 2 ** (len(self.model.config["block_out_channels"]) - 1)
        shape = (batch_size, self.model.config["latent_channels"], *(side // factor for side in pictures.shape[2:]))
        noise = torch.randn(shape, generator=generator)[positions]
        return {"pictures": pictures, "masks": masks, "noise": noise}

    def loss(self, model: AutoencoderKL, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Reconstruction plus weighted KL plus, where there are features, what they see of the difference."""
        target = batch["pictures"].float() / 127.5 - 1.0  # (b, 3, h, w)
        weight = 1.0 + self.body_weight * batch["masks"].float()[:, None] / 255.0  # (b, 1, h, w)
        posterior = model.encode(target).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        deviation = (logvar.exp() + self.latent_noise**2).sqrt()
        latent = mean + deviation * batch["noise"] if self.sample else mean
        output = model.decode(latent).sample.float()  # pyright: ignore[reportAttributeAccessIssue]
        divergence = kl_loss(mean, logvar)
        error = F.mse_loss(output.detach(), target) / 4  # in [0, 1] units
        loss = reconstruction_loss(output, target, weight) + self.kl_weight * divergence
        logged: dict[str, float | Tensor] = {"psnr": -10 * error.log10(), "kl": divergence}
        if self.features is not None:
            with torch.no_grad():
                wanted = self.features(target)
            seen = perceptual_loss(self.features(output), wanted)
            loss = loss + self.perceptual_weight * seen
            logged["perceptual"] = seen.detach()
        if self.coarse is not None:
            with torch.no_grad():
                known = self.coarse(target).float()  # (b, k, h, w)
            distance = F.mse_loss(mean[:, : known.shape[1]], known)
            loss = loss + self.coarse_weight * distance
            logged["coarse"] = distance.detach()
        return loss, logged
