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
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection

from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.registry import resolve
from core2d.files.loading import load_model, read_json
from core2d.prior.camera_token import CameraToken
from core2d.prior.condition import Adapter, Changing, Condition, Inputs, copy_of
from core2d.prior.families import Family, family_of
from core2d.prior.rows import as_clips, as_rows
from core2d.prior.schedule import NoiseSchedule, Prediction
from core2d.prior.schedulers import read_scheduler_config

CACHED_PROMPTS = 512
OURS = "liftkit.json"  # in a model folder: what no published file of it tells
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Generators = torch.Generator | list[torch.Generator]
Camera = Any  # core2d.prior.cameras.Cameras, or a (n, 5) tensor of camera features


class Prior(ABC):
    """The contract that guidance and samplers are written against: a backbone, or an oracle."""

    schedule: NoiseSchedule
    scheduler_config: dict[str, Any]  # of the folder, as diffusers schedulers read it
    latent_channels: int
    latent_size: int  # height and width of the latents it was trained on
    vae_scale_factor: int  # pixels to one latent, along each side
    has_camera_token: bool
    world: str | None = None  # the made-up world that it was trained on, such as "toybox"; None for everything else
    adapters: tuple[Adapter, ...] = ()
    device: torch.device
    dtype: torch.dtype

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images it was trained on."""
        return self.latent_size * self.vae_scale_factor

    @property
    def num_train_timesteps(self) -> int:
        return self.schedule.num_train_timesteps

    @abstractmethod
    def encode_text(self, prompts: list[str]) -> Condition:
        """One row for each prompt; "" is the unconditional row. InputError if a prompt is too long."""

    @abstractmethod
    def encode_images(self, images: Tensor, generator: Generators | None = None) -> Tensor:
        """(b, 3, H, W) images in [0, 1] -> (b, c, h, w) latents of about unit variance, differentiable.

        Without generators the mode of the posterior; with one, or one for each image, a sample of it.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """(b, c, h, w) latents -> (b, 3, H, W) images in [0, 1], differentiable where they are not
        clipped.
        """

    @abstractmethod
    def network(self, x_t: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        """The network's own output, shaped as x_t, whatever it predicts. Arguments as for `predict`."""

    def with_adapters(self, *adapters: Adapter) -> Self:
        """The same prior with more adapters, applied after those that it has; this one stays as it is.

        Raises:
            InputError: this prior has no network that could be given other inputs.
        """
        raise InputError(f"{type(self).__name__} has no network for adapters to change")

    def add_noise(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t = alpha_t x0 + sigma_t noise, at one step t or at (b,) steps."""
        return self.schedule.add_noise(x0, noise, t)

    def predict(self, x_t: Tensor, t: int | Tensor, condition: Condition) -> Prediction:
        """What the prior makes of x_t.

        Args:
            x_t: noisy latents: (b, c, h, w), or clips (b, c, f, h, w).
            t: one step, or (b,) steps in [0, num_train_timesteps).
            condition: one row, or b; of clips also one for each frame, those of one clip side by side.
        """
        return self.schedule.prediction(self.network(x_t, t, condition), x_t, t)

    def network_cfg(
        self,
        x_t: Tensor,
        t: int | Tensor,
        condition: Condition,
        unconditional: Condition,
        scale: float | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Guided output uncond + scale (cond - uncond) and conditional output, from one call of the network.

        What the unconditional row is not told but the conditional one is (a view, a map), both hear.
        """
        rows = max(len(x_t), len(condition))
        told = condition.expand(rows)
        both = Condition.cat([unconditional.expand(rows).told_also(told), told])
        twice = torch.as_tensor(t, device=x_t.device).expand(len(x_t)).repeat(2)  # (2b,)
        output = self.network(torch.cat([x_t, x_t]), twice, both)  # (2b, c, ...)
        without, with_text = output.chunk(2)
        return without + scale * (with_text - without), with_text

    def predict_cfg(
        self,
        x_t: Tensor,
        t: int | Tensor,
        condition: Condition,
        unconditional: Condition,
        scale: float | Tensor,
        rescale: float = 0.0,
        rescale_on: Literal["output", "x0"] = "output",
    ) -> Prediction:
        """What the prior makes of x_t under classifier-free guidance, uncond + scale (cond - uncond).

        Args:
            scale: one number, or a tensor that broadcasts against x_t; 1 is the plain conditional prediction.
            rescale: how much of the guided contrast is pulled back to the conditional one (2305.08891 s3.4),
                in [0, 1].
            rescale_on: the network's output, as in the paper and in diffusers, or x0 (as MVDream does), which
                does not depend on what the network predicts.
        """
        guided, with_text = self.network_cfg(x_t, t, condition, unconditional, scale)
        if rescale and rescale_on == "output":
            guided = rescale_contrast(guided, with_text, rescale)
        prediction = self.schedule.prediction(guided, x_t, t)
        if rescale and rescale_on == "x0":
            target = self.schedule.prediction(with_text, x_t, t).x0
            x0 = rescale_contrast(prediction.x0, target, rescale)
            return self.schedule.prediction(x0, x_t, t, kind="sample")
        return prediction


class LatentPrior(Prior):
    """A network that denoises in the latent space of an autoencoder.

    What is told goes one way for all of them: the condition's rows become `Inputs`, adapters change these, and the
    network answers. A clip is its frames, side by side; a lifted prior folds them to clips again for its network.

    Args:
        vae: the autoencoder.
        scheduler_config: content of `scheduler/scheduler_config.json`.
        sample_size: height and width of the latents, or both.
    """

    def __init__(self, vae: AutoencoderKL, scheduler_config: dict[str, Any], sample_size: int | tuple[int, int]):
        self.vae = vae
        self._vae_config: Any = vae.config
        self.scheduler_config = scheduler_config
        self.schedule = NoiseSchedule.from_config(scheduler_config)
        self.latent_size = sample_size if isinstance(sample_size, int) else max(sample_size)
        self.latent_channels = self._vae_config.latent_channels
        self.vae_scale_factor = 2 ** (len(self._vae_config.block_out_channels) - 1)

    @property
    @abstractmethod
    def denoiser(self) -> torch.nn.Module:
        """The network that adapters may change."""

    @abstractmethod
    def with_denoiser(self, denoiser: torch.nn.Module) -> Self:
        """The same prior with another network of the same kind; everything else is shared."""

    @abstractmethod
    def answer(self, inputs: Inputs) -> Tensor:
        """The network's own output for rows (r, c, h, w)."""

    def with_adapters(self, *adapters: Adapter) -> Self:
        changing = [adapter for adapter in adapters if isinstance(adapter, Changing)]
        adapted = copy.copy(self)
        if changing:
            network = copy_of(self.denoiser)
            for adapter in changing:
                adapter.change(network)
            adapted = self.with_denoiser(network.requires_grad_(False).eval())
        for adapter in adapters:
            if isinstance(adapter, torch.nn.Module):
                adapter.to(self.device, self.dtype).requires_grad_(False).eval()
        adapted.adapters = (*self.adapters, *adapters)
        return adapted

    def inputs(self, rows: Tensor, t: Tensor, condition: Condition, frames: int) -> Inputs:
        """What the network is given before any adapter: rows (r, c, h, w) at t (r,) with r rows of a condition."""
        if condition.camera is not None:
            raise InputError("this model has no camera token: describe the view in the prompt, or use one that has")
        return Inputs(rows, t, condition.tokens, condition.mask, condition.pooled, condition.sizes, condition.channels,
                      frames)  # fmt: skip

    def network(self, x_t: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        frames = x_t.shape[2] if x_t.ndim == 5 else 1
        rows = as_rows(x_t) if x_t.ndim == 5 else x_t
        told = condition.of_frames(len(x_t), frames).to(self.device, self.dtype)
        steps = torch.as_tensor(t, device=self.device).expand(len(x_t)).repeat_interleave(frames)  # (r,)
        inputs = self.inputs(rows.to(self.device, self.dtype), steps, told, frames)
        for adapter in self.adapters:
            inputs = adapter(inputs, told)
        output = self.answer(inputs).to(x_t)
        return as_clips(output, frames) if x_t.ndim == 5 else output

    def encode_images(self, images: Tensor, generator: Generators | None = None) -> Tensor:
        pixels = (2 * images - 1).to(self.device, self.vae.dtype)  # (b, 3, H, W) in [-1, 1]
        posterior = self.vae.encode(pixels).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        latents = posterior.mean  # (b, c, h, w)
        if generator is not None:
            noise = randn_tensor(latents.shape, generator, latents.device, latents.dtype)
            latents = latents + posterior.std * noise
        shift, scale = self._latent_statistics(latents)
        return ((latents - shift) * scale).to(images.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        values = latents.to(self.device, self.vae.dtype)
        shift, scale = self._latent_statistics(values)
        encoded: Any = values / scale + shift  # (b, c, h, w)
        pixels = self.vae.decode(encoded, return_dict=False)[0]  # (b, 3, H, W) in about [-1, 1]
        return (pixels / 2 + 0.5).clamp(0, 1).to(latents.dtype)

    def _latent_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale, each (1, c or 1, 1, 1): latents = (encoder output - shift) * scale."""
        config = self._vae_config
        mean = getattr(config, "latents_mean", None) or [getattr(config, "shift_factor", None) or 0.0]
        deviation = getattr(config, "latents_std", None) or [1.0]
        scale = [config.scaling_factor / value for value in deviation]
        return like.new_tensor(mean).view(1, -1, 1, 1), like.new_tensor(scale).view(1, -1, 1, 1)


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
    """

    def __init__(
        self,
        family: Family,
        vae: AutoencoderKL,
        scheduler_config: dict[str, Any],
        camera_token: CameraToken | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        world: str | None = None,
    ):
        super().__init__(vae, scheduler_config, family.denoiser.config.sample_size)
        self.family = family
        self.camera_token, self.image_encoder = camera_token, image_encoder
        self.has_camera_token, self.world = camera_token is not None, world
        self._cache: dict[str, Condition] = {}
        self._check()
        for module in self.named_models().values():
            module.requires_grad_(False).eval()
        self._note_place()

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
    ) -> "Backbone":
        """Load a bundled model, a diffusers folder, or a hub id that is in the local cache; never from the
        network.

        Args:
            device: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`.
            dtype: number format of the computation; float32 if not given, whatever the files hold.

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
        )
        return backbone.to(device)

    def to(self, device: torch.device) -> "Backbone":
        """Move everything to a device; the backbone itself, for chaining."""
        for module in self.named_models().values():
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
        side: Any = self.image_encoder.config.image_size
        pixels = F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        pixels = ((pixels.clamp(0, 1) - mean) / std).to(self.device, self.image_encoder.dtype)
        return self.image_encoder(pixels).image_embeds.to(images.dtype)  # (b, e)

    @property
    def denoiser(self) -> torch.nn.Module:
        return self.family.denoiser

    def with_denoiser(self, denoiser: torch.nn.Module) -> "Backbone":
        other = copy.copy(self)
        other.family = self.family.with_denoiser(denoiser)
        return other

    def inputs(self, rows: Tensor, t: Tensor, condition: Condition, frames: int) -> Inputs:
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

    def _check(self) -> None:
        """Refuse checkpoints that would run and mean something else."""
        inputs, latents = self.family.denoiser.config.in_channels, self.latent_channels
        if inputs != latents:
            raise InputError(
                f"the denoiser takes {inputs} channels and the autoencoder makes {latents}: "
                "inpainting and upscaling checkpoints are not text-to-image models"
            )
        if getattr(self.family.denoiser.config, "time_cond_proj_dim", None):
            raise InputError("this is a latent consistency model, which takes its guidance scale as an input")


def rescale_contrast(guided: Tensor, with_text: Tensor, amount: float) -> Tensor:
    """Pull the standard deviation of each guided sample towards that of the conditional one (2305.08891
    s3.4).
    """
    axes = tuple(range(1, guided.ndim))
    factor = with_text.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)  # (b, 1, 1, 1)
    return amount * guided * factor + (1 - amount) * guided


def _vae_dtype(folder: Path, family: Family, dtype: torch.dtype) -> torch.dtype:
    """float16 overflows in the autoencoder of SDXL, unless its config says otherwise; it then stays in float32."""
    force_upcast = read_json(folder / "vae" / "config.json").get("force_upcast", family.vae_overflows)
    return torch.float32 if dtype == torch.float16 and force_upcast else dtype


def world_of(folder: Path) -> str | None:
    """The made-up world that a model's own `liftkit.json` says it was trained on; None where nothing is said."""
    path = folder / OURS
    return read_json(path).get("world") if path.is_file() else None
