"""The published files of motion modules (AnimateDiff v1, v2, v3), read and written, in both key styles.

`original`   one file of the authors' code (mm_sd_v15_v2.ckpt): `down_blocks.0.motion_modules.0.temporal_transformer...`
`diffusers`  a folder with config.json and safetensors: `down_blocks.0.motion_modules.0. ...`

What the original code computes and diffusers does not: the norm at the start of each module sees one frame at a time,
and in v1 the norms of the UNet's own residual blocks see all frames together. A file of the original code is read as
that code would run it, see `genvideo.animatediff.norms`; a folder as diffusers would, but for v1, which diffusers
changes most. What is written here says how it is to be run, and is read as it says.

v1 and v3 have the same tensors but for their positional encodings, which end at 24 and 32 frames, and which today's
authors' code does not save: there it has to be told which of them a file is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter
from safetensors.torch import save_file
from torch import Tensor

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.app.registry import bundled
from core2d.files.loading import load_model, read_json, save_model
from core2d.files.manifests import Comparison, compare_keys, manifest_of
from core2d.files.motion_names import PLACE, config_of, to_diffusers, to_original_name, window_of
from core2d.files.tensors import read_settings, read_tensors

Style = Literal["original", "diffusers"]
MotionVersion = Literal["v1", "v2", "v3"]
OURS = "liftkit.json"  # beside config.json: the facts
ADAPTER = "domain_adapter.safetensors"  # beside it, where they were trained together
SETTINGS = "liftkit_settings"  # in the metadata of a safetensors file: what shapes do not tell
CHANNELS = (320, 640, 1280, 1280)  # of SD 1.x, and of all that leave them unsaid
WINDOWS: dict[MotionVersion, int] = {"v1": 24, "v2": 32, "v3": 32}  # frames that the published ones can tell apart


@dataclass(frozen=True)
class Norms:
    """What the norms of an inflated UNet see.

    Attributes:
        motion: those of the motion modules, one frame at a time or the whole clip.
        residual: those of the UNet's own residual blocks.
    """

    motion: Literal["frame", "clip"] = "clip"
    residual: Literal["frame", "clip"] = "frame"


@dataclass(frozen=True)
class Facts:
    """How motion modules are to be run, which no tensor of theirs tells; by default those of modules trained here.

    Attributes:
        norms: as they were trained.
        schedule: of the noise: that of their backbone, or AnimateDiff's own, on which the published ones were trained.
        takes_frames: whether they were trained with frames that are given without noise.
        shared_noise: the share of the noise that frames are to have in common in sampling.
        vae: the autoencoder that clips of theirs are decoded with, where it is not that of the backbone: a bundled
            model, or a folder beside theirs.
    """

    norms: Norms = Norms()
    schedule: Literal["backbone", "published"] = "backbone"
    takes_frames: bool = False
    shared_noise: float = 0.0
    vae: str | None = None


@dataclass(frozen=True)
class MotionFile:
    """Motion modules and what is known of them.

    Attributes:
        motion: frozen, in eval mode, on the CPU.
        facts: as their file says; where it says nothing, those of published modules.
        adapters: files of low-rank changes that they were trained with, and their strengths.
        report: how the tensors found differ from what the modules need; nothing missing or of another shape.
        matched: how many tensors were taken.
        vae: the autoencoder of the facts, as a place.
    """

    motion: MotionAdapter
    facts: Facts
    adapters: Mapping[str | Path, float]
    report: Comparison
    matched: int
    vae: str | Path | None = None


def read_motion(
    name_or_path: str | Path, heads: int | None = None, motion_version: MotionVersion | None = None
) -> MotionFile:
    """Read motion modules: a bundled name, a folder, or a file (.safetensors; .ckpt through the allow-list reader).

    Args:
        heads: of the attention over time, which no tensor tells; 8 in all published files.
        motion_version: of AnimateDiff, where the file cannot tell v1 from v3.

    Raises:
        InputError: nothing there, something that holds no complete motion modules, or modules that may be v1 or v3.
    """
    path = bundled().get(str(name_or_path), Path(name_or_path).expanduser())
    if path.is_dir():
        return _read_folder(path, motion_version)
    if not path.is_file():
        raise InputError(f"no motion modules at {path}: give a bundled name such as toybox-motion, a folder, or a file")
    return _read_file(path, heads, motion_version)


def write_motion(
    path: Path, motion: MotionAdapter, style: Style = "diffusers", facts: Facts = Facts(),
    dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    """Write motion modules, whole or not at all.

    Args:
        path: of a folder for `diffusers`, of a .safetensors file for `original`.
        facts: how they are to be run; of modules that were read, those of their `MotionFile`.
        dtype: of the weights; as they are by default.
    """
    if style == "diffusers":
        with atomic_path(path) as folder:
            save_model(motion, folder, dtype)
            write_json(folder / OURS, asdict(facts))
        return
    if path.suffix != ".safetensors":
        raise InputError(f"cannot write {path}: a file of motion modules ends in .safetensors")
    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in to_original(motion).items()}
    said = settings(motion.config["motion_num_attention_heads"], motion.config["motion_norm_num_groups"], facts)
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata=said)


# -- layout of the authors ------------------------------------------------------------------------------------------


def to_original(motion: MotionAdapter) -> dict[str, Tensor]:
    """The tensors of motion modules under the names of the original code, positional encodings in each attention."""
    state = {}
    for name, value in motion.state_dict().items():
        if not name.endswith(".pos_embed.pe"):
            state[to_original_name(name)] = value
            continue
        block = to_original_name(name.removesuffix("pos_embed.pe"))
        for attention in (0, 1):
            state[f"{block}attention_blocks.{attention}.pos_encoder.pe"] = value.clone()
    return state


# -- reading -------------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, told: MotionVersion | None) -> MotionFile:
    config = read_json(folder / "config.json")
    if config.get("_class_name") != "MotionAdapter":
        raise InputError(f"{folder} holds a {config.get('_class_name', 'model without a name')}, not motion modules")
    heads, groups = config.get("motion_num_attention_heads", 8), config.get("motion_norm_num_groups", 32)
    check_division(folder / "config.json", config.get("block_out_channels", CHANNELS), heads, groups)
    motion = load_model(MotionAdapter, folder, torch.float32)
    said = read_json(folder / OURS) if (folder / OURS).is_file() else None
    facts = _facts(said, folder / OURS, motion.config, motion.config["motion_max_seq_length"], False, told)
    adapters: dict[str | Path, float] = {folder / ADAPTER: 1.0} if (folder / ADAPTER).is_file() else {}
    beside = folder.parent / (facts.vae or "")
    vae = beside if facts.vae and beside.is_dir() else facts.vae
    return MotionFile(motion, facts, adapters, Comparison([], [], []), len(motion.state_dict()), vae)


def _read_file(path: Path, heads: int | None, told: MotionVersion | None) -> MotionFile:
    state, said = read_tensors(path), settings_in(path)
    window = window_of(state)
    original = any("temporal_transformer" in name for name in state)
    found = to_diffusers(state)
    try:
        config = config_of(found, window or WINDOWS[told or "v3"], heads or said.get("heads", 8))
        config |= {"motion_norm_num_groups": said["groups"]} if "groups" in said else {}
    except (InputError, IndexError) as error:
        raise InputError(f"{path} holds no motion modules: {error}") from None
    check_division(path, config["block_out_channels"], config["motion_num_attention_heads"],
                   config["motion_norm_num_groups"])  # fmt: skip
    facts = _facts(said.get("facts"), path, config, window, original, told)
    complaint = f"{path} holds no complete motion modules"
    motion, report, matched = built(MotionAdapter, config, found, complaint, belongs=PLACE.match)
    return MotionFile(motion, facts, {}, report, matched, facts.vae)


def _facts(
    said: Any, source: Path, config: Mapping[str, Any], window: int | None, original: bool, told: MotionVersion | None
) -> Facts:
    """How modules are to be run: ours as their file says; others, in the original style and in v1, as the authors' code
    runs them.
    """
    if said is not None:
        if told is not None:
            raise InputError(f"{source} says itself how its motion modules are run: leave out --motion-version")
        return facts_from(said, source)
    version = told or _version(source, config["use_motion_mid_block"], window, original)
    if (version == "v2") != config["use_motion_mid_block"]:
        one, other = ("a", "none") if config["use_motion_mid_block"] else ("no", "one")
        raise InputError(f"{source} has {one} motion module in the middle block, and AnimateDiff {version} has {other}"
                         ": name another --motion-version")  # fmt: skip
    residual: Literal["frame", "clip"] = "clip" if version == "v1" else "frame"
    return Facts(Norms("frame", residual) if original or version == "v1" else Norms(), "published")


def _version(source: Path, mid_block: bool, window: int | None, original: bool) -> MotionVersion:
    """Which version modules are of; InputError where that is not sure. In diffusers' style all but v1 are run alike."""
    if mid_block:
        return "v2"
    if window == WINDOWS["v1"]:
        return "v1"
    if window == WINDOWS["v3"] or (window is not None and not original):
        return "v3"
    what = "no positional encodings" if window is None else f"positional encodings of {window} frames"
    raise InputError(f"{source} holds {what}, and may be AnimateDiff v1 or v3, which are run differently: say which it "
                     "is, --motion-version v1 or --motion-version v3")  # fmt: skip


