"""Temporal layers for a 2D UNet: the motion modules of AnimateDiff (Guo et al. 2023, 2307.04725, section 4.2).

    motion = fresh_motion(backbone.family.denoiser)  # adds nothing yet: frames are what the 2D prior draws
    lifted = MotionBackbone(backbone, motion)
    lifted.predict(x_t, t, condition)  # clips (b, c, f, h, w)

After every pair of residual block and attention of the UNet stands a small transformer over time: each position of the
latent attends to itself in all frames. What it adds is zero until it has learned something. The classes are those of
diffusers, whose fresh modules are not zero.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, MotionAdapter, UNetMotionModel
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.app.registry import resolve
from core2d.files.loading import load_model, quiet_libraries, read_json
from core2d.prior.backbone import Backbone
from core2d.prior.base import LatentPrior
from core2d.prior.condition import Condition, Inputs
from core2d.prior.families import StableDiffusion
from core2d.prior.rows import as_clips, as_rows
from core2d.prior.schedule import NoiseSchedule
from genvideo.animatediff.formats import Norms
from genvideo.animatediff.norms import set_norms, tell_frames

WINDOW = 32  # frames that the positional encoding of published modules knows (v2, v3)
IN_MOTION = "motion_modules"  # what the names of temporal weights hold


def fresh_motion(
    unet: UNet2DConditionModel, heads: int = 8, window: int = WINDOW, mid_block: bool = True
) -> MotionAdapter:
    """Motion modules that fit a UNet and change nothing: their last layer is zero.

    Args:
        unet: of the 2D prior.
        heads: of the attention over time, in every block.
        window: the most frames that they can tell apart.
        mid_block: one more module in the middle, as the second version of the paper's models has (21 instead of 20).
    """
    config: Any = unet.config
    motion = MotionAdapter(
        block_out_channels=tuple(config.block_out_channels),
        motion_layers_per_block=config.layers_per_block,
        motion_num_attention_heads=heads,
        motion_norm_num_groups=config.norm_num_groups,
        motion_max_seq_length=window,
        use_motion_mid_block=mid_block,
    )
    for module in motion.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    return motion


def inflate(unet: UNet2DConditionModel, motion: MotionAdapter) -> UNetMotionModel:
    """A copy of a UNet with motion modules in it, which takes clips (b, c, f, h, w).

    Raises:
        InputError: the modules were made for a UNet of another shape, or for one that takes a picture beside the noise.
    """
    if motion.config.get("conv_in_channels"):
        raise InputError("these motion modules take a picture beside the noise (PIA): they are not supported")
    has, wants = tuple(unet.config["block_out_channels"]), tuple(motion.config["block_out_channels"])
    if has != wants:
        raise InputError(f"the motion modules are made for a UNet with blocks of {wants} channels, not of {has}")
    try:
        with quiet_libraries():
            inflated: Any = UNetMotionModel.from_unet2d(unet, motion)  # on the CPU, wherever the UNet is
            inflated.set_attn_processor({**inflated.attn_processors, **unet.attn_processors})  # those of adapters, too
            return inflated.to(unet.device, unet.dtype)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the motion modules do not fit the UNet: {str(error).splitlines()[0]}") from error


def deflate(unet: UNetMotionModel, motion: MotionAdapter) -> MotionAdapter:
    """Put the temporal weights of an inflated UNet back into `motion`, and return it: what is saved of a training."""
    state = {name: value for name, value in unet.state_dict().items() if IN_MOTION in name}
    motion.load_state_dict(state)
    return motion


def temporal_parameters(unet: UNetMotionModel) -> dict[str, nn.Parameter]:
    """The parameters of the motion modules, under their names in the inflated UNet."""
    return {name: parameter for name, parameter in unet.named_parameters() if IN_MOTION in name}


def mixed_noise(own: Tensor, common: Tensor, share: float) -> Tensor:
    """Noise of clips (b, c, f, h, w) of which frames have a part in common (PYoCo, 2305.10474, section 4.2).

    A 2D prior draws alike from noise that is alike: temporal layers that learn from such noise have to move a picture,
    not to find one that all frames agree on.

    Args:
        own: (b, c, f, h, w) standard normal.
        common: (b, c, 1, h, w) standard normal.
        share: of the variance, in [0, 1], that is common.
    """
    return share**0.5 * common + (1 - share) ** 0.5 * own


def read_vae(name_or_folder: str | Path, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """A bundled autoencoder, a folder of diffusers, or that of a whole model; InputError where there is none."""
    folder = resolve(name_or_folder)
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    found = read_json(folder / "config.json").get("_class_name", "a model without a name")
    if found != "AutoencoderKL":
        raise InputError(f"{folder} holds {found}, not an AutoencoderKL")
    return load_model(AutoencoderKL, folder, dtype)


class MotionBackbone(LatentPrior):
    """A 2D backbone lifted into time. It takes clips (b, c, f, h, w) where a 2D one takes pictures (b, c, h, w).

    What the 2D prior is told and how adapters change it is the same for the frames of clips, which they see side by
    side; only the network is another, with layers over time. Adapters of the 2D prior stay on.

    Args:
        flat: the 2D prior, of the SD 1.x family.
        motion: modules that fit its UNet.
        norms: what the norms see, where it is not what diffusers does.

    Raises:
        InputError: another family, or modules that do not fit.
    """

    has_camera_token = False

    def __init__(self, flat: Backbone, motion: MotionAdapter, norms: Norms | None = None):
        if not isinstance(flat.family, StableDiffusion):
            raise InputError(f"motion modules are for Stable Diffusion 1.x, not for {flat.family.pipeline_name}")
        super().__init__(flat.vae, flat.scheduler_config, flat.latent_size)
        self.flat, self.motion, self.adapters, self.world = flat, motion, flat.adapters, flat.world
        self.unet = inflate(flat.family.denoiser, motion)
        set_norms(self.unet, norms or Norms())
        self.unet.requires_grad_(False).eval()
        self.device, self.dtype = flat.device, flat.dtype

    @property
    def window(self) -> int:
        """The most frames that its modules can tell apart."""
        return self.motion.config["motion_max_seq_length"]

    def use_schedule(self, config: dict[str, Any]) -> None:
        """Take another noise schedule than that of the 2D prior: published modules were trained on their own."""
        self.scheduler_config, self.schedule = config, NoiseSchedule.from_config(config)

    def use_vae(self, vae: AutoencoderKL) -> None:
        """Take another autoencoder for the same latents; InputError if its latents are others."""
        ours, theirs = (
            (one.config["latent_channels"], len(one.config["block_out_channels"]), one.config["scaling_factor"])
            for one in (self.vae, vae)
        )
        if ours != theirs:
            what = "channels, levels and scale"
            raise InputError(f"this autoencoder has other latents ({what} {theirs}) than the model's ({ours})")
        self.vae = vae.requires_grad_(False).eval().to(self.vae.device)
        self._vae_config = vae.config

    def encode_text(self, prompts: list[str]) -> Condition:
        return self.flat.encode_text(prompts)

    @property
    def denoiser(self) -> nn.Module:
        return self.unet

    def with_denoiser(self, denoiser: nn.Module) -> MotionBackbone:
        other = copy.copy(self)
        other.unet = denoiser  # pyright: ignore[reportAttributeAccessIssue]
        return other

    def inputs(self, rows: Tensor, t: Tensor, condition: Condition, frames: int) -> Inputs:
        if condition.camera is not None:
            raise InputError("clips are asked for in words: say how the camera moves in the prompt")
        if not 1 <= frames <= self.window:
            raise ValueError(f"clips of {frames} frames: these motion modules know up to {self.window}")
        return super().inputs(rows, t, condition, frames)

    def answer(self, inputs: Inputs) -> Tensor:
        tell_frames(self.unet, inputs.frames)
        clips, steps = as_clips(inputs.sample, inputs.frames), inputs.t[:: inputs.frames]
        output = self.unet(clips, steps, encoder_hidden_states=inputs.tokens, return_dict=False, **inputs.residuals())[
            0
        ]  # (b, c, f, h, w)
        return as_rows(output)

    def encode_clips(self, clips: Tensor, at_once: int = 16) -> Tensor:
        """(b, 3, f, H, W) in [0, 1] -> latents (b, c, f, h, w), each frame by itself, so many at a time."""
        rows = torch.cat([self.encode_images(part) for part in as_rows(clips).split(at_once)])
        return as_clips(rows, clips.shape[2])

    def decode_clips(self, latents: Tensor, at_once: int = 16) -> Tensor:
        """(b, c, f, h, w) -> (b, 3, f, H, W) in [0, 1], so many frames at a time."""
        rows = torch.cat([self.decode(part) for part in as_rows(latents).split(at_once)])
        return as_clips(rows, latents.shape[2])
