"""The families of latent diffusion models: how each reads a prompt and how its denoiser is called.

A family holds the text side and the denoiser of a checkpoint and hides their differences behind two methods:
`encode(prompt)`, and `network(x_t, t, condition, size)`, which gives the network's own output. Which family a
folder is of, its configs decide.
"""

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
from core2d.files.loading import load_model, quiet_libraries
from core2d.prior.condition import Condition


class Family:
    """What all families share. `parts` are the components of the folder, under diffusers' names."""

    pipeline_name: ClassVar[str]  # of diffusers
    denoiser_name: ClassVar[str] = "unet"
    models: ClassVar[dict[str, type[nn.Module]]]
    tokenizers: ClassVar[dict[str, type[PreTrainedTokenizerBase]]]
    optional_components: ClassVar[frozenset[str]] = frozenset()  # which `model_index.json` names even if absent

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

    def network(self, x_t: Tensor, t: Tensor, condition: Condition, size: tuple[int, int]) -> Tensor:
        """The denoiser's own output at x_t (b, c, h, w) and t (b,), for images of `size` = (height, width)
        pixels.
        """
        raise NotImplementedError


class StableDiffusion(Family):
    """SD 1.x and 2.x: the last hidden state of one CLIP text encoder.

    2.x wants the penultimate layer of OpenCLIP-H; its folders ship the text encoder cut to 23 layers, so that
    this is the last one.
    """

    pipeline_name = "StableDiffusionPipeline"
    optional_components = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
    models: ClassVar[dict] = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel}
    tokenizers: ClassVar[dict] = {"tokenizer": CLIPTokenizer}

    def encode(self, prompt: str) -> Condition:
        encoder = self.parts["text_encoder"]
        ids, mask = self.token_ids(prompt)  # (1, n) each
        uses_mask = getattr(encoder.config, "use_attention_mask", False)  # SD 2.x-like ports say so in their config
        hidden = encoder(ids, attention_mask=mask if uses_mask else None).last_hidden_state  # (1, n, d)
        return Condition(hidden)

    def network(self, x_t: Tensor, t: Tensor, condition: Condition, size: tuple[int, int]) -> Tensor:
        return self.denoiser(x_t, t, encoder_hidden_states=condition.tokens, return_dict=False)[0]


class StableDiffusionXL(Family):
    """SDXL (2307.01952): penultimate states of two text encoders side by side, a pooled prompt, and sizes."""

    pipeline_name = "StableDiffusionXLPipeline"
    optional_components = frozenset({"feature_extractor", "image_encoder"})
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

    def network(self, x_t: Tensor, t: Tensor, condition: Condition, size: tuple[int, int]) -> Tensor:
        height, width = size
        sizes = [height, width, 0, 0, height, width]  # original size, top-left crop, target size
        time_ids = torch.tensor([sizes], dtype=x_t.dtype, device=x_t.device).expand(len(x_t), 6)  # (b, 6)
        return self.denoiser(
            x_t,
            t,
            encoder_hidden_states=condition.tokens,
            added_cond_kwargs={"text_embeds": condition.pooled, "time_ids": time_ids},
            return_dict=False,
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

    def network(self, x_t: Tensor, t: Tensor, condition: Condition, size: tuple[int, int]) -> Tensor:
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.denoiser.use_additional_conditions:  # only alpha at 1024 pixels was trained with sizes
            height, width = size
            sizes = {
                "resolution": x_t.new_tensor([[height, width]]).expand(len(x_t), 2),  # (b, 2)
                "aspect_ratio": x_t.new_tensor([[height / width]]).expand(len(x_t), 1),  # (b, 1)
            }
        output = self.denoiser(
            x_t,
            encoder_hidden_states=condition.tokens,
            encoder_attention_mask=condition.mask,
            timestep=t,
            added_cond_kwargs=sizes,
            return_dict=False,
        )[0]
        return output[:, : x_t.shape[1]]  # (b, 2c, h, w) -> (b, c, h, w): the rest is a learned variance


def family_of(index: dict[str, Any]) -> type[Family]:
    """The family that `model_index.json` describes by its components; InputError if it is none that we
    know.
    """
    components = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    if "transformer" in components and index["transformer"][1] == "PixArtTransformer2DModel":
        return PixArt
    if "unet" in components and {"text_encoder", "text_encoder_2"} <= components:
        return StableDiffusionXL
    if "unet" in components and "text_encoder" in components:
        return StableDiffusion
    name = index.get("_class_name", "an unnamed pipeline")
    raise InputError(f"{name} is no model that is known here: give an SD 1.x, 2.x, SDXL (base) or PixArt folder")


def load_tokenizer(kind: type[PreTrainedTokenizerBase], folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer from its folder; no code of the folder is run."""
    if not folder.is_dir():
        raise InputError(f"the model folder {folder.parent} has no {folder.name}")
    try:
        with quiet_libraries():
            return kind.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        raise InputError(f"the tokenizer in {folder} cannot be read: {error}") from error
