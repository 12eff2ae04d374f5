"""Zero-1-to-3 as a folder in one of the diffusers layouts, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from core2d.app.errors import InputError
from core2d.app.outputs import write_json
from core2d.app.registry import bundled, resolve
from core2d.files.loading import load_model, read_json, read_manifest, save_model, weights_files
from core2d.prior.image_tower import load_image_encoder
from core2d.prior.schedulers import read_scheduler_config
from gen3d.data.single_picture import MARGIN
from gen3d.zero123.camera_projection import CameraProjection, PictureReader
from gen3d.zero123.formats.parts import (
    NORMALISATION,
    PARTS,
    PROJECTIONS,
    PUBLISHED_NOISE,
    PUBLISHED_SCHEDULER,
    READER,
    VIEW_DIM,
    Format,
    Report,
    Zero123Parts,
    projection_of,
    triple,
)


def read_folder(folder: Path, dtype: torch.dtype) -> tuple[Zero123Parts, Report, bool | None]:
    """The parts in a folder, what was found, and whether it says that it is Stable Zero123; see `read_zero123`."""
    places = {part: folder / part for part in PARTS}
    places |= {part: place for part, place in borrowed(folder).items() if not places[part].is_dir()}
    kinds = (*PROJECTIONS, READER)
    projections = [name for name in kinds if (folder / name).is_dir()]
    if len(projections) != 1:
        found = " and ".join(projections) or "none"
        raise InputError(f"{folder} is no Zero-1-to-3: it needs one of {', '.join(kinds)}, and has {found}")
    parts: dict[str, Any] = {
        "unet": load_model(UNet2DConditionModel, places["unet"], dtype),
        "vae": load_model(AutoencoderKL, places["vae"], dtype),
        "image_encoder": load_image_encoder(places["image_encoder"], dtype),
        "projection": _load_projection(folder / projections[0], dtype),
    }
    scheduler = dict(PUBLISHED_SCHEDULER)
    if (folder / "scheduler").is_dir():
        scheduler = read_scheduler_config(folder, PUBLISHED_NOISE)
    seen = folder / "feature_extractor" / "preprocessor_config.json"
    seen = seen if seen.is_file() else places["image_encoder"] / "preprocessor_config.json"
    preprocessing = read_json(seen) if seen.is_file() else {}
    mean, std = (triple(preprocessing.get(key, usual), seen) for key, usual in NORMALISATION.items())
    own = read_json(folder / "zero123.json") if (folder / "zero123.json").is_file() else {}
    said, margin = own.get("absolute_elevation"), own.get("margin", MARGIN)
    if said not in (None, True, False):
        raise InputError(f"{folder / 'zero123.json'} has absolute_elevation = {said!r}: write true or false")
    if not isinstance(margin, float) or not 0 <= margin < 0.5:
        raise InputError(f"{folder / 'zero123.json'} has margin = {margin!r}: write a share from 0 to below 0.5")
    report = Report("clip_camera_projection" if projections[0] == "clip_camera_projection" else "diffusers")
    report.matched = [f"{part}.{name}" for part, module in parts.items() for name in module.state_dict()]
    told = PUBLISHED_NOISE | {"trained_betas": None, "rescale_betas_zero_snr": False}
    report.betas_ok = all(scheduler.get(key, value) == value for key, value in told.items())
    seen_as: dict[str, Any] = {"image_mean": mean, "image_std": std, "margin": margin, "world": own.get("world")}
    return Zero123Parts(**parts, scheduler_config=scheduler, **seen_as), report, said


def borrowed(folder: Path) -> dict[str, Path]:
    """Part -> folder of another model, as `borrowed.json` names them."""
    path = folder / "borrowed.json"
    return _lenders(read_json(path), folder) if path.is_file() else {}


def _lenders(named: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """The models that lend are bundled ones; those beside the folder come first, where a family lies elsewhere."""
    places = {}
    for part, place in named.items():
        model, inside = place if isinstance(place, (list, tuple)) and len(place) == 2 else ("", "")
        if part not in ("vae", "image_encoder") or model not in list(bundled()) or not _is_inside(inside):
            raise InputError(
                f"{folder / 'borrowed.json'} borrows {part} from {place!r}: only vae and image_encoder can be, "
                f"from a folder of a bundled model ({', '.join(bundled()) or 'none'})"
            )
        beside = folder.resolve().parent / model
        places[part] = (beside if beside.is_dir() else resolve(model)) / inside
    return places


def _is_inside(name: Any) -> bool:
    """Whether a relative name of a folder stays where it starts."""
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _load_projection(folder: Path, dtype: torch.dtype) -> CameraProjection | PictureReader:
    """A reader, or a camera projection under any of its names; its config may say anything, the shapes say enough."""
    if folder.name == READER:
        return load_model(PictureReader, folder, dtype)
    files, _ = weights_files(folder)
    read_manifest(files)  # says what is wrong with them
    prefix, state = PROJECTIONS[folder.name], {}
    for file in files:
        state |= load_file(file)
    state = {
        f"projection.{name.removeprefix(prefix)}" if name.startswith(prefix) else name: tensor
        for name, tensor in state.items()
    }
    return projection_of(state, dtype, folder)


def write_folder(
    folder: Path,
    parts: Zero123Parts,
    format: Format,
    dtype: torch.dtype | None,
    borrowed: Mapping[str, Sequence[str]],
) -> None:
    """Write all parts but the borrowed ones into an empty folder; see `write_zero123`."""
    places = _lenders(borrowed, folder)
    for part in PARTS:
        if part in places:
            _refuse_other(part, getattr(parts, part), places[part])
        else:
            save_model(getattr(parts, part), folder / part, dtype)
    if isinstance(parts.projection, PictureReader):
        save_model(parts.projection, folder / READER, dtype)
    else:
        _write_projection(folder, parts.projection, format, dtype)
    write_json(folder / "scheduler" / "scheduler_config.json", parts.scheduler_config)
    side = parts.image_encoder.config.image_size
    preprocessing = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side}, "resample": 3}
    preprocessing |= {"image_mean": parts.image_mean, "image_std": parts.image_std}
    write_json(folder / "feature_extractor" / "preprocessor_config.json", preprocessing)
    own = {"absolute_elevation": parts.absolute_elevation, "margin": parts.margin}
    write_json(folder / "zero123.json", own | ({"world": parts.world} if parts.world else {}))
    if borrowed:
        write_json(folder / "borrowed.json", borrowed)


def _write_projection(folder: Path, projection: CameraProjection, format: Format, dtype: torch.dtype | None) -> None:
    """Under the names of its format."""
    width = projection.config["embedding_dim"]
    if format == "clip_camera_projection":
        name = format
        config = {"_class_name": "CLIPCameraProjection", "embedding_dim": width, "additional_embeddings": VIEW_DIM}
    else:
        name = "cc_projection"
        config = {"_class_name": "CCProjection", "in_channel": width + VIEW_DIM, "out_channel": width}
    write_json(folder / name / "config.json", config)
    weights = {
        key.replace("projection.", PROJECTIONS[name], 1): tensor.detach().to("cpu", dtype).contiguous()
        for key, tensor in projection.state_dict().items()
    }
    save_file(weights, folder / name / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def _refuse_other(part: str, module: Any, folder: Path) -> None:
    """Refuse to leave out a part that is not the bundled one."""
    load = load_image_encoder if part == "image_encoder" else lambda *place: load_model(AutoencoderKL, *place)
    theirs, ours = load(folder, module.dtype).state_dict(), module.state_dict()
    if theirs.keys() != ours.keys() or any(not torch.equal(theirs[name], ours[name].cpu()) for name in ours):
        raise InputError(f"the {part} is not that of {folder}: do not borrow it")
