"""One seam: an adapter of 30 lines is heard in pictures, in clips and in score distillation, and at zero by none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.guidance import PerpNegDistillation, ScoreDistillation, ScoreDistillationConfig
from core2d.prior.backbone import Backbone
from core2d.prior.base import Prior
from core2d.prior.cameras import Cameras, orbit
from core2d.prior.condition import Adapter, Condition, Inputs
from core2d.prior.oracle import OracleBackbone
from core2d.systems.text_to_image.pipeline import TextToImage
from genvideo.animatediff.motion import MotionBackbone
from genvideo.animatediff.pipeline import AnimateDiff

MAP = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class ToyControlNet(nn.Module):
    """A map, seen through one convolution for each skip connection of a UNet, added to it (2302.05543)."""

    def __init__(self, unet: Any, weight: float) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int]] = []  # channels and side of each skip connection, and of the middle
        widths, side = list(unet.config.block_out_channels), unet.config.sample_size
        self.shapes.append((widths[0], side))
        for level, width in enumerate(widths):
            self.shapes += [(width, side)] * unet.config.layers_per_block
            if level < len(widths) - 1:
                side //= 2
                self.shapes.append((width, side))
        self.shapes.append((widths[-1], side))
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.layers = nn.ModuleList(nn.Conv2d(3, width, 1, bias=False) for width, _ in self.shapes)
            for kernel in self.layers.parameters():
                nn.init.normal_(kernel, std=weight)

    def forward(self, inputs: Inputs, condition: Condition) -> Inputs:
        seen = condition.extra["toy"].to(inputs.x_t)  # (r, 3, H, W)
        *skips, middle = (
            layer(nn.functional.adaptive_avg_pool2d(seen, side))
            for layer, (_, side) in zip(self.layers, self.shapes, strict=True)
        )
        return inputs.with_residuals(tuple(skips), middle)


def picture(prior: Backbone, *adapters: Adapter, **told: Any) -> Tensor:
    pipeline = TextToImage(prior).with_adapters(*adapters)
    return pipeline("a red mug", seed=1, num_inference_steps=3, output_type="pt", **told).images


def clip(prior: Backbone, motion: MotionAdapter, *adapters: Adapter, **told: Any) -> Tensor:
    pipeline = AnimateDiff(MotionBackbone(prior, motion)).with_adapters(*adapters)
    return pipeline("a red mug", seed=1, num_frames=5, window=4, num_inference_steps=3, **told).frames


def gradient(prior: Prior, kind: type[ScoreDistillation] = ScoreDistillation, **told: Any) -> Tensor:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    config = ScoreDistillationConfig(guidance_scale=4.0)
    loss, _ = kind(prior, config, **told)(images, "a red mug", orbit([0.1, 2.0], 0.3, 2.0), 7)
    return torch.autograd.grad(loss, images)[0]


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_one_control_net_is_heard_everywhere_and_at_zero_by_none(
    flat: Backbone, motion: MotionAdapter, weight: float
) -> None:
    before = picture(flat), clip(flat, motion), gradient(flat), gradient(flat, PerpNegDistillation)
    control = ToyControlNet(flat.family.denoiser, weight)
    controlled = flat.with_adapters(control)
    assert flat.adapters == () and len(controlled.adapters) == 1

    def tell(condition: Condition, images: Tensor, cameras: Cameras | None) -> Condition:
        assert images.shape == (2, 3, 16, 16) and not images.requires_grad
        assert cameras is not None and len(cameras) == 2
        return condition.telling(toy=MAP)

    distilled = gradient(controlled, tell=tell), gradient(controlled, PerpNegDistillation, tell=tell)
    shown = {"telling": {"toy": MAP}}
    after = picture(flat, control, **shown), clip(flat, motion, control, **shown), *distilled
    for name, one, other in zip(("picture", "clip", "gradient", "perp-neg"), before, after, strict=True):
        changed = (one - other).abs().max().item()
        assert changed > 1e-4 if weight else torch.equal(one, other), name
    inherited = clip(controlled, motion, **shown)  # a lifted prior keeps the adapters of the flat one
    assert torch.equal(inherited, after[1])
    each_frame = clip(flat, motion, control, telling={"toy": MAP.expand(5, -1, -1, -1)})
    assert torch.equal(each_frame, after[1])
    assert torch.equal(picture(flat), before[0])  # the prior that was adapted is as it was


def test_frames_of_a_clip_may_be_told_different_things(flat: Backbone, motion: MotionAdapter) -> None:
    """Without layers over time a frame with another map is another frame, and the others stay as they are."""
    adapted = flat.with_adapters(ToyControlNet(flat.family.denoiser, 0.5))
    clips = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    maps = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    condition = flat.encode_text(["a red mug", "a car"]).repeat_interleave(3).telling(toy=maps)
    one = adapted.network(clips, 500, condition)
    maps = maps.clone()
    maps[4] = 0  # the middle frame of the second clip
    other = adapted.network(clips, 500, replace(condition, extra={"toy": maps}))
    changed = (one - other).abs().amax(dim=(1, 3, 4)) > 0
    assert changed.tolist() == [[False] * 3, [False, True, False]]


class Louder(nn.Module):
    """An adapter that puts another layer into the network: its first convolution, twice as strong."""

    def forward(self, inputs: Inputs, condition: Condition) -> Inputs:
        return inputs

    def change(self, network: nn.Module) -> None:
        inner = network.get_submodule("conv_in")
        network.register_module("conv_in", nn.Sequential(inner, Twice()))


class Twice(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return 2 * values


def test_layers_are_changed_in_a_copy_that_shares_its_tensors(flat: Backbone, motion: MotionAdapter) -> None:
    x_t, condition = torch.randn(2, 4, 8, 8), flat.encode_text(["a red mug"])
    lifted = MotionBackbone(flat, motion)
    for prior, noisy in ((flat, x_t), (lifted, x_t[:, :, None].expand(-1, -1, 3, -1, -1))):
        before, modules = prior.network(noisy, 500, condition), dict(prior.denoiser.named_modules())
        louder = prior.with_adapters(Louder())
        assert (louder.network(noisy, 500, condition) - before).abs().max() > 1e-3
        assert torch.equal(prior.network(noisy, 500, condition), before)
        assert dict(prior.denoiser.named_modules()) == modules
        own = {tensor.data_ptr() for tensor in prior.denoiser.state_dict().values()}
        assert {tensor.data_ptr() for tensor in louder.denoiser.state_dict().values()} == own


def test_adapters_are_applied_in_order_and_their_residuals_add_up(flat: Backbone) -> None:
    first, second = ToyControlNet(flat.family.denoiser, 0.5), ToyControlNet(flat.family.denoiser, 0.3)
    x_t, condition = torch.randn(2, 4, 8, 8), flat.encode_text(["a red mug"]).telling(toy=MAP)
    both = flat.with_adapters(first).with_adapters(second)
    assert both.adapters == (first, second)
    inputs = first(flat.inputs(x_t, torch.tensor([5, 5]), condition.expand(2), 1), condition.expand(2))
    summed = second(inputs, condition.expand(2))
    torch.testing.assert_close(summed.middle, inputs.middle + second(replace(inputs, skips=(), middle=None),
                                                                     condition.expand(2)).middle)  # fmt: skip
    assert torch.equal(both.network(x_t, 5, condition), both.answer(summed))


def test_what_cannot_be_adapted_says_so(tiny_folder: Callable[..., Path], flat: Backbone) -> None:
    with pytest.raises(InputError, match="no network for adapters"):
        OracleBackbone(torch.zeros(2, 4, 8, 8)).with_adapters(Louder())
    pixart = Backbone.load(tiny_folder("pixart"))
    adapted = pixart.with_adapters(ToyControlNet(flat.family.denoiser, 0.5))
    with pytest.raises(InputError, match="PixArt is a transformer"):
        adapted.network(torch.zeros(1, 4, 8, 8), 5, pixart.encode_text(["a mug"]).telling(toy=MAP))
    with pytest.raises(InputError, match="told of 2 images where 1 are drawn"):
        picture(flat, telling={"toy": MAP.expand(2, -1, -1, -1)})
    with pytest.raises(ValueError, match="differ in what they are told: toy"):
        Condition.cat([flat.encode_text(["a mug"]), flat.encode_text(["a mug"]).telling(toy=MAP)])
