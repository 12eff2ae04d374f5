"""The families of latent diffusion models: how each reads a prompt and how its denoiser is called.

A family holds the text side and the denoiser of a checkpoint and hides their differences behind two methods:
`encode(prompt)`, and `network(inputs, size)`, which gives the network's own output. Which family a folder is of, its
configs decide.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    T5EncoderModel,
    T5Tokenizer,
)

from core2d.app.errors import InputError
from core2d.files.loading import load_model, read_json
from core2d.files.tokenizers import load_tokenizer
from core2d.prior.condition import Condition, Inputs
from core2d.prior.schedulers import STABLE_DIFFUSION_SETTINGS

_OLD_DIFFUSERS = re.compile(r"0\.[0-8](\.|$)")


class Family:
    """What all families share. `parts` are the components of the folder, under diffusers' names."""

    pipeline_name: ClassVar[str]  # of diffusers
    inpaint_pipeline_name: ClassVar[str] = ""  # the same of one whose denoiser inpaints; "" where there is none
    denoiser_name: ClassVar[str] = "unet"
    models: ClassVar[dict[str, type[nn.Module]]]
    tokenizers: ClassVar[dict[str, type[PreTrainedTokenizerBase]]]
    optional_components: ClassVar[frozenset[str]] = frozenset()  # which `model_index.json` names even if absent
    vae_overflows: ClassVar[bool] = False  # in float16, where the autoencoder's config does not say
    scheduler_settings: ClassVar[dict[str, Any]] = {}  # that the pipeline sets, whatever a folder's scheduler says

    def __init__(self, parts: dict[str, Any], index: dict[str, Any]):
        """`index` is the content of `model_index.json`: the class of the pipeline, and its settings."""
        self.parts = parts
        self.index = index
        self.denoiser: Any = parts[self.denoiser_name]

    @classmethod
    def load(cls, folder: Path, index: dict[str, Any], dtype: torch.dtype) -> "Family":
        """Read every part of a folder; InputError if one is missing or does not fit."""
        parts: dict[str, Any] = {name: load_tokenizer(kind, folder / name) for name, kind in cls.tokenizers.items()}
        parts |= {name: load_model(kind, folder / name, dtype) for name, kind in cls.models.items()}
        size = parts[cls.denoiser_name].config.sample_size
        sides = size if isinstance(size, list | tuple) else [size]
        if not sides or not all(isinstance(side, int) and side > 0 for side in sides):
            raise InputError(
                f"{folder / cls.denoiser_name / 'config.json'} has the sample_size {size!r}: "
                "write the side of the latents that it was trained on, such as 64"
            )
        return cls(parts, index)

    @property
    def max_tokens(self) -> int:
        """How many tokens a prompt may have, start and end included."""
        tokenizer, encoder = self.parts["tokenizer"], self.parts["text_encoder"]
        return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)

    def token_ids(self, prompt: str, tokenizer: str = "tokenizer") -> tuple[Tensor, Tensor]:
        """Ids and mask (1, n), padded to the length that the encoder reads; a longer prompt is refused, not
        cut.
        """
        device = self.parts["text_encoder"].device
        read = self.parts[tokenizer]
        count = len(read(prompt, verbose=False).input_ids)
        if count > self.max_tokens:
            start = prompt[:40] + "..." if len(prompt) > 40 else prompt
            raise InputError(
                f"the prompt {start!r} has {count} tokens and the model reads {self.max_tokens}, "
                "start and end included: shorten it"
            )
        tokens = read(prompt, padding="max_length", max_length=self.max_tokens, return_tensors="pt")
        return tokens.input_ids.to(device), tokens.attention_mask.to(device)

    def encode(self, prompt: str) -> Condition:
        """One prompt as one row; the empty prompt is the unconditional row."""
        raise NotImplementedError

    def network(self, inputs: Inputs, size: tuple[int, int]) -> Tensor:
        """The denoiser's own output (r, c, h, w), for images of `size` = (height, width) pixels."""
        raise NotImplementedError

    def with_parts(self, **parts: nn.Module) -> "Family":
        """The same family with other parts of the same kinds, by their names; the rest and settings are shared."""
        return type(self)({**self.parts, **parts}, self.index)

    def with_denoiser(self, denoiser: nn.Module) -> "Family":
        """The same family with another denoiser of the same kind; text side and settings are shared."""
        return self.with_parts(**{self.denoiser_name: denoiser})


class StableDiffusion(Family):
    """SD 1.x and 2.x: the last hidden state of one CLIP text encoder.

    2.x wants the penultimate layer of OpenCLIP-H; its folders ship the text encoder cut to 23 layers, so that
    this is the last one.
    """

    pipeline_name = "StableDiffusionPipeline"
    inpaint_pipeline_name = "StableDiffusionInpaintPipeline"
    optional_components = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
    scheduler_settings = STABLE_DIFFUSION_SETTINGS
    models: ClassVar[dict] = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel}
    tokenizers: ClassVar[dict] = {"tokenizer": CLIPTokenizer}

    @classmethod
    def load(cls, folder: Path, index: dict[str, Any], dtype: torch.dtype) -> "Family":
        family = super().load(folder, index, dtype)
        written_by = read_json(folder / "unet" / "config.json").get("_diffusers_version", "")
        size = family.denoiser.config.sample_size
        if isinstance(size, int) and size < 64 and _OLD_DIFFUSERS.match(str(written_by)):
            family.denoiser.register_to_config(sample_size=64)  # which those versions did not write: as stock pipelines
        return family

    def encode(self, prompt: str) -> Condition:
        encoder = self.parts["text_encoder"]
        ids, mask = self.token_ids(prompt)  # (1, n) each
        uses_mask = getattr(encoder.config, "use_attention_mask", False)  # SD 2.x-like ports say so in their config
        hidden = encoder(ids, attention_mask=mask if uses_mask else None).last_hidden_state  # (1, n, d)
        return Condition(hidden)

    def network(self, inputs: Inputs, size: tuple[int, int]) -> Tensor:
        return self.denoiser(
            inputs.sample, inputs.t, encoder_hidden_states=inputs.tokens, return_dict=False, **inputs.residuals()
        )[0]


