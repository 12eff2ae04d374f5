"""The names of the tensors of motion modules (AnimateDiff, 2307.04725), and what modules their shapes are of.

`original`   of the authors' code: `down_blocks.0.motion_modules.0.temporal_transformer.norm.weight`
`diffusers`  `down_blocks.0.motion_modules.0.norm.weight`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from core2d.app.errors import InputError

RENAMES = (  # original, diffusers
    (".temporal_transformer.", "."), (".attention_blocks.0.", ".attn1."), (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."), (".norms.1.", ".norm2."), (".ff_norm.", ".norm3."),
)  # fmt: skip
PLACE = re.compile(r"((?:down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+\.")


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under diffusers' names: prefixes of wrapped models stripped, positional encodings left out."""
    renamed = {}
    for name, value in state.items():
        place = PLACE.search(name)
        if place is None:
            renamed[name] = value
            continue
        name = name[place.start() :]  # without "module." and the like
        for original, here in RENAMES:
            name = name.replace(original, here)
        if ".pos_encoder." not in name and ".pos_embed." not in name:
            renamed[name] = value
    return renamed


def to_original_name(name: str) -> str:
    """The original code's name of something in a motion module; names of other things stay as they are."""
    place = PLACE.search(name)
    if place is None:
        return name
    rest = f".{name[place.end() :]}"
    for original, here in RENAMES[1:]:
        rest = rest.replace(here, original)
    return f"{name[: place.end()]}temporal_transformer{rest}"


def config_of(state: Mapping[str, Tensor], window: int, heads: int) -> dict[str, Any]:
    """The config of the modules that tensors under diffusers' names are of; InputError where they are of none."""
    shapes = {name: tuple(value.shape) for name, value in state.items() if PLACE.match(name)}
    blocks = [
        name for name in shapes if name.startswith("down_blocks.") and name.endswith(".motion_modules.0.norm.weight")
    ]
    if not blocks:
        raise InputError(
            "no tensor has the name of a motion module, such as down_blocks.0.motion_modules.0.norm.weight"
        )
    down = {int(name.split(".")[1]): shapes[name][0] for name in blocks}
    if sorted(down) != list(range(len(down))):
        raise InputError(f"motion modules of the blocks {sorted(down)} are there, and those between are not")
    layers = 1 + max(int(name.split(".")[3]) for name in shapes if name.startswith("down_blocks."))
    return {
        "block_out_channels": tuple(down[index] for index in range(len(down))),
        "motion_layers_per_block": layers,
        "motion_num_attention_heads": heads,
        "motion_norm_num_groups": 32 if all(channels % 32 == 0 for channels in down.values()) else 8,
        "motion_max_seq_length": window,
        "use_motion_mid_block": any(name.startswith("mid_block.") for name in shapes),
    }


def window_of(state: Mapping[str, Tensor]) -> int | None:
    """How many frames the positional encodings of a file, each (1, f, c), can tell apart; None where it holds none."""
    lengths = [value.shape[1] for name, value in state.items()
               if name.endswith((".pos_encoder.pe", ".pos_embed.pe")) and value.ndim == 3]  # fmt: skip
    return min(lengths, default=None)
