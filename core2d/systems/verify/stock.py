"""What stock diffusers takes of a file: its own loaders are given stand-ins, and it is looked up which of them arrived.

Nothing here says by rule what diffusers would do; it does it, on hollow models of the full size. "Silently" is what it
does without an error: it may write a line to a log, and goes on.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from core2d.adapters.controlnet_files import PREFIX, config_of_shapes
from core2d.adapters.lora import TEXT_TOWER, UNET
from core2d.files.ldm import unet_config_of, vae_config_of
from core2d.files.loading import quiet_libraries
from core2d.files.manifests import Manifest
from core2d.files.motion_names import config_of, to_diffusers, window_of
from core2d.systems.verify.bases import Base, hollow
from core2d.systems.verify.contents import Contents
from core2d.systems.verify.kinds import LDM_UNET, LDM_VAE, ORIGINAL_UNET

ADAPTER = "verified"  # what low-rank layers are called meanwhile
Scales = dict[tuple[str, str], float]  # by part and layer
WITHOUT_EFFECT = {"attention_head_dim": 1, "norm_num_groups": 1}  # on names and shapes; they divide all widths


@dataclass(frozen=True)
class Arrived:
    """What a loader has done with a file.

    Attributes:
        names: of the tensors that it took.
        error: why it refused the file; None where it did not.
        scales: of LoRA layers, as it applies them.
    """

    names: set[str] = field(default_factory=set)
    error: str | None = None
    scales: Scales = field(default_factory=dict)


def asked(load: Callable[[], Arrived]) -> Arrived:
    """What a loader does, or the error that it raises; what it logs is kept from the terminal."""
    with warnings.catch_warnings(action="ignore"), quiet_libraries(), redirect_stderr(StringIO()):
        try:
            return load()
        except Exception as error:  # whatever the library raises is its answer
            return Arrived(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


# -- LoRA ----------------------------------------------------------------------------------------------------------


def lora(contents: Contents, base: Base) -> Arrived:
    """What `load_lora_weights` of the stock pipeline takes; an alpha is taken where its layer is."""
    pipeline = pipeline_of(base)
    pipeline.load_lora_weights(contents.stand_ins(), adapter_name=ADAPTER, low_cpu_mem_usage=True)
    layers = {
        (part, name.removeprefix(TEXT_TOWER)): layer
        for part in base.configs
        for name, layer in getattr(pipeline, part).named_modules()
        if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_A
    }
    factors: list[Any] = [half[ADAPTER].weight for layer in layers.values() for half in (layer.lora_A, layer.lora_B)]
    factors += [layer.lora_magnitude_vector[ADAPTER].weight for layer in layers.values()
                if ADAPTER in layer.lora_magnitude_vector]  # fmt: skip
    scales = {place: float(layer.scaling[ADAPTER]) for place, layer in layers.items()}
    return Arrived(contents.arrived(factors), scales=scales)


def pipeline_of(base: Base) -> Any:
    """The stock pipeline of a model, hollow, with nothing in it but what a LoRA changes."""
    parts = {part: hollow(base.build(part)) for part in base.configs}
    nothing: dict[str, Any] = {"vae": None, "tokenizer": None, "scheduler": DDIMScheduler(clip_sample=False),
                               "feature_extractor": None}  # fmt: skip
    absent: Any = None
    if "text_encoder_2" in parts:
        return StableDiffusionXLPipeline(**parts, **nothing, tokenizer_2=absent, add_watermarker=False)
    return StableDiffusionPipeline(**parts, **nothing, safety_checker=absent, requires_safety_checker=False)


# -- IP-Adapter and words ------------------------------------------------------------------------------------------


def ip_adapter(contents: Contents, base: Base) -> Arrived:
    """What `load_ip_adapter` takes: it cuts names at their first point, as in the authors' pickles."""
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in contents.stand_ins().items():
        group, _, rest = name.partition(".")
        if group in state:
            state[group][rest] = value
    unet: Any = hollow(base.build(UNET))
    before = set(map(id, unet.parameters()))
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=True)
    added = [value for value in unet.state_dict(keep_vars=True).values() if id(value) not in before]
    loras = unet._load_ip_adapter_loras([state])
    return Arrived(contents.arrived([*added, *(value for one in loras.values() for value in one.values())]))


def textual_inversion(contents: Contents) -> Arrived:
    """What `load_textual_inversion` takes of a file."""
    state: dict[str, Any] = contents.stand_ins()
    if any(name.startswith("string_to_param.") for name in state):
        state = {"name": "word", "string_to_param": {n.partition(".")[2]: v for n, v in state.items()}}

    class Vocabulary:
        def get_vocab(self) -> dict[str, int]:
            return {}

    _, vectors = TextualInversionLoaderMixin._retrieve_tokens_and_embeddings([None], [state], Vocabulary())
    return Arrived(contents.arrived(vectors))


# -- networks ------------------------------------------------------------------------------------------------------


def controlnet(contents: Contents) -> Arrived:
    """What `ControlNetModel.from_single_file` takes."""
    start = PREFIX if any(name.startswith(PREFIX) for name in contents.shapes) else ""
    config = config_of_shapes({name.removeprefix(start): shape for name, shape in contents.shapes.items()
                               if name.startswith(start)})  # fmt: skip
    return single_file(ControlNetModel, contents, {**config, **WITHOUT_EFFECT})


def motion(contents: Contents) -> Arrived:
    """What `MotionAdapter.from_single_file` takes; it computes positional encodings itself."""
    state = contents.stand_ins()
    config = config_of(to_diffusers(state), window_of(state) or 32, 1) | {"motion_norm_num_groups": 1}
    return single_file(MotionAdapter, contents, config)


