"""`--lora`: several files and strengths on one prior, as stock diffusers adds them; what is trained, in every style."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core2d.__main__ import main
from core2d.adapters.lora import Lora, LowRank, attach, fuse, unfuse
from core2d.adapters.lora_files import PEFT_WEIGHTS, write_lora
from core2d.adapters.lora_learning import fresh_lora
from core2d.adapters.options import lora_files, with_lora, with_loras
from core2d.app.errors import InputError
from core2d.app.provenance import digest
from core2d.media.pictures import read_image_text
from core2d.prior.backbone import Backbone
from core2d.systems.text_to_image.pipeline import TextToImage

Fold = Callable[..., Path]
STEPS = 3
WORDS = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.self_attn.out_proj")


def learned(model: nn.Module, seed: int, rank: int = 4, layers: Any = "all", text: nn.Module | None = None) -> Lora:
    """Low-rank changes that do something, with alpha as rank, as a training leaves them."""
    generator = torch.Generator().manual_seed(seed)

    def shaken(change: LowRank) -> LowRank:
        return LowRank(change.down, 0.3 * torch.randn(change.up.shape, generator=generator))

    parts = {"unet": {name: shaken(layer) for name, layer in fresh_lora(model, rank, layers, seed).unet.items()}}
    if text is not None:
        widths = {name: layer.weight.shape for name, layer in text.named_modules() if isinstance(layer, nn.Linear)}
        parts["text_encoder"] = {
            name.removeprefix("text_model."): shaken(LowRank(torch.randn(rank, into, generator=generator),
                                                             torch.zeros(out, rank)))
            for name, (out, into) in widths.items() if name.endswith(WORDS)
        }  # fmt: skip
    return Lora(parts)


def draw(pipeline: Any, prompt: str = "a red mug", **options: Any) -> Tensor:
    """Of ours or of stock diffusers, from one noise."""
    noise = torch.Generator().manual_seed(3)
    return pipeline(prompt, num_inference_steps=STEPS, guidance_scale=5.0, generator=noise, output_type="pt",
                    **options).images  # fmt: skip


def stock_of(folder: Path, family: str = "sd1") -> Any:
    kind: Any = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def prior(tiny_folder: Fold) -> Backbone:
    return Backbone.load(tiny_folder("sd1"))


# -- what is written, in stock diffusers and in peft -------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("style", ["diffusers", "kohya", "peft"])
def test_what_is_learned_draws_the_same_in_stock_merged_and_unmerged(
    tiny_folder: Fold, tmp_path: Path, family: str, style: Any
) -> None:
    folder = tiny_folder(family)
    prior, stock = Backbone.load(folder), stock_of(folder, family)
    lora, plain = learned(prior.denoiser, seed=1), draw(stock)
    path = tmp_path / ("lora" if style == "peft" else "lora.safetensors")
    write_lora(path, lora, style)
    file = path / PEFT_WEIGHTS if style == "peft" else path
    ours = draw(TextToImage(with_loras(prior, {file: 1.0})))
    attach(prior.denoiser, lora, "beside")
    beside = draw(TextToImage(prior))
    if style == "peft":
        wrapped: Any = PeftModel.from_pretrained(stock.unet, str(path))
        stock.unet = wrapped.base_model.model
        unmerged = draw(stock)
        stock.unet = wrapped.merge_and_unload()
    else:
        stock.load_lora_weights(tmp_path, weight_name="lora.safetensors")
        unmerged = draw(stock)
        stock.fuse_lora()
        stock.unload_lora_weights()
    assert (ours - plain).abs().max() > 1e-3
    for drawn in (unmerged, draw(stock), beside):
        torch.testing.assert_close(drawn, ours, atol=1e-5, rtol=0)


def test_two_files_with_strengths_and_words_are_those_of_stock(
    prior: Backbone, tiny_folder: Fold, tmp_path: Path
) -> None:
    text = prior.family.parts["text_encoder"]
    for name, seed in (("a", 1), ("b", 2)):
        write_lora(tmp_path / f"{name}.safetensors", learned(prior.denoiser, seed, layers="attention", text=text))
    files = {tmp_path / "a.safetensors": 0.7, tmp_path / "b.safetensors": -0.4}
    before = draw(TextToImage(prior))
    ours = draw(TextToImage(with_loras(prior, files)))
    stock = stock_of(tiny_folder("sd1"))
    for file in files:
        stock.load_lora_weights(file.parent, weight_name=file.name, adapter_name=file.stem)
    stock.set_adapters(["a", "b"], [0.7, -0.4])
    torch.testing.assert_close(ours, draw(stock), atol=1e-5, rtol=0)
    only_unet = Lora({"unet": learned(prior.denoiser, 1, layers="attention", text=text).unet})
    assert (draw(TextToImage(with_lora(prior, only_unet, 0.7))) - ours).abs().max() > 1e-3
    assert torch.equal(draw(TextToImage(prior)), before)  # which had read the prompt before


def test_strength_zero_is_the_prior_to_the_bit(prior: Backbone, tmp_path: Path) -> None:
    text = prior.family.parts["text_encoder"]
    write_lora(tmp_path / "a.safetensors", learned(prior.denoiser, 1, text=text))
    none = with_loras(prior, {tmp_path / "a.safetensors": 0.0})
    assert torch.equal(draw(TextToImage(none)), draw(TextToImage(prior)))
    assert with_loras(prior, {}) is prior


def test_fused_and_taken_out_again_every_bit_is_as_it_was(prior: Backbone) -> None:
    text = prior.family.parts["text_encoder"]
    lora = learned(prior.denoiser, 1, text=text)
    before = {part: {name: value.clone() for name, value in prior.family.parts[part].state_dict().items()}
              for part in ("unet", "text_encoder")}  # fmt: skip
    fused = fuse(prior.family.parts, lora, 0.3)
    unfuse(fused)
    for part, weights in before.items():
        now = prior.family.parts[part].state_dict()
        assert all(torch.equal(now[name], value) for name, value in weights.items())


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sdxl", "pixart"])
def test_a_lora_of_another_model_is_told_by_file_and_key(
    prior: Backbone, tiny_folder: Fold, tmp_path: Path, family: str
) -> None:
    file = tmp_path / "a.safetensors"
    write_lora(file, learned(prior.denoiser, 1))
    other = Backbone.load(tiny_folder(family))
    with pytest.raises(InputError, match=r"a\.safetensors: .* another model: it changes unet\.\w+") as said:
        with_loras(other, {file: 1.0})
    assert "\n" not in str(said.value)


def test_what_a_result_depends_on(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    file = tmp_path / "a.safetensors"
    assert lora_files([f"{file}@0.5"]) == {f"lora {file}": file}


# -- the command -------------------------------------------------------------------------------------------------------


def drawn_by_command(*words: object) -> None:
    main([*map(str, words), "--steps", str(STEPS), "--device", "cpu", "--json"])


def test_text_to_image_draws_with_loras_and_says_so(prior: Backbone, tiny_folder: Fold, tmp_path: Path) -> None:
    file, model = tmp_path / "a.safetensors", tiny_folder("sd1")
    write_lora(file, learned(prior.denoiser, 1))
    for name, options in (("plain", ()), ("none", ("--lora", f"{file}@0")), ("half", ("--lora", f"{file}@0.5"))):
        drawn_by_command("text-to-image", "a red mug", "-o", tmp_path / f"{name}.png", "--model", model, *options)
    plain, none, half = (Image.open(tmp_path / f"{name}.png").tobytes() for name in ("plain", "none", "half"))
    assert none == plain != half
    told = read_image_text(tmp_path / "half.png")
    assert json.loads(told["recipe"])["lora"] == [f"{file}@0.5"]
    assert json.loads(told["inputs"])[f"lora {file}"] == digest(file)


def test_what_is_no_lora_is_one_line(
    prior: Backbone, tiny_folder: Fold, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lora(tmp_path / "good.safetensors", learned(prior.denoiser, 1))
    broken = load_file(tmp_path / "good.safetensors")
    broken[next(iter(broken))][0, 0] = torch.nan
    save_file(broken, tmp_path / "nan.safetensors")
    save_file(dict(prior.denoiser.state_dict()), tmp_path / "unet.safetensors")
    (tmp_path / "text.safetensors").write_text("a red mug")
    (tmp_path / "pickle.bin").write_bytes(b"\x80\x04cposix\nsystem\n(S'touch gone'\ntR.")
    cases = {
        "nan.safetensors": "numbers that are not finite",
        "unet.safetensors": "is no LoRA",
        "text.safetensors": "not a safetensors file",
        "pickle.bin": "pickle.bin",
        "none.safetensors": "no such file",
        "good.safetensors@nan": "give a file, or FILE@STRENGTH",
    }
    for name, words in cases.items():
        with pytest.raises(SystemExit) as left:
            drawn_by_command("text-to-image", "a mug", "-o", tmp_path / "out" / "x.png", "--model", tiny_folder("sd1"),
                             "--lora", tmp_path / name)  # fmt: skip
        said = capsys.readouterr()
        assert left.value.code == 2 and words in said.err and said.err.count("\n") == 1, said.err
        assert not (tmp_path / "out").exists() and said.out == ""
