"""Low-rank changes of a model's layers (LoRA, Hu et al. 2021, 2106.09685): held, fused into weights, and learning.

    lora = read_lora("style.safetensors")  # core2d.adapters.lora_files
    fused = fuse(prior.family.parts, lora, 0.8)  # every layer's W is now W + 0.8 scale up down
    unfuse(fused)  # and what it was before, bit by bit
    other = prior.with_adapters(LoraAdapter(lora, 0.8))  # another prior; this one stays as it is
    attach(unet, lora, "style")  # layers beside the weights, which can learn; `lora_of(unet, "style")` takes them out

Which part of a pipeline a layer belongs to is said with it, under diffusers' names: unet, text_encoder, text_encoder_2.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.prior.condition import Condition, Inputs

UNET, TEXT_ENCODERS = "unet", ("text_encoder", "text_encoder_2")
TEXT_TOWER = "text_model."  # before the names of a text encoder's layers in files, and in some versions of its class


@dataclass(frozen=True)
class LowRank:
    """What is added to the weight of one layer: scale up down.

    Attributes:
        down: (r, in), of a convolution (r, in, kh, kw).
        up: (out, r), of a convolution (out, r, 1, 1).
        scale: alpha / r.

    Raises:
        ValueError: factors that do not fit.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0

    def __post_init__(self):
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        pair = len(down) in (2, 4) and len(up) == len(down) and up[2:] in ((), (1, 1))
        if not (pair and down[0] == up[1] and math.prod(down) and math.prod(up)):
            raise ValueError(f"factors that do not fit: {down} and {up}")

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def alpha(self) -> float:
        """As files have it: the scale is alpha / r."""
        return self.scale * self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it is added to: (out, in) or (out, in, kh, kw)."""
        return (len(self.up), *self.down.shape[1:])

    def delta(self, device: torch.device | str = "cpu") -> Tensor:
        """What is added, float32 of `shape`."""
        down, up = (half.to(device, torch.float32).flatten(1) for half in (self.down, self.up))
        return (self.scale * (up @ down)).view(self.shape)


@dataclass(frozen=True)
class Lora:
    """Low-rank changes of the parts of a pipeline.

    Attributes:
        parts: by the name of the part, and in it by the name of the layer as diffusers and transformers have it; those
            of text encoders begin at `encoder.` or `text_projection`.
    """

    parts: Mapping[str, Mapping[str, LowRank]]

    @property
    def unet(self) -> Mapping[str, LowRank]:
        """The layers of the UNet; none where it changes text encoders alone."""
        return self.parts.get(UNET, {})

    @property
    def rank(self) -> int:
        """The highest of a layer."""
        return max(layer.rank for _, _, layer in self.named())

    def named(self) -> Iterator[tuple[str, str, LowRank]]:
        """Part, name and factors of every layer."""
        for part, layers in self.parts.items():
            for name, layer in layers.items():
                yield part, name, layer


# -- fused into weights --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fused:
    """What a LoRA was fused into: layers, their weights of before, and those that they have now."""

    layers: tuple[tuple[nn.Module, nn.Parameter, nn.Parameter], ...]


@torch.no_grad()
def fuse(models: nn.Module | Mapping[str, Any], lora: Lora, strength: float = 1.0) -> Fused:
    """Add a LoRA to weights: W + strength scale up down, computed in float32 and rounded once.

    A layer is given another weight, and none is written to: models that share the old one keep it. Conditions that a
    prior has encoded before know nothing of a text encoder's change.

    Args:
        models: by the name of their part (other things may lie among them), or a UNet alone.
        strength: any finite number; 1 is as it was trained, 0 changes nothing.

    Raises:
        InputError: a part or layer is not there or of another shape; then nothing has been changed.
    """
    if not math.isfinite(strength):
        raise InputError(f"a LoRA cannot be added with a strength of {strength}: give a number such as 0.8")
    fused, places = [], _places(models, lora)
    # At 0 the weights stay where they are: elsewhere in memory, their products may differ in the last bit.
    for _, _, layer, change in places if strength else ():
        weight: Any = layer.weight
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        grown = (wide + strength * change.delta(weight.device)).to(weight.dtype)
        layer.weight = nn.Parameter(grown, requires_grad=weight.requires_grad)
        fused.append((layer, weight, layer.weight))
    return Fused(tuple(fused))


@torch.no_grad()
def unfuse(fused: Fused) -> None:
    """Give layers the weights back that they had before, bit by bit, on the device where they are now.

    Raises:
        ValueError: something else was fused into them since, which is to be taken out first; nothing is changed.
    """
    if any(layer.weight is not now for layer, _, now in fused.layers):
        raise ValueError("these layers have other weights since: take out first what was fused last")
    for layer, before, now in fused.layers:
        moved = before.to(now)
        layer.weight = before if moved is before else nn.Parameter(moved, requires_grad=before.requires_grad)


class _Place(NamedTuple):
    part: str
    name: str  # in the model, which may call it otherwise than the LoRA
    layer: nn.Module
    change: LowRank


def _places(models: nn.Module | Mapping[str, Any], lora: Lora) -> list[_Place]:
    """Where every change belongs; InputError where a layer is missing or of another shape."""
    parts = {UNET: models} if isinstance(models, nn.Module) else models
    for part in lora.parts:
        if not isinstance(parts.get(part), nn.Module):
            raise InputError(f"this LoRA changes the {part} too, which is not there to be changed")
    modules = {part: dict(parts[part].named_modules()) for part in lora.parts}
    places, missing = [], []
    for part, name, change in lora.named():
        place = name if name in modules[part] else TEXT_TOWER + name
        layer = modules[part].get(place)
        layer = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            missing.append(f"{part}.{name}")
        elif tuple(layer.weight.shape) != change.shape:
            raise InputError(f"this LoRA is of another model: it changes {part}.{name} by {_times(change.shape)}, "
                             f"which has {_times(layer.weight.shape)}")  # fmt: skip
        else:
            places.append(_Place(part, place, layer, change))
    if missing:
        raise InputError(f"this LoRA is of another model: it changes {missing[0]}, which this one does not have "
                         f"({len(missing)} of {len(missing) + len(places)} layers)")  # fmt: skip
    return places


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA as an adapter of a prior (`core2d.prior.condition.Changing`); it may change the denoiser alone.

    Attributes:
        lora, strength: see `fuse`.
    """

    lora: Lora
    strength: float = 1.0

    def __call__(self, inputs: Inputs, condition: Condition) -> Inputs:
        return inputs

    def change(self, network: nn.Module) -> None:
        fuse(network, self.lora, self.strength)


