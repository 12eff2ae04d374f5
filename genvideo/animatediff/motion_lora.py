"""Low-rank changes of a lifted prior: MotionLoRA and the domain adapter (2307.04725, sections 4.1 and 4.3).

    add_lora(prior.unet, read_lora("v2_lora_ZoomIn.ckpt"), strength=0.8)  # W += 0.8 up down, for good
    write_lora(Path("mine.safetensors"), lora_of(unet, "motion_lora"))    # after `genvideo.animatediff.task`

Both are read in all key styles that they are published in, and told apart by the layers that they change:

`original`   `...attention_blocks.0.processor.to_q_lora.down.weight`, files of the authors' code
`diffusers`  `unet....attn1.to_q.lora.down.weight`, or `.processor.to_q_lora.`, or `.to_q.lora_A.`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path
from genvideo.animatediff.formats import Style, read_tensors, to_diffusers, to_original_name
from genvideo.animatediff.motion import IN_MOTION

BLOCK = re.compile(r"(?:down_blocks|up_blocks|mid_block)\..*")  # what stands before is the wrapping of the model
FACTOR = re.compile(  # layer, and which of its factors
    r"(?P<layer>.+?)(?:\.processor)?\.(?P<projection>to_q|to_k|to_v|to_out)(?:\.0)?"
    r"(?:_lora\.|\.lora\.|\.lora_|\.)(?P<factor>down|up|A|B|alpha)(?:\.default)?(?:\.weight)?"
)
SAME = {"A": "down", "B": "up"}
Unet = TypeVar("Unet", bound=nn.Module)


@dataclass(frozen=True)
class Lora:
    """What is added to the weights of some layers.

    Attributes:
        layers: by their names in the inflated UNet, down (r, in) and up (out, r); a weight grows by up down.
    """

    layers: dict[str, tuple[Tensor, Tensor]]

    @property
    def rank(self) -> int:
        """The highest of a layer."""
        return max(len(down) for down, _ in self.layers.values())

    @property
    def kind(self) -> Literal["MotionLoRA", "domain adapter", "LoRA"]:
        """What it changes: attention over time, attention within frames, or both."""
        in_motion = {IN_MOTION in name for name in self.layers}
        return "LoRA" if len(in_motion) == 2 else "MotionLoRA" if in_motion == {True} else "domain adapter"


def add_lora(unet: Unet, lora: Lora, strength: float = 1.0) -> Unet:
    """Add it to the weights of an inflated UNet, or of a 2D one where it changes no motion module; returns that.

    Raises:
        InputError: a layer that the UNet lacks, or of another shape; then nothing has been changed.
    """
    modules, targets = dict(unet.named_modules()), {}
    for name, (down, up) in lora.layers.items():
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear):
            raise InputError(f"the {lora.kind} changes {name}, which this model does not have")
        if tuple(layer.weight.shape) != (len(up), down.shape[1]):
            raise InputError(f"the {lora.kind} changes {name} by {len(up)} x {down.shape[1]}, which has "
                             f"{' x '.join(map(str, layer.weight.shape))}")  # fmt: skip
        targets[name] = layer.weight
    with torch.no_grad():
        for name, weight in targets.items():
            down, up = (half.to(weight.device, torch.float32) for half in lora.layers[name])
            weight += (strength * (up @ down)).to(weight.dtype)
    return unet


def lora_of(unet: UNetMotionModel, adapter: str) -> Lora:
    """The low-rank layers of this name that `motion_training` has added to a UNet and trained."""
    layers = {}
    for name, module in unet.named_modules():
        factors = getattr(module, "lora_A", {})
        if adapter in factors:
            down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight  # pyright: ignore
            layers[name] = (down.detach().cpu(), module.scaling[adapter] * up.detach().cpu())  # pyright: ignore
    if not layers:
        raise ValueError(f"the UNet has no low-rank layers of the name {adapter!r}")
    return Lora(layers)


def go_on_from(unet: UNetMotionModel, lora: Lora, adapter: str) -> None:
    """Let the fresh low-rank layers of this name begin with these factors; what rank they have beyond adds nothing."""
    with torch.no_grad():
        for name, (down, up) in lora.layers.items():
            layer = unet.get_submodule(name)
            layer.lora_A[adapter].weight[: len(down)] = down  # pyright: ignore
            layer.lora_B[adapter].weight[:, : len(down)] = up / layer.scaling[adapter]  # pyright: ignore


def write_lora(path: Path, lora: Lora, style: Style = "diffusers", dtype: torch.dtype | None = None) -> None:
    """Write a .safetensors file, whole or not at all, which other programs read, too."""
    if path.suffix != ".safetensors":
        raise InputError(f"cannot write {path}: a file of a LoRA ends in .safetensors")
    state = {}
    for name, halves in lora.layers.items():
        layer = name.removesuffix(".0") if style == "original" else name
        for half, value in zip(("down", "up"), halves, strict=True):
            if style == "original":
                attention, _, projection = to_original_name(layer).rpartition(".")
                state[f"{attention}.processor.{projection}_lora.{half}.weight"] = value.to(dtype).contiguous()
            else:
                state[f"unet.{layer}.lora.{half}.weight"] = value.to(dtype).contiguous()
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})


def read_lora(path: str | Path) -> Lora:
    """Read a MotionLoRA or domain adapter: a .safetensors, or a .ckpt through the allow-list reader.

    Raises:
        InputError: nothing there, a damaged file, or one that holds anything but whole pairs of factors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"no LoRA at {path}: give a file such as v2_lora_ZoomIn.ckpt")
    halves: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, value in to_diffusers(read_tensors(path)).items():
        found = FACTOR.fullmatch(name)
        block = found and BLOCK.search(found["layer"])
        if not (found and block):
            strange.append(name)
            continue
        projection = "to_out.0" if found["projection"] == "to_out" else found["projection"]
        factor = SAME.get(found["factor"], found["factor"])
        halves.setdefault(f"{block[0]}.{projection}", {})[factor] = value
    if strange or not halves:
        held = f"{len(strange)} tensors such as {strange[0]}" if strange else "no tensors"
        raise InputError(f"{path} is no MotionLoRA or domain adapter: it holds {held}, where factors of attention "
                         "projections belong")  # fmt: skip
    return Lora({name: _whole(path, name, found) for name, found in halves.items()})


def _whole(path: Path, name: str, found: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Both factors of a layer, its alpha in the second."""
    if not {"down", "up"} <= found.keys():
        raise InputError(f"{path} holds one half of {name} only: it is incomplete")
    down, up = found["down"].float(), found["up"].float()
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        raise InputError(f"{path} holds factors of {name} that do not fit: {tuple(down.shape)} and {tuple(up.shape)}")
    alpha = found.get("alpha")
    return down, up if alpha is None else up * (float(alpha) / len(down))
