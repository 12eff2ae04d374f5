"""Files of low-rank changes, read and written in the styles of diffusers, peft and kohya's trainers.

    lora = read_lora("style.safetensors")
    write_lora(Path("style.safetensors"), lora, "kohya")

`diffusers`  `unet.down_blocks...to_q.lora_A.weight` and older spellings; what is trained with peft says rank and alpha
             in the metadata, `lora_adapter_metadata`
`peft`       `base_model.model.down_blocks...to_q.lora_A.weight`, with adapter_config.json beside it
`kohya`      `lora_unet_down_blocks...to_q.lora_down.weight`, with an alpha for each layer

The scale of a layer is what its file says: its own alpha over its rank, else what the metadata say, else 1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from core2d.adapters.lora import TEXT_ENCODERS, TEXT_TOWER, UNET, Lora, LowRank
from core2d.adapters.lora_names import flattened, place_of, written
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.files.loading import read_json
from core2d.files.tensors import read_settings, read_tensors

Style = Literal["diffusers", "peft", "kohya"]
METADATA = "lora_adapter_metadata"  # of diffusers, in a safetensors file
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
IN_A_FOLDER = (PEFT_WEIGHTS, "pytorch_lora_weights.safetensors")
FACTOR = re.compile(r"(?P<layer>.+?)(?:_lora\.|\.lora\.|\.lora_linear_layer\.|\.lora_)(?P<factor>down|up|A|B)"
                    r"(?:\.(?!weight\b)\w+)?\.weight")  # fmt: skip
ALPHA = re.compile(r"(?P<layer>.+?)(?:_lora\.|\.lora\.|\.lora_linear_layer\.|\.lora_|\.)(?P<factor>alpha)")
SAME = {"A": "down", "B": "up"}
OTHER_KINDS = {  # what names of tensors hold that are of no LoRA
    "DoRA": r"dora_scale|lora_magnitude_vector", "LoKr": r"\.lokr_", "LoHa": r"\.hada_", "IA3": r"\.ia3_|\.on_input$",
    "OFT": r"\.oft_", "VeRA": r"\.vera_", "GLoRA": r"\.[ab][12]\.weight$", "LoCon with a third factor": r"\.lora_mid\.",
    "LoRA with a bias": r"\.lora_(?:B|up).*\.bias$", "LoRA of embeddings": r"\.lora_embedding_",
    "whole differences of weights": r"\.diff(?:_b)?$",
}  # fmt: skip
# Settings of peft that say nothing of what two factors compute: where they are, how they began, how they were trained.
WITHOUT_EFFECT = frozenset(
    "auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules fan_in_fan_out "
    "inference_mode layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core "
    "peft_version qalora_group_size revision runtime_config target_modules task_type".split()
)
EXPECTED = {"peft_type": "LORA", "bias": "none"}
BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")  # others change the weights that they are added to
PATTERN = re.compile(r"\^?[\w.\\-]*(?:\.\*[\w.\\-]*){0,2}\$?")  # that cannot take forever to match


def read_lora(path: str | Path, rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict) -> Lora:
    """Read a .safetensors file, a .ckpt or the like through the allow-list reader, or a folder of peft or diffusers.

    Args:
        path: of the file or folder.
        rename: gives the tensors of a style that is not known here other names.

    Raises:
        InputError: nothing there, a damaged file, one that holds anything but whole pairs of factors, another kind of
            change (DoRA, LoKr, LoHa, IA3, ...), or settings that are not followed here.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        there = [path / name for name in IN_A_FOLDER if (path / name).is_file()]
        if not there:
            raise InputError(f"{path} holds no LoRA: it has no {' or '.join(IN_A_FOLDER)}")
        path = there[0]
    if not path.is_file():
        raise InputError(f"no LoRA at {path}: give a file such as style.safetensors")
    return lora_of(path, rename(read_tensors(path)))


def lora_of(path: Path, tensors: Mapping[str, Tensor]) -> Lora:
    """The LoRA that a file holds, whose tensors have been read; what its metadata say is read here.

    Raises:
        InputError: as `read_lora`.
    """
    layers = _layers(path, tensors)
    scales = _scales(path, {part for part, _ in layers}, any("base_model.model." in name for name in tensors))
    parts: dict[str, dict[str, LowRank]] = {}
    for (part, name), factors in layers.items():
        parts.setdefault(part, {})[name] = _whole(path, part, name, factors, scales.get(part))
    return Lora(parts)


