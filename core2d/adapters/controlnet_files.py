"""Files of ControlNets, read and written in the layouts of diffusers and of the authors.

    model = read_controlnet("control_v11p_sd15_openpose.pth")  # or a folder of diffusers, or a .safetensors of either
    write_controlnet(Path("mine"), model)  # a folder of diffusers
    write_controlnet(Path("mine.safetensors"), model, "original")

`diffusers`  `controlnet_cond_embedding.conv_in.weight`, `down_blocks...`, `controlnet_down_blocks.0.weight`; the
             config stands beside it
`original`   `control_model.input_hint_block.0.weight`, `...input_blocks...`, `...zero_convs.0.0.weight`; there is no
             config, so it is found from shapes

What shapes do not tell is as published: 8 heads in Stable Diffusion 1.x, heads 64 wide where projections are linear
(2.x, SDXL), groups of 32 channels. A file that was written here says it in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from safetensors.torch import save_file
from torch import Tensor

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path
from core2d.files.ldm import Names, diffusers_to_ldm, ldm_to_diffusers, unet_config_of, unet_to_ldm
from core2d.files.loading import load_model, quiet_libraries, read_json, save_model
from core2d.files.manifests import Manifest, compare_keys, manifest_of
from core2d.files.tensors import read_settings, read_tensors

Style = Literal["diffusers", "original"]
PREFIX = "control_model."  # of a ControlNet in a checkpoint of the authors
SETTINGS = "controlnet_config"  # in the metadata of a .safetensors file that was written here
MIDDLE = "UNetMidBlock2DCrossAttn"  # the only one of the original layout
HINTS = "controlnet_cond_embedding"
ORIGINAL, DIFFUSERS = "input_hint_block.0.weight", f"{HINTS}.conv_in.weight"  # by which the layouts are known
OTHER_KINDS = {"lora_controlnet": "a Control-LoRA", "difference": "the difference of a ControlNet to its UNet"}


def read_controlnet(path: str | Path) -> ControlNetModel:
    """Read a folder of diffusers, or a file of either layout (.pth and the like through the allow-list reader).

    Returns:
        float32, frozen, in eval mode.

    Raises:
        InputError: nothing there, a damaged file, or anything but one whole ControlNet of finite numbers.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        name = read_json(path / "config.json").get("_class_name", "model without a name")
        if name != "ControlNetModel":
            raise InputError(f"{path} holds a {name}, not a ControlNet")
        model = load_model(ControlNetModel, path, torch.float32)
    elif path.is_file():
        model = controlnet_of(path, read_tensors(path))
    else:
        raise InputError(f"no ControlNet at {path}: give a folder of diffusers, or a file such as control.safetensors")
    broken = next((name for name, value in model.state_dict().items() if not value.isfinite().all()), None)
    if broken is not None:
        raise InputError(f"{path} holds numbers that are not finite, in {broken}: it is damaged")
    return model


def controlnet_of(path: Path, tensors: Mapping[str, Tensor]) -> ControlNetModel:
    """The ControlNet that a file holds, whose tensors have been read; what stands beside them is read here.

    Raises:
        InputError: as `read_controlnet`, but for numbers that are not finite.
    """
    for mark, kind in OTHER_KINDS.items():
        if mark in tensors:
            raise InputError(f"{path} holds {kind}, which is not read here: give the whole ControlNet")
    start = PREFIX if f"{PREFIX}{ORIGINAL}" in tensors else ""  # beside it a checkpoint may hold the whole model
    state = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    if ORIGINAL not in state and DIFFUSERS not in state:
        raise InputError(f"{path} holds no ControlNet: no tensor is named {PREFIX}{ORIGINAL} or {DIFFUSERS}")
    try:
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        config = _said_by(path) or config_of_shapes(shapes)
        model = on_meta(config)
        found = ldm_to_diffusers(state, controlnet_to_ldm(model.config)) if ORIGINAL in state else state
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError(f"{path} holds no whole ControlNet: {error}") from None
    missing, unexpected, mismatched = compare_keys(manifest_of(model), {n: tuple(v.shape) for n, v in found.items()})
    for names, what in ((missing, "lacks"), (unexpected, "also holds"), (mismatched, "has another shape of")):
        if names:
            raise InputError(f"{path} holds no ControlNet that is known here: it {what} {names[0]}")
    model.load_state_dict({name: value.float() for name, value in found.items()}, assign=True)
    return model.requires_grad_(False).eval()  # pyright: ignore[reportReturnType]


