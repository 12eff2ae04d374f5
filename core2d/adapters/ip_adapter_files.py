"""Files of IP-Adapters, read and written in the published layouts.

    found = read_ip_adapter("ip-adapter-plus_sd15.bin")  # or a .safetensors, or a folder with one
    found.model, found.layout, found.unexpected
    write_ip_adapter(Path("mine.safetensors"), model)  # or mine.bin; stock pipelines open both

`published`  `image_proj.proj.weight`, ..., `ip_adapter.1.to_k_ip.weight`, `ip_adapter.3...`: a .bin nests the two
             groups in dictionaries, a .safetensors has them as prefixes
`training`   what the authors' training leaves, which stock readers refuse: `image_proj_model.proj.weight`, ...,
             `adapter_modules.1.to_k_ip.weight`; it may hold the UNet beside them

Layers are counted among all attentions of the UNet, down, up, then the middle; those to words have the odd numbers. The
projection is told by its tensors: linear (`proj.weight`), of full faces (`proj.3.weight`), or Plus (`latents`). A .bin
is read through the allow-list reader: nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterFullImageProjection, IPAdapterPlusImageProjection
from safetensors.torch import save_file
from torch import Tensor

from core2d.adapters.ip_adapter import IPAdapterModel, Projection
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path
from core2d.app.registry import bundled, visible
from core2d.files.loading import quiet_libraries
from core2d.files.manifests import compare_keys
from core2d.files.tensors import read_tensors

Layout = Literal["published", "training"]
GROUPS = ("image_proj", "ip_adapter")
OF_TRAINING = {"image_proj_model": "image_proj", "adapter_modules": "ip_adapter"}
HEAD = 64  # width of a head in Plus, which no tensor tells
FACE_ID = ("perceiver_resampler.proj_in.weight", "norm.weight")  # beside which there is no picture to read


@dataclass(frozen=True)
class IPAdapterFile:
    """An adapter, and what was found of it.

    Attributes:
        model: float32, frozen, in eval mode.
        layout: of the file.
        matched: how many of its tensors the adapter is made of.
        unexpected: names of others, which were left.
    """

    model: IPAdapterModel
    layout: Layout
    matched: int
    unexpected: list[str] = field(default_factory=list)


def read_ip_adapter(path: str | Path) -> IPAdapterFile:
    """Read a bundled adapter by name, a folder with one .safetensors file, or a file of either layout.

    Raises:
        InputError: nothing there, a damaged file, or anything but one whole IP-Adapter of finite numbers.
    """
    file = adapter_file(path)
    tensors = read_tensors(file)
    layout: Layout = "published"
    if any(name.startswith("adapter_modules.") for name in tensors):
        layout, tensors = "training", {_renamed(name): value for name, value in tensors.items()}
    projection = {name.removeprefix("image_proj."): v for name, v in tensors.items() if name.startswith("image_proj.")}
    layers = {name.removeprefix("ip_adapter."): v for name, v in tensors.items() if name.startswith("ip_adapter.")}
    if not (projection and layers):
        raise InputError(f"{file} holds no IP-Adapter: no tensors are named image_proj. and ip_adapter.")
    try:
        model = _model_of(projection, layers)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(f"{file} holds no whole IP-Adapter that is known here: {_said(error)}") from None
    named = to_published(model)
    shapes = ({n: tuple(v.shape) for n, v in group.items()} for group in (named, tensors))
    missing, unexpected, mismatched = compare_keys(*shapes)
    for names, what in ((missing, "lacks"), (mismatched, "has another shape of")):
        if names:
            raise InputError(f"{file} holds no IP-Adapter that is known here: it {what} {names[0]}")
    broken = next((name for name in named if not tensors[name].isfinite().all()), None)
    if broken is not None:
        raise InputError(f"{file} holds numbers that are not finite, in {broken}: it is damaged")
    model.load_state_dict(from_published({name: tensors[name] for name in named}, model))
    return IPAdapterFile(model.requires_grad_(False).eval(), layout, len(named), unexpected)


def adapter_file(path: str | Path) -> Path:
    """The file of an adapter that is named by a bundled name, a folder, or itself; InputError where there is none."""
    place = bundled().get(str(path), Path(path).expanduser())
    if place.is_dir():
        files = visible(place, "*.safetensors")
        if len(files) != 1:
            raise InputError(f"{place} holds {len(files)} .safetensors files: give the file of one IP-Adapter")
        return files[0]
    if not place.is_file():
        raise InputError(f"no IP-Adapter at {path}: give a file such as ip-adapter_sd15.safetensors, or a bundled name")
    return place


def write_ip_adapter(path: Path, model: IPAdapterModel, dtype: torch.dtype | None = None) -> None:
    """Write an adapter in the published layout, whole or not at all.

    Args:
        path: .safetensors, or .bin as `torch.save` writes it.
        dtype: of the tensors; as they are by default.

    Raises:
        InputError: another suffix.
    """
    if path.suffix not in (".safetensors", ".bin"):
        raise InputError(f"cannot write {path}: a file of an IP-Adapter ends in .safetensors or .bin")
    ready = {name: value.detach().to("cpu", dtype).contiguous() for name, value in to_published(model).items()}
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            save_file(ready, temporary, metadata={"format": "pt"})
        else:
            groups = {group: {name.removeprefix(f"{group}."): value for name, value in ready.items()
                              if name.startswith(f"{group}.")} for group in GROUPS}  # fmt: skip
            torch.save(groups, temporary)


# -- names ---------------------------------------------------------------------------------------------------------


def to_published(model: IPAdapterModel) -> dict[str, Tensor]:
    """All tensors of a model under their published names."""
    found, of = {}, model.image_proj
    for name, value in model.state_dict().items():
        group, _, rest = name.partition(".")
        if group == "ip_adapter":
            place, _, layer = rest.partition(".")
            found[f"ip_adapter.{2 * int(place) + 1}.{layer}"] = value
        elif rest.endswith("attn.to_k.weight"):  # keys and values of a resampler are one tensor
            both = [value, model.state_dict()[name.replace("to_k", "to_v")]]
            found[f"image_proj.{_published(rest, of).replace('to_k', 'to_kv')}"] = torch.cat(both)
        elif not rest.endswith("attn.to_v.weight"):
            found[f"image_proj.{_published(rest, of)}"] = value
    return found


def from_published(tensors: Mapping[str, Tensor], model: IPAdapterModel) -> dict[str, Tensor]:
    """The state of a model from tensors of published names, in float32."""
    found, of = {}, model.image_proj
    for name in model.state_dict():
        group, _, rest = name.partition(".")
        if group == "ip_adapter":
            place, _, layer = rest.partition(".")
            value = tensors[f"ip_adapter.{2 * int(place) + 1}.{layer}"]
        elif halves := re.fullmatch(r"(.*attn\.)to_([kv])\.weight", rest):
            both = tensors[f"image_proj.{_published(halves[1], of)}to_kv.weight"]
            value = both.chunk(2)["kv".index(halves[2])]
        else:
            value = tensors[f"image_proj.{_published(rest, of)}"]
        found[name] = value.float()
    return found


# Name in diffusers' classes -> published name: linear and full face, then the resampler of Plus.
_NAMES = (
    (r"^image_embeds\.", "proj."), (r"^ff\.net\.0\.proj\.", "proj.0."), (r"^ff\.net\.2\.", "proj.2."),
    (r"^(layers\.\d+)\.ln0\.", r"\1.0.norm1."), (r"^(layers\.\d+)\.ln1\.", r"\1.0.norm2."),
    (r"^(layers\.\d+)\.attn\.to_out\.0\.", r"\1.0.to_out."), (r"^(layers\.\d+)\.attn\.", r"\1.0."),
    (r"^(layers\.\d+)\.ff\.1\.net\.0\.proj\.", r"\1.1.1."), (r"^(layers\.\d+)\.ff\.1\.net\.2\.", r"\1.1.3."),
    (r"^(layers\.\d+)\.ff\.0\.", r"\1.1.0."),
)  # fmt: skip


def _published(name: str, of: Projection) -> str:
    """Name of a tensor of a projection, as published."""
    if isinstance(of, IPAdapterFullImageProjection) and name.startswith("norm."):
        return name.replace("norm.", "proj.3.")
    for ours, theirs in _NAMES:
        changed = re.sub(ours, theirs, name)
        if changed != name:
            return changed
    return name


def _renamed(name: str) -> str:
    """A name that the authors' training left, as published."""
    group, dot, rest = name.partition(".")
    return OF_TRAINING.get(group, group) + dot + rest


