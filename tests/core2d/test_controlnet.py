"""The ControlNet adapter: what stock diffusers draws, in every layout of files, and nothing where it says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from core2d.adapters import controlnet_files
from core2d.adapters.controlnet import ControlNet, fresh_controlnet, hint_channels
from core2d.adapters.controlnet_files import controlnet_to_ldm, on_meta, read_controlnet, write_controlnet
from core2d.app.errors import InputError
from core2d.files.ldm import unet_on_meta
from core2d.files.manifests import UNET_CONFIGS, manifest_of
from core2d.prior.backbone import Backbone
from core2d.prior.camera_token import CAMERA_FEATURES
from core2d.systems.control.pipeline import Control, controlled
from core2d.systems.text_to_image.pipeline import TextToImage

MAPS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
STEPS = 5


def network(prior: Backbone, seed: int = 1) -> ControlNetModel:
    """One that says something: its zero convolutions are not zero."""
    model, generator = fresh_controlnet(prior), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith(("controlnet_", "conv_in")):
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    return model.requires_grad_(False).eval()


@pytest.fixture
def flat(tiny_folder: Callable[..., Path]) -> Backbone:
    return Backbone.load(tiny_folder("sd1"))


def drawn(prior: Backbone, *controls: Control, prompt: str = "a red mug", **options: Any) -> Tensor:
    pipeline, telling = controlled(TextToImage(prior), controls)
    settings: dict[str, Any] = {"seed": 3, "num_inference_steps": STEPS, "output_type": "pt"} | options
    return pipeline(prompt, telling=telling, **settings).images


# -- as stock diffusers --------------------------------------------------------------------------------------------

SETTINGS = {  # of one ControlNet and of two: weights, starts and ends
    "one": ((1.0,), (0.0,), (1.0,)),
    "late": ((0.7,), (0.4,), (1.0,)),
    "two": ((0.8, 1.5), (0.0, 0.2), (0.6, 1.0)),
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_it_draws_what_the_stock_pipeline_draws(tiny_folder: Callable[..., Path], family: str, settings: str) -> None:
    weights, starts, ends = SETTINGS[settings]
    prior = Backbone.load(tiny_folder(family))
    nets = [network(prior, seed) for seed in range(len(weights))]
    ours = drawn(prior, *map(Control, nets, MAPS, weights, starts, ends), guidance_scale=4.0)
    stock: Any = StableDiffusionControlNetPipeline.from_pretrained(
        tiny_folder(family), controlnet=nets, local_files_only=True
    )
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        "a red mug", image=[one[None] for one in MAPS[: len(nets)]], guidance_scale=4.0, num_inference_steps=STEPS,
        controlnet_conditioning_scale=list(weights), control_guidance_start=list(starts),
        control_guidance_end=list(ends), generator=torch.Generator().manual_seed(3), output_type="np",
    ).images  # fmt: skip
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=1e-5)
    assert (drawn(prior, guidance_scale=4.0) - ours).abs().max() > 1e-3  # and the maps are heard


def test_it_draws_what_the_stock_pipeline_of_sdxl_draws(tiny_folder: Callable[..., Path]) -> None:
    prior = Backbone.load(tiny_folder("sdxl"))
    net = network(prior)
    ours = drawn(prior, Control(net, MAPS[0]), guidance_scale=4.0)
    stock: Any = StableDiffusionXLControlNetPipeline.from_pretrained(
        tiny_folder("sdxl"), controlnet=net, local_files_only=True, add_watermarker=False
    )
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        "a red mug", image=MAPS[:1], guidance_scale=4.0, num_inference_steps=STEPS,
        controlnet_conditioning_scale=1.0, generator=torch.Generator().manual_seed(3), output_type="np",
    ).images  # fmt: skip
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_guess_mode_is_that_of_the_stock_pipeline(tiny_folder: Callable[..., Path], scale: float) -> None:
    prior = Backbone.load(tiny_folder("sd1"))
    net = network(prior)
    control = Control(net, MAPS[0], weight=0.8, guess=True)
    ours = drawn(prior, control, guidance_scale=scale)
    stock: Any = StableDiffusionControlNetPipeline.from_pretrained(
        tiny_folder("sd1"), controlnet=net, local_files_only=True
    )
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        "a red mug", image=MAPS[:1], guidance_scale=scale, num_inference_steps=STEPS, guess_mode=True,
        controlnet_conditioning_scale=0.8, generator=torch.Generator().manual_seed(3), output_type="np",
    ).images  # fmt: skip
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=1e-5)
    heard = drawn(prior, replace(control, guess=False), guidance_scale=scale)
    assert (heard - ours).abs().max() > 1e-3  # and it is another picture


# -- where it says nothing -----------------------------------------------------------------------------------------


def test_before_training_and_at_weight_0_the_prior_is_as_it_was_to_the_bit(flat: Backbone) -> None:
    before = drawn(flat)
    assert torch.equal(drawn(flat, Control(fresh_controlnet(flat), MAPS[0])), before)
    assert torch.equal(drawn(flat, Control(network(flat), MAPS[0], weight=0.0)), before)
    assert not torch.equal(drawn(flat, Control(network(flat), MAPS[0])), before)


def test_it_is_heard_between_its_start_and_its_end_alone_and_by_each_row_for_itself(flat: Backbone) -> None:
    adapted = flat.with_adapters(ControlNet(network(flat), "m", start=0.25, end=0.75))
    x_t = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    t = torch.tensor([999, 750, 749, 250, 249, 0])  # the share done is 1 - (t + 1) / 1000
    condition = flat.encode_text(["a red mug"]).telling(m=MAPS[:1])
    changed = (adapted.network(x_t, t, condition) - flat.network(x_t, t, condition)).abs().amax((1, 2, 3)) > 0
    assert changed.tolist() == [False, False, True, True, False, False]


def test_the_camera_token_is_not_read_by_it(tiny_folder: Callable[..., Path]) -> None:
    """It hears the prompt alone, whatever the UNet is told beside it."""
    prior = Backbone.load(tiny_folder("sd1", camera=True))
    control, seen = ControlNet(network(prior), "m"), torch.rand(1, CAMERA_FEATURES)
    condition = prior.encode_text(["a red mug"]).telling(m=MAPS[:1])
    x_t, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    plain, viewed = (control(prior.inputs(x_t, t, told, 1), told) for told in (condition, condition.seen_from(seen)))
    assert viewed.tokens.shape[1] == plain.tokens.shape[1] + 1
    assert all(torch.equal(a, b) for a, b in zip(plain.skips, viewed.skips, strict=True))


def test_gradients_of_the_loss_reach_every_weight_once_the_zeros_have_moved(flat: Backbone) -> None:
    model = network(flat).requires_grad_(True)
    condition = flat.encode_text(["a red mug"]).telling(m=MAPS[:1])
    inputs = flat.inputs(torch.randn(1, 4, 8, 8), torch.tensor([500]), condition, 1)
    flat.answer(ControlNet(model, "m")(inputs, condition)).square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())
    assert all(value.grad is None for value in flat.denoiser.parameters())


@pytest.mark.parametrize(
    ("factor", "width", "channels"),
    [(8, 320, (16, 32, 96, 256)), (16, 320, (16, 16, 32, 96, 256)), (8, 64, (16, 32, 64, 64)), (2, 8, (8, 8))],
)
def test_the_encoder_of_maps_has_a_stride_for_each_halving(factor: int, width: int, channels: tuple[int, ...]) -> None:
    assert hint_channels(factor, width) == channels


def test_latents_16_times_smaller(flat: Backbone) -> None:
    config = {**network(flat).config, "conditioning_embedding_out_channels": hint_channels(16, 8)}
    model: Any = ControlNetModel.from_config(config)
    skips, _ = model(torch.zeros(1, 4, 8, 8), 5, torch.zeros(1, 3, 16), torch.zeros(1, 3, 128, 128), return_dict=False)
    assert skips[0].shape == (1, 8, 8, 8)
    with pytest.raises(InputError, match="maps 16 times smaller, and latents of this one are 2 times smaller"):
        ControlNet(model).check_fit(flat)


# -- files ---------------------------------------------------------------------------------------------------------


def assert_same(one: ControlNetModel, other: ControlNetModel) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    for name in ("attention_head_dim", "norm_num_groups", "conditioning_embedding_out_channels", "down_block_types"):
        assert list(np.ravel(one.config[name])) == list(np.ravel(other.config[name])), name


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_files_of_both_layouts_give_back_what_was_written(
    tiny_folder: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    model = network(Backbone.load(tiny_folder(family)))
    write_controlnet(tmp_path / "folder", model)
    write_controlnet(tmp_path / "original.safetensors", model, "original")
    torch.save({"state_dict": load_file(tmp_path / "original.safetensors")}, tmp_path / "original.pth")
    (tmp_path / "config.json").write_text((tmp_path / "folder" / "config.json").read_text())  # a pickle says nothing
    for name in ("folder", "folder/diffusion_pytorch_model.safetensors", "original.safetensors"):
        assert_same(read_controlnet(tmp_path / name), model)
    read = read_controlnet(tmp_path / "original.pth")
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in model.state_dict().items())
    stock: Any = ControlNetModel.from_pretrained(tmp_path / "folder", local_files_only=True)
    assert_same(stock, model)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "original.safetensors", "original.pth",
                                                         "config.json"}  # fmt: skip


PUBLISHED = {  # million parameters of ControlNets of these UNets
    "stable-diffusion-1.5": 361.28,
    "stable-diffusion-2.1": 364.23,
    "stable-diffusion-xl-1.0": 1251.01,
}


def controlnet_on_meta(name: str) -> ControlNetModel:
    with torch.device("meta"):
        return ControlNetModel.from_unet(unet_on_meta(UNET_CONFIGS[name]), load_weights_from_unet=False)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_configs_of_published_sizes(name: str) -> None:
    """What shapes alone tell of a full-size file, in both layouts; without a byte of weights."""
    model = controlnet_on_meta(name)
    assert sum(value.numel() for value in model.parameters()) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.01)
    names = controlnet_to_ldm(model.config)
    assert names.keys() == model.state_dict().keys() and len(set(names.values())) == len(names)
    shapes = manifest_of(model)
    original = {names[ours]: shape for ours, shape in shapes.items()}
    for derived in (controlnet_files._config_of_original(original), controlnet_files._config_of_diffusers(shapes)):
        other = on_meta(derived)
        assert manifest_of(other) == shapes
        heads = [np.broadcast_to(one.config["attention_head_dim"], len(one.config["block_out_channels"])).tolist()
                 for one in (other, model)]  # fmt: skip
        assert heads[0] == heads[1]


def test_names_of_the_original_layout_are_those_that_diffusers_reads(flat: Backbone, tmp_path: Path) -> None:
    """With the published encoder of maps, which is the only one whose names diffusers' reader knows."""
    config = {**network(flat).config, "conditioning_embedding_out_channels": (16, 32, 96, 256)}
    model: Any = ControlNetModel.from_config(config)
    write_controlnet(tmp_path / "original.safetensors", model, "original")
    written = load_file(tmp_path / "original.safetensors")
    assert {"control_model.input_hint_block.14.weight", "control_model.zero_convs.0.0.bias",
            "control_model.middle_block_out.0.weight"} <= written.keys()  # fmt: skip
    theirs = convert_controlnet_checkpoint(dict(written), model.config)
    assert theirs.keys() == model.state_dict().keys()
    assert all(torch.equal(theirs[name], value) for name, value in model.state_dict().items())


