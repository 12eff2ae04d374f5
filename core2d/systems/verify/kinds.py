"""What a file is, by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from core2d.adapters.controlnet_files import DIFFUSERS, ORIGINAL, PREFIX
from core2d.adapters.lora_files import ALPHA, FACTOR, OTHER_KINDS
from core2d.adapters.lora_names import KOHYA, place_of
from core2d.files.manifests import Manifest
from core2d.files.motion_names import PLACE

KindName = Literal[
    "LoRA", "LoRA of motion modules", "low-rank change of another kind", "Control-LoRA", "ControlNet", "IP-Adapter",
    "motion modules", "checkpoint", "UNet", "VAE", "text encoder", "image encoder", "textual inversion", "T2I-Adapter",
    "transformer", "folder of diffusers",
]  # fmt: skip
LDM_UNET, LDM_VAE = "model.diffusion_model.", "first_stage_model."
ORIGINAL_UNET, DIFFUSERS_UNET = "input_blocks.0.0.weight", "time_embedding.linear_1.weight"
WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 1280: "SDXL refiner", 2048: "SDXL"}  # of the tokens that a UNet reads
TEXT_WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 1280: "SDXL"}  # of text encoders; SDXL has the first of them, too
MOTION_CHANNELS = {4: "SD 1.x", 3: "SDXL"}  # by the number of levels
INPUTS = {9: "inpainting", 8: "with a picture joined (InstructPix2Pix, Zero-1-to-3)"}  # by the channels of a UNet


@dataclass(frozen=True)
class Kind:
    """What a file is.

    Attributes:
        name: what it is.
        details: more, in words: the layout of its names, its version.
        made_for: the model that it belongs to, or None where names and shapes do not tell.
    """

    name: KindName
    details: str = ""
    made_for: str | None = None


def kind_of(shapes: Manifest) -> Kind | None:
    """What tensors of these names and shapes are; None where that is not known."""
    return next((kind for ask in ASKED if (kind := ask(shapes)) is not None), None)


# -- small changes -------------------------------------------------------------------------------------------------


def low_rank(shapes: Manifest) -> Kind | None:
    """LoRA, and its kin; for which model it is, a comparison of layers tells (`core2d.systems.verify.loaders`)."""
    if "lora_controlnet" in shapes:
        return Kind("Control-LoRA", "low-rank factors of a ControlNet (Stability AI)")
    factors = [name for name in shapes if FACTOR.fullmatch(name)]
    others = {kind for kind, marks in OTHER_KINDS.items() if any(re.search(marks, name) for name in shapes)}
    if others and (factors or any(kind in others for kind in ("LoKr", "LoHa", "IA3", "OFT", "GLoRA"))):
        return Kind("low-rank change of another kind", " and ".join(sorted(others)))
    if not factors or any(name.startswith(("image_proj.", "ip_adapter.")) for name in shapes):
        return None
    if all(PLACE.search(name) for name in factors):
        return Kind("LoRA of motion modules", names_of(factors))
    return Kind("LoRA", names_of(factors))


def names_of(names: list[str]) -> str:
    """Whose way of writing names it is."""
    styles = {
        "kohya's names": lambda name: name.startswith(tuple(KOHYA)),
        "peft's names": lambda name: name.startswith("base_model.model."),
        "diffusers' names": lambda name: re.search(r"\.lora_[AB]\b", name) and place_of(_layer(name)),
        "diffusers' older names": lambda name: place_of(_layer(name)) or PLACE.search(name),
    }
    found = [next((style for style, fits in styles.items() if fits(name)), "names of no known style") for name in names]
    return ", ".join(dict.fromkeys(found))


def _layer(name: str) -> str:
    found = FACTOR.fullmatch(name) or ALPHA.fullmatch(name)
    return found["layer"] if found else name


def ip_adapter(shapes: Manifest) -> Kind | None:
    """By the layer that makes tokens of a picture, and by the width of the keys that read them."""
    if not any(name.startswith(("image_proj.", "ip_adapter.")) for name in shapes):
        return None
    makers = {
        "image_proj.proj.weight": "one projection of the picture's embedding",
        "image_proj.latents": "a resampler (Plus)",
        "image_proj.proj.0.weight": "a network of layers (full face)",
        "image_proj.perceiver_resampler.latents": "FaceID Plus",
    }
    details = next((words for name, words in makers.items() if name in shapes), "no layer that reads pictures")
    if any(".to_q_lora." in name or "_lora." in name for name in shapes):
        details += ", with a LoRA (FaceID)"
    widths = {shape[1] for name, shape in shapes.items() if name.endswith("to_k_ip.weight")}
    return Kind("IP-Adapter", details, WIDTHS.get(max(widths, default=0)))


def textual_inversion(shapes: Manifest) -> Kind | None:
    """Vectors (n, width) or (width,) under the name of a word, of A1111, or of both encoders of SDXL."""
    vectors = [shape for shape in shapes.values() if len(shape) in (1, 2)]
    if len(vectors) != len(shapes):
        return None
    if {"clip_l", "clip_g"} <= shapes.keys():
        return Kind("textual inversion", "vectors for both text encoders", "SDXL")
    named = any(name == "emb_params" or name.startswith("string_to_param.") for name in shapes)
    if not named and not (len(shapes) == 1 and "." not in next(iter(shapes))):
        return None
    style = "A1111's names" if named else "the name of its word"
    return Kind("textual inversion", style, TEXT_WIDTHS.get(vectors[0][-1]))


# -- networks ------------------------------------------------------------------------------------------------------


def controlnet(shapes: Manifest) -> Kind | None:
    for name, layout in ((PREFIX + ORIGINAL, "the authors' layout"), (ORIGINAL, "the authors' layout, without prefix"),
                         (DIFFUSERS, "diffusers' layout")):  # fmt: skip
        if name in shapes:
            return Kind("ControlNet", layout, WIDTHS.get(token_width(shapes) or 0))
    return None


def t2i_adapter(shapes: Manifest) -> Kind | None:
    body = re.compile(r"(?:adapter\.)?body\.\d+\.(?:resnets\.\d+\.)?(?:block1|in_conv)\.weight")
    return Kind("T2I-Adapter") if any(body.fullmatch(name) for name in shapes) else None


def motion(shapes: Manifest) -> Kind | None:
    """Motion modules, by themselves; beside a whole UNet they are part of a checkpoint."""
    inside = [name for name in shapes if PLACE.search(name)]
    if not inside or unet(shapes):
        return None
    original = any("temporal_transformer" in name for name in inside)
    windows = {shape[1] for name, shape in shapes.items() if name.endswith((".pos_encoder.pe", ".pos_embed.pe"))}
    middle = any("mid_block.motion_modules" in name for name in inside)
    levels = {name.split("down_blocks.")[1].split(".")[0] for name in inside if "down_blocks." in name}
    if middle:
        version = "v2"
    elif len(levels) == 3:
        version = "SDXL beta"
    else:
        version = {24: "v1", 32: "v3"}.get(min(windows, default=0), "v1 or v3")
    widest = max((shape[0] for name, shape in shapes.items() if name.endswith("norm.weight") and PLACE.search(name)),
                 default=0)  # fmt: skip
    made_for = MOTION_CHANNELS.get(len(levels)) if widest == 1280 else None
    return Kind(
        "motion modules", f"AnimateDiff {version}, {'the authors' if original else 'diffusers'}' layout", made_for
    )


def checkpoint(shapes: Manifest) -> Kind | None:
    """A whole model of the original layout: a UNet and more in one file."""
    if LDM_UNET + ORIGINAL_UNET not in shapes:
        return None
    more = []
    channels = shapes[LDM_UNET + ORIGINAL_UNET][1]
    more += [INPUTS[channels]] if channels in INPUTS else []
    more += ["distilled, told its guidance (LCM)"] if any("cond_proj" in name for name in shapes) else []
    more += [] if any(name.startswith(LDM_VAE) for name in shapes) else ["without an autoencoder"]
    texts = ("cond_stage_model.", "conditioner.")
    more += [] if any(name.startswith(texts) for name in shapes) else ["without a text encoder"]
    more += ["with averaged weights beside the others"] if _has_averages(shapes) else []
    return Kind("checkpoint", ", ".join(["the original layout", *more]), WIDTHS.get(token_width(shapes) or 0))


def _has_averages(shapes: Manifest) -> bool:
    return any(name.startswith("model_ema.diffusion_model") for name in shapes)


def unet(shapes: Manifest) -> Kind | None:
    for first, layout in ((ORIGINAL_UNET, "the original layout"), (DIFFUSERS_UNET, "diffusers' layout")):
        if first in shapes and ("out.2.weight" in shapes or "conv_norm_out.weight" in shapes):
            channels = shapes[ORIGINAL_UNET if first == ORIGINAL_UNET else "conv_in.weight"][1]
            more = [INPUTS[channels]] if channels in INPUTS else []
            more += ["distilled, told its guidance (LCM)"] if "time_embedding.cond_proj.weight" in shapes else []
            return Kind("UNet", ", ".join([layout, *more]), WIDTHS.get(token_width(shapes) or 0))
    return None


def vae(shapes: Manifest) -> Kind | None:
    for start in ("", LDM_VAE):
        if {f"{start}encoder.conv_in.weight", f"{start}decoder.conv_in.weight"} <= shapes.keys():
            ours = any(name.startswith(f"{start}encoder.down_blocks.") for name in shapes)
            channels = shapes[f"{start}decoder.conv_in.weight"][1]
            layout = "diffusers' layout" if ours else "the original layout"
            return Kind("VAE", f"{layout}, latents of {channels} channels")
    return None


def encoders(shapes: Manifest) -> Kind | None:
    """Of text and of pictures, by the names of transformers and of OpenCLIP."""
    if any(name.startswith(("vision_model.", "visual.")) for name in shapes):
        return Kind("image encoder", "CLIP")
    if any(name.startswith("encoder.block.0.layer.0.SelfAttention.") for name in shapes):
        return Kind("text encoder", "T5")
    tokens = re.compile(r"(?:.*\.)?(?:embeddings\.token_embedding|token_embedding)\.weight")
    found = [shape for name, shape in shapes.items() if tokens.fullmatch(name)]
    layers = any(".layers.0.self_attn." in name or "transformer.resblocks.0." in name for name in shapes)
    return Kind("text encoder", "CLIP", TEXT_WIDTHS.get(found[0][-1])) if found and layers else None


def transformer(shapes: Manifest) -> Kind | None:
    found = any(name.startswith("adaln_single.") for name in shapes) and "caption_projection.linear_1.weight" in shapes
    return Kind("transformer", "PixArt, diffusers' layout") if found else None


def token_width(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Of the tokens that a UNet or its copy reads."""
    return next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), None)


ASKED: tuple[Callable[[Manifest], Kind | None], ...] = (
    low_rank, ip_adapter, controlnet, checkpoint, t2i_adapter, motion, unet, vae, encoders, transformer,
    textual_inversion,
)  # fmt: skip
