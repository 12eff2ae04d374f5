"""The original layout of latent diffusion checkpoints (Rombach et al. 2022, 2112.10752; CLIP of 2103.00020) and that of
diffusers, both ways.

The layouts differ in names and in a few shapes; what a model computes is the same. Names are made by rule from a
config, so models of any size have them. The other way round, a config is found from the shapes in a file.

    names = unet_to_ldm(unet.config)                           # diffusers' name -> LDM's name
    state = diffusers_to_ldm(unet.state_dict(), names)         # a state dict in LDM's layout
    unet.load_state_dict(ldm_to_diffusers(state, names))

Names have no prefix: in a checkpoint `model.diffusion_model.`, `first_stage_model.` and `cond_stage_model.model.`
stand before those of UNet, autoencoder and CLIP.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import count
from math import isqrt
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core2d.files.manifests import Manifest

Names = dict[str, str]

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_CLIP_ENDS = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
}
_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    **{f"self_attn.{part}_proj.{kind}": f"attn.in_proj_{kind}" for part in "qkv" for kind in ("weight", "bias")},
}
_CONVOLUTION_THERE = re.compile(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$")  # 1x1, where diffusers has a matrix
_TRANSPOSED_THERE = "visual.proj"


# -- names ---------------------------------------------------------------------------------------------------------


def unet_to_ldm(config: Mapping[str, Any]) -> Names:
    """Name in diffusers -> name in LDM of every tensor of a `UNet2DConditionModel`.

    Args:
        config: of the UNet: any number of levels and layers, attention in any of them.

    Raises:
        ValueError: it has parts that the layout has no place for.
    """
    layers = config.get("layers_per_block", 2)
    levels = [layers] * len(config["block_out_channels"]) if isinstance(layers, int) else list(layers)
    places = dict(_UNET_ENDS)

    def place_resnet(ours: str, theirs: str) -> None:
        places.update({f"{ours}.{part}": f"{theirs}.{name}" for part, name in _UNET_RESNET.items()})

    number = count(1)  # of the input block; the first one is conv_in
    for level, depth in enumerate(levels):
        for layer in range(depth):
            block = f"input_blocks.{next(number)}"
            place_resnet(f"down_blocks.{level}.resnets.{layer}", f"{block}.0")
            places[f"down_blocks.{level}.attentions.{layer}"] = f"{block}.1"
        if level < len(levels) - 1:
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{next(number)}.0.op"
    place_resnet("mid_block.resnets.0", "middle_block.0")
    places["mid_block.attentions.0"] = "middle_block.1"
    place_resnet("mid_block.resnets.1", "middle_block.2")
    number = count()
    for level, depth in enumerate(reversed(levels)):
        block = ""
        for layer in range(depth + 1):
            block = f"output_blocks.{next(number)}"
            place_resnet(f"up_blocks.{level}.resnets.{layer}", f"{block}.0")
            places[f"up_blocks.{level}.attentions.{layer}"] = f"{block}.1"
        after = 2 if "Attn" in config["up_block_types"][level] else 1  # the upsampler comes last in its block
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"{block}.{after}.conv"
    return _rename(unet_on_meta(config).state_dict(), places)


def vae_to_ldm(config: Mapping[str, Any]) -> Names:
    """Name in diffusers -> name in LDM of every tensor of an `AutoencoderKL`.

    LDM counts the levels of the decoder from the finest one.

    Raises:
        ValueError: it has parts that the layout has no place for.
    """
    levels, layers = len(config["block_out_channels"]), config.get("layers_per_block", 1)
    places = {name: name for name in ("quant_conv", "post_quant_conv")}
    for side, way in (("encoder", "down"), ("decoder", "up")):
        places |= {f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "conv_out")}
        places[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        for ours, theirs in _VAE_ATTENTION.items():
            places[f"{side}.mid_block.attentions.0.{ours}"] = f"{side}.mid.attn_1.{theirs}"
        resnets = {f"{side}.mid_block.resnets.{index}": f"{side}.mid.block_{index + 1}" for index in range(2)}
        for level in range(levels):
            ours = f"{side}.{way}_blocks.{level}"
            theirs = f"{side}.{way}.{level if side == 'encoder' else levels - 1 - level}"
            places[f"{ours}.{way}samplers.0"] = f"{theirs}.{way}sample"
            resnets |= {f"{ours}.resnets.{index}": f"{theirs}.block.{index}" for index in range(layers + 1)}
        places |= resnets
        places |= {f"{ours}.conv_shortcut": f"{theirs}.nin_shortcut" for ours, theirs in resnets.items()}
    return _rename(vae_on_meta(config).state_dict(), places)


def clip_vision_to_openai(config: Mapping[str, Any]) -> Names:
    """Name in transformers -> name in OpenAI's CLIP of every tensor of a `CLIPVisionModelWithProjection`.

    Queries, keys and values are one tensor there: three names lead to it, in this order.
    """
    places = dict(_CLIP_ENDS)
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"vision_model.encoder.layers.{layer}", f"visual.transformer.resblocks.{layer}"
        places |= {f"{ours}.{part}": f"{theirs}.{name}" for part, name in _CLIP_LAYER.items()}
    order = {"q_proj": 0, "k_proj": 1, "v_proj": 2}
    state = clip_vision_on_meta(config).state_dict()
    return _rename(sorted(state, key=lambda name: order.get(name.split(".")[-2], 0)), places)


def _rename(names: Iterable[str], places: Mapping[str, str]) -> Names:
    """Every name under that of the innermost module that has a place."""
    renamed: Names = {}
    for name in names:
        words = name.split(".")
        inside = next((cut for cut in range(len(words), 0, -1) if ".".join(words[:cut]) in places), None)
        if inside is None:
            raise ValueError(f"the original layout has no place for {name}")
        renamed[name] = ".".join([places[".".join(words[:inside])], *words[inside:]])
    return renamed


# -- state dicts ---------------------------------------------------------------------------------------------------


def diffusers_to_ldm(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """A whole state dict of diffusers or transformers in the original layout.

    All are views of the same tensors, but for what is joined (CLIP's queries, keys and values).

    Args:
        names: of `unet_to_ldm`, `vae_to_ldm` or `clip_vision_to_openai`.

    Raises:
        ValueError: a tensor is missing.
    """
    found: dict[str, Tensor] = {}
    for theirs, ours in _inverse(names).items():
        pieces = [_tensor(state, name) for name in ours]
        tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if _CONVOLUTION_THERE.search(theirs):
            tensor = tensor[:, :, None, None]  # (o, i) -> (o, i, 1, 1)
        found[theirs] = tensor.t() if theirs == _TRANSPOSED_THERE else tensor
    return found


def ldm_to_diffusers(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """A whole state dict of the original layout in that of diffusers or transformers: views of the same tensors.

    Args:
        state: names without prefix; what `names` does not lead to is left out.

    Raises:
        ValueError: a tensor is missing.
    """
    found: dict[str, Tensor] = {}
    for theirs, ours in _inverse(names).items():
        tensor = _tensor(state, theirs)
        if _CONVOLUTION_THERE.search(theirs):
            tensor = tensor.flatten(1)  # (o, i, 1, 1) -> (o, i)
        tensor = tensor.t() if theirs == _TRANSPOSED_THERE else tensor
        found |= zip(ours, tensor.chunk(len(ours)), strict=True)
    return found


def _inverse(names: Names) -> dict[str, list[str]]:
    inverse: dict[str, list[str]] = {}
    for ours, theirs in names.items():
        inverse.setdefault(theirs, []).append(ours)
    return inverse


def _tensor(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"the state dict of {len(state)} tensors has no {name}")
    return state[name]


# -- what the original model keeps beside weights ------------------------------------------------------------------


def schedule_to_ldm(alphas_cumprod: Tensor) -> dict[str, Tensor]:
    """The noise schedule as `LatentDiffusion` keeps it: name -> (T,) float32, every buffer of `register_schedule`.

    Its samplers read these, not the config. The variances are those of the posterior (2006.11239, equations 6 and 7),
    `v_posterior` being 0 in every published config.

    Args:
        alphas_cumprod: (T,) float64 abar_t.
    """
    abar, before = alphas_cumprod, torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])  # (T,) each
    alphas = abar / before
    betas, noise = 1 - alphas, 1 - abar
    variance = betas * (1 - before) / noise
    buffers = {
        "betas": betas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": abar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": noise.sqrt(),
        "log_one_minus_alphas_cumprod": noise.log(),
        "sqrt_recip_alphas_cumprod": (1 / abar).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / abar - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),  # that of the first step is 0
        "posterior_mean_coef1": betas * before.sqrt() / noise,
        "posterior_mean_coef2": (1 - before) * alphas.sqrt() / noise,
    }
    return {name: buffer.float() for name, buffer in buffers.items()}


def average_of(name: str) -> str:
    """The name of the moving average of a UNet's tensor: `LitEma` leaves out dots, which buffers cannot have."""
    return "model_ema." + f"diffusion_model.{name}".replace(".", "")


def averages_to_ldm(unet: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moving averages that the original code samples with, for a UNet that is its own average.

    A model that is made with `use_ema`, as published configs are by default, swaps these in for every sample; without
    them it would draw with weights at random.

    Args:
        unet: under LDM's names without prefix.

    Returns:
        The same tensors again, with the decay and the number of updates that `LitEma` starts with.
    """
    beside = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(0, dtype=torch.int32)}
    return {average_of(name): tensor for name, tensor in unet.items()} | beside


# -- configs from shapes -------------------------------------------------------------------------------------------


def unet_config_of(shapes: Manifest) -> dict[str, Any]:
    """The config of the UNet whose tensors have these LDM names (without prefix) and shapes.

    Shapes do not tell how many heads an attention has (diffusers' `attention_head_dim`; 8 in SD 1.x) nor the groups of
    the normalisations; neither is in the result.

    Raises:
        KeyError, IndexError: these are not the tensors of a UNet.
    """
    channels, layers, depths = [0], [0], [0]
    for number in count(1):
        block = f"input_blocks.{number}"
        if _any(shapes, f"{block}.0.op."):
            channels, layers, depths = [*channels, 0], [*layers, 0], [*depths, 0]
        elif _any(shapes, f"{block}.0."):
            channels[-1] = shapes[f"{block}.0.in_layers.2.weight"][0]
            layers[-1] += 1
            depths[-1] = _length(shapes, f"{block}.1.transformer_blocks.")
        else:
            break
    firsts = [sum(layers[level + 1 :]) + len(layers[level + 1 :]) for level in reversed(range(len(layers)))]
    attends_up = [_any(shapes, f"output_blocks.{first}.1.transformer_blocks.") for first in firsts]
    attention = "middle_block.1"  # always there
    transformers = [depth or 1 for depth in depths]
    transformers[-1] = _length(shapes, f"{attention}.transformer_blocks.")
    return {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": _one_or_all(layers),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in attends_up],
        "transformer_layers_per_block": _one_or_all(transformers),
        "cross_attention_dim": shapes[f"{attention}.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": len(shapes[f"{attention}.proj_in.weight"]) == 2,
    }


def vae_config_of(shapes: Manifest) -> dict[str, Any]:
    """The config of the autoencoder whose tensors have these LDM names (without prefix) and shapes.

    Raises:
        KeyError, IndexError: these are not the tensors of an autoencoder.
    """
    levels = _length(shapes, "encoder.down.")
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)],
        "layers_per_block": _length(shapes, "encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": _any(shapes, "encoder.mid.attn_1."),
        "use_quant_conv": _any(shapes, "quant_conv."),
        "use_post_quant_conv": _any(shapes, "post_quant_conv."),
    }


def clip_vision_config_of(shapes: Manifest) -> dict[str, Any]:
    """The config of the CLIP vision tower whose tensors have these names, OpenAI's or transformers', and shapes.

    Heads are 64 wide and the activation is the quick GELU, as in all of OpenAI's.

    Raises:
        KeyError, IndexError, ValueError: these are not the tensors of a vision tower.
    """
    openai = _any(shapes, "visual.")
    names = _CLIP_ENDS if openai else {name: name for name in _CLIP_ENDS}
    layers = "visual.transformer.resblocks." if openai else "vision_model.encoder.layers."
    hidden = _CLIP_LAYER["mlp.fc1"] if openai else "mlp.fc1"
    width, channels, patch, _ = shapes[names["vision_model.embeddings.patch_embedding"] + ".weight"]
    positions = shapes[names["vision_model.embeddings.position_embedding.weight"]][0]
    return {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": patch * isqrt(positions - 1),
        "num_hidden_layers": _length(shapes, layers),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": shapes[f"{layers}0.{hidden}.weight"][0],
        "projection_dim": shapes[names["visual_projection.weight"]][1 if openai else 0],
        "hidden_act": "quick_gelu",
    }


def _any(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _length(names: Collection[str], prefix: str) -> int:
    """How many entries the list of modules at `prefix` has."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})


def _one_or_all(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values


# -- modules without memory ----------------------------------------------------------------------------------------


def unet_on_meta(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """A UNet on the meta device: names and shapes, no values."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(dict(config))  # pyright: ignore[reportReturnType]


def vae_on_meta(config: Mapping[str, Any]) -> AutoencoderKL:
    """An autoencoder on the meta device."""
    with torch.device("meta"):
        return AutoencoderKL.from_config(dict(config))  # pyright: ignore[reportReturnType]


def clip_vision_on_meta(config: Mapping[str, Any]) -> CLIPVisionModelWithProjection:
    """A CLIP vision tower with its projection on the meta device."""
    with torch.device("meta"):
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