def check_division(source: Path, channels: Any, heads: Any, groups: Any) -> None:
    """InputError for numbers of heads and groups, of all blocks or one a block, that channels are not divided into."""
    if not (isinstance(channels, list | tuple) and all(type(width) is int and width > 0 for width in channels)):
        raise InputError(f"{source} says that its blocks have {channels} channels, where whole numbers belong")
    for given, name in ((heads, "heads of attention"), (groups, "groups of a norm")):
        numbers = given if isinstance(given, list | tuple) else [given] * len(channels)
        whole = len(numbers) == len(channels) and all(type(number) is int and number > 0 for number in numbers)
        if not whole or any(width % number for width, number in zip(channels, numbers, strict=True)):
            raise InputError(f"{source} is to have {given!r} {name}, into which blocks of "
                             f"{', '.join(map(str, channels))} channels cannot be divided")  # fmt: skip


def facts_from(said: Any, source: Path) -> Facts:
    """What a file of ours says; what it leaves out is as in modules trained here. InputError where it is nonsense."""
    try:
        facts = Facts(**{**said, "norms": Norms(**said.get("norms", {}))})
        kinds = {facts.norms.motion, facts.norms.residual} <= {"frame", "clip"}
        ranges = facts.schedule in ("backbone", "published") and 0 <= facts.shared_noise <= 1
        names = isinstance(facts.takes_frames, bool) and (facts.vae is None or isinstance(facts.vae, str))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{source} does not say how its motion modules are to be run: {error}") from None
    if not (kinds and ranges and names):
        raise InputError(f"{source} does not say how its motion modules are to be run: {said}")
    return facts


