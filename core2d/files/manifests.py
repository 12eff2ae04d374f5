"""The published models by their tensors: names and shapes, from their configs, without a byte of weights.

A manifest is what `config.json` promises. Comparing it with what a weights file holds tells, in one line, why
a checkpoint does not fit. The configs of the full-size Stable Diffusion models are here so that the readers
of their families are tested at full size with nothing downloaded.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

Manifest = dict[str, tuple[int, ...]]

_STABLE_DIFFUSION = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}

# `attention_head_dim` of a Stable Diffusion config is the number of heads: 8 everywhere in 1.x.
UNET_CONFIGS: dict[str, dict[str, Any]] = {
    "stable-diffusion-1.5": {**_STABLE_DIFFUSION, "attention_head_dim": 8, "cross_attention_dim": 768},
    "stable-diffusion-2.1": {
        **_STABLE_DIFFUSION,
        "sample_size": 96,
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "stable-diffusion-xl-1.0": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}

_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT_CONFIGS: dict[str, dict[str, dict[str, Any]]] = {  # of CLIP, by the part of the pipeline
    "stable-diffusion-1.5": {"text_encoder": _CLIP_L},
    "stable-diffusion-2.1": {  # one layer less than OpenCLIP-H, whose last but one is read
        "text_encoder": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
            "hidden_act": "gelu",
        },
    },
    "stable-diffusion-xl-1.0": {
        "text_encoder": _CLIP_L,
        "text_encoder_2": {
            "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
            "hidden_act": "gelu", "projection_dim": 1280,
        },
    },
}  # fmt: skip

VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}


class Comparison(NamedTuple):
    """How the tensors of a file differ from the expected ones; all three empty when they fit."""

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]  # same name, another shape


def compare_keys(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> Comparison:
    """Names that are missing, unexpected, or of another shape, each sorted."""
    shared = expected.keys() & found.keys()
    return Comparison(
        missing=sorted(expected.keys() - found.keys()),
        unexpected=sorted(found.keys() - expected.keys()),
        mismatched=sorted(name for name in shared if tuple(expected[name]) != tuple(found[name])),
    )


def manifest_of(module: nn.Module) -> Manifest:
    """Name -> shape of every tensor that the module stores."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def unet_manifest(name: str) -> Manifest:
    """The manifest of a full-size UNet of `UNET_CONFIGS`, built on the meta device (no memory)."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        return manifest_of(UNet2DConditionModel(**UNET_CONFIGS[name]))


def vae_manifest() -> Manifest:
    """The manifest of the full-size autoencoder that SD 1.x, 2.x, XL and PixArt share."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with torch.device("meta"):
        return manifest_of(AutoencoderKL(**VAE_CONFIG))
