"""One frozen diffusion prior, handed to everything that is built on it.

There is no second way to load a model.

    prior = Backbone.load("toybox-sd")
    condition, unconditional = prior.encode_text(["a red mug"]), prior.encode_text([""])
    latents = prior.encode_images(images)  # differentiable
    x_t = prior.add_noise(latents, noise, t)
    prediction = prior.predict_cfg(x_t, t, condition, unconditional, scale=5.0)
    prediction.eps, prediction.x0, prediction.v, prediction.alpha_t, prediction.sigma_t

All that a prior is told stands in its `Condition`, and what changes how it hears that is an adapter
(`core2d.prior.condition`):

    prior.with_adapters(lora, control).predict(x_t, t, condition.seen_from(camera).telling(depth=depth_map))
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.registry import resolve
from core2d.files.loading import load_model, read_json
from core2d.prior.base import LatentPrior
from core2d.prior.camera_token import CameraToken
from core2d.prior.condition import Condition, Inputs
from core2d.prior.families import Family, family_of
from core2d.prior.image_tower import ImageTower
from core2d.prior.schedulers import read_scheduler_config

CACHED_PROMPTS = 512
OURS = "liftkit.json"  # in a model folder: what no published file of it tells


class Backbone(LatentPrior):
    """A published checkpoint of a known family, frozen: SD 1.x, SD 2.x, SDXL or PixArt, by its configs.

    `Backbone.load` makes one. Made from modules in memory, it freezes them: hand in copies of what is in
    training.

    Args:
        family: text side and denoiser.
        vae: the autoencoder.
        scheduler_config: content of `scheduler/scheduler_config.json`.
        camera_token: projector of views, if the denoiser was trained with one.
        image_encoder: CLIP image tower, if the folder has one.
        world: see `Prior`.
        inpaints: whether the denoiser may be one for inpainting, see `load`.
    """

    def __init__(
        self,
        family: Family,
        vae: AutoencoderKL,
        scheduler_config: dict[str, Any],
        camera_token: CameraToken | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        world: str | None = None,
        inpaints: bool = False,
    ):
        super().__init__(vae, scheduler_config, family.denoiser.config.sample_size)
        self.family = family
        self.camera_token, self.image_encoder = camera_token, image_encoder
        self.has_camera_token, self.world = camera_token is not None, world
        self._cache: dict[str, Condition] = {}
        self._check(inpaints)
        for module in self.named_models().values():
            module.requires_grad_(False).eval()
        self._note_place()

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        inpaints: bool = False,
    ) -> "Backbone":
        """Load a bundled model, a diffusers folder, or a hub id that is in the local cache; never from the
        network.

        Args:
            device: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`.
            dtype: number format of the computation; float32 if not given, whatever the files hold.
            inpaints: take a denoiser too that is told a mask and a masked picture beside the noisy latents
                (`takes_mask`); otherwise such a model is refused.

        Raises:
            InputError: no such model or device, an unknown family, pickled or ill-fitting weights.
        """
        device = pick_device(device) if isinstance(device, str) else device
        dtype = pick_dtype(dtype) if isinstance(dtype, str) else dtype or torch.float32
        folder = resolve(name_or_folder)
        index = read_json(folder / "model_index.json")
        family = family_of(index).load(folder, index, dtype)
        vae = load_model(AutoencoderKL, folder / "vae", _vae_dtype(folder, family, dtype))
        has_image_encoder = (index.get("image_encoder") or [None])[0] is not None
        backbone = cls(
            family,
            vae,
            read_scheduler_config(folder),
            load_model(CameraToken, folder / "camera_token", dtype) if (folder / "camera_token").is_dir() else None,
            load_model(CLIPVisionModelWithProjection, folder / "image_encoder", dtype) if has_image_encoder else None,
            world_of(folder),
            inpaints,
        )
        return backbone.to(device)

    def to(self, device: torch.device) -> "Backbone":
        """Move everything to a device; the backbone itself, for chaining."""
        adapters = [adapter for adapter in self.adapters if isinstance(adapter, torch.nn.Module)]
        for module in (*self.named_models().values(), *adapters):
            module.to(device)
        self._cache.clear()
        self._note_place()
        return self

    def _note_place(self) -> None:
        """Device and dtype, kept because diffusers walks through all modules to answer that."""
        self.device: torch.device = self.family.denoiser.device
        self.dtype: torch.dtype = self.family.denoiser.dtype

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Condition:
        """One row for each prompt, cached; "" is the unconditional row.

        Prompts are encoded one at a time, so that a row does not depend on its neighbours in the last bit. A
        prompt of more tokens than the model reads raises InputError with both counts; nothing is cut
        silently.
        """
        rows = []
        for prompt in prompts:
            if prompt not in self._cache:
                if len(self._cache) >= CACHED_PROMPTS:
                    self._cache.pop(next(iter(self._cache)))  # the oldest
                self._cache[prompt] = self.family.encode(prompt)
            rows.append(self._cache[prompt])
        return Condition.cat(rows)

    def encode_image_embeds(self, images: Tensor) -> Tensor:
        """(b, 3, H, W) images in [0, 1] -> (b, e) embeddings of the folder's CLIP image tower,
        differentiable.
        """
        if self.image_encoder is None:
            raise InputError("this model has no image encoder: its folder lacks image_encoder/")
        return ImageTower(self.image_encoder).embed(images)

    @property
    def denoiser(self) -> torch.nn.Module:
        return self.family.denoiser

    @property
    def takes_mask(self) -> bool:
        """Whether the denoiser was made for inpainting: `Condition.channels` are then a mask, 1 where it draws, and the
        latents of the picture without what is masked (2112.10752 section 4.5).
        """
        return self.family.denoiser.config.in_channels == 2 * self.latent_channels + 1

    def with_denoiser(self, denoiser: torch.nn.Module) -> "Backbone":
        other = copy.copy(self)
        other.family = self.family.with_denoiser(denoiser)
        return other

    def with_text_encoders(self, **encoders: torch.nn.Module) -> "Backbone":
        """The same prior that reads prompts by other text encoders, given by their names; the rest is shared."""
        other = copy.copy(self)
        other.family, other._cache = self.family.with_parts(**encoders), {}
        return other

    def inputs(self, rows: Tensor, t: Tensor, condition: Condition, frames: int) -> Inputs:
        if self.takes_mask and condition.channels is None:
            raise InputError("this model inpaints, and is told no mask: draw with `core2d inpaint` (core2d.Inpaint)")
        if condition.camera is not None and self.camera_token is not None:
            view = self.camera_token(condition.camera, condition.tokens)  # (r, 1, d)
            condition = replace(condition.append(view), camera=None)  # (r, n + 1, d)
        return super().inputs(rows, t, condition, frames)

    def answer(self, inputs: Inputs) -> Tensor:
        height, width = inputs.x_t.shape[2:]
        return self.family.network(inputs, (height * self.vae_scale_factor, width * self.vae_scale_factor))

    def named_models(self) -> dict[str, torch.nn.Module]:
        """Every module, under the name of its sub-folder."""
        named = {name: self.family.parts[name] for name in self.family.models} | {"vae": self.vae}
        optional = {"camera_token": self.camera_token, "image_encoder": self.image_encoder}
        return named | {name: module for name, module in optional.items() if module is not None}

    def _check(self, inpaints: bool) -> None:
        """Refuse checkpoints that would run and mean something else."""
        inputs, latents = self.family.denoiser.config.in_channels, self.latent_channels
        if self.takes_mask and not inpaints:
            raise InputError(
                f"the denoiser takes {inputs} channels and the autoencoder makes {latents}: it is an inpainting "
                "checkpoint and no text-to-image model; draw with `core2d inpaint` or `core2d outpaint`"
            )
        if inputs != latents and not self.takes_mask:
            raise InputError(
                f"the denoiser takes {inputs} channels and the autoencoder makes {latents}: "
                "upscaling and editing checkpoints are not text-to-image models"
            )
        if getattr(self.family.denoiser.config, "time_cond_proj_dim", None):
            raise InputError("this is a latent consistency model, which takes its guidance scale as an input")


def _vae_dtype(folder: Path, family: Family, dtype: torch.dtype) -> torch.dtype:
    """float16 overflows in the autoencoder of SDXL, unless its config says otherwise; it then stays in float32."""
    force_upcast = read_json(folder / "vae" / "config.json").get("force_upcast", family.vae_overflows)
    return torch.float32 if dtype == torch.float16 and force_upcast else dtype


def world_of(folder: Path) -> str | None:
    """The made-up world that a model's own `liftkit.json` says it was trained on; None where nothing is said."""
    path = folder / OURS
    return read_json(path).get("world") if path.is_file() else None
