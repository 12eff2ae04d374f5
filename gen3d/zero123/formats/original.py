"""Zero-1-to-3 as one file in the layout of the original code (`zero123-xl.ckpt`), read and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, check_output
from core2d.files import ldm
from core2d.files.loading import read_manifest, with_weights
from core2d.files.manifests import Manifest, manifest_of
from core2d.prior.schedule import alphas_cumprod_from_config
from gen3d.zero123.formats.parts import (
    NORMALISATION,
    PUBLISHED_SCHEDULER,
    UNUSABLE,
    Report,
    Zero123Parts,
    config_of,
    count_of,
    one_line,
    projection_of,
    refuse_misfit,
    sounds_stable,
    triple,
)

SETTINGS, LARGEST_SETTINGS = "liftkit_settings", 65_536


class _Kind(NamedTuple):
    """How one part stands in an LDM file."""

    prefix: str
    names: Callable[[Mapping[str, Any]], ldm.Names]
    on_meta: Callable[[Mapping[str, Any]], nn.Module]
    config_of: Callable[[Manifest], dict[str, Any]]
    untold: dict[str, Any]  # settings that shapes do not tell, as published


_UNET = {"attention_head_dim": 8, "norm_num_groups": 32, "norm_eps": 1e-5, "sample_size": 32}
_UNET |= {"upcast_attention": False, "act_fn": "silu"}
_VAE = {"norm_num_groups": 32, "sample_size": 256, "scaling_factor": 0.18215, "force_upcast": True, "act_fn": "silu"}
_CLIP = {"num_attention_heads": None, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}  # heads: by their width
_UNET_PREFIX = "model.diffusion_model."
KINDS = {
    "unet": _Kind(_UNET_PREFIX, ldm.unet_to_ldm, ldm.unet_on_meta, ldm.unet_config_of, _UNET),
    "vae": _Kind("first_stage_model.", ldm.vae_to_ldm, ldm.vae_on_meta, ldm.vae_config_of, _VAE),
    "image_encoder": _Kind(
        "cond_stage_model.model.",
        ldm.clip_vision_to_openai,
        ldm.clip_vision_on_meta,
        ldm.clip_vision_config_of,
        _CLIP,
    ),
}
_TRANSFORMERS_PREFIX = "cond_stage_model.transformer."  # of CLIP in transformers' names
_NOT_NEEDED = ("model_ema.", "cond_stage_model.", "first_stage_model.loss.")
_BUFFERS = ("betas", "alphas_cumprod", "sqrt_", "log_one_minus_alphas_cumprod", "posterior_", "logvar", "scale_factor")


def read_file(path: Path, dtype: torch.dtype, ema: bool, heads: int | None) -> tuple[Zero123Parts, Report, bool | None]:
    """The parts in a file, what was found, and whether it says that it is Stable Zero123; see `read_zero123`."""
    state, report = _tensors_of(path), Report("ldm")
    settings = _read_settings(state.pop(SETTINGS, None), path)
    if heads is not None:
        settings["unet"] = settings.get("unet", {}) | {"attention_head_dim": heads}
    parts: dict[str, Any] = {}
    for part, kind in KINDS.items():
        sources = _names_under(kind.prefix, state)
        if part == "unet" and ema:
            sources = _averaged(sources, state, report)
        if part == "image_encoder":
            kind, sources = _vision_tower(kind, sources, state)
        parts[part] = _read_part(part, kind, sources, state, settings.get(part, {}), dtype, report, path)
    sources = {f"projection.{name}": source for name, source in _names_under("cc_projection.", state).items()}
    parts["projection"] = projection_of({name: state[source] for name, source in sources.items()}, dtype, path)
    report.matched += (source for name, source in sources.items() if name in parts["projection"].state_dict())
    for name in sorted(state.keys() - {*report.matched, *report.unexpected, *report.ignored}):
        (report.ignored if name.startswith((*_NOT_NEEDED, *_BUFFERS)) else report.unexpected).append(name)
    if "betas" in state:
        report.betas_ok = _published_betas(state["betas"])
    scheduler = PUBLISHED_SCHEDULER | settings.get("scheduler", {})
    mean, std = (triple(settings.get(key, usual), path) for key, usual in NORMALISATION.items())
    made = Zero123Parts(**parts, scheduler_config=scheduler, image_mean=mean, image_std=std)
    return made, report, settings.get("absolute_elevation")


def _read_settings(tensor: Tensor | None, path: Path) -> dict[str, Any]:
    """What a file says beyond shapes, as `write_file` put it; of the parts only what shapes do not tell."""
    if tensor is None:
        return {}
    try:
        if tensor.dtype != torch.uint8 or tensor.numel() > LARGEST_SETTINGS:
            raise ValueError
        said = json.loads(bytes(tensor.tolist()))
        for part, kind in KINDS.items():
            said[part] = {key: value for key, value in said.get(part, {}).items() if key in kind.untold}
        of_kinds = isinstance(said.get("scheduler", {}), dict), isinstance(said.get("absolute_elevation", True), bool)
        if not all(of_kinds):
            raise ValueError
    except UNUSABLE as error:
        raise InputError(f"the settings in {path} ({SETTINGS}) cannot be read: write the file again") from error
    return said


def _tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by the names of the original layout."""
    if path.suffix.lower() == ".safetensors":
        read_manifest([path])  # says what is wrong with it
        state = load_file(path)
    elif path.suffix.lower() in (".ckpt", ".pth", ".pt", ".bin"):
        from core2d.files.pickles import read_state

        state = read_state(path)
    else:
        raise InputError(f"{path} is no checkpoint by its name: give a .ckpt or .safetensors file")
    return state


def _names_under(prefix: str, names: Mapping[str, Any]) -> dict[str, str]:
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


