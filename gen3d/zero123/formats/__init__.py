"""The published checkpoints of Zero-1-to-3 (Liu et al. 2023, 2303.11328), read and written, in their three formats.

`ldm`                     one file in the layout of the original code (zero123-xl.ckpt, stable_zero123.ckpt)
`diffusers`               a folder whose camera projection is `cc_projection/` (keys `projection.*`)
`clip_camera_projection`  a folder whose camera projection is `clip_camera_projection/` (keys `proj.*`)

All give the same `Zero123Parts`. A folder with `picture_reader/` instead is our own
(`gen3d.zero123.camera_projection`), which no published format can hold. What neither a format nor the shapes in it can
tell is as published: 8 heads and groups of 32 channels in the UNet (SD 1.x), heads 64 wide in CLIP, betas from .00085
to .012. Where a model differs, an LDM file says so in one more tensor, `liftkit_settings` (JSON as bytes), which the
original code does not look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path
from gen3d.zero123.camera_projection import CameraProjection
from gen3d.zero123.formats.folders import read_folder, write_folder
from gen3d.zero123.formats.original import SETTINGS as SETTINGS
from gen3d.zero123.formats.original import read_file, write_file
from gen3d.zero123.formats.parts import CLIP_MEAN as CLIP_MEAN
from gen3d.zero123.formats.parts import PUBLISHED_SCHEDULER as PUBLISHED_SCHEDULER
from gen3d.zero123.formats.parts import Format, Report, Zero123Parts, check_fit, sounds_stable


def read_zero123(
    path: Path,
    dtype: torch.dtype = torch.float32,
    stable: bool | None = None,
    ema: bool = True,
    heads: int | None = None,
) -> tuple[Zero123Parts, Report]:
    """Read a published or written checkpoint.

    Args:
        path: a file (.ckpt, .pth, .pt, .bin through the allow-list reader, or .safetensors) in the original layout, or
            a folder in one of the diffusers layouts. A folder holds safetensors only; its `borrowed.json` may name
            bundled models for autoencoder and image encoder, such as `{"vae": ["toybox-sd", "vae"]}`.
        dtype: of all modules.
        stable: whether it is Stable Zero123, which no tensor tells. By default what the checkpoint says (a folder in
            `zero123.json`), else whether its name contains `stable_zero123` or `stable-zero123`.
        ema: use the averaged UNet of a file where it is complete.
        heads: of the UNet of a file, where its settings do not say and it is not 8.

    Returns:
        Frozen modules on the CPU in eval mode, and what was found. Tensors may be views into the file's memory map.

    Raises:
        InputError: no checkpoint there, a damaged one, tensors of a part missing or of a wrong shape, or parts that do
            not fit each other.
    """
    path = Path(path)
    if path.is_dir():
        if heads is not None:
            raise InputError(f"{path} is a folder, whose config says how many heads there are: leave out heads")
        parts, report, said = read_folder(path, dtype)
    elif path.is_file():
        parts, report, said = read_file(path, dtype, ema, heads)
    else:
        raise InputError(f"no checkpoint at {path}: give a .ckpt or .safetensors file, or a diffusers folder")
    parts.absolute_elevation = next(answer for answer in (stable, said, sounds_stable(path)) if answer is not None)
    check_fit(parts, path)
    return parts, report


def write_zero123(
    path: Path,
    parts: Zero123Parts,
    format: Format = "ldm",
    dtype: torch.dtype | None = None,
    borrowed: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: of a .safetensors or .ckpt file for `ldm`, else of a folder; an earlier model there is replaced whole.
        parts: what `read_zero123` gives.
        dtype: of the weights in it; as they are by default.
        borrowed: parts that are left out of a folder because a bundled model has the same, such as
            `{"vae": ("toybox-sd", "vae")}`.

    Raises:
        InputError: a place where nothing can be written, parts that the format cannot hold or that do not fit each
            other, or a borrowed part that differs from the bundled one.
    """
    path = Path(path)
    check_fit(parts, path)
    if format != "diffusers" and not isinstance(parts.projection, CameraProjection):
        raise InputError(f"the format {format} has no picture reader: write {path} in the format diffusers")
    if format == "ldm":
        if borrowed:
            raise InputError(f"{path} in the format ldm holds all parts: leave out borrowed")
        write_file(path, parts, dtype)
        return
    if path.exists() and not (path / "unet").is_dir() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"cannot write {path}: something else than a Zero-1-to-3 folder is there")
    with atomic_path(path) as folder:
        folder.mkdir()
        write_folder(folder, parts, format, dtype, borrowed or {})