def write_controlnet(
    path: Path, model: ControlNetModel, style: Style = "diffusers", dtype: torch.dtype | None = None
) -> None:
    """Write a ControlNet, whole or not at all: a folder for `diffusers`, a .safetensors file for `original`.

    Args:
        dtype: of the tensors; as they are by default.

    Raises:
        InputError: another suffix, or a network that the original layout has no place for.
    """
    if style == "diffusers":
        with atomic_path(path) as folder:
            save_model(model, folder, dtype)
        return
    if path.suffix != ".safetensors":
        raise InputError(f"cannot write {path}: a file of a ControlNet ends in .safetensors")
    try:
        state = diffusers_to_ldm(model.state_dict(), controlnet_to_ldm(model.config))
    except ValueError as error:
        raise InputError(f"cannot write {path}: {error}; write a folder of diffusers") from None
    ready = {PREFIX + name: value.detach().to("cpu", dtype).contiguous() for name, value in state.items()}
    said = {name: value for name, value in model.config.items() if not name.startswith("_")}
    with atomic_path(path) as temporary:
        save_file(ready, temporary, metadata={"format": "pt", SETTINGS: json.dumps(said)})


# -- names ---------------------------------------------------------------------------------------------------------


def controlnet_to_ldm(config: Mapping[str, Any]) -> Names:
    """Name in diffusers -> name of the authors of every tensor of a `ControlNetModel`, without prefix.

    The encoder is named as that of the UNet; what a ControlNet has beside it stands behind.

    Raises:
        ValueError: it has parts that the layout has no place for.
    """
    if config.get("mid_block_type", MIDDLE) != MIDDLE:
        raise ValueError(f"the original layout has no place for a {config['mid_block_type']}")
    attends = ["CrossAttn" in name for name in reversed(config["down_block_types"])]
    ups = ["CrossAttnUpBlock2D" if does else "UpBlock2D" for does in attends]
    shared = {name: config[name] for name in OF_THE_UNET if name in config}
    names = unet_to_ldm({**shared, "up_block_types": ups})
    names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(("up_blocks.", "conv_out.",
                                                                                   "conv_norm_out."))}  # fmt: skip
    strides = len(config["conditioning_embedding_out_channels"]) - 1
    layers = [f"{HINTS}.conv_in", *(f"{HINTS}.blocks.{index}" for index in range(2 * strides)), f"{HINTS}.conv_out"]
    places = {layer: f"input_hint_block.{2 * index}" for index, layer in enumerate(layers)}  # SiLU stands between
    skips = {theirs.split(".")[1] for theirs in names.values() if theirs.startswith("input_blocks.")}
    places |= {f"controlnet_down_blocks.{index}": f"zero_convs.{index}.0" for index in range(len(skips))}
    places["controlnet_mid_block"] = "middle_block_out.0"
    kinds = ("weight", "bias")
    return names | {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in places.items() for kind in kinds}


OF_THE_UNET = (  # settings that decide which tensors an encoder has
    "in_channels", "block_out_channels", "layers_per_block", "down_block_types", "cross_attention_dim",
    "attention_head_dim", "num_attention_heads", "norm_num_groups", "transformer_layers_per_block",
    "use_linear_projection", "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
)  # fmt: skip


# -- configs from shapes -------------------------------------------------------------------------------------------


def config_of_shapes(shapes: Manifest) -> dict[str, Any]:
    """The config of the ControlNet whose tensors have these names, of either layout and without prefix, and shapes.

    Raises:
        KeyError, IndexError: these are not the tensors of a ControlNet.
    """
    return _config_of_original(shapes) if ORIGINAL in shapes else _config_of_diffusers(shapes)