def _vision_tower(kind: _Kind, sources: dict[str, str], state: Mapping[str, Tensor]) -> tuple[_Kind, dict[str, str]]:
    """Where the tensors of CLIP's vision tower stand: under OpenAI's names, or under those of transformers."""
    openai = {name: source for name, source in sources.items() if name.startswith("visual.")}
    if openai:
        return kind, openai
    sources = {
        name: source
        for name, source in _names_under(_TRANSFORMERS_PREFIX, state).items()
        if name.startswith(("vision_model.", "visual_projection.")) and not name.endswith("position_ids")  # of old ones
    }
    return (kind._replace(prefix=_TRANSFORMERS_PREFIX, names=_same_names) if sources else kind), sources


def _same_names(config: Mapping[str, Any]) -> ldm.Names:
    return {name: name for name in ldm.clip_vision_on_meta(config).state_dict()}


def _averaged(sources: dict[str, str], state: Mapping[str, Tensor], report: Report) -> dict[str, str]:
    """Where the averages of the UNet stand, if all of them are there; else the sources as they are."""
    averages = {name: ldm.average_of(name) for name in sources}
    absent = [
        average
        for name, average in averages.items()
        if average not in state or state[average].shape != state[sources[name]].shape
    ]
    if absent:
        report.missing += absent if len(absent) < len(averages) else []
        return sources
    report.ignored += sources.values()
    report.ema_used = bool(averages)
    return averages


def _read_part(
    part: str,
    kind: _Kind,
    sources: Mapping[str, str],
    state: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    dtype: torch.dtype,
    report: Report,
    path: Path,
) -> Any:
    """A module with sizes from shapes and weights from the file; `sources`: its tensors -> their names in the file."""
    found = {name: state[source] for name, source in sources.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    empty = [sources[name] for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise InputError(f"{path} is damaged: of its {part} {count_of(empty)} without values (such as {empty[0]})")
    try:
        told = kind.config_of(shapes)
    except KeyError as error:
        raise InputError(
            f"{path} is no whole Zero-1-to-3: of its {part} at least 1 tensor is missing (such as "
            f"{kind.prefix}{error.args[0]})"
        ) from error
    except (IndexError, ValueError) as error:
        raise InputError(f"{path} is no Zero-1-to-3: tensors of its {part} have other dimensions") from error
    try:
        config = {**kind.untold, **told, **settings}
        module, names = kind.on_meta(config), kind.names(config)
    except UNUSABLE as error:
        raise InputError(
            f"the {part} in {path} cannot be built from its sizes and settings: {one_line(error)}"
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in ldm.diffusers_to_ldm(module.state_dict(), names).items()}
    refuse_misfit(part, expected, shapes, path, kind.prefix)
    report.matched += (sources[name] for name in expected)
    report.unexpected += (source for name, source in sources.items() if name not in expected)
    return with_weights(module, ldm.ldm_to_diffusers(found, names), dtype)


def _published_betas(betas: Tensor) -> bool:
    published = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # (1000,)
    return betas.shape == published.shape and torch.allclose(betas.double(), published, rtol=1e-3, atol=0)


def write_file(path: Path, parts: Zero123Parts, dtype: torch.dtype | None) -> None:
    """Write a .safetensors or .ckpt; see `write_zero123`."""
    check_output(path, (".safetensors", ".ckpt"))
    state: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    for part, kind in KINDS.items():
        tensors, settings[part] = _to_original(part, kind, getattr(parts, part), path)
        state |= {kind.prefix + name: tensor for name, tensor in tensors.items()}
    state |= {f"cc_{name}": tensor for name, tensor in parts.projection.state_dict().items()}
    # Clones, since a view would be saved with all that it is a view of.
    state = {name: tensor.detach().to("cpu", dtype, copy=True).contiguous() for name, tensor in state.items()}
    state |= ldm.averages_to_ldm({name: state[source] for name, source in _names_under(_UNET_PREFIX, state).items()})
    state |= ldm.schedule_to_ldm(alphas_cumprod_from_config(parts.scheduler_config))
    if parts.scheduler_config != PUBLISHED_SCHEDULER:
        settings["scheduler"] = parts.scheduler_config
    settings |= {key: getattr(parts, key) for key, usual in NORMALISATION.items() if getattr(parts, key) != usual}
    settings = {key: value for key, value in settings.items() if value}
    if parts.absolute_elevation or sounds_stable(path):
        settings["absolute_elevation"] = parts.absolute_elevation
    if settings:
        state[SETTINGS] = torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".safetensors":
            state |= {name: tensor.clone() for name, tensor in state.items() if name.startswith("model_ema.")}
            save_file(state, temporary, metadata={"format": "pt"})
        else:  # weights and averages are the same tensors, which a pickle stores once
            torch.save({"state_dict": state}, temporary)


def _to_original(part: str, kind: _Kind, module: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors under the names of the original code (without prefix), and those settings that a reader cannot know."""
    config = config_of(module)
    refusal = f"the format ldm cannot hold this {part}: write {path} in a diffusers format"
    try:
        tensors = ldm.diffusers_to_ldm(module.state_dict(), kind.names(config))
        told = kind.config_of({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        known = {**kind.untold, **told}
        untold = {key: config[key] for key in kind.untold}
        again = kind.on_meta({**known, **untold})
    except UNUSABLE as error:
        raise InputError(refusal) from error
    differing = [key for key, value in config_of(again).items() if config.get(key) != value and key not in told]
    if manifest_of(again) != manifest_of(module) or (differing and part != "image_encoder"):
        raise InputError(f"{refusal} ({', '.join(differing)})" if differing else refusal)
    return tensors, {key: value for key, value in untold.items() if value != known[key]}