def built(
    kind: Any,
    config: Mapping[str, Any],
    found: Mapping[str, Tensor],
    complaint: str,
    belongs: Callable[[str], object] = bool,
) -> tuple[Any, Comparison, int]:
    """A model of diffusers with tensors of a file in it, frozen, in eval mode; positional encodings are computed anew.

    Args:
        kind, config: what it is.
        found: tensors under diffusers' names.
        complaint: how the error begins where they do not fit.
        belongs: which names are of the model; others of them may be there beside it.

    Returns:
        The model, how the tensors differ from what it needs, and how many were taken.

    Raises:
        InputError: a tensor is missing, of another shape, or of a layer that the model would not have.
    """
    with torch.device("meta"):
        expected = manifest_of(kind.from_config(config))
    needed = {name: shape for name, shape in expected.items() if ".pos_embed." not in name}
    report = compare_keys(needed, {name: tuple(value.shape) for name, value in found.items()})
    unknown = [name for name in report.unexpected if belongs(name)]
    if wrong := report.missing + report.mismatched + unknown:
        raise InputError(
            f"{complaint}: {len(report.missing)} of {len(needed)} tensors are missing, {len(report.mismatched)} have "
            f"another shape, {len(unknown)} are unknown (such as {wrong[0]})"
        )
    model = kind.from_config(config)
    model.load_state_dict({name: found[name].float() for name in needed}, strict=False)
    return model.requires_grad_(False).eval(), report, len(needed)


def settings(heads: int, groups: int, facts: Facts) -> dict[str, str]:
    """The metadata of a safetensors file, with what no tensor of it tells."""
    return {"format": "pt", SETTINGS: json.dumps({"heads": heads, "groups": groups, "facts": asdict(facts)})}


def settings_in(path: Path) -> dict[str, Any]:
    """Heads, groups and facts as a file of ours names them; nothing where another program wrote it.

    Raises:
        InputError: what is there is no JSON object.
    """
    return read_settings(path, SETTINGS) or {}
