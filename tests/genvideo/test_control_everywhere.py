"""A ControlNet is told the same way in pictures, in clips and in score distillation; and by `--control` of clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_motion_model import MotionAdapter
from PIL import Image
from torch import Tensor

from core2d.adapters.controlnet import fresh_controlnet
from core2d.adapters.controlnet_files import write_controlnet
from core2d.guidance import PerpNegDistillation, ScoreDistillation, ScoreDistillationConfig
from core2d.prior.backbone import Backbone
from core2d.prior.cameras import Cameras, orbit
from core2d.prior.condition import Condition
from core2d.systems.control.pipeline import Control, controlled
from core2d.systems.text_to_image.pipeline import TextToImage
from genvideo.__main__ import main
from genvideo.animatediff.motion import MotionBackbone
from genvideo.animatediff.pipeline import AnimateDiff

MAPS = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(flat: Backbone) -> ControlNetModel:
    """One that says something: none of its convolutions is zero."""
    model, generator = fresh_controlnet(flat), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("controlnet_"):
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return model.requires_grad_(False).eval()


def picture(prior: Backbone, *controls: Control) -> Tensor:
    pipeline, telling = controlled(TextToImage(prior), controls)
    return pipeline("a red mug", seed=1, num_inference_steps=3, output_type="pt", telling=telling).images


def clip(prior: Backbone, motion: MotionAdapter, *controls: Control) -> Tensor:
    pipeline, telling = controlled(AnimateDiff(MotionBackbone(prior, motion)), controls)
    return pipeline("a red mug", seed=1, num_frames=5, window=4, num_inference_steps=3, telling=telling).frames


def gradient(prior: Backbone, kind: type[ScoreDistillation], *controls: Control) -> Tensor:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    told_prior, telling = controlled(prior, controls)

    def tell(condition: Condition, images: Tensor, cameras: Cameras | None) -> Condition:
        return condition.telling(**telling) if telling else condition

    guidance = kind(told_prior, ScoreDistillationConfig(guidance_scale=4.0), tell=tell)
    loss, _ = guidance(images, "a red mug", orbit([0.1, 2.0], 0.3, 2.0), 7)
    return torch.autograd.grad(loss, images)[0]


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_it_is_heard_everywhere_and_at_weight_0_by_none(
    flat: Backbone, motion: MotionAdapter, network: ControlNetModel, weight: float
) -> None:
    one = Control(network, MAPS[0], weight)
    ways: dict[str, Callable[..., Tensor]] = {
        "picture": lambda *controls: picture(flat, *controls),
        "clip": lambda *controls: clip(flat, motion, *controls),
        "gradient": lambda *controls: gradient(flat, ScoreDistillation, *controls),
        "perp-neg": lambda *controls: gradient(flat, PerpNegDistillation, *controls),
    }
    for name, way in ways.items():
        before, after = way(), way(one)
        changed = (before - after).abs().max().item()
        assert changed > 1e-4 if weight else torch.equal(before, after), name


def test_each_frame_has_a_map_of_its_own(flat: Backbone, motion: MotionAdapter, network: ControlNetModel) -> None:
    same = clip(flat, motion, Control(network, MAPS[:1].expand(5, -1, -1, -1)))
    assert torch.equal(same, clip(flat, motion, Control(network, MAPS[0])))
    assert (clip(flat, motion, Control(network, MAPS)) - same).abs().max() > 1e-4
    both = clip(flat, motion, Control(network, MAPS), Control(network, MAPS[1], 0.5))
    assert (both - clip(flat, motion, Control(network, MAPS))).abs().max() > 1e-4


def run(*words: object) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_the_command_follows_maps_of_all_frames_and_of_each(
    tiny_folder: Callable[..., Path],
    motion_folder: Path,
    network: ControlNetModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_controlnet(Path("net"), network)
    pixels = (MAPS.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels[0]).save("map.png")
    frames = [Image.fromarray(frame).resize((32, 32)) for frame in pixels[:4]]
    frames[0].save("maps.gif", save_all=True, append_images=frames[1:], duration=100)

    def drawn(name: str, *more: object) -> tuple[int, Any]:
        settings = ("--model", tiny_folder("sd1"), "--motion", motion_folder, "--frames", 4, "--steps", 2, "--json")
        status = run("text-to-video", "a red mug", *settings, "-o", name, *more)
        said = capfd.readouterr()
        if status:
            return status, said.err.strip().splitlines()[-1]
        json.loads(said.out)
        return status, np.stack([np.array(Image.open(file)) for file in sorted(Path(name).glob("*.png"))])

    free, one, each = (drawn(name, *more)[1] for name, more in {
        "free": (), "one": ("--control", "net:map.png@5"), "each": ("--control", "net:maps.gif@5"),
    }.items())  # fmt: skip
    assert (free != one).any() and (one != each).any()
    status, line = drawn("short", "--control", "net:maps.gif", "--frames", 3)
    assert status == 2 and "maps.gif has 4 maps, and 3 frames are drawn" in line
    status, line = drawn("none", "--control", "net")
    assert status == 2 and "--control net: give KIND:MAP" in line
    assert not Path("short").exists() and not Path("none").exists()
