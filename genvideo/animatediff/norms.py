"""What the norms of an inflated UNet see: one frame, or all frames of a clip together.

diffusers lets the norm of a motion module see the clip and those of the UNet's residual blocks one frame. The authors'
code does the opposite in the first, and in its first version (v1 checkpoints) in the second too. Modules are worth most
under the norms that they were trained with.
"""

from __future__ import annotations

from typing import TypeVar, cast

from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, UNetMotionModel
from torch import Tensor, nn

from genvideo.animatediff.formats import Norms

Norm = TypeVar("Norm", bound=nn.GroupNorm)
Model = TypeVar("Model", bound=nn.Module)


class FrameNorm(nn.GroupNorm):
    """A group norm of clips (b, c, f, h, w) that sees one frame at a time."""

    def forward(self, input: Tensor) -> Tensor:
        frames = input.shape[2]
        rows = super().forward(input.transpose(1, 2).flatten(0, 1))  # (b f, c, h, w)
        return rows.unflatten(0, (-1, frames)).transpose(1, 2)


class ClipNorm(nn.GroupNorm):
    """A group norm of frames (b f, c, h, w) that sees the f frames of a clip together; `frames` is set before."""

    frames = 1

    def forward(self, input: Tensor) -> Tensor:
        clips = input.unflatten(0, (-1, self.frames)).transpose(1, 2)  # (b, c, f, h, w)
        return super().forward(clips).transpose(1, 2).flatten(0, 1)


def set_norms(unet: UNetMotionModel, norms: Norms) -> None:
    """Put the norms into an inflated UNet of diffusers, in place; some must be told the number of frames after it."""
    if norms.motion == "frame":
        see_frames(unet)
    if norms.residual == "frame":
        return
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.norm1 = _as(ClipNorm, cast(nn.GroupNorm, module.norm1))
            module.norm2 = _as(ClipNorm, cast(nn.GroupNorm, module.norm2))
    unet.conv_norm_out = _as(ClipNorm, cast(nn.GroupNorm, unet.conv_norm_out))


def tell_frames(unet: nn.Module, frames: int) -> None:
    """Say of how many frames clips are to all norms that must be told."""
    for module in unet.modules():
        if isinstance(module, ClipNorm):
            module.frames = frames


def norms_of(model: nn.Module) -> Norms:
    """What the norms of motion modules see in it."""
    return Norms("frame" if any(isinstance(module, FrameNorm) for module in model.modules()) else "clip")


def see_frames(model: Model) -> Model:
    """Let the norms of motion modules see one frame at a time, in place; the same model."""
    for module in model.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm = _as(FrameNorm, module.norm)
    return model


def _as(kind: type[Norm], norm: nn.GroupNorm) -> Norm:
    """The same norm, of another kind."""
    other = kind(norm.num_groups, norm.num_channels, norm.eps)
    other.load_state_dict(norm.state_dict())
    return other.to(norm.weight)
