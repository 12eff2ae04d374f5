"""SparseCtrl: equal to diffusers' pipeline, read and written in both key styles."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, MotionAdapter
from diffusers.pipelines.animatediff.pipeline_animatediff_sparsectrl import AnimateDiffSparseControlNetPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from core2d.app.errors import InputError
from core2d.media.pictures import save_image
from core2d.media.videos import read_video
from core2d.prior.backbone import Backbone
from genvideo.__main__ import main
from genvideo.animatediff.motion import MotionBackbone
from genvideo.animatediff.norms import FrameNorm, see_frames
from genvideo.animatediff.pipeline import AnimateDiff
from genvideo.animatediff.sparse_control import SparseControl, read_sparse_control, write_sparse_control


def encoder_for(flat: Backbone, simple: bool) -> SparseControlNetModel:
    """One that fits the tiny prior, with random weights everywhere."""
    config: Any = flat.family.denoiser.config
    model = SparseControlNetModel(
        in_channels=config.in_channels, conditioning_channels=4 if simple else 3,
        down_block_types=tuple("CrossAttnDownBlockMotion" if "Attn" in one else "DownBlockMotion"
                               for one in config.down_block_types),
        block_out_channels=tuple(config.block_out_channels), layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups, cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=2, motion_num_attention_heads=2, use_simplified_condition_embedding=simple,
        conditioning_embedding_out_channels=(8, 12, 16, 24)[: 1 + flat.vae_scale_factor.bit_length() - 1],
    )  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False).eval()


@pytest.fixture(params=[True, False], ids=["rgb", "scribble"])
def encoder(flat: Backbone, request: pytest.FixtureRequest) -> SparseControlNetModel:
    return encoder_for(flat, request.param)


def drawn(flat: Backbone, motion: MotionAdapter, encoder: SparseControlNetModel, **options):
    pipeline = AnimateDiff(MotionBackbone(flat, motion), control=SparseControl(encoder))
    settings: Any = {"seed": 7, "num_frames": 6, "num_inference_steps": 3} | options
    return pipeline("a red mug", **settings).frames


def test_clips_are_those_of_the_stock_pipeline(
    flat: Backbone, motion: MotionAdapter, encoder: SparseControlNetModel, monkeypatch: pytest.MonkeyPatch
):
    parts: Any = flat.family.parts
    scheduler: Any = DDIMScheduler.from_config(flat.scheduler_config)
    stock: Any = AnimateDiffSparseControlNetPipeline(
        vae=flat.vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"], unet=parts["unet"],
        motion_adapter=motion, controlnet=encoder, scheduler=scheduler,
    )  # fmt: skip
    stock.set_progress_bar_config(disable=True)
    module = "diffusers.pipelines.animatediff.pipeline_animatediff_sparsectrl.retrieve_latents"
    monkeypatch.setattr(module, lambda output: output.latent_dist.mode())  # stock draws a sample, from any seed
    generator = torch.Generator().manual_seed(1)
    bytes_of = torch.randint(0, 256, (2, 16, 16, 3), generator=generator).to(torch.uint8)
    pictures = [Image.fromarray(one.numpy()) for one in bytes_of]
    expected = stock(
        "a red mug", num_frames=6, num_inference_steps=3, guidance_scale=5.0, width=16, height=16, output_type="pt",
        conditioning_frames=pictures, controlnet_frame_indices=[0, 4], controlnet_conditioning_scale=0.8,
        generator=torch.Generator().manual_seed(7),
    ).frames  # fmt: skip
    given = {index: one.permute(2, 0, 1) / 255 for index, one in zip((0, -2), bytes_of, strict=True)}
    found = drawn(flat, motion, encoder, given=given, control_scale=0.8)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (found - drawn(flat, motion, encoder)).abs().max() > 1e-3


def test_every_window_sees_its_own_frames(flat: Backbone, motion: MotionAdapter, monkeypatch: pytest.MonkeyPatch):
    encoder, seen = encoder_for(flat, True), []
    inner = encoder.forward

    def forward(sample, *arguments, conditioning_mask, **options):
        seen.append(conditioning_mask[0, 0, :, 0, 0].tolist())
        return inner(sample, *arguments, conditioning_mask=conditioning_mask, **options)

    monkeypatch.setattr(encoder, "forward", forward)
    drawn(flat, motion, encoder, num_frames=10, window=6, overlap=2, num_inference_steps=1,
          given={0: torch.rand(3, 16, 16), 9: torch.rand(3, 16, 16)})  # fmt: skip
    assert seen == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize("style", ["original", "diffusers"])
def test_what_is_written_is_what_is_read(flat: Backbone, encoder: SparseControlNetModel, tmp_path: Path, style):
    path = tmp_path / ("control.safetensors" if style == "original" else "control")
    write_sparse_control(path, encoder, style)
    read = read_sparse_control(path)
    for name in ("norm_num_groups", "attention_head_dim", "motion_num_attention_heads"):
        assert read.model.config[name] == encoder.config[name]
    assert read.takes_latents == encoder.use_simplified_condition_embedding
    expected = encoder.state_dict()
    assert read.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in read.model.state_dict().items())
    assert sees_frames(read.model) == sees_frames(encoder) == {False}
    write_sparse_control(path, see_frames(read.model), style)
    assert sees_frames(read_sparse_control(path).model) == {True}  # however it is written
    if style == "original":
        names = load_file(path).keys()
        block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
        assert {f"{block}.to_q.weight", f"{block}.pos_encoder.pe"} <= names
        wrapped = {"state_dict": {f"module.{name}": value for name, value in load_file(path).items()}}
        torch.save(wrapped, tmp_path / "wrapped.ckpt")
        again = read_sparse_control(tmp_path / "wrapped.ckpt", heads=2)
        assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
        assert again.report.missing == [] and again.report.unexpected == []
        assert sees_frames(again.model) == {True}  # a file of the authors' code says nothing, and is run as theirs


def sees_frames(model: nn.Module) -> set[bool]:
    """Whether the norms of its motion modules see one frame at a time."""
    modules = (module for module in model.modules() if isinstance(module, AnimateDiffTransformer3D))
    return {isinstance(module.norm, FrameNorm) for module in modules}


@pytest.mark.parametrize(
    "said", [{"heads": 0}, {"heads": "2"}, {"heads": 3}, {"groups": 0}, {"groups": 3}, {"groups": None}]
)
def test_heads_and_groups_that_cannot_be_are_one_clear_error(flat: Backbone, tmp_path: Path, said: dict):
    (name, value), names = *said.items(), {"heads": "attention_head_dim", "groups": "norm_num_groups"}
    write_sparse_control(tmp_path / "control", encoder_for(flat, True))
    write_sparse_control(tmp_path / "a.safetensors", encoder_for(flat, True), "original")
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "a.safetensors",
              metadata={"liftkit_settings": json.dumps({"heads": 2, "groups": 4} | said)})  # fmt: skip
    config = json.loads((tmp_path / "control" / "config.json").read_text()) | {names[name]: value}
    (tmp_path / "control" / "config.json").write_text(json.dumps(config))
    for path in (tmp_path / "a.safetensors", tmp_path / "control"):
        with pytest.raises(
            InputError, match=r"is to have .* (heads|groups) of .* channels cannot be divided"
        ) as raised:
            read_sparse_control(path)
        assert "\n" not in str(raised.value) and repr(value) in str(raised.value)


def test_nothing_of_the_libraries_is_said(flat: Backbone, motion: MotionAdapter, capfd: pytest.CaptureFixture[str]):
    capfd.readouterr()
    drawn(flat, motion, encoder_for(flat, True), num_inference_steps=1, given={0: torch.rand(3, 16, 16)})
    assert capfd.readouterr() == ("", "")


def test_what_holds_no_encoder(flat: Backbone, tmp_path: Path):
    encoder = encoder_for(flat, True)
    write_sparse_control(tmp_path / "whole.safetensors", encoder, "original")
    state = load_file(tmp_path / "whole.safetensors")
    state.pop("down_blocks.0.resnets.0.conv2.weight")
    save_file(state, tmp_path / "part.safetensors")
    save_file({"conv_in.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    flat.family.denoiser.save_pretrained(tmp_path / "unet")
    for name, words in {
        "part.safetensors": "1 of .* tensors are missing",
        "other.safetensors": "holds no SparseCtrl encoder",
        "unet": "holds a UNet2DConditionModel, not a SparseCtrl encoder",
        "none": "no SparseCtrl encoder at",
    }.items():
        with pytest.raises(InputError, match=words):
            read_sparse_control(tmp_path / name)


def test_one_of_another_model_is_refused(flat: Backbone, motion: MotionAdapter):
    other = SparseControlNetModel(block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=6,
                                  down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"))  # fmt: skip
    with pytest.raises(InputError, match="the SparseCtrl encoder was made for a UNet with"):
        AnimateDiff(MotionBackbone(flat, motion), control=SparseControl(other))


def test_by_the_command(tiny_folder: Callable[..., Path], flat: Backbone, motion_folder: Path, tmp_path: Path, capfd):
    write_sparse_control(tmp_path / "control", encoder_for(flat, True))
    (motion_folder / "liftkit.json").unlink()  # now they are as published ones are
    save_image(tmp_path / "a.png", torch.rand(3, 16, 16))
    words = ["text-to-video", "a red mug", "--model", tiny_folder("sd1"), "--motion", motion_folder, "--steps", 2,
             "--frames", 4, "--keyframes", f"2={tmp_path / 'a.png'}", "-o", tmp_path / "b.apng"]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words)])
    assert stop.value.code == 2 and "take no given frames" in capfd.readouterr().err
    clips = []
    for scale in ("0", "1"):
        main([*map(str, words), "--sparse-control", str(tmp_path / "control"), "--control-scale", scale])
        clips.append(read_video(tmp_path / "b.apng")[0])
    assert (clips[0] != clips[1]).any()