# -- shapes --------------------------------------------------------------------------------------------------------


def _model_of(projection: Mapping[str, Tensor], layers: Mapping[str, Tensor]) -> IPAdapterModel:
    """A model of the shapes of published tensors, without their numbers.

    Raises:
        KeyError, ValueError: there is none.
    """
    keys = {int(name.partition(".")[0]): value for name, value in layers.items() if name.endswith(".to_k_ip.weight")}
    numbers = sorted(keys)
    if numbers != list(range(1, 2 * len(numbers), 2)):
        raise ValueError("its layers are not numbered 1, 3, 5, ... as those of IP-Adapters are")
    context = keys[1].shape[1]
    with quiet_libraries():
        return IPAdapterModel(_projection_of(projection, context), [len(keys[n]) for n in numbers], context)


def _projection_of(tensors: Mapping[str, Tensor], context: int) -> Projection:
    if "proj.weight" in tensors:
        rows, width = tensors["proj.weight"].shape
        return ImageProjection(width, context, rows // context)
    if "proj.3.weight" in tensors:
        return IPAdapterFullImageProjection(tensors["proj.0.weight"].shape[0], context)
    if "latents" in tensors:
        _, queries, hidden = tensors["latents"].shape
        inner, wide = tensors["layers.0.0.to_q.weight"].shape[0], tensors["layers.0.1.1.weight"].shape[0]
        depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
        if inner % HEAD:
            raise ValueError(f"its resampler has {inner} channels, which are no heads of {HEAD}")
        return IPAdapterPlusImageProjection(
            tensors["proj_in.weight"].shape[1], context, hidden, depth, HEAD, inner // HEAD, queries, wide / hidden
        )
    if any(name in tensors for name in FACE_ID):
        raise ValueError("it is told the identity of a face (FaceID), which no image tower tells")
    raise ValueError("its image_proj is none of linear, Plus and full face")


def _said(error: Exception) -> str:
    return f"it lacks {error.args[0]}" if isinstance(error, KeyError) else str(error).splitlines()[0]
