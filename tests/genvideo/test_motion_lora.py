"""MotionLoRA and domain adapter: read, written and fused in every key style, and nothing of them left out silently."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from core2d.adapters.lora import Lora, LowRank, fuse, go_on_from, lora_of
from core2d.adapters.lora_files import write_lora
from core2d.app.errors import InputError
from core2d.prior.backbone import Backbone
from genvideo.animatediff.formats import write_motion
from genvideo.animatediff.motion import inflate
from genvideo.animatediff.motion_lora import kind_of, read_motion_lora, write_motion_lora
from genvideo.animatediff.pipeline import AnimateDiff
from genvideo.animatediff.task import domain_adapter, motion_lora

ATTENTION = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1"
ORIGINAL = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"


@pytest.fixture
def unet(flat: Backbone, motion: MotionAdapter) -> UNetMotionModel:
    return inflate(flat.family.denoiser, motion).requires_grad_(False).eval()


@pytest.fixture(params=["motion_lora", "domain_adapter"])
def trained(flat: Backbone, motion: MotionAdapter, request: pytest.FixtureRequest) -> tuple[UNetMotionModel, str]:
    """A UNet with layers that have learned something, and their name."""
    made = inflate(flat.family.denoiser, motion)
    made = {"motion_lora": motion_lora, "domain_adapter": domain_adapter}[request.param](made, rank=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made.eval(), request.param


def output_of(unet: UNetMotionModel) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    clip = torch.randn(1, 4, 5, 8, 8, generator=generator)
    words = torch.randn(5, 7, unet.config["cross_attention_dim"], generator=generator)
    with torch.no_grad():
        return unet(clip, 300, encoder_hidden_states=words).sample


def factors(width: int, rank: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rank, width, generator=generator), torch.randn(width, rank, generator=generator)


@pytest.mark.parametrize("style", ["original", "diffusers", "kohya"])
def test_what_was_trained_is_what_is_read_and_fused(trained, unet: UNetMotionModel, tmp_path: Path, style):
    learned, name = trained
    before = output_of(unet)
    lora = lora_of(learned, name)
    assert kind_of(lora) == {"motion_lora": "MotionLoRA", "domain_adapter": "domain adapter"}[name]
    if style == "original":
        write_motion_lora(tmp_path / "lora.safetensors", lora)
    else:
        write_lora(tmp_path / "lora.safetensors", lora, style)
    read = read_motion_lora(tmp_path / "lora.safetensors")
    assert kind_of(read) == kind_of(lora) and read.unet.keys() == lora.unet.keys()
    for key, change in lora.unet.items():
        assert torch.equal(change.down, read.unet[key].down) and torch.equal(change.up, read.unet[key].up)
        assert change.scale == read.unet[key].scale == 1
    fuse(unet, read)
    after = output_of(unet)
    torch.testing.assert_close(after, output_of(learned), atol=2e-4, rtol=1e-4)
    assert (after - before).abs().max() > 1e-2


def test_training_goes_on_from_a_file(trained, flat: Backbone, motion: MotionAdapter):
    learned, name = trained
    fresh = inflate(flat.family.denoiser, motion)
    fresh = {"motion_lora": motion_lora, "domain_adapter": domain_adapter}[name](fresh, 3)
    go_on_from(fresh, lora_of(learned, name), name)
    assert torch.equal(output_of(fresh.eval()), output_of(learned))


def test_every_published_style_is_the_same_change(unet: UNetMotionModel, tmp_path: Path):
    width = unet.config["block_out_channels"][0]
    down, up = factors(width)
    styles = {
        "authors": (f"module.{ORIGINAL}.processor.to_out_lora.", "down.weight", "up.weight"),
        "converted": (f"unet.{ATTENTION}.processor.to_out_lora.", "down.weight", "up.weight"),
        "scripts": (f"unet.{ATTENTION}.to_out.0.lora.", "down.weight", "up.weight"),
        "peft": (f"unet.{ATTENTION}.to_out.0.lora_", "A.weight", "B.weight"),
        "peft-named": (f"{ATTENTION}.to_out.0.lora_", "A.default.weight", "B.default.weight"),
    }
    for style, (start, a, b) in styles.items():
        save_file({start + a: down, start + b: up}, tmp_path / f"{style}.safetensors")
        found = read_motion_lora(tmp_path / f"{style}.safetensors").unet
        assert list(found) == [f"{ATTENTION}.to_out.0"], style
        change = found[f"{ATTENTION}.to_out.0"]
        assert torch.equal(change.down, down) and torch.equal(change.up, up) and change.scale == 1
    torch.save({"state_dict": {styles["authors"][0] + "down.weight": down, styles["authors"][0] + "up.weight": up}},
               tmp_path / "zoom.ckpt")  # fmt: skip
    assert list(read_motion_lora(tmp_path / "zoom.ckpt").unet) == [f"{ATTENTION}.to_out.0"]


@pytest.mark.parametrize("settings", [{"r": 4, "lora_alpha": 16},
                                      {"r": 4, "lora_alpha": 16, "rank_pattern": {"to_q": 2},
                                       "alpha_pattern": {"attn2.*": 3}}])  # fmt: skip
def test_an_alpha_in_the_metadata_counts_as_in_stock_diffusers(
    flat: Backbone, motion: MotionAdapter, tiny_models: ModuleType, tmp_path: Path, settings: dict
):
    """Of files that `AnimateDiffPipeline.save_lora_weights` writes of layers with an alpha of their own."""

    def fresh() -> Any:
        parts: Any = flat.family.parts
        return AnimateDiffPipeline(flat.vae, parts["text_encoder"], parts["tokenizer"], parts["unet"], motion,
                                   tiny_models.sd1().scheduler)  # fmt: skip

    learned = fresh()
    config = LoraConfig(target_modules=r".*motion_modules.*\.(to_q|to_k|to_out\.0)", **settings)
    learned.unet.add_adapter(config, "learned")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in learned.unet.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    layers = get_peft_model_state_dict(learned.unet, adapter_name="learned")
    learned.save_lora_weights(tmp_path, layers, weight_name="lora.safetensors",
                              unet_lora_adapter_metadata=learned.unet.peft_config["learned"].to_dict())  # fmt: skip
    stock = fresh()
    before = {name: value.clone() for name, value in stock.unet.state_dict().items()}
    stock.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    stock.fuse_lora(components=["unet"])
    stock.unload_lora_weights()
    here = inflate(flat.family.denoiser, motion)
    lora = read_motion_lora(tmp_path / "lora.safetensors")
    fuse(here, lora)
    expected, found = stock.unet.state_dict(), here.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-6, msg=name)
    assert sum(not torch.equal(value, before[name]) for name, value in found.items()) == len(lora.unet)
    assert {change.scale for change in lora.unet.values()} == ({4.0} if len(settings) == 2 else {4.0, 8.0, 0.75, 1.5})


def test_a_lora_of_pictures_and_words_changes_clips(
    tiny_folder: Any, motion: MotionAdapter, unet: UNetMotionModel, tmp_path: Path
):
    """In kohya's style, with a text encoder's layers, which are changed with the UNet's."""
    down, up = factors(16)
    words = LowRank(down, up, 0.5)
    lora = Lora({"unet": {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": LowRank(down, up[:8])},
                 "text_encoder": {"encoder.layers.0.self_attn.q_proj": words}})  # fmt: skip
    write_lora(tmp_path / "lora.safetensors", lora, "kohya")
    write_motion(tmp_path / "motion", motion)
    folders: Any = (tiny_folder("sd1"), tmp_path / "motion")
    plain = AnimateDiff.from_pretrained(*folders)
    changed = AnimateDiff.from_pretrained(*folders, loras={tmp_path / "lora.safetensors": 0.5})
    name = "encoder.layers.0.self_attn.q_proj.weight"
    weights = [one.prior.flat.family.parts["text_encoder"].state_dict()[name] for one in (plain, changed)]
    torch.testing.assert_close(weights[1] - weights[0], 0.5 * words.delta(), atol=1e-6, rtol=1e-6)
    options: Any = {"num_frames": 4, "num_inference_steps": 2, "seed": 1}
    clips = [one("a red mug", **options).frames for one in (plain, changed)]
    assert (clips[1] - clips[0]).abs().max() > 1e-3
    assert kind_of(lora) == "domain adapter"


def test_what_the_style_of_the_authors_has_no_name_for(tmp_path: Path):
    halves = LowRank(*factors(8))
    write_motion_lora(tmp_path / "a.safetensors", Lora({"unet": {f"{ATTENTION}.to_q": LowRank(*factors(8), 2.0)}}))
    found = read_motion_lora(tmp_path / "a.safetensors").unet[f"{ATTENTION}.to_q"]
    assert found.scale == 1 and torch.equal(found.up, 2 * halves.up)
    cases = {"b.ckpt": ({"unet": {f"{ATTENTION}.to_q": halves}}, r"ends in \.safetensors"),
             "c.safetensors": ({"unet": {"conv_in": halves}}, "names attention only, not unet.conv_in"),
             "d.safetensors": ({"text_encoder": {"a.to_q": halves}}, "not text_encoder.a.to_q")}  # fmt: skip
    for name, (parts, words) in cases.items():
        with pytest.raises(InputError, match=words):
            write_motion_lora(tmp_path / name, Lora(parts))
        assert not (tmp_path / name).exists()


def test_one_that_is_of_another_model_changes_nothing(unet: UNetMotionModel):
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    fits = LowRank(*factors(unet.config["block_out_channels"][0]))
    for name, change, words in ((f"{ATTENTION}.to_q", LowRank(*factors(6)), "by 6 x 6, which has 8 x 8"),
                                ("down_blocks.9.attn.to_q", fits, "does not have")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            fuse(unet, Lora({"unet": {f"{ATTENTION}.to_k": fits, name: change}}))
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