def on_meta_motion(config: Mapping[str, Any]) -> nn.Module:
    """Motion modules of diffusers, names and shapes alone."""
    with torch.device("meta"), quiet_libraries():
        return MotionAdapter.from_config({**config, "motion_norm_num_groups": 1})  # pyright: ignore[reportReturnType]


def motion_lora(contents: Contents) -> Arrived:
    """What `AnimateDiffPipeline.load_lora_weights` takes, of a LoRA for modules of SD 1.x."""
    with torch.device("meta"):
        model: Any = UNetMotionModel.from_config({"cross_attention_dim": 768})
    nothing: Any = None
    unet_in_time: Any = hollow(model)
    pipeline = AnimateDiffPipeline(nothing, nothing, nothing, unet_in_time, nothing, DDIMScheduler(clip_sample=False))
    pipeline.load_lora_weights(contents.stand_ins(), adapter_name=ADAPTER, low_cpu_mem_usage=True)
    return Arrived(contents.arrived(value for name, value in pipeline.unet.state_dict().items() if ".lora_" in name))


def unet(contents: Contents) -> Arrived:
    """What `UNet2DConditionModel.from_single_file` takes of a file that holds a UNet."""
    start = LDM_UNET if LDM_UNET + ORIGINAL_UNET in contents.shapes else ""
    return single_file(UNet2DConditionModel, contents, unet_config(inside(contents.shapes, start)))


def vae(contents: Contents) -> Arrived:
    """What `AutoencoderKL.from_single_file` takes of a file that holds an autoencoder."""
    start = LDM_VAE if any(name.startswith(LDM_VAE) for name in contents.shapes) else ""
    shapes = inside(contents.shapes, start)
    return single_file(AutoencoderKL, contents, {**vae_config_of(shapes), "norm_num_groups": 1})


def checkpoint(contents: Contents) -> Arrived:
    """What `StableDiffusionPipeline.from_single_file` and that of SDXL take: UNet, autoencoder and text encoders."""
    found = [unet(contents)]
    if any(name.startswith(LDM_VAE) for name in contents.shapes):
        found.append(vae(contents))
    found += [text_encoder(contents, start) for start in TEXT_STARTS if start + TEXT_STARTS[start] in contents.shapes]
    return Arrived(set().union(*(one.names for one in found)))


def unet_config(shapes: Manifest) -> dict[str, Any]:
    """The config of a UNet of the original layout, as far as it decides names and shapes."""
    config = unet_config_of(shapes)
    label = shapes.get("label_emb.0.0.weight")
    if label is not None:
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256,
                   "projection_class_embeddings_input_dim": label[1]}  # fmt: skip
    return {**config, **WITHOUT_EFFECT}


TEXT_STARTS = {  # of CLIP in checkpoints, and the name by which it is known
    "cond_stage_model.transformer.": "text_model.embeddings.position_embedding.weight",
    "cond_stage_model.model.": "positional_embedding",
    "conditioner.embedders.0.transformer.": "text_model.embeddings.position_embedding.weight",
    "conditioner.embedders.0.model.": "positional_embedding",
    "conditioner.embedders.1.model.": "positional_embedding",
}


def text_encoder(contents: Contents, start: str) -> Arrived:
    """What diffusers takes of a text encoder in a checkpoint."""
    config = text_config_of(inside(contents.shapes, start), layers_less=start == "cond_stage_model.model.")
    projected = start.startswith("conditioner.") and start.endswith(".model.")
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    with folder_of(CLIPTextConfig(**config).to_dict()) as folder:
        model = create_diffusers_clip_model_from_ldm(kind, contents.stand_ins(), config=str(folder),
                                                     local_files_only=True)  # fmt: skip
    return Arrived(contents.arrived(model.state_dict().values()))


def text_config_of(shapes: Manifest, layers_less: bool = False) -> dict[str, Any]:
    """The config of CLIP's text tower, of the names of transformers or of OpenCLIP, as far as it decides shapes.

    Args:
        layers_less: of SD 2.x the last layer is cut off.
    """
    ours = "text_model.embeddings.position_embedding.weight" in shapes
    table = shapes["text_model.embeddings.token_embedding.weight" if ours else "token_embedding.weight"]
    positions = shapes["text_model.embeddings.position_embedding.weight" if ours else "positional_embedding"]
    start = "text_model.encoder.layers." if ours else "transformer.resblocks."
    layers = len({name.removeprefix(start).split(".")[0] for name in shapes if name.startswith(start)})
    wide = shapes[f"{start}0.mlp.fc1.weight" if ours else f"{start}0.mlp.c_fc.weight"][0]
    projection = shapes.get("text_projection", shapes.get("text_projection.weight", (table[1], table[1])))
    return {
        "vocab_size": table[0], "hidden_size": table[1], "max_position_embeddings": positions[0],
        "num_hidden_layers": layers - layers_less, "intermediate_size": wide, "num_attention_heads": 1,
        "projection_dim": projection[1],
    }  # fmt: skip


def inside(shapes: Manifest, start: str) -> Manifest:
    """What stands behind a prefix, without it."""
    return {name.removeprefix(start): shape for name, shape in shapes.items() if name.startswith(start)}


def single_file(kind: Any, contents: Contents, config: Mapping[str, Any]) -> Arrived:
    """What `from_single_file` of a class of diffusers takes."""
    with folder_of({**config, "_class_name": kind.__name__}) as folder:
        model = kind.from_single_file(contents.stand_ins(), config=str(folder), local_files_only=True)
    return Arrived(contents.arrived(model.state_dict().values()))


@contextmanager
def folder_of(config: Mapping[str, Any]):
    """A folder with a config in it, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
        yield Path(folder)
