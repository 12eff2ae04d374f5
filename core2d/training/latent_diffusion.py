"""The objective of latent diffusion, and training a prior with it to see through noise.

`LatentDiffusion` is what all tasks have in common that denoise latents: of pictures here, of views in `gen3d.zero123`,
of clips in `genvideo.animatediff`. What a row shows, and what its network is told, is the task's own.

Rombach et al. 2022 (2112.10752) section 3.2; min-SNR weights from Hang et al. 2023 (2303.09556) section 3.4;
caption dropping for classifier-free guidance from Ho and Salimans 2022 (2207.12598) section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from core2d.prior.camera_token import CameraToken
from core2d.prior.schedule import NoiseSchedule
from core2d.training.task import Losses, step_generator


@dataclass(frozen=True)
class LatentDiffusion:
    """Noisy latents, what a network is to make of them, and how far it is from that.

    Attributes:
        schedule: of the noise; what the network predicts (noise, v, ...) is its business.
        snr_floor: least weight of the error in x0. Layout and view are decided where there is little but noise; a
            short training that gives those steps next to no weight draws well what it was not asked for.
    """

    schedule: NoiseSchedule
    snr_floor: float = 0.3

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) times, each step of the schedule as likely as any."""
        return torch.randint(self.schedule.num_train_timesteps, (count,), generator=generator)

    def noisy(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, shown: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The rows of a step: "noisy" and "target" (n, c, ...), "timesteps" and "weight" (n,).

        Args:
            latents: (n, c, ...) scaled, what is to be found.
            noise: as large, from N(0, 1).
            timesteps: (n,).
            shown: what the noise is laid over if not the latents; the target leads from there to the latents.
        """
        over = latents if shown is None else shown
        noisy = self.schedule.add_noise(over, noise, timesteps)
        if shown is None:
            target = self.schedule.target(latents, noise, timesteps)
        else:
            target = self.schedule.output(self.schedule.prediction(latents, noisy, timesteps, "sample"))
        weight = self.schedule.min_snr_weight(timesteps, floor=self.snr_floor)
        return {"noisy": noisy, "target": target, "timesteps": timesteps, "weight": weight}

    def loss(self, predicted: Tensor, rows: dict[str, Tensor], asked: Tensor | None = None) -> Losses:
        """() mean squared error, each row with its weight; "mse" is logged without weights.

        Args:
            predicted: (n, c, ...) of the network, in any precision.
            rows: "target" and "weight", see `noisy`.
            asked: (n, f) bool, which frames of clips (n, c, f, h, w) count; a clip of which none does has no error.
        """
        own = (0,) if asked is None else (0, 2)
        over = [dim for dim in range(predicted.ndim) if dim not in own]
        error = (predicted.float() - rows["target"]).square().mean(dim=over)  # (n,) or (n, f)
        if asked is not None:
            counts = asked.float()
            error = (error * counts).sum(1) / counts.sum(1).clamp(min=1)
        return (error * rows["weight"]).mean(), {"mse": error.detach().mean()}


class PriorNetworks(nn.Module):
    """What is trained together: the UNet and, if there are any, the projector of its camera token and its text tower.

    A large text tower stays frozen, and is left out here. A small one that has only learned to tell captions apart does
    not yet put words together as a picture needs them ("front view" means another thing of a car than of a mug).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        camera_token: CameraToken | None = None,
        text_encoder: CLIPTextModel | None = None,
    ) -> None:
        super().__init__()
        self.unet, self.camera_token, self.text_encoder = unet, camera_token, text_encoder


@dataclass
class DenoisingTask:
    """Trains a UNet on cached latents.

    With a camera token, odd steps see stills with their camera and even steps see everything without: the token is
    present in half of training and truly absent in the other half. When a caption is dropped the camera stays, so
    the unconditional branch of guidance knows the view and guidance sharpens the caption alone.

    Attributes:
        model: UNet with its camera token.
        mean, deviation: (count, c, h, w) of each picture's latent posterior, scaled.
        tokens: (count, length) token ids; `empty` (length,) those of the empty caption.
        encode_text: maps token ids (n, length) to context (n, length, d).
        camera: (count, 5) camera features, `stills` (s,) the rows where they hold.
        schedule: of the noise.
        drop: share of captions that are dropped.
        snr_floor: see `LatentDiffusion`.
    """

    model: PriorNetworks
    mean: Tensor
    deviation: Tensor
    tokens: Tensor
    empty: Tensor
    encode_text: Callable[[Tensor], Tensor]
    camera: Tensor
    stills: Tensor
    schedule: NoiseSchedule
    drop: float = 0.1
    snr_floor: float = 0.3
    seed: int = 0

    @property
    def objective(self) -> LatentDiffusion:
        """What is minimised."""
        return LatentDiffusion(self.schedule, self.snr_floor)

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Noisy latents, their noise and time, captions (some dropped) and, on odd steps, cameras."""
        generator = step_generator(self.seed, step)
        with_camera = self.model.camera_token is not None and step % 2 == 1
        pool = len(self.stills) if with_camera else len(self.mean)
        rows = torch.randint(pool, (batch_size,), generator=generator)
        rows = self.stills[rows] if with_camera else rows
        sample, noise = torch.randn((2, batch_size, *self.mean.shape[1:]), generator=generator)
        timesteps = self.objective.timesteps(batch_size, generator)
        dropped = torch.rand(batch_size, generator=generator) < self.drop
        latents = self.mean[rows].float() + self.deviation[rows].float() * sample
        tokens = torch.where(dropped[:, None], self.empty, self.tokens[rows])
        batch = self.objective.noisy(latents, noise, timesteps) | {"tokens": tokens}
        if with_camera:
            batch["camera"] = self.camera[rows]
        return {name: value[positions] for name, value in batch.items()}

    def loss(self, model: PriorNetworks, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """min-SNR weighted mean squared error of the prediction."""
        context = self.encode_text(batch["tokens"])  # (n, length, d)
        if "camera" in batch:
            assert model.camera_token is not None
            context = torch.cat([context, model.camera_token(batch["camera"], context)], dim=1)  # (n, length + 1, d)
        predicted = model.unet(batch["noisy"], batch["timesteps"], encoder_hidden_states=context).sample
        return self.objective.loss(predicted, batch)
