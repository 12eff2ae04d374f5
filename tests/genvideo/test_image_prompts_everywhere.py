"""An image prompt is told the same way in pictures, in clips and in score distillation; and by `--image-prompt`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import ImageProjection
from diffusers.models.unets.unet_motion_model import MotionAdapter
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core2d.adapters.ip_adapter import ImagePrompt, IPAdapterModel, cross_attentions, prompted
from core2d.adapters.ip_adapter_files import write_ip_adapter
from core2d.files.loading import save_model
from core2d.guidance import PerpNegDistillation, ScoreDistillation, ScoreDistillationConfig
from core2d.prior.backbone import Backbone
from core2d.prior.cameras import Cameras, orbit
from core2d.prior.condition import Condition
from core2d.systems.text_to_image.pipeline import TextToImage
from genvideo.__main__ import main
from genvideo.animatediff.motion import MotionBackbone
from genvideo.animatediff.pipeline import AnimateDiff

SEEN = torch.randn(5, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(flat: Backbone) -> IPAdapterModel:
    """One that says something."""
    context, generator = flat.denoiser.config["cross_attention_dim"], torch.Generator().manual_seed(2)  # pyright: ignore
    widths = [place.inner_dim for place in cross_attentions(flat.denoiser)]
    made = IPAdapterModel(ImageProjection(20, context, 4), widths, context)  # pyright: ignore
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=generator))
    return made.requires_grad_(False).eval()


def picture(prior: Backbone, *prompts: ImagePrompt) -> Tensor:
    pipeline, telling = prompted(TextToImage(prior), prompts)
    return pipeline("a red mug", seed=1, num_inference_steps=3, output_type="pt", telling=telling).images


def clip(prior: Backbone, motion: MotionAdapter, *prompts: ImagePrompt, words: str = "a red mug") -> Tensor:
    pipeline, telling = prompted(AnimateDiff(MotionBackbone(prior, motion)), prompts)
    return pipeline(words, seed=1, num_frames=5, window=4, num_inference_steps=3, telling=telling).frames


def gradient(prior: Backbone, kind: type[ScoreDistillation], *prompts: ImagePrompt) -> Tensor:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    told_prior, telling = prompted(prior, prompts)

    def tell(condition: Condition, images: Tensor, cameras: Cameras | None) -> Condition:
        return condition.telling(**telling) if telling else condition

    guidance = kind(told_prior, ScoreDistillationConfig(guidance_scale=4.0), tell=tell)
    loss, _ = guidance(images, "a red mug", orbit([0.1, 2.0], 0.3, 2.0), 7)
    return torch.autograd.grad(loss, images)[0]


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_it_is_heard_everywhere_and_at_scale_0_by_none(
    flat: Backbone, motion: MotionAdapter, model: IPAdapterModel, scale: float
) -> None:
    one = ImagePrompt(model, SEEN[:1], scale)
    ways: dict[str, Callable[..., Tensor]] = {
        "picture": lambda *prompts: picture(flat, *prompts),
        "clip": lambda *prompts: clip(flat, motion, *prompts),
        "gradient": lambda *prompts: gradient(flat, ScoreDistillation, *prompts),
        "perp-neg": lambda *prompts: gradient(flat, PerpNegDistillation, *prompts),
    }
    for name, way in ways.items():
        before, after = way(), way(one)
        changed = (before - after).abs().max().item()
        assert changed > 1e-4 if scale else torch.equal(before, after), name


def test_guidance_pulls_towards_the_picture(flat: Backbone, model: IPAdapterModel) -> None:
    """With the same words in both rows, all that guidance pulls towards is the picture; a map it would not."""
    prior, telling = prompted(flat, [ImagePrompt(model, SEEN[:1])])
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    empty = flat.encode_text([""])
    told = empty.telling(**telling)
    guided, with_picture = prior.network_cfg(x_t, 500, told, empty, 3.0)
    nothing = empty.telling(image_0=torch.zeros(1, 20))
    without = prior.network(x_t, 500, nothing)
    torch.testing.assert_close(guided, without + 3 * (with_picture - without), atol=1e-5, rtol=0)
    assert (with_picture - without).abs().max() > 1e-3


def test_each_frame_has_a_picture_of_its_own(flat: Backbone, motion: MotionAdapter, model: IPAdapterModel) -> None:
    same = clip(flat, motion, ImagePrompt(model, SEEN[:1].expand(5, -1)), words="")
    assert torch.equal(same, clip(flat, motion, ImagePrompt(model, SEEN[:1]), words=""))
    masks = torch.zeros(5, 1, 16, 16)
    masks[1] = 1
    for prompt in (ImagePrompt(model, SEEN), ImagePrompt(model, SEEN[:1], mask=masks)):
        assert (clip(flat, motion, prompt, words="") - same).abs().max() > 1e-4
    lifted, telling = prompted(MotionBackbone(flat, motion), [ImagePrompt(model, SEEN)])
    flat_too, _ = prompted(flat, [ImagePrompt(model, SEEN)])  # a lifted prior keeps the adapters of the flat one
    x_t = torch.randn(1, 4, 5, 8, 8, generator=torch.Generator().manual_seed(5))
    condition = flat.encode_text([""]).of_frames(1, 5).telling(**telling)
    heard = lifted.network(x_t, 500, condition)
    torch.testing.assert_close(MotionBackbone(flat_too, motion).network(x_t, 500, condition), heard)


def test_the_command_is_told_a_picture(
    tiny_folder: Callable[..., Path], motion_folder: Path, model: IPAdapterModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_ip_adapter(Path("ip.safetensors"), model)
    config = CLIPVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                              image_size=16, patch_size=4, projection_dim=20)  # fmt: skip
    save_model(CLIPVisionModelWithProjection(config), Path("image_encoder"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)).save("a.png")

    def drawn(name: str, *more: object) -> Any:
        settings = ("--model", tiny_folder("sd1"), "--motion", motion_folder, "--frames", 4, "--steps", 2, "--json")
        given = ("text-to-video", "", *settings, "--ip-adapter", "ip.safetensors", "-o", name, *more)
        try:
            main([str(word) for word in given])
        except SystemExit as leaving:
            assert not leaving.code, capfd.readouterr().err
        json.loads(capfd.readouterr().out)
        return np.stack([np.array(Image.open(file)) for file in sorted(Path(name).glob("*.png"))])

    one, none = (drawn(name, "--image-prompt", f"a.png@{name}") for name in ("1", "0"))
    assert (one != none).any() and len(one) == 4
