"""DiT and PixArt in the layout of diffusers, both ways. Weights are shared where nothing has to be joined.

    ours = pixart_from_diffusers(PixArtTransformer2DModel.from_pretrained(...))
    theirs = pixart_to_diffusers(ours)

Our own names are the published ones. In diffusers queries, keys and values are layers of their own, and each block of a
DiT has a copy of the embeddings of time and class, which are one here.

diffusers runs DiT with other sinusoids of time (`frequency_shift` 1) than ADM's, with which PixArt runs there too. A
model from there keeps them, so that it draws what it draws there, unless it is told otherwise.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.files.ldm import Names, diffusers_to_ldm, ldm_to_diffusers
from core2d.files.loading import quiet_libraries
from core2d.transformer.blocks import NORM_EPSILON, sincos_positions
from core2d.transformer.dit import DiT
from core2d.transformer.pixart import PixArt

Theirs = TypeVar("Theirs", DiTTransformer2DModel, PixArtTransformer2DModel)

_BLOCK = {
    "attn1.to_q": "attn.qkv",
    "attn1.to_k": "attn.qkv",
    "attn1.to_v": "attn.qkv",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_CROSS = {
    "attn2.to_q": "cross_attn.q_linear",
    "attn2.to_k": "cross_attn.kv_linear",
    "attn2.to_v": "cross_attn.kv_linear",
    "attn2.to_out.0": "cross_attn.proj",
}
_SINUSOIDS = {"linear_1": "mlp.0", "linear_2": "mlp.2"}
_OF_DIT = "norm1.emb."  # in each block of a DiT of diffusers: the embeddings of time and class
_SAME = {  # settings of diffusers that are not ours to choose
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "dropout": 0.0,
    "attention_type": "default",
}


# -- DiT -----------------------------------------------------------------------------------------------------------


def dit_from_diffusers(theirs: DiTTransformer2DModel, frequency_shift: float = 1.0) -> DiT:
    """Our model of the same weights and, but for `frequency_shift`, of the same answers.

    diffusers' default `norm_eps` of 1e-5 is 1e-6 here, as everywhere else in the model.

    Args:
        frequency_shift: see `DiT`; 0 for weights that were published elsewhere and came into a folder of diffusers.

    Raises:
        InputError: settings that ours does not have, or blocks whose embeddings of time and class differ.
    """
    config = theirs.config
    _check_settings(config)
    channels, answers = config["in_channels"], theirs.out_channels
    if answers not in (channels, 2 * channels):
        raise InputError(f"a DiT of {channels} channels answers in as many or in twice as many, not in {answers}")
    state = theirs.state_dict()
    for name, tensor in state.items():
        block, inside, embedding = name.partition(_OF_DIT)
        if inside and not torch.equal(tensor, state[f"transformer_blocks.0.{inside}{embedding}"]):
            raise InputError(
                f"{block[:-1]} embeds time and class in another way than the first block: a DiT has one way"
            )
    ours = {
        **_shape_of(config),
        "learn_sigma": answers == 2 * channels,
        "classes": config["num_embeds_ada_norm"],
        "frequency_shift": frequency_shift,
    }
    return with_state(DiT, ours, diffusers_to_ldm(state, dit_names(config["num_layers"])))


def dit_to_diffusers(ours: DiT) -> DiTTransformer2DModel:
    """The model of diffusers that gives the same answers.

    Raises:
        InputError: one that diffusers has no place for.
    """
    config = ours.config
    if config["classes"] is None or config["caption_dim"] is not None:
        raise InputError("a DiT of diffusers is told classes and no captions, and this one is not: keep our own layout")
    if config["frequency_shift"] != 1:
        raise InputError(
            f"diffusers would run this DiT with other sinusoids of time (its frequency_shift is "
            f"{config['frequency_shift']}, and 1 there): keep our own layout or the published one"
        )
    theirs = {**_shape_for(config), "out_channels": ours.out_channels, "num_embeds_ada_norm": config["classes"]}
    state = ldm_to_diffusers(ours.state_dict(), dit_names(config["depth"]))
    first = f"transformer_blocks.0.{_OF_DIT}"
    embeddings = {name.removeprefix(first): tensor for name, tensor in state.items() if name.startswith(first)}
    for block in range(1, config["depth"]):
        start = f"transformer_blocks.{block}.{_OF_DIT}"
        state |= {start + name: tensor.clone() for name, tensor in embeddings.items()}
    return _diffusers(DiTTransformer2DModel, theirs, state)


def dit_names(depth: int) -> Names:
    """Name in diffusers -> published name of every tensor of a DiT, its embeddings by the names of the first block."""
    embeds = f"transformer_blocks.0.{_OF_DIT}"
    places = {
        "pos_embed.proj": "x_embedder.proj",
        **{f"{embeds}timestep_embedder.{ours}": f"t_embedder.{theirs}" for ours, theirs in _SINUSOIDS.items()},
        "proj_out_1": "final_layer.adaLN_modulation.1",
        "proj_out_2": "final_layer.linear",
    }
    places |= _blocks(depth, {**_BLOCK, "norm1.linear": "adaLN_modulation.1"})
    return _with_kinds(places) | {f"{embeds}class_embedder.embedding_table.weight": "y_embedder.embedding_table.weight"}


# -- PixArt --------------------------------------------------------------------------------------------------------


def pixart_from_diffusers(theirs: PixArtTransformer2DModel) -> PixArt:
    """Our model of the same weights and answers.

    Raises:
        InputError: settings that ours does not have.
    """
    config = theirs.config
    _check_settings(config)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    if config["caption_channels"] is None or config["cross_attention_dim"] != width:
        raise InputError("this PixArt looks at captions without projecting them: none that was published does")
    ours = {
        **_shape_of(config),
        "out_channels": theirs.out_channels,
        "caption_dim": config["caption_channels"],
        "interpolation_scale": float(theirs.pos_embed.interpolation_scale),
        "micro_conditions": theirs.use_additional_conditions,
    }
    names = pixart_names(config["num_layers"], theirs.use_additional_conditions)
    return with_state(PixArt, ours, diffusers_to_ldm(theirs.state_dict(), names))


def pixart_to_diffusers(ours: PixArt) -> PixArtTransformer2DModel:
    """The model of diffusers that gives the same answers. What stands for no caption has no place there."""
    config = ours.config
    theirs = {
        **_shape_for(config),
        "out_channels": config["out_channels"],
        "cross_attention_dim": config["dim"],
        "caption_channels": config["caption_dim"],
        "interpolation_scale": config["interpolation_scale"],
        "use_additional_conditions": config["micro_conditions"],
    }
    names = pixart_names(config["depth"], config["micro_conditions"])
    return _diffusers(PixArtTransformer2DModel, theirs, ldm_to_diffusers(ours.state_dict(), names))


def pixart_names(depth: int, micro_conditions: bool) -> Names:
    """Name in diffusers -> published name of every tensor of a PixArt."""
    embedders = {"timestep_embedder": "t_embedder"}
    if micro_conditions:
        embedders |= {"resolution_embedder": "csize_embedder", "aspect_ratio_embedder": "ar_embedder"}
    places = {
        "pos_embed.proj": "x_embedder.proj",
        "caption_projection.linear_1": "y_embedder.y_proj.fc1",
        "caption_projection.linear_2": "y_embedder.y_proj.fc2",
        "adaln_single.linear": "t_block.1",
        "proj_out": "final_layer.linear",
    }
    for ours, theirs in embedders.items():
        places |= {f"adaln_single.emb.{ours}.{layer}": f"{theirs}.{name}" for layer, name in _SINUSOIDS.items()}
    names = _with_kinds(places | _blocks(depth, _BLOCK | _CROSS))
    tables = _blocks(depth, {"scale_shift_table": "scale_shift_table"})
    return names | tables | {"scale_shift_table": "final_layer.scale_shift_table"}


# -- what both have in common --------------------------------------------------------------------------------------


def with_state(kind: Any, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    """A `DiT` or `PixArt` of these weights, not copied: frozen, in eval mode."""
    with torch.device("meta"):
        model = kind(**config)
    model.load_state_dict(dict(state), assign=True)
    return model.requires_grad_(False).eval()


def _diffusers(kind: type[Theirs], config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Theirs:
    with torch.device("meta"), quiet_libraries():
        model = kind(**config)
    model.load_state_dict(dict(state), assign=True)
    patches: Any = model.pos_embed
    grid = (patches.height, patches.width)
    places = sincos_positions(*grid, model.inner_dim, patches.base_size, patches.interpolation_scale)  # (n, d)
    patches.register_buffer("pos_embed", places[None], persistent=False)  # which no file holds
    return model.requires_grad_(False).eval()


def _blocks(depth: int, places: Mapping[str, str]) -> Names:
    return {
        f"transformer_blocks.{block}.{ours}": f"blocks.{block}.{theirs}"
        for block in range(depth)
        for ours, theirs in places.items()
    }


def _with_kinds(places: Names) -> Names:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in places.items() for kind in ("weight", "bias")}


def _shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of both of our models, from those of diffusers."""
    return {
        "sample_size": config["sample_size"],
        "patch_size": config["patch_size"],
        "in_channels": config["in_channels"],
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "depth": config["num_layers"],
        "heads": config["num_attention_heads"],
    }


def _shape_for(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of both models of diffusers, from those of ours."""
    return {
        "sample_size": config["sample_size"],
        "patch_size": config["patch_size"],
        "in_channels": config["in_channels"],
        "num_attention_heads": config["heads"],
        "attention_head_dim": config["dim"] // config["heads"],
        "num_layers": config["depth"],
        "norm_eps": NORM_EPSILON,
    }


def _check_settings(config: Mapping[str, Any]) -> None:
    for name, value in _SAME.items():
        if config.get(name, value) != value:
            raise InputError(f"this transformer has the {name} {config[name]!r}: only {value!r} is known here")


def positions_of(model: nn.Module) -> Tensor:
    """(1, n, d) the positions that a published checkpoint holds as `pos_embed`: those of the size trained on."""
    assert isinstance(model, DiT | PixArt)
    scale = model.interpolation_scale if isinstance(model, PixArt) else 1.0
    return sincos_positions(model.base, model.base, model.dim, model.base, scale)[None]