def _config_of_original(shapes: Manifest) -> dict[str, Any]:
    """The config of the ControlNet whose tensors have these names of the authors, without prefix, and shapes."""
    inside = shapes["input_blocks.0.0.weight"][1:2]
    config = unet_config_of({**shapes, "out.2.weight": inside})  # of the half that a ControlNet does not have
    config = {name: value for name, value in config.items() if name not in ("out_channels", "up_block_types")}
    layers = sorted(int(name.split(".")[1]) for name in shapes if name.startswith("input_hint_block.")
                    and name.endswith(".weight"))  # fmt: skip
    hints = [shapes[f"input_hint_block.{layer}.weight"] for layer in layers]
    label = shapes.get("label_emb.0.0.weight")
    return config | _hints(hints) | _as_published(config) | _sdxl(label)


def _config_of_diffusers(shapes: Manifest) -> dict[str, Any]:
    """The config of the ControlNet whose tensors have these names of diffusers and shapes."""
    levels, depths, layers = [], [], 0
    while f"down_blocks.{len(levels)}.resnets.0.conv1.weight" in shapes:
        block = f"down_blocks.{len(levels)}"
        levels.append(shapes[f"{block}.resnets.0.conv1.weight"][0])
        layers = sum(name.startswith(f"{block}.resnets.") and name.endswith(".conv1.weight") for name in shapes)
        depths.append(_depth(shapes, f"{block}.attentions.0"))
    middle = "mid_block.attentions.0"
    deep = [depth or 1 for depth in depths[:-1]] + [_depth(shapes, middle)]
    config = {
        "in_channels": shapes["conv_in.weight"][1],
        "block_out_channels": levels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "transformer_layers_per_block": deep[0] if len(set(deep)) == 1 else deep,
        "cross_attention_dim": shapes[f"{middle}.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": len(shapes[f"{middle}.proj_in.weight"]) == 2,
    }
    count = sum(name.startswith(f"{HINTS}.blocks.") and name.endswith(".weight") for name in shapes)
    names = ["conv_in", *(f"blocks.{index}" for index in range(count)), "conv_out"]
    hints = [shapes[f"{HINTS}.{name}.weight"] for name in names]
    return config | _hints(hints) | _as_published(config) | _sdxl(shapes.get("add_embedding.linear_1.weight"))


def _depth(shapes: Manifest, attention: str) -> int:
    """How many transformer blocks an attention has."""
    start = f"{attention}.transformer_blocks."
    return len({name.removeprefix(start).split(".")[0] for name in shapes if name.startswith(start)})


def _hints(layers: list[tuple[int, ...]]) -> dict[str, Any]:
    """The encoder of maps, by the shapes of its convolutions (out, in, 3, 3): two to a stride, and one at each end."""
    widths = [layers[0][0], *(shape[0] for shape in layers[2:-1:2])]
    return {"conditioning_channels": layers[0][1], "conditioning_embedding_out_channels": widths}


def _as_published(config: Mapping[str, Any]) -> dict[str, Any]:
    widths = config["block_out_channels"]
    return {"attention_head_dim": [width // 64 for width in widths] if config["use_linear_projection"] else 8}


def _sdxl(label: tuple[int, ...] | None) -> dict[str, Any]:
    """Settings of SDXL, where a projection (out, in) of the pooled prompt and sizes is there."""
    if label is None:
        return {}
    return {"addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": label[1]}  # fmt: skip


def _said_by(path: Path) -> dict[str, Any]:
    """The config that a file says of itself, or that diffusers wrote beside it; nothing where there is none."""
    said = read_settings(path, SETTINGS)
    if said is not None:
        return said
    beside = path.with_name("config.json")
    config = read_json(beside) if beside.is_file() else {}
    return config if config.get("_class_name") == "ControlNetModel" else {}


def on_meta(config: Mapping[str, Any]) -> ControlNetModel:
    """A ControlNet on the meta device: names and shapes, no values."""
    with torch.device("meta"), quiet_libraries():
        return ControlNetModel.from_config(dict(config))  # pyright: ignore[reportReturnType]