def _layers(path: Path, tensors: Mapping[str, Tensor]) -> dict[tuple[str, str], dict[str, Tensor]]:
    """down, up and alpha of every layer."""
    for name in tensors:
        for kind, marks in OTHER_KINDS.items():
            if re.search(marks, name):
                raise InputError(f"{path} holds {kind} ({name}), which is not read here: have the program that made it "
                                 "write a LoRA of two factors a layer")  # fmt: skip
    layers: dict[tuple[str, str], dict[str, Tensor]] = {}
    strange = []
    for name, value in tensors.items():
        found = FACTOR.fullmatch(name) or ALPHA.fullmatch(name)
        place = found and place_of(found["layer"])
        if not (found and place):
            strange.append(name)
            continue
        factors = layers.setdefault(place, {})
        factor = SAME.get(found["factor"], found["factor"])
        if factor in factors:
            raise InputError(f"{path} holds two factors of one kind for {'.'.join(place)}: {name} is one of them")
        factors[factor] = value
    if strange or not layers:
        held = f"{len(strange)} tensors such as {strange[0]}" if strange else "no tensors"
        raise InputError(f"{path} is no LoRA: it holds {held}, where low-rank factors of layers belong")
    return layers


def _whole(path: Path, part: str, name: str, factors: Mapping[str, Tensor], scale: Scales | None) -> LowRank:
    """Both factors of a layer, and what they count."""
    full_name = f"{part}.{name}"
    if not {"down", "up"} <= factors.keys():
        raise InputError(f"{path} holds one half of {full_name} only: it is incomplete")
    down, up = (factors[half].float() for half in ("down", "up"))
    try:
        layer = LowRank(down, up)
    except ValueError as error:
        raise InputError(f"{path} holds, of {full_name}, {error}") from None
    if not (down.isfinite().all() and up.isfinite().all()):
        raise InputError(f"{path} holds numbers that are not finite, of {full_name}: it is damaged")
    alpha = factors.get("alpha")
    if alpha is None:
        return layer if scale is None else LowRank(down, up, scale.of(name, layer.rank))
    if scale is not None:
        raise InputError(f"{path} says twice what {full_name} counts: by its own alpha, and in the settings")
    if alpha.numel() != 1 or not 0 < float(alpha) < math.inf:
        raise InputError(f"{path} gives {full_name} the alpha {alpha.tolist()}, where one number above 0 belongs")
    return LowRank(down, up, float(alpha) / layer.rank)


