"""A random Zero-1-to-3, small enough to write and read in a test. The classes are the real ones, the sizes tiny."""

# The libraries annotate what their configs write, not what their constructors take.
# pyright: reportArgumentType=false

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from gen3d.zero123.camera_projection import CameraProjection, PictureReader
from gen3d.zero123.formats import Zero123Parts

WIDTH = 32  # of CLIP, its embeddings and the context of the UNet
LATENTS = 4


def tiny_unet(**options: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = dict(
        sample_size=32,
        in_channels=2 * LATENTS,
        out_channels=LATENTS,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=WIDTH,
    )
    return UNet2DConditionModel(**(settings | options))


def tiny_vae(**options: Any) -> AutoencoderKL:
    settings: dict[str, Any] = dict(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=LATENTS,
        sample_size=256,
    )
    return AutoencoderKL(**(settings | options))


def tiny_clip_config(**options: Any) -> CLIPVisionConfig:
    settings: dict[str, Any] = dict(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=16,
        patch_size=8,
    )
    return CLIPVisionConfig(**(settings | options))


def tiny_zero123(seed: int = 0, reads: bool = False, **unet_options: Any) -> Zero123Parts:
    """Parts with random weights in float32, frozen; the same ones for the same seed.

    Args:
        reads: with a picture reader instead of the published projection.
        unet_options: other settings of the UNet.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        modules: dict[str, Any] = {
            "unet": tiny_unet(**unet_options),
            "vae": tiny_vae(),
            "image_encoder": CLIPVisionModelWithProjection(tiny_clip_config()),
            "projection": PictureReader(WIDTH, tokens=3, hidden_dim=8) if reads else CameraProjection(WIDTH),
        }
        for module in modules.values():
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.1)
            module.requires_grad_(False).eval()
    return Zero123Parts(**modules, world="toybox" if reads else None)