def test_halves_are_read_as_floats(flat: Backbone, tmp_path: Path) -> None:
    write_controlnet(tmp_path / "half", network(flat), dtype=torch.float16)
    read = read_controlnet(tmp_path / "half")
    assert {value.dtype for value in read.state_dict().values()} == {torch.float32} and not read.training


# -- bad input -----------------------------------------------------------------------------------------------------


def test_files_that_hold_no_controlnet_are_refused_in_a_line(
    flat: Backbone, tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    write_controlnet(tmp_path / "good", network(flat))
    good = load_file(tmp_path / "good" / "diffusion_pytorch_model.safetensors")
    config = (tmp_path / "good" / "config.json").read_text()

    def refused(change: Callable[[dict[str, Tensor]], object], words: str, beside: bool = True) -> None:
        folder = tmp_path / "bad"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(config if beside else "{}")
        state = {name: value.clone() for name, value in good.items()}
        change(state)
        save_file(state, folder / "file.safetensors")
        with pytest.raises(InputError, match=words) as error:
            read_controlnet(folder / "file.safetensors")
        assert "\n" not in str(error.value)

    refused(lambda state: state["conv_in.weight"].fill_(torch.nan), "not finite, in conv_in.weight: it is damaged")
    refused(lambda state: state.pop("conv_in.bias"), "lacks conv_in.bias")
    refused(lambda state: state.update(odd=torch.zeros(1)), "also holds odd")
    refused(lambda state: state.update({"conv_in.bias": torch.zeros(3)}), "has another shape of conv_in.bias")
    refused(lambda state: state.update(lora_controlnet=torch.zeros(1)), "holds a Control-LoRA")
    refused(lambda state: state.update(difference=torch.zeros(1)), "the difference of a ControlNet")
    refused(lambda state: state.pop("controlnet_cond_embedding.conv_in.weight"), "holds no ControlNet")
    refused(lambda state: state.pop("mid_block.attentions.0.proj_in.weight"), "holds no whole ControlNet", beside=False)
    with pytest.raises(InputError, match="no ControlNet at"):
        read_controlnet(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds a UNet2DConditionModel, not a ControlNet"):
        read_controlnet(tiny_folder("sd1") / "unet")
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        write_controlnet(tmp_path / "mine.pth", network(flat), "original")
    (tmp_path / "whole.pth").write_bytes(b"not a pickle")
    with pytest.raises(InputError, match=r"whole\.pth"):
        read_controlnet(tmp_path / "whole.pth")


class Malicious:
    """A pickle that would run something."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    torch.save({"control_model.input_hint_block.0.weight": torch.zeros(1), "x": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(InputError):
        read_controlnet(tmp_path / "bad.pth")


def test_a_controlnet_of_another_model_is_refused(flat: Backbone, tiny_folder: Callable[..., Path]) -> None:
    net = network(flat)
    for family, words in (("sdxl", "its (block_out_channels|cross_attention_dim) is"), ("pixart", "is a transformer")):
        with pytest.raises(InputError, match=words):
            controlled(TextToImage(Backbone.load(tiny_folder(family))), [Control(net, MAPS[0])])
    wide: Any = ControlNetModel.from_config({**net.config, "in_channels": 16})
    with pytest.raises(InputError, match="reads latents of 16 channels, and this one has 4"):
        controlled(flat, [Control(wide, MAPS[0])])
    with pytest.raises(InputError, match="begins as the copy of a UNet"):
        fresh_controlnet(Backbone.load(tiny_folder("pixart")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": float("nan")}, "cannot count nan"),
        ({"weight": 11.0}, "cannot count 11"),
        ({"start": 0.5, "end": 0.5}, "cannot be heard from 0.5 to 0.5"),
        ({"end": 1.5}, "cannot be heard from 0.0 to 1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(flat: Backbone, options: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ControlNet(network(flat), **options)  # pyright: ignore[reportArgumentType]


def test_a_map_of_another_size_and_none_at_all_are_refused(flat: Backbone) -> None:
    with pytest.raises(InputError, match="the control_0 map has 12 x 20 pixels and its picture 16 x 16"):
        drawn(flat, Control(network(flat), torch.rand(3, 20, 12)))
    pipeline, _ = controlled(TextToImage(flat), [Control(network(flat), MAPS[0])])
    with pytest.raises(InputError, match="is told no map"):
        pipeline("a red mug", seed=1, num_inference_steps=2)