# -- what settings say ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scales:
    """What the factors of one part count, as peft's LoraConfig says it and peft reads it.

    Attributes:
        source: where it is said.
        r, lora_alpha: of all layers but those that the patterns name.
        rank_pattern, alpha_pattern: by a pattern that the end of a layer's name fits; the first that fits counts.
        use_rslora: alpha is over the square root of the rank (2312.03732).
    """

    source: Path
    r: int = 8
    lora_alpha: float = 8
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False

    def of(self, name: str, rank: int) -> float:
        """The scale of a layer; InputError where its factors have another rank than is said."""
        said = self._matching(self.rank_pattern, name, self.r)
        if said != rank:
            raise InputError(f"{self.source} says that {name} has rank {said}, and its factors have {rank}")
        alpha = self._matching(self.alpha_pattern, name, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def _matching(self, patterns: Mapping[str, Any], name: str, default: Any) -> Any:
        for pattern, value in patterns.items():
            if any(re.match(rf"(.*\.)?({pattern})$", one) for one in (name, TEXT_TOWER + name)):
                return value
        return default


def _scales(path: Path, parts: set[str], from_peft: bool) -> dict[str, Scales]:
    """What the settings of a file say, by part; nothing for a part that they do not name."""
    settings = read_settings(path, METADATA)
    if settings is not None:
        return _by_part(settings, path, parts)
    beside = path.with_name(PEFT_CONFIG)
    if beside.is_file() and (from_peft or path.name == PEFT_WEIGHTS):
        return _by_part(read_json(beside), beside, parts)
    if from_peft:
        raise InputError(
            f"{path} is a file of peft, whose {PEFT_CONFIG} says what its layers count: put that beside it"
        )
    return {}


def _by_part(settings: Mapping[str, Any], source: Path, parts: set[str]) -> dict[str, Scales]:
    """The settings of each part, under its name; settings under none are of the only part that is there."""
    names = (UNET, *TEXT_ENCODERS)
    if any(key.startswith(tuple(f"{name}." for name in names)) for key in settings):
        shares = {
            name: {key.removeprefix(f"{name}."): value for key, value in settings.items() if key.startswith(f"{name}.")}
            for name in names
        }
        return {name: _checked(share, source) for name, share in shares.items() if share}
    if settings and len(parts) > 1:
        raise InputError(f"{source} does not say which of {', '.join(sorted(parts))} its settings are of")
    return {part: _checked(settings, source) for part in parts if settings}


def _checked(settings: Mapping[str, Any], source: Path) -> Scales:
    """Settings of peft; InputError for one that has an effect and is not followed here, or is nonsense."""
    known = {name: settings[name] for name in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
             if settings.get(name) is not None}  # fmt: skip
    for name, value in settings.items():
        expected = value == EXPECTED[name] if name in EXPECTED else not value
        if name == "init_lora_weights":
            expected = value in BEGINNINGS
        if not (name in known or name in WITHOUT_EFFECT or expected):
            raise InputError(f"{source} says that its LoRA was made with {name} = {json.dumps(value)}, which is not "
                             "followed here")  # fmt: skip
    found = Scales(source, **known)
    patterns = (found.rank_pattern, found.alpha_pattern)
    ranks = [found.r, *(found.rank_pattern.values() if isinstance(found.rank_pattern, Mapping) else ())]
    alphas = [found.lora_alpha, *(found.alpha_pattern.values() if isinstance(found.alpha_pattern, Mapping) else ())]
    if not (all(type(rank) is int and rank > 0 for rank in ranks)
            and all(type(alpha) in (int, float) and math.isfinite(alpha) for alpha in alphas)
            and type(found.use_rslora) is bool and all(isinstance(one, Mapping) for one in patterns)):  # fmt: skip
        raise InputError(f"{source} does not say what its LoRA counts: {json.dumps(known)}")
    for pattern in (*found.rank_pattern, *found.alpha_pattern):
        if not PATTERN.fullmatch(pattern):
            raise InputError(f"{source} names layers by the pattern {pattern!r}, which is not followed here")
    return found


# -- writing -------------------------------------------------------------------------------------------------------


def write_lora(path: Path, lora: Lora, style: Style = "diffusers", dtype: torch.dtype | None = None) -> None:
    """Write a LoRA, whole or not at all, as other programs read it.

    Args:
        path: of a .safetensors file; of a folder for `peft`, which holds one part.
        style: in that of diffusers scales are put into the factors, since many programs read no metadata; the others
            keep them as alpha.
        dtype: of the factors; as they are by default.
    """
    if style == "peft":
        _write_peft(path, lora, dtype)
        return
    if path.suffix != ".safetensors":
        raise InputError(f"cannot write {path}: a file of a LoRA ends in .safetensors")
    state: dict[str, Tensor] = {}
    metadata: dict[str, str] = {"format": "pt"}
    if style == "kohya":
        two_towers = TEXT_ENCODERS[1] in lora.parts
        for part, name, layer in lora.named():
            start = flattened(part, name, two_towers)
            state |= _halves(layer, f"{start}.lora_down.weight", f"{start}.lora_up.weight", dtype)
            state[f"{start}.alpha"] = torch.tensor(float(layer.alpha))
    else:
        settings: dict[str, Any] = {}
        for part, layers in lora.parts.items():
            counted = {name: LowRank(layer.down, layer.up * layer.scale) for name, layer in layers.items()}
            settings |= {f"{part}.{key}": value for key, value in _settings(part, counted).items()}
            for name, layer in counted.items():
                start = f"{part}.{name if part == UNET else written(name)}"
                state |= _halves(layer, f"{start}.lora_A.weight", f"{start}.lora_B.weight", dtype)
        metadata[METADATA] = json.dumps(settings, indent=2, sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata=metadata)


def _write_peft(folder: Path, lora: Lora, dtype: torch.dtype | None) -> None:
    if len(lora.parts) != 1:
        raise InputError(f"a folder of peft holds one part, and this LoRA changes {', '.join(lora.parts)}: write it in "
                         "the style of diffusers or kohya")  # fmt: skip
    ((part, layers),) = lora.parts.items()
    state: dict[str, Tensor] = {}
    for name, layer in layers.items():
        start = f"base_model.model.{written(name) if part == TEXT_ENCODERS[1] else name}"  # as their classes have it
        state |= _halves(layer, f"{start}.lora_A.weight", f"{start}.lora_B.weight", dtype)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(state, temporary / PEFT_WEIGHTS, metadata={"format": "pt"})
        write_json(temporary / PEFT_CONFIG, _settings(part, layers))


def _halves(layer: LowRank, down: str, up: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    named = ((down, layer.down), (up, layer.up))
    return {name: half.detach().to("cpu", dtype, copy=True).contiguous() for name, half in named}  # none is shared


def _settings(part: str, layers: Mapping[str, LowRank]) -> dict[str, Any]:
    """peft's settings of these layers: the rank and alpha of most, and the names of those that have others."""

    def most_and_others(values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        most = max(values.values(), key=list(values.values()).count)
        start = "^" if part == UNET else ""  # what stands before a text encoder's names depends on the version
        return most, {start + re.escape(name): value for name, value in values.items() if value != most}

    rank, ranks = most_and_others({name: layer.rank for name, layer in layers.items()})
    alpha, alphas = most_and_others({name: layer.alpha for name, layer in layers.items()})
    return {"peft_type": "LORA", "bias": "none", "target_modules": sorted(layers), "r": rank, "lora_alpha": alpha,
            "rank_pattern": ranks, "alpha_pattern": alphas}  # fmt: skip
