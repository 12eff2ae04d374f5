"""MotionLoRA and the domain adapter (2307.04725, sections 4.1 and 4.3): low-rank changes of a lifted prior.

    fuse(prior.unet, read_motion_lora("v2_lora_ZoomIn.ckpt"), strength=0.8)
    write_motion_lora(Path("mine.safetensors"), lora_of(unet, "motion_lora"))  # after `genvideo.animatediff.task`

Both are LoRA like any other (`core2d.adapters.lora`), and are told apart by the layers that they change. What is of
motion alone is how the authors' code names those:
`...attention_blocks.0.processor.to_q_lora.down.weight`, without a part before it or an alpha.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from core2d.adapters.lora import UNET, Lora
from core2d.adapters.lora_files import read_lora
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path
from core2d.files.motion_names import to_diffusers, to_original_name
from genvideo.animatediff.motion import IN_MOTION

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def kind_of(lora: Lora) -> Literal["MotionLoRA", "domain adapter", "LoRA"]:
    """What it changes: attention over time, layers within frames, or both."""
    in_motion = {part == UNET and IN_MOTION in name for part, name, _ in lora.named()}
    return "LoRA" if len(in_motion) == 2 else "MotionLoRA" if in_motion == {True} else "domain adapter"


def read_motion_lora(path: str | Path) -> Lora:
    """Read a LoRA of a lifted prior in the style of the authors' code, or in any that `read_lora` knows.

    Raises:
        InputError: as `read_lora`.
    """
    return read_lora(path, to_diffusers)


def write_motion_lora(path: Path, lora: Lora, dtype: torch.dtype | None = None) -> None:
    """Write a .safetensors file in the style of the authors' code; `write_lora` writes the others.

    Raises:
        InputError: another suffix, or layers that this style has no name for.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"cannot write {path}: a file of a LoRA ends in .safetensors")
    state: dict[str, Tensor] = {}
    for part, name, change in lora.named():
        if part != UNET or not name.endswith(PROJECTIONS):
            raise InputError(f"cannot write {path}: the authors' style names attention only, not {part}.{name}")
        attention, _, projection = to_original_name(name.removesuffix(".0")).rpartition(".")
        for half, value in (("down", change.down), ("up", change.scale * change.up)):  # it has no place for a scale
            copied = value.detach().to("cpu", dtype, copy=True)  # since safetensors writes no tensor twice
            state[f"{attention}.processor.{projection}_lora.{half}.weight"] = copied.contiguous()
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
