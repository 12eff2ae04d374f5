"""ControlNet (Zhang et al. 2023, 2302.05543): a copy of a UNet's encoder that sees a map and tells the UNet of it.

    network = read_controlnet("control_v11f1p_sd15_depth.pth")  # core2d.adapters.controlnet_files
    prior = prior.with_adapters(ControlNet(network, "depth", weight=0.8))  # several: one after the other
    condition = prior.encode_text(["a red mug"]).telling(depth=map)  # (1, 3, H, W), or one for each sample or frame

The class is that of diffusers. Here it is an adapter, so that it is heard in pictures, clips and score distillation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.prior.base import LatentPrior
from core2d.prior.condition import Condition, Inputs

PUBLISHED_HINTS = (16, 32, 96, 256)  # channels of the encoder of maps where latents are 8 times smaller
SAME = ("block_out_channels", "layers_per_block", "cross_attention_dim")  # as in its UNet
UNTOLD = math.nan  # all over a map: a row that is told it hears nothing of the ControlNet
STRONGEST = 10.0  # that a ControlNet counts; beyond 2 or so pictures fall apart


class ControlNet(nn.Module):
    """A ControlNet as an adapter of a prior (`core2d.prior.condition.Adapter`).

    It reads the prompt's tokens, and no others. The camera token and image tokens stand after them in what the UNet
    reads; no ControlNet was trained with these, published ones least of all, and where things are its map says.

    Args:
        model: frozen, but for a training.
        name: what its map is called in `Condition.extra`: (r, 3, H, W) in [0, 1], as large as the picture.
        weight: how much it counts: of what it adds to the skip connections and the middle.
        start, end: shares of the denoising between which it is heard, from 0 (noise) to 1 (picture). They are told by
            the noise level alone, so that score distillation knows them too; on the steps of a sampler with even
            spacing they are those of diffusers' `control_guidance_start` and `_end`.
        num_train_timesteps: noise levels of the prior.
        guess: the map alone is to say what is drawn ("non-prompt mode", guess mode of the authors): the finer a skip
            connection, the less is added to it, from a tenth to all in even steps of the logarithm. The row without
            words is then to be told nothing, see `UNTOLD`.

    Raises:
        InputError: numbers that are out of their range.
    """

    def __init__(
        self,
        model: ControlNetModel,
        name: str = "control",
        weight: float = 1.0,
        start: float = 0.0,
        end: float = 1.0,
        num_train_timesteps: int = 1000,
        guess: bool = False,
    ) -> None:
        super().__init__()
        if not (math.isfinite(weight) and abs(weight) <= STRONGEST):
            raise InputError(f"a ControlNet cannot count {weight}: give a number such as 0.8, up to {STRONGEST:g}")
        if not 0 <= start < end <= 1:
            raise InputError(f"a ControlNet cannot be heard from {start} to {end}: give shares, 0 <= start < end <= 1")
        self.model, self.name, self.weight, self.guess = model, name, weight, guess
        self.levels = (round((1 - end) * num_train_timesteps), round((1 - start) * num_train_timesteps))

    def forward(self, inputs: Inputs, condition: Condition) -> Inputs:
        """What the UNet is given, with what the map adds; as it was at noise levels where the map is not heard.

        Raises:
            InputError: no map is told, or one of another size than the picture.
        """
        seen = self._seen(inputs, condition)  # (r, 3, H, W)
        low, high = self.levels
        heard = (inputs.t + 1 > low) & (inputs.t + 1 <= high) & ~seen.isnan().flatten(1).any(1)  # (r,)
        if not (self.weight and heard.any()):
            return inputs
        seen = seen.nan_to_num()
        skips, middle = self.model(
            inputs.x_t, inputs.t, condition.tokens, seen, added_cond_kwargs=_added(inputs, seen), return_dict=False
        )
        if self.guess and not self.model.config.get("global_pool_conditions"):
            shares = torch.logspace(-1, 0, len(skips) + 1).tolist()
            skips = [share * skip for share, skip in zip(shares[:-1], skips, strict=True)]
        weight = (self.weight * heard).to(inputs.x_t)[:, None, None, None]  # (r, 1, 1, 1)
        return inputs.with_residuals(tuple(weight * skip for skip in skips), weight * middle)

    def _seen(self, inputs: Inputs, condition: Condition) -> Tensor:
        told = condition.extra.get(self.name)
        if told is None:
            raise InputError(f"a ControlNet is told no map: tell it one, such as telling={{{self.name!r}: map}}")
        factor = 2 ** (len(self.model.config["conditioning_embedding_out_channels"]) - 1)
        height, width = (factor * side for side in inputs.x_t.shape[-2:])
        if told.shape[-2:] != (height, width):
            has = f"{told.shape[-1]} x {told.shape[-2]}"
            raise InputError(f"the {self.name} map has {has} pixels and its picture {width} x {height}: give one of "
                             "the same size")  # fmt: skip
        return told.to(inputs.x_t)

    def check_fit(self, prior: LatentPrior) -> None:
        """InputError if it was made for another model than this."""
        has, wants = self.model.config, getattr(prior.denoiser, "config", {})
        if "block_out_channels" not in wants:
            raise InputError("a ControlNet adds to the skip connections of a UNet, and this model is a transformer")
        for name in SAME:
            ours, theirs = (_plain(config[name]) for config in (has, wants))
            if ours != theirs:
                raise InputError(f"this ControlNet is of another model: its {name} is {ours}, and that of the model "
                                 f"{theirs}")  # fmt: skip
        if has["in_channels"] != prior.latent_channels:
            raise InputError(f"this ControlNet is of another model: it reads latents of {has['in_channels']} channels, "
                             f"and this one has {prior.latent_channels}")  # fmt: skip
        factor = 2 ** (len(has["conditioning_embedding_out_channels"]) - 1)
        if factor != prior.vae_scale_factor:
            raise InputError(f"this ControlNet is of another model: it makes maps {factor} times smaller, and latents "
                             f"of this one are {prior.vae_scale_factor} times smaller")  # fmt: skip


def fresh_controlnet(prior: LatentPrior) -> ControlNetModel:
    """A ControlNet to train: a copy of the UNet's encoder, joined by convolutions that are zero (section 3.1).

    It changes nothing yet. Its encoder of maps has as many strides as the autoencoder.

    Raises:
        InputError: the prior's network is no UNet.
    """
    unet = prior.denoiser
    if not isinstance(unet, UNet2DConditionModel):
        raise InputError(f"a ControlNet begins as the copy of a UNet, and this model is a {type(unet).__name__}")
    hints = hint_channels(prior.vae_scale_factor, unet.config["block_out_channels"][0])
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hints).float()


def hint_channels(factor: int, width: int) -> tuple[int, ...]:
    """Channels of the encoder of maps: one stride of two between neighbours, so one more than strides.

    Those of the paper (section 3.2) for latents 8 times smaller, one more at the front for each stride beyond; none is
    wider than the layer that the last leads to.

    Args:
        factor: pixels to one latent, a power of two.
        width: of the first layer of the UNet.
    """
    entries = factor.bit_length()  # 8 -> 4, 16 -> 5
    published = (PUBLISHED_HINTS[0],) * max(0, entries - len(PUBLISHED_HINTS)) + PUBLISHED_HINTS
    return tuple(min(channels, width) for channels in published[-entries:])


def _added(inputs: Inputs, seen: Tensor) -> dict[str, Tensor] | None:
    """What SDXL's networks are told beside tokens: the pooled prompt and sizes (2307.01952), those drawn if untold."""
    if inputs.pooled is None:
        return None
    height, width = seen.shape[-2:]
    drawn = inputs.x_t.new_tensor([[height, width, 0, 0, height, width]]).expand(len(inputs.x_t), 6)
    return {"text_embeds": inputs.pooled, "time_ids": drawn if inputs.sizes is None else inputs.sizes}


def _plain(value: Any) -> Any:
    """One number for a setting that is the same in every block."""
    if isinstance(value, list | tuple):
        return value[0] if len(set(value)) == 1 else list(value)
    return value