# -- beside weights, to learn --------------------------------------------------------------------------------------


def attach(models: nn.Module | Mapping[str, Any], lora: Lora, name: str, strength: float = 1.0) -> None:
    """Put low-rank layers of peft that compute and learn beside weights, under a name of their own, and switch them on.

    Others that are there stay as they are, on or off.

    Raises:
        InputError: as `fuse`, or there are some of that name.
    """
    places = _places(models, lora)
    for part in lora.parts:
        if name in getattr(models if isinstance(models, nn.Module) else models[part], "peft_config", {}):
            raise InputError(f"there are low-rank layers of the name {name!r} beside the {part} already")
    for part in lora.parts:
        model: Any = models if isinstance(models, nn.Module) else models[part]
        changes = {place.name: place.change for place in places if place.part == part}
        config = LoraConfig(
            target_modules="|".join(map(re.escape, changes)),
            rank_pattern={f"^{re.escape(place)}": change.rank for place, change in changes.items()},
            alpha_pattern={f"^{re.escape(place)}": change.alpha for place, change in changes.items()},
        )
        others = {layer: layer.active_adapters for layer in _low_rank_layers(model).values()}
        with warnings.catch_warnings(action="ignore"):  # that there are others, which is meant
            inject_adapter_in_model(config, model, adapter_name=name)  # which switches those off
        model._hf_peft_config_loaded = True  # diffusers and transformers ask for it before they list or save any
        for place, layer in _low_rank_layers(model).items():
            if place in changes:
                _fill(layer, name, changes[place])
                layer.set_scale(name, strength)
            layer.set_adapter([*others.get(layer, ()), *([name] if place in changes else ())])


def _low_rank_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of peft in a model, by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def lora_of(models: nn.Module | Mapping[str, Any], name: str) -> Lora:
    """The low-rank layers of this name that stand beside weights, as `attach` or a training has put them there.

    Raises:
        ValueError: there are none, or they are of a kind that has more than two factors (DoRA, a bias).
    """
    parts: dict[str, dict[str, LowRank]] = {}
    given = {UNET: models} if isinstance(models, nn.Module) else models
    for part, model in given.items():
        for place, layer in _low_rank_layers(model).items() if isinstance(model, nn.Module) else ():
            if name not in layer.lora_A:
                continue
            if name in layer.lora_magnitude_vector or layer.lora_bias[name]:
                raise ValueError(f"the layers {name!r} have more than two factors, which no LoRA here has")
            down, up = (half[name].weight.detach().cpu().clone() for half in (layer.lora_A, layer.lora_B))
            found = LowRank(down, up, layer.scaling[name])
            parts.setdefault(part, {})[place.removeprefix(TEXT_TOWER)] = found
    if not parts:
        raise ValueError(f"there are no low-rank layers of the name {name!r}")
    return Lora(parts)


def go_on_from(unet: nn.Module, lora: Lora, name: str) -> None:
    """Let fresh low-rank layers of this name begin with these factors; what rank they have beyond adds nothing.

    Raises:
        InputError: a layer of the LoRA stands beside none of theirs, or they have a lower rank.
    """
    layers, fills = _low_rank_layers(unet), []
    for place, change in lora.unet.items():
        layer = layers.get(place)
        if layer is None or name not in layer.lora_A:
            raise InputError(f"the LoRA to go on from changes {place}, where no layer learns")
        room = (*layer.lora_B[name].weight.shape[:1], *layer.lora_A[name].weight.shape[1:])
        if room != change.shape or layer.r[name] < change.rank:
            raise InputError(f"the LoRA to go on from changes {place} by {_times(change.shape)} of rank {change.rank}, "
                             f"and what learns there is {_times(room)} of rank {layer.r[name]}")  # fmt: skip
        fills.append((layer, change))
    for layer, change in fills:
        _fill(layer, name, LowRank(change.down, change.up * (change.scale / layer.scaling[name])))


@torch.no_grad()
def _fill(layer: Any, name: str, change: LowRank) -> None:
    """The first rows and columns of a layer's factors."""
    layer.lora_A[name].weight[: change.rank] = change.down.to(layer.lora_A[name].weight)
    layer.lora_B[name].weight[:, : change.rank] = change.up.to(layer.lora_B[name].weight)
