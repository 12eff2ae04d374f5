"""The contract of a prior, and the one way by which what it is told reaches its network."""

import copy
from abc import ABC, abstractmethod
from typing import Any, Literal, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from core2d.app.errors import InputError
from core2d.files.loading import quiet_libraries
from core2d.prior.condition import Adapter, Changing, Condition, Inputs, copy_of
from core2d.prior.rows import as_clips, as_rows
from core2d.prior.schedule import NoiseSchedule, Prediction

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
                with quiet_libraries():
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


def rescale_contrast(guided: Tensor, with_text: Tensor, amount: float) -> Tensor:
    """Pull the standard deviation of each guided sample towards that of the conditional one (2305.08891
    s3.4).
    """
    axes = tuple(range(1, guided.ndim))
    factor = with_text.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)  # (b, 1, 1, 1)
    return amount * guided * factor + (1 - amount) * guided
