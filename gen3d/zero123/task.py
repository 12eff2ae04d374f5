"""Training Zero-1-to-3 (2303.11328, sections 3.2 and 4): a UNet learns how a picture changes with the view.

All that is frozen works once, before the training:

    pairs = encode_pairs(read_renders("objects/", size=256), vae, Zero123(parts).embed)
    task = ViewPairTask(ViewConditioned(with_picture_channels(unet), CameraProjection(768)), pairs, schedule)
    train(task, recipe, run)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from core2d.app.devices import half_where_fast
from core2d.prior.schedule import NoiseSchedule
from core2d.training.latent_diffusion import LatentDiffusion
from core2d.training.loop import step_generator
from gen3d.data.renders import Renders, spherical
from gen3d.zero123.camera_projection import CameraProjection, PictureReader, standing


class ViewConditioned(nn.Module):
    """What is trained together: the UNet and the projection of picture and view."""

    def __init__(self, unet: UNet2DConditionModel, projection: CameraProjection | PictureReader) -> None:
        super().__init__()
        self.unet, self.projection = unet, projection


@dataclass(frozen=True)
class ViewPairs:
    """o objects, each seen from v sides, as the UNet meets them.

    Attributes:
        mean, deviation: (o, v, c, h, w) float16 of each picture's latent posterior, not scaled.
        embedding: (o, v, e) float16 of the CLIP image tower, projected, not normalised.
        sphere: (o, v, 3) float32 polar angle from +Z, azimuth, radius of each camera; radians and world units.
        scaling_factor: of the autoencoder; the targets are scaled by it, the pictures are not.
    """

    mean: Tensor
    deviation: Tensor
    embedding: Tensor
    sphere: Tensor
    scaling_factor: float


@torch.no_grad()
def encode_pairs(
    renders: Renders,
    vae: AutoencoderKL,
    embed: Callable[[Tensor], Tensor],
    progress: Callable[[int], None] | None = None,
) -> ViewPairs:
    """What the frozen parts make of all pictures, once.

    Args:
        renders: objects on white.
        vae: on the device that does the work.
        embed: maps pictures (b, 3, s, s) in [0, 1] to CLIP embeddings (b, e), on that device.
        progress: called with the number of finished objects.
    """
    device = next(vae.parameters()).device
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(renders.rgb), 32):
        chosen = torch.as_tensor(renders.rgb[start : start + 32])
        objects, views = chosen.shape[:2]
        pictures = chosen.flatten(0, 1).to(device).float() / 255
        with half_where_fast(device):
            posterior = vae.encode(2 * pictures - 1).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
            found = (posterior.mean, posterior.std, embed(pictures))
        parts.append(tuple(part.half().cpu().unflatten(0, (objects, views)) for part in found))  # pyright: ignore
        if progress:
            progress(start + objects)
    mean, deviation, embedding = (torch.cat(column) for column in zip(*parts, strict=True))
    sphere = torch.stack(spherical(torch.as_tensor(renders.position)), dim=-1).float()  # (o, v, 3)
    return ViewPairs(mean, deviation, embedding, sphere, vae.config["scaling_factor"])


@dataclass
class ViewPairTask:
    """Two views of one object a row: the UNet sees the first through its conditions and learns to draw the second.

    Both may be the same, as the first view of an orbit is.

    Attributes:
        model: UNet and projection.
        pairs: what it learns from.
        schedule: of the noise.
        drop: share of rows without the tokens; as many lack the latent, and as many lack both.
        snr_floor: see `core2d.training.latent_diffusion.LatentDiffusion`.
    """

    model: ViewConditioned
    pairs: ViewPairs
    schedule: NoiseSchedule
    drop: float = 0.05
    snr_floor: float = 0.3
    seed: int = 0

    @property
    def objective(self) -> LatentDiffusion:
        """What is minimised."""
        return LatentDiffusion(self.schedule, self.snr_floor)

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Noisy latents of the second view, their noise and time, and what is told of the first."""
        generator = step_generator(self.seed, step)
        objects, views = self.pairs.mean.shape[:2]
        chosen = torch.randint(objects, (batch_size,), generator=generator)
        first = torch.randint(views, (batch_size,), generator=generator)
        second = torch.randint(views, (batch_size,), generator=generator)
        sample, noise = torch.randn((2, batch_size, *self.pairs.mean.shape[2:]), generator=generator)
        timesteps = self.objective.timesteps(batch_size, generator)
        lot = torch.rand(batch_size, generator=generator)
        target = self.pairs.mean[chosen, second].float() + self.pairs.deviation[chosen, second].float() * sample
        latents = target * self.pairs.scaling_factor
        rows = self.objective.noisy(latents, noise, timesteps) | {
            "picture": self.pairs.mean[chosen, first].float(),  # the mode, unscaled
            "embedding": self.pairs.embedding[chosen, first].float(),
            "stand": standing(self.pairs.sphere[chosen, first]),
            "view": view_between(self.pairs.sphere[chosen, first], self.pairs.sphere[chosen, second]),
            "with_tokens": ((lot >= 3 * self.drop) | ((lot >= self.drop) & (lot < 2 * self.drop))).float(),
            "with_picture": ((lot >= 3 * self.drop) | (lot < self.drop)).float(),
        }
        return {name: value[positions] for name, value in rows.items()}

    def loss(self, model: ViewConditioned, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """min-SNR weighted mean squared error of the prediction, and a reader's error of where the camera stands."""
        told = (batch["embedding"], batch["view"], batch["picture"])
        tokens = model.projection(*told) * batch["with_tokens"][:, None, None]
        picture = batch["picture"] * batch["with_picture"][:, None, None, None]
        joined = torch.cat([batch["noisy"], picture], dim=1)  # (n, 2c, h, w)
        predicted = model.unet(joined, batch["timesteps"], encoder_hidden_states=tokens).sample
        loss, logged = self.objective.loss(predicted, batch)
        if not isinstance(model.projection, PictureReader):
            return loss, logged
        # left to the UNet's error alone, what is read as elevation drifts to whatever it likes to be told
        stood = stand_error(model.projection.read(batch["embedding"], batch["picture"])[1], batch["stand"])
        return loss + stood, logged | {"camera": stood.detach()}


@dataclass
class ReadingTask:
    """A reader learns to see in a picture what a prior with a camera token was told: the caption and the camera.

    It comes before `ViewPairTask`: afterwards the UNet of that prior draws the object from the asked view at once, as
    far as words can tell, and only has to learn what they do not say.

    Attributes:
        model: the reader; its camera token is that of the prior and stays so.
        pairs: see there; the azimuths count from the fronts of the objects.
        words: (o, tokens, d) of the prior's text tower for each object's caption.
    """

    model: PictureReader
    pairs: ViewPairs
    words: Tensor
    seed: int = 0

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Pictures, and what was told of them."""
        generator = step_generator(self.seed, step)
        objects, views = self.pairs.mean.shape[:2]
        chosen = torch.randint(objects, (batch_size,), generator=generator)[positions]
        view = torch.randint(views, (batch_size,), generator=generator)[positions]
        return {
            "picture": self.pairs.mean[chosen, view].float(),
            "embedding": self.pairs.embedding[chosen, view].float(),
            "words": self.words[chosen],
            "stand": standing(self.pairs.sphere[chosen, view]),
        }

    def loss(self, model: PictureReader, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Squared errors of the words and of the camera."""
        words, stand = model.read(batch["embedding"], batch["picture"])
        said = (words.float() - batch["words"]).square().mean()
        stood = stand_error(stand, batch["stand"])
        return said + stood, {"words": said.detach(), "camera": stood.detach()}


def stand_error(read: Tensor, true: Tensor) -> Tensor:
    """() mean squared distance of what is read of cameras (n, 4) from how they stand."""
    return (read - true).square().sum(1).mean()


def view_between(source: Tensor, target: Tensor) -> Tensor:
    """(n, 4) views T from cameras (n, 3) to others, each polar angle, azimuth and radius (section 3.2)."""
    polar, turn, further = (target - source).unbind(1)
    return torch.stack([polar, turn.sin(), turn.cos(), further], dim=1)


def with_picture_channels(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of a text-to-image UNet that also takes a picture's latent; it starts by not looking at it."""
    config = dict(unet.config)
    channels = config["in_channels"]
    wider: UNet2DConditionModel = UNet2DConditionModel.from_config(config | {"in_channels": 2 * channels})  # pyright: ignore
    state = unet.state_dict()
    kernel = state["conv_in.weight"]  # (d, c, 3, 3)
    state["conv_in.weight"] = torch.cat([kernel, torch.zeros_like(kernel)], dim=1)
    wider.load_state_dict(state)
    return wider
