"""Low-rank layers that learn beside the weights of a prior (LoRA, 2106.09685): of a subject, a style, or a guidance.

tuned, layers = low_rank(prior, rank=8)  # `layers` learn; `tuned` speaks with them, `prior` stays as it is
write_lora("subject.safetensors", lora_of(tuned.denoiser, NAME))
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from torch import nn

from core2d.adapters.lora import UNET, Lora, LowRank, attach
from core2d.app.errors import InputError
from core2d.prior.base import LatentPrior
from core2d.prior.condition import copy_of

NAME = "learned"  # of the low-rank layers
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERYWHERE = (  # of the blocks of a UNet
    *ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "time_emb_proj", "conv1", "conv2", "conv_shortcut",
    "downsamplers.0.conv", "upsamplers.0.conv",
)  # fmt: skip
LAYERS = {"words": ("attn2.to_k", "attn2.to_v"), "attention": ATTENTION, "all": EVERYWHERE}

Layers = Literal["words", "attention", "all"]
AnyPrior = TypeVar("AnyPrior", bound=LatentPrior)


def low_rank(prior: AnyPrior, rank: int = 8, layers: Layers = "attention", seed: int = 0) -> tuple[AnyPrior, nn.Module]:
    """The same prior with low-rank layers that change nothing yet, and these alone as what learns.

    The weights beside them are those of `prior`, which stays as it is.

    Raises:
        InputError: the denoiser is no UNet.
    """
    network = copy_of(prior.denoiser)
    attach(network, fresh_lora(network, rank, layers, seed), NAME)
    found: dict[str, Any] = {name: module for name, module in network.named_modules() if hasattr(module, "lora_A")}
    learning: dict[str, nn.Module] = {  # a checkpoint holds what learns and no more
        name.replace(".", "_"): nn.ModuleDict({"down": layer.lora_A[NAME], "up": layer.lora_B[NAME]}).float()
        for name, layer in found.items()
    }  # fmt: skip
    return prior.with_denoiser(network), nn.ModuleDict(learning)


def fresh_lora(network: nn.Module, rank: int, layers: Layers = "attention", seed: int = 0) -> Lora:
    """Factors as they begin: down from a Gaussian, up zero (2106.09685, section 4.1); alpha is the rank.

    Raises:
        InputError: the network has no such layers.
    """
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and f".{name}".endswith(tuple(f".{end}" for end in LAYERS[layers])):
            out, into, *kernel = layer.weight.shape
            down = torch.randn(rank, into, *kernel, generator=generator) / rank
            changes[name] = LowRank(down, torch.zeros(out, rank, *(1 for _ in kernel)))
    if not any(name.startswith(("down_blocks.", "up_blocks.")) for name in changes):
        raise InputError("only a UNet learns low-rank layers here: give an SD 1.x, 2.x or SDXL model")
    return Lora({UNET: changes})
