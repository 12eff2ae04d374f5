"""MotionLoRA and domain adapter: read, written and added in every key style, and nothing of them left out silently."""

from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from safetensors.torch import save_file
from torch import Tensor

from core2d.app.errors import InputError
from core2d.prior.backbone import Backbone
from genvideo.animatediff.motion import inflate
from genvideo.animatediff.motion_lora import Lora, add_lora, go_on_from, lora_of, read_lora, write_lora
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


@pytest.mark.parametrize("style", ["original", "diffusers"])
def test_what_was_trained_is_what_is_read_and_added(trained, unet: UNetMotionModel, tmp_path: Path, style):
    learned, name = trained
    before = output_of(unet)
    lora = lora_of(learned, name)
    assert lora.kind == {"motion_lora": "MotionLoRA", "domain_adapter": "domain adapter"}[name]
    write_lora(tmp_path / "lora.safetensors", lora, style)
    read = read_lora(tmp_path / "lora.safetensors")
    assert read.kind == lora.kind and read.layers.keys() == lora.layers.keys()
    for key, halves in lora.layers.items():
        assert all(torch.equal(a, b) for a, b in zip(halves, read.layers[key], strict=True))
    after = output_of(add_lora(unet, read))
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
        found = read_lora(tmp_path / f"{style}.safetensors")
        assert list(found.layers) == [f"{ATTENTION}.to_out.0"], style
        assert all(torch.equal(a, b) for a, b in zip(found.layers[f"{ATTENTION}.to_out.0"], (down, up), strict=True))
    torch.save({"state_dict": {styles["authors"][0] + "down.weight": down, styles["authors"][0] + "up.weight": up}},
               tmp_path / "zoom.ckpt")  # fmt: skip
    assert list(read_lora(tmp_path / "zoom.ckpt").layers) == [f"{ATTENTION}.to_out.0"]


def test_strength_and_alpha(unet: UNetMotionModel, tmp_path: Path):
    width = unet.config["block_out_channels"][0]
    down, up = factors(width)
    start = f"unet.{ATTENTION}.to_q."
    save_file({f"{start}lora_A.weight": down, f"{start}lora_B.weight": up, f"{start}alpha": torch.tensor(4.0)},
              tmp_path / "a.safetensors")  # fmt: skip
    name = f"{ATTENTION}.to_q.weight"
    before = unet.state_dict()[name].clone()
    add_lora(unet, read_lora(tmp_path / "a.safetensors"), 0.5)
    torch.testing.assert_close(unet.state_dict()[name], before + 0.5 * (4.0 / 2) * up @ down)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "holds no tensors"),
        ({f"unet.{ATTENTION}.to_q.lora.down.weight": torch.zeros(2, 8)}, "one half of"),
        ({"unet.conv_in.weight": torch.zeros(2, 8)}, "1 tensors such as unet.conv_in.weight"),
        ({f"{ATTENTION}.to_q.lora.down.weight": torch.zeros(2, 8),
          f"{ATTENTION}.to_q.lora.up.weight": torch.zeros(8, 3)}, "do not fit"),
    ],
)  # fmt: skip
def test_files_that_are_no_lora(tmp_path: Path, state: dict[str, Tensor], words: str):
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=words):
        read_lora(tmp_path / "a.safetensors")


def test_one_that_is_of_another_model_changes_nothing(unet: UNetMotionModel):
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    fits = factors(unet.config["block_out_channels"][0])
    for name, halves, words in ((f"{ATTENTION}.to_q", factors(6), "which has"),
                                ("down_blocks.9.attn.to_q", fits, "does not have")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            add_lora(unet, Lora({f"{ATTENTION}.to_k": fits, name: halves}))
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_where_no_file_is(tmp_path: Path):
    with pytest.raises(InputError, match="no LoRA at"):
        read_lora(tmp_path / "none.ckpt")
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        write_lora(tmp_path / "a.ckpt", Lora({}))
