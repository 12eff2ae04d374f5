"""The UNet of toybox-sd with its camera token: text to 8x8 latents (of 4 channels, for 64-pixel pictures)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from core2d.app.devices import half_where_fast
from core2d.bundled.clip import WIDTH
from core2d.files.loading import load_model
from core2d.prior.backbone import Backbone
from core2d.prior.camera_token import CameraToken
from core2d.prior.families import StableDiffusion
from core2d.prior.schedule import NoiseSchedule
from core2d.toybox import world
from core2d.toybox.dataset import Pictures
from core2d.training.latent_diffusion import DenoisingTask, PriorNetworks
from core2d.training.loop import TrainingRecipe

CHANNELS = (64, 112)
RECIPE = TrainingRecipe(
    steps=8000, batch_size=64, learning_rate=1e-3, warmup_steps=200, ema_decay=0.999, checkpoint_every=250
)


def build(latent_size: int, text_encoder: CLIPTextModel | None = None) -> PriorNetworks:
    """A fresh UNet for latents of `latent_size`, with a camera token; to be trained with a text tower, or without."""
    unet = UNet2DConditionModel(
        sample_size=latent_size,
        down_block_types=("CrossAttnDownBlock2D",) * len(CHANNELS),
        up_block_types=("CrossAttnUpBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=8,
    )
    return PriorNetworks(unet, CameraToken(context_dim=WIDTH), text_encoder)


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule (scaled linear, 1000 steps), sampled with DDIM."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip


@torch.no_grad()
def encode_latents(
    vae: AutoencoderKL, pictures: Pictures, progress: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and deviation (n, 4, h, w) float16 of each picture's posterior, not yet scaled; on `vae`'s device."""
    device = next(vae.parameters()).device
    means, deviations = [], []
    for start in range(0, len(pictures), 128):
        rgb = torch.from_numpy(np.array(pictures.rgb[start : start + 128]))
        with half_where_fast(device):
            posterior = vae.encode(rgb.to(device).float() / 127.5 - 1.0).latent_dist  # pyright: ignore
        means.append(posterior.mean.half().cpu())
        deviations.append(posterior.std.half().cpu())
        if progress:
            progress(start + len(rgb))
    return torch.cat(means), torch.cat(deviations)


def task(
    model: PriorNetworks,
    pictures: Pictures,
    posteriors: tuple[Tensor, Tensor],
    tokens: Tensor,
    empty: Tensor,
    scaling_factor: float,
) -> DenoisingTask:
    """Train `model`, text tower included, on the latents of `pictures` and their `tokens` (n, length)."""
    mean, deviation = (part * scaling_factor for part in posteriors)

    def encode_text(ids: Tensor) -> Tensor:
        assert model.text_encoder is not None
        return model.text_encoder(input_ids=ids).last_hidden_state

    return DenoisingTask(
        model,
        mean,
        deviation,
        tokens,
        empty,
        encode_text=encode_text,
        camera=torch.from_numpy(pictures.camera),
        stills=torch.from_numpy(np.flatnonzero(pictures.is_still)),
        schedule=NoiseSchedule.from_config(scheduler().config),
        seed=13,
    )


def assemble(
    model: PriorNetworks, autoencoder: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> Backbone:
    """The trained parts as one backbone, as a folder of Stable Diffusion's layout would load."""
    parts = {"tokenizer": tokenizer, "text_encoder": text_encoder, "unet": model.unet}
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    family = StableDiffusion(parts, index)
    schedule = {"_class_name": "DDIMScheduler", **scheduler().config}
    return Backbone(family, autoencoder, schedule, model.camera_token, world=world.NAME)


def load(folder: Path) -> PriorNetworks:
    """The parts of a prior that are trained, from its folder, in float32."""
    return PriorNetworks(
        load_model(UNet2DConditionModel, folder / "unet", torch.float32),
        load_model(CameraToken, folder / "camera_token", torch.float32),
        load_model(CLIPTextModel, folder / "text_encoder", torch.float32),
    )


@torch.no_grad()
def widened(model: PriorNetworks, channels: int) -> PriorNetworks:
    """The same prior for latents of more channels, the first of which are those it knows.

    Of the first it says what it said, whatever the new ones hold: these are not heard yet, and of them it says nothing.
    """
    known = model.unet.config["in_channels"]
    wide: UNet2DConditionModel = UNet2DConditionModel.from_config(  # pyright: ignore[reportAssignmentType]
        {**model.unet.config, "in_channels": channels, "out_channels": channels}
    )
    weights = dict(model.unet.state_dict())
    for name, axis in (("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0)):
        value = torch.zeros_like(wide.get_parameter(name))
        value.narrow(axis, 0, known).copy_(weights[name])
        weights[name] = value
    wide.load_state_dict(weights)
    return PriorNetworks(wide, model.camera_token, model.text_encoder)  # pyright: ignore[reportArgumentType]


def mean_of(model: PriorNetworks, other: PriorNetworks) -> PriorNetworks:
    """A model whose weights lie in the middle between two of the same shape."""
    middle, states = copy.deepcopy(model), (model.state_dict(), other.state_dict())
    middle.load_state_dict({name: torch.lerp(value, states[1][name], 0.5) if value.is_floating_point() else value
                            for name, value in states[0].items()})  # fmt: skip
    return middle
