"""The models that adapters are made for, as hollow ones: every layer and shape, and no memory for weights.

base = next(base for base in bases() if base.name == "SDXL")
unet = hollow(base.build("unet"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from core2d.adapters.lora import TEXT_TOWER, UNET
from core2d.app.registry import bundled, resolve
from core2d.files.loading import quiet_libraries, read_json
from core2d.files.manifests import TEXT_CONFIGS, UNET_CONFIGS, Manifest, manifest_of

PUBLISHED = {"SD 1.x": "stable-diffusion-1.5", "SD 2.x": "stable-diffusion-2.1", "SDXL": "stable-diffusion-xl-1.0"}
TEXT_CLASSES: dict[str, Callable[[CLIPTextConfig], nn.Module]] = {
    "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection,
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A model that something may be made for.

    Attributes:
        name: as people call it.
        configs: of its UNet and text encoders, under diffusers' names.
    """

    name: str
    configs: Mapping[str, Mapping[str, Any]]

    def build(self, part: str) -> nn.Module:
        """A part on the meta device."""
        config = dict(self.configs[part])
        with torch.device("meta"), quiet_libraries():
            if part == UNET:
                return UNet2DConditionModel.from_config(config)  # pyright: ignore[reportReturnType]
            return TEXT_CLASSES[part](CLIPTextConfig(**config))

    @cached_property
    def shapes(self) -> dict[str, Manifest]:
        """Shapes of all tensors of each part; those of text encoders begin at `encoder.`."""
        found = {part: manifest_of(self.build(part)) for part in self.configs}
        return {
            part: {name.removeprefix(TEXT_TOWER): shape for name, shape in manifest.items()}
            for part, manifest in found.items()
        }

    @property
    def width(self) -> int:
        """Of the tokens that the UNet reads."""
        return self.configs[UNET]["cross_attention_dim"]


def bases() -> Iterator[Base]:
    """The published models, then those that come with this."""
    for name, key in PUBLISHED.items():
        yield Base(name, {UNET: UNET_CONFIGS[key], **TEXT_CONFIGS[key]})
    for name, folder in bundled().items():
        if (folder / "unet" / "config.json").is_file() and (folder / "text_encoder" / "config.json").is_file():
            yield base_at(name)


def base_at(name: str) -> Base:
    """A model by its name or folder; InputError if there is none."""
    folder = resolve(name)
    parts = [part for part in (UNET, *TEXT_CLASSES) if part == UNET or (folder / part / "config.json").is_file()]
    return Base(name, {part: read_json(folder / part / "config.json") for part in parts})


def hollow(model: nn.Module) -> nn.Module:
    """The same on the CPU, each weight one zero that is seen in its shape."""
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            empty = torch.zeros((), dtype=value.dtype).expand(value.shape)
            module.register_parameter(name, nn.Parameter(empty, requires_grad=False))
        for name, value in list(module.named_buffers(recurse=False)):
            lasting = name not in module._non_persistent_buffers_set
            module.register_buffer(name, torch.zeros((), dtype=value.dtype).expand(value.shape), persistent=lasting)
    return model.eval()
