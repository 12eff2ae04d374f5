"""The names of low-rank layers in files, and those of the layers that they change.

    place_of("lora_unet_mid_block_attentions_0_proj_in")  # ("unet", "mid_block.attentions.0.proj_in")

kohya's trainers write the name of a layer with `_` for every `.`, and for SDXL that of the original layout; diffusers
and peft write it as it is, under the name of the part, a wrapper's, or none.
"""

from __future__ import annotations

import re
from functools import cache

from core2d.adapters.lora import TEXT_ENCODERS, TEXT_TOWER, UNET
from core2d.files.ldm import unet_to_ldm
from core2d.files.manifests import UNET_CONFIGS

KOHYA = {"lora_unet_": UNET, "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
WORDS = (  # that hold a `_` of their own
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "motion_modules", "time_embedding", "add_embedding",
    "linear_1", "linear_2", "time_emb_proj", "conv_in", "conv_out", "conv_shortcut", "proj_in", "proj_out", "to_q",
    "to_k", "to_v", "to_out", "text_model", "text_projection", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj",
)  # fmt: skip
WORD = re.compile(rf"(?:{'|'.join(WORDS)})(?![^_])|[^_]+")
OF_LDM = ("input_blocks_", "middle_block_", "output_blocks_", "time_embed_", "label_emb_", "out_2")
WRAPPED = r"(?:(?:module|_orig_mod|base_model\.model)\.)*"
UNET_BLOCK = r"(?:down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)\b.*"
TEXT_BLOCK = r"(?:text_model\.)?encoder\.layers\..*"
NAMED = re.compile(rf"{WRAPPED}(?P<part>{UNET}|{'|'.join(TEXT_ENCODERS)})\.(?P<layer>.+)")
NAMELESS = re.compile(rf"{WRAPPED}(?:(?P<unet>{UNET_BLOCK})|(?P<text>{TEXT_BLOCK}))")
OF_ATTENTION = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}  # of text, in old files


def place_of(name: str) -> tuple[str, str] | None:
    """Part and layer that a file means by a name; None where it means none."""
    for start, part in KOHYA.items():
        if name.startswith(start):
            layer = unflattened(name.removeprefix(start))
            return None if layer is None else (part, _plain(part, layer))
    name = name.replace(".processor.", ".")
    if named := NAMED.fullmatch(name):
        return named["part"], _plain(named["part"], named["layer"])
    if found := NAMELESS.fullmatch(name):
        part = UNET if found["unet"] else TEXT_ENCODERS[0]
        return part, _plain(part, found["unet"] or found["text"])
    return None


def _plain(part: str, layer: str) -> str:
    """The name that a layer has in its model."""
    start, _, last = layer.rpartition(".")
    if part == UNET:
        return f"{layer}.0" if last == "to_out" else layer
    return f"{start}.{OF_ATTENTION.get(last, last)}".removeprefix(".").removeprefix(TEXT_TOWER)


def unflattened(name: str) -> str | None:
    """The name of a layer that was written with `_` for every `.`; None where the original layout has no such layer."""
    if name.startswith(OF_LDM):
        return of_ldm().get(name)
    return ".".join(WORD.findall(name))


def flattened(part: str, layer: str, two_towers: bool) -> str:
    """The name that kohya's trainers write for a layer; in SDXL, of two text towers, the first has another one, too."""
    if part == UNET:
        start = "lora_unet_"
    else:
        start = "lora_te2_" if part == TEXT_ENCODERS[1] else "lora_te1_" if two_towers else "lora_te_"
        layer = written(layer)
    return start + layer.replace(".", "_")


def written(layer: str) -> str:
    """The name of a text encoder's layer in files, whatever version of its class is installed."""
    return layer if layer.startswith("text_projection") else TEXT_TOWER + layer


@cache
def of_ldm() -> dict[str, str]:
    """diffusers' name of every layer of an SD or SDXL UNet, by that of the original layout with `_` for every `.`.

    The layouts of both agree wherever they name the same thing.
    """
    found: dict[str, str] = {}
    for config in ("stable-diffusion-1.5", "stable-diffusion-xl-1.0"):
        for ours, theirs in unet_to_ldm(UNET_CONFIGS[config]).items():
            if ours.endswith(".weight"):
                found[theirs.removesuffix(".weight").replace(".", "_")] = ours.removesuffix(".weight")
    return found