class StableDiffusionXL(Family):
    """SDXL (2307.01952): penultimate states of two text encoders side by side, a pooled prompt, and sizes."""

    pipeline_name = "StableDiffusionXLPipeline"
    inpaint_pipeline_name = "StableDiffusionXLInpaintPipeline"
    optional_components = frozenset({"feature_extractor", "image_encoder"})
    vae_overflows = True
    models: ClassVar[dict] = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "unet": UNet2DConditionModel,
    }
    tokenizers: ClassVar[dict] = {"tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer}

    def encode(self, prompt: str) -> Condition:
        first_ids, _ = self.token_ids(prompt)  # (1, n)
        second_ids, _ = self.token_ids(prompt, "tokenizer_2")  # (1, n)
        first = self.parts["text_encoder"](first_ids, output_hidden_states=True)
        second = self.parts["text_encoder_2"](second_ids, output_hidden_states=True)
        tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)  # (1, n, d1 + d2)
        condition = Condition(tokens, pooled=second.text_embeds)  # (1, p)
        if prompt == "" and self.index.get("force_zeros_for_empty_prompt", True):
            return condition.map(torch.zeros_like)  # SDXL was trained with zeros where the text was dropped
        return condition

    def network(self, inputs: Inputs, size: tuple[int, int]) -> Tensor:
        sizes = inputs.sizes  # (r, 6) original size, top-left crop, target size
        if sizes is None:
            sizes = inputs.x_t.new_tensor([[*size, 0, 0, *size]]).expand(len(inputs.x_t), 6)
        return self.denoiser(
            inputs.sample,
            inputs.t,
            encoder_hidden_states=inputs.tokens,
            added_cond_kwargs={"text_embeds": inputs.pooled, "time_ids": sizes},
            return_dict=False,
            **inputs.residuals(),
        )[0]


class PixArt(Family):
    """PixArt-alpha and -Sigma (2310.00426): a transformer that reads T5 tokens, padding hidden by a mask."""

    pipeline_name = "PixArtAlphaPipeline"
    denoiser_name = "transformer"
    models: ClassVar[dict] = {"text_encoder": T5EncoderModel, "transformer": PixArtTransformer2DModel}
    tokenizers: ClassVar[dict] = {"tokenizer": T5Tokenizer}

    @property
    def max_tokens(self) -> int:
        return 300 if "Sigma" in self.index.get("_class_name", "") else 120  # as trained; T5 itself has no limit

    def encode(self, prompt: str) -> Condition:
        ids, mask = self.token_ids(prompt.lower().strip())  # (1, n) each; captions were lower-cased in training
        hidden = self.parts["text_encoder"](ids, attention_mask=mask).last_hidden_state  # (1, n, d)
        return Condition(hidden, mask=mask)

    def network(self, inputs: Inputs, size: tuple[int, int]) -> Tensor:
        if inputs.skips or inputs.middle is not None:
            raise InputError("this adapter adds to the skip connections of a UNet, and PixArt is a transformer")
        x_t = inputs.x_t
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.denoiser.use_additional_conditions:  # only alpha at 1024 pixels was trained with sizes
            height, width = size
            sizes = {
                "resolution": x_t.new_tensor([[height, width]]).expand(len(x_t), 2),  # (b, 2)
                "aspect_ratio": x_t.new_tensor([[height / width]]).expand(len(x_t), 1),  # (b, 1)
            }
        output = self.denoiser(
            inputs.sample,
            encoder_hidden_states=inputs.tokens,
            encoder_attention_mask=inputs.mask,
            timestep=inputs.t,
            added_cond_kwargs=sizes,
            return_dict=False,
        )[0]
        return output[:, : x_t.shape[1]]  # (b, 2c, h, w) -> (b, c, h, w): the rest is a learned variance


# PixArt was published before its transformer had a class of its own, which diffusers now makes of the old name.
_PIXART_TRANSFORMERS = (["PixArtTransformer2DModel"], ["Transformer2DModel"])


def family_of(index: dict[str, Any]) -> type[Family]:
    """The family that `model_index.json` describes by its components; InputError if it is none that we
    know.
    """
    components = {name for name, value in index.items() if isinstance(value, list) and value and value[0]}
    if {"transformer", "text_encoder"} <= components and index["transformer"][1:] in _PIXART_TRANSFORMERS:
        return PixArt
    if "unet" in components and {"text_encoder", "text_encoder_2"} <= components:
        return StableDiffusionXL
    if "unet" in components and "text_encoder" in components:
        return StableDiffusion
    name = index.get("_class_name", "an unnamed pipeline")
    raise InputError(f"{name} is no model that is known here: give an SD 1.x, 2.x, SDXL (base) or PixArt folder")
