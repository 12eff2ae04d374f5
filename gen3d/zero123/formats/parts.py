"""What Zero-1-to-3 is made of, whatever format it comes in, and what all readers say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from core2d.app.errors import InputError
from core2d.files.loading import with_weights
from core2d.files.manifests import Manifest, compare_keys, manifest_of
from core2d.prior.image_tower import CLIP_MEAN, CLIP_STD
from core2d.prior.schedule import NoiseSchedule
from gen3d.data.single_picture import MARGIN
from gen3d.zero123.camera_projection import CameraProjection, PictureReader

Format = Literal["ldm", "diffusers", "clip_camera_projection"]
VIEW_DIM = 4
PUBLISHED_NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
PUBLISHED_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    **PUBLISHED_NOISE,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
PROJECTIONS = {"cc_projection": "projection.", "clip_camera_projection": "proj."}
READER = "picture_reader"  # in the place of a projection, in folders of ours
PARTS = ("unet", "vae", "image_encoder")  # beside the projection
UNUSABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError)  # of configs
NORMALISATION = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}


@dataclass
class Zero123Parts:
    """What Zero-1-to-3 is made of.

    Attributes:
        unet: takes the noisy latent and that of the picture, joined along the channels.
        vae: its scaling factor applies to the noisy latent only.
        image_encoder: CLIP's vision tower with its projection.
        projection: joins image embedding and view to the context of the UNet.
        scheduler_config: as diffusers' schedulers read it.
        absolute_elevation: the fourth number of a view is the polar angle of the picture (Stable Zero123) instead of a
            difference of distances.
        image_mean, image_std: of the three colours in [0, 1], before CLIP sees them.
        margin: share of a picture's side that its object should leave free on both sides, as in what it learned from.
        world: the made-up world that it learned from, such as "toybox"; None for everything else.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    image_encoder: CLIPVisionModelWithProjection
    projection: CameraProjection | PictureReader
    scheduler_config: dict[str, Any] = field(default_factory=lambda: dict(PUBLISHED_SCHEDULER))
    absolute_elevation: bool = False
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    margin: float = MARGIN
    world: str | None = None


@dataclass
class Report:
    """What was found in a checkpoint; names are those of the file, or `folder.name`.

    Attributes:
        matched: tensors that are used.
        missing: averages (`model_ema`) that are not there where others are; anything else missing is an error.
        unexpected: tensors that no Zero-1-to-3 has; they are not used.
        ignored: tensors that belong there and are not needed, such as those of CLIP's text tower.
        ema_used: whether the UNet is the averaged one.
        betas_ok: whether the noise schedule is the published one; None if the file says nothing.
    """

    format: Format
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    ema_used: bool = False
    betas_ok: bool | None = None

    @property
    def is_odd(self) -> bool:
        """Whether a user should see it: something is missing or unexpected, or the noise is not as published."""
        return self.betas_ok is False or bool(self.missing or self.unexpected)

    def __str__(self) -> str:
        kinds = {
            f"used{' (the UNet is the averaged one)' if self.ema_used else ''}": self.matched,
            "of the averaged UNet missing, so that it is not used": self.missing,
            "unexpected and not used": self.unexpected,
            "not needed": self.ignored,
        }
        lines = [f"Zero-1-to-3 in the format {self.format}"]
        lines += [f"  {count_of(names)} {what} (such as {names[0]})" for what, names in kinds.items() if names]
        noise = {True: "as published", False: "not the published one (scaled_linear, .00085 to .012)", None: "not told"}
        return "\n".join([*lines, f"  noise schedule: {noise[self.betas_ok]}"])


def check_fit(parts: Zero123Parts, path: Path) -> None:
    """Refuse parts that are not those of one Zero-1-to-3."""
    latents, width = parts.vae.config["latent_channels"], parts.projection.config["embedding_dim"]
    said = parts.unet.config
    for what, has, needs in (
        ("channels into the UNet", said["in_channels"], 2 * latents),
        ("channels out of the UNet", said["out_channels"], latents),
        ("context channels of the UNet", said["cross_attention_dim"], width),
        ("channels of image embeddings", parts.image_encoder.config.projection_dim, width),
    ):
        if has != needs:
            raise InputError(f"{path} is not Zero-1-to-3: it has {has} {what}, where its other parts need {needs}")
    sides = said["sample_size"] if isinstance(said["sample_size"], (list, tuple)) else (said["sample_size"],)
    if not sides or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"{path} has a UNet of sample_size {said['sample_size']!r}: write the side of its latents")
    try:
        NoiseSchedule.from_config(parts.scheduler_config)
    except UNUSABLE as error:
        raise InputError(f"{path} has a noise schedule that cannot be used: {error}") from error
    check_reader(parts, path)


def check_reader(parts: Zero123Parts, path: Path) -> None:
    """Refuse a reader that cannot read the pictures, or a view that it does not know."""
    if not isinstance(parts.projection, PictureReader):
        return
    channels, latents = parts.projection.config["latent_channels"], parts.vae.config["latent_channels"]
    if channels != latents:
        raise InputError(f"{path} is not Zero-1-to-3: its reader sees {channels} channels of latents with {latents}")
    if parts.absolute_elevation:
        raise InputError(f"{path} has a picture reader, which does not know the views of Stable Zero123")


def sounds_stable(path: Path) -> bool:
    """Whether the name says that it is Stable Zero123; a snapshot in a Hugging Face cache has its model's name."""
    path = path.absolute()  # not resolved: in that cache a file is a link to one that is named by its hash
    name = path.parents[1].name if path.parent.name == "snapshots" else path.name
    return "stable_zero123" in name.lower().replace("-", "_")


def refuse_misfit(part: str, expected: Manifest, found: Manifest, path: Path, prefix: str = "") -> None:
    missing, _, mismatched = compare_keys(expected, found)
    wrong = [
        f"{count_of(names)} {what} (such as {prefix}{names[0]})"
        for names, what in ((missing, "missing"), (mismatched, "of another shape"))
        if names
    ]
    if wrong:
        raise InputError(f"{path} is no whole Zero-1-to-3: of its {part} {' and '.join(wrong)}")


def projection_of(state: Mapping[str, Tensor], dtype: torch.dtype, path: Path) -> CameraProjection:
    """The camera projection with these tensors; its size is that of the tensors."""
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    _, columns, *_ = (*found.get("projection.weight", ()), 0, 0)
    with torch.device("meta"):
        module = CameraProjection(max(columns - VIEW_DIM, 1), VIEW_DIM)
    refuse_misfit("camera projection", manifest_of(module), found, path)
    return with_weights(module, {name: state[name] for name in manifest_of(module)}, dtype)


def triple(value: Any, path: Path) -> tuple[float, float, float]:
    """Mean or deviation of three colours."""
    try:
        first, second, third = (float(number) for number in value)
    except (TypeError, ValueError):
        raise InputError(f"{path} has {value!r} where three numbers for the colours belong") from None
    return first, second, third


def config_of(module: Any) -> dict[str, Any]:
    """The config of a model as JSON would have it, without what is only for the library that wrote it."""
    config: Any = module.config
    config = config if isinstance(config, Mapping) else config.to_dict()
    return json.loads(json.dumps({key: value for key, value in config.items() if not key.startswith("_")}))


def one_line(error: Exception) -> str:
    """What a library says, in one line."""
    return " ".join(str(error).split())


def count_of(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''}"
