"""What `core2d verify` says is lost is what stock diffusers loses, on tiny models; kinds and models at full size."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core2d.__main__ import main
from core2d.adapters.controlnet import fresh_controlnet
from core2d.adapters.controlnet_files import write_controlnet
from core2d.adapters.lora import TEXT_TOWER, UNET
from core2d.adapters.lora_names import flattened
from core2d.app.errors import InputError
from core2d.files.ldm import diffusers_to_ldm, unet_to_ldm, vae_to_ldm
from core2d.files.loading import quiet_libraries
from core2d.files.manifests import Manifest, unet_manifest, vae_manifest
from core2d.prior.backbone import Backbone
from core2d.systems.verify.bases import bases
from core2d.systems.verify.command import follow
from core2d.systems.verify.contents import read_contents
from core2d.systems.verify.kinds import kind_of
from core2d.systems.verify.loaders import base_of
from core2d.systems.verify.recipe import VerifyRecipe

RANK = 2


@pytest.fixture
def folder(tiny_folder: Callable[..., Path]) -> Path:
    return tiny_folder("sd1")


def verified(path: Path, model: Path | None = None) -> dict[str, Any]:
    return dict(follow(VerifyRecipe(file=path, model=None if model is None else str(model), json=True)).metrics)


def saved(path: Path, state: Mapping[str, Tensor]) -> Path:
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path)
    return path


def kohya_lora(pipeline: Any, alphas: Callable[[str], float | None]) -> dict[str, Tensor]:
    """Random factors of all attention of UNet and text encoder, each tensor other numbers."""
    generator, state = torch.Generator().manual_seed(0), {}
    for part in (UNET, "text_encoder"):
        for place, layer in getattr(pipeline, part).named_modules():
            if not (
                isinstance(layer, nn.Linear)
                and place.endswith(("to_q", "to_v", "to_out.0", "q_proj", "out_proj", "fc1"))
            ):
                continue
            name = flattened(part, place.removeprefix(TEXT_TOWER), two_towers=False)
            state[f"{name}.lora_down.weight"] = torch.randn(RANK, layer.in_features, generator=generator)
            state[f"{name}.lora_up.weight"] = torch.randn(layer.out_features, RANK, generator=generator)
            if (alpha := alphas(place)) is not None:
                state[f"{name}.alpha"] = torch.tensor(alpha)
    return state


def loaded(folder: Path, path: Path) -> tuple[Any, dict[str, LoraLayer]]:
    """Stock diffusers with a LoRA, and its low-rank layers by part and name."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    with quiet_libraries():
        pipeline.load_lora_weights(str(path), adapter_name="a")
    layers = {}
    for part in (UNET, "text_encoder"):
        for name, layer in getattr(pipeline, part).named_modules():
            if isinstance(layer, LoraLayer) and "a" in layer.lora_A:
                layers[f"{part}.{name.removeprefix(TEXT_TOWER)}"] = layer
    return pipeline, layers


def present(state: Mapping[str, Tensor], tensors: list[Tensor]) -> set[str]:
    """Names of the tensors of a file whose very numbers are among those of a model."""
    known = {tuple(value.detach().float().flatten().tolist()) for value in tensors}
    return {name for name, value in state.items() if tuple(value.float().flatten().tolist()) in known}


# -- LoRA ----------------------------------------------------------------------------------------------------------


def test_a_whole_lora_is_taken_by_all(folder: Path, tmp_path: Path):
    state = kohya_lora(StableDiffusionPipeline.from_pretrained(folder), lambda place: 1.0)
    found = verified(saved(tmp_path / "a.safetensors", state), folder)
    assert found["ok"] and found["kind"] == "LoRA" and found["details"] == "kohya's names"
    assert found["made_for"] == str(folder)
    assert {name: each["taken"] for name, each in found["loaders"].items()} == dict.fromkeys(
        found["loaders"], len(state)
    )
    assert found["scale"] == {"min": 0.5, "median": 0.5, "max": 0.5, "layers": len(state) // 3, "without_alpha": 0}


def test_what_is_said_to_be_dropped_is_what_diffusers_drops(folder: Path, tmp_path: Path):
    state = kohya_lora(StableDiffusionPipeline.from_pretrained(folder), lambda place: None)
    for half, shape in (("down", (RANK, 16)), ("up", (64, RANK))):
        state[f"lora_te_text_model_encoder_layers_9_mlp_fc1.lora_{half}.weight"] = torch.randn(shape)
    path = saved(tmp_path / "a.safetensors", state)
    _, layers = loaded(folder, path)
    halves = [half["a"] for one in layers.values() for half in (one.lora_A, one.lora_B)]
    there = present(state, [half.get_parameter("weight") for half in halves])
    assert 0 < len(there) < len(state)
    found = verified(path, folder)
    assert set(found["loaders"]["diffusers"]["dropped"]) == state.keys() - there
    assert found["loaders"]["diffusers"]["taken"] == len(there)
    assert found["loaders"]["diffusers"]["silently"] and not found["ok"]
    assert "layers.9" in found["loaders"]["liftkit"]["error"]  # ours says so


def test_scales_that_diffusers_applies_and_the_file_does_not_say(folder: Path, tmp_path: Path):
    state = kohya_lora(StableDiffusionPipeline.from_pretrained(folder), lambda p: 0.5 if p.endswith("to_q") else 4.0)
    path = saved(tmp_path / "a.safetensors", state)
    _, layers = loaded(folder, path)
    found = verified(path, folder)
    rescaled = {name: (said, used) for name, said, used in found["loaders"]["diffusers"]["rescaled"]}
    for name, layer in layers.items():
        says = (0.5 if name.endswith("to_q") else 4.0) / RANK
        if layer.scaling["a"] == says:
            assert name not in rescaled
        else:
            assert rescaled[name] == (says, layer.scaling["a"])
    assert found["ok"] == (not rescaled)
    assert (found["scale"]["min"], found["scale"]["max"]) == (0.25, 2.0)


def test_dora_is_named_and_not_read_by_us(folder: Path, tmp_path: Path):
    state = kohya_lora(StableDiffusionPipeline.from_pretrained(folder), lambda place: None)
    name = next(iter(state)).partition(".")[0]
    state[f"{name}.dora_scale"] = torch.rand(1, 8)
    found = verified(saved(tmp_path / "a.safetensors", state), folder)
    assert (found["kind"], found["details"]) == ("low-rank change of another kind", "DoRA")
    assert "not read" in found["loaders"]["liftkit"]["error"]
    assert found["loaders"]["diffusers"]["dropped"] == [f"{name}.dora_scale"] and not found["ok"]


@pytest.mark.parametrize("name", ["SD 1.x", "SD 2.x", "SDXL"])
def test_the_model_of_a_lora_is_found_at_full_size(name: str, tmp_path: Path):
    base = next(base for base in bases() if base.name == name)
    state = {}
    for part, shapes in base.shapes.items():
        for place, shape in shapes.items():
            if place.endswith(("attn2.to_k.weight", "k_proj.weight")):
                layer = flattened(part, place.removesuffix(".weight"), two_towers=name == "SDXL")
                state[f"{layer}.lora_down.weight"] = torch.zeros(1, shape[1])
                state[f"{layer}.lora_up.weight"] = torch.zeros(shape[0], 1)
    contents = read_contents(saved(tmp_path / "a.safetensors", state))
    found, fitting, count = base_of(contents, None)
    assert (found.name, fitting) == (name, count) and count == len(state) // 2


# -- networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["original", "diffusers"])
def test_our_reader_takes_all_of_a_controlnet(folder: Path, tmp_path: Path, style: Any):
    network = fresh_controlnet(Backbone.load(folder))
    path = tmp_path / ("control.safetensors" if style == "original" else "control")  # a file tells no number of groups
    write_controlnet(path, network, style)
    found = verified(path)
    assert found["loaders"]["liftkit"]["taken"] == found["tensors"] == len(network.state_dict())


def test_a_checkpoint_of_the_original_layout(folder: Path, tmp_path: Path):
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    unet, vae, text = pipeline.unet, pipeline.vae, pipeline.text_encoder
    for model in (unet, vae):
        nn.init.normal_(next(model.parameters()))
    state = {
        f"model.diffusion_model.{n}": v
        for n, v in diffusers_to_ldm(unet.state_dict(), unet_to_ldm(unet.config)).items()
    }
    state |= {
        f"first_stage_model.{n}": v for n, v in diffusers_to_ldm(vae.state_dict(), vae_to_ldm(vae.config)).items()
    }
    state |= {
        f"cond_stage_model.transformer.{TEXT_TOWER}{n.removeprefix(TEXT_TOWER)}": v
        for n, v in text.state_dict().items()
    }
    state |= {"betas": torch.zeros(10), "model_ema.diffusion_modelout2bias": torch.zeros(3)}
    path = saved(tmp_path / "model.safetensors", state)
    found = verified(path)
    assert found["kind"] == "checkpoint" and "averaged" in found["details"]
    stock = found["loaders"]["diffusers"]
    assert stock["dropped"] == ["model_ema.diffusion_modelout2bias"] and not found["ok"]
    assert (stock["taken"], stock["of_no_use"]) == (len(state) - 2, 1)
    assert "folder" in found["loaders"]["liftkit"]["error"]
    for kind, part in ((UNet2DConditionModel, unet), (AutoencoderKL, vae)):  # so it is
        part.save_config(tmp_path / "config")
        with quiet_libraries():
            again = kind.from_single_file(str(path), config=str(tmp_path / "config"), local_files_only=True)
        assert all(torch.equal(value, part.state_dict()[name]) for name, value in again.state_dict().items())


def full_size() -> dict[str, tuple[Manifest, str, str | None]]:
    found: dict[str, tuple[Manifest, str, str | None]] = {
        name: (unet_manifest(name), "UNet", made_for)
        for name, made_for in (("stable-diffusion-1.5", "SD 1.x"), ("stable-diffusion-2.1", "SD 2.x"),
                               ("stable-diffusion-xl-1.0", "SDXL"))
    }  # fmt: skip
    found["vae"] = vae_manifest(), "VAE", None
    found["ip"] = (
        {"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (320, 768)},
        "IP-Adapter",
        "SD 1.x",
    )
    found["word"] = {"emb_params": (4, 1024)}, "textual inversion", "SD 2.x"
    found["words"] = {"clip_l": (1, 768), "clip_g": (1, 1280)}, "textual inversion", "SDXL"
    found["t2i"] = {"body.0.block1.weight": (320, 320, 3, 3)}, "T2I-Adapter", None
    start = "down_blocks.0.motion_modules.0.temporal_transformer."
    found["motion"] = {f"{start}norm.weight": (320,), f"{start}transformer_blocks.0.attention_blocks.0.to_q.weight":
                       (320, 320)}, "motion modules", None  # fmt: skip
    return found


def test_kinds_by_names_and_shapes():
    for shapes, kind, made_for in full_size().values():
        found = kind_of(shapes)
        assert found is not None and (found.name, found.made_for) == (kind, made_for)


def test_a_folder_of_diffusers_and_one_that_lacks_a_tensor(folder: Path, tmp_path: Path):
    assert verified(folder)["ok"]
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    unet.save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state.pop("conv_in.bias")
    save_file(state | {"odd": torch.zeros(2)}, file)
    with quiet_libraries():
        made: Any = UNet2DConditionModel.from_pretrained(tmp_path / "unet", output_loading_info=True)
    info = made[1]
    said = verified(tmp_path / "unet")
    dropped = said["loaders"]["diffusers"]["dropped"]
    assert [name.partition(" (")[0] for name in dropped] == [*info["missing_keys"], *info["unexpected_keys"]]
    assert said["loaders"]["diffusers"]["silently"] and said["loaders"]["liftkit"]["error"] and not said["ok"]


# -- numbers and bad files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_what_is_not_finite_is_found_wherever_it_stands(dtype: torch.dtype, tmp_path: Path):
    values = torch.ones(3000, 3000).to(dtype)
    values.view(torch.uint8)[-1, -1] = 0xFF  # of each of these types a NaN, with its neighbours
    if dtype.itemsize > 1:
        values.view(torch.uint8)[-1, -dtype.itemsize :] = 0xFF
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(5), "b": values}, path)
    contents = read_contents(path)
    assert contents.not_finite() == ["b"]
    assert list(contents.odd_types()) == (["b"] if dtype == torch.float8_e4m3fn else [])


def test_statuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def status(*words: str) -> int:
        try:
            main(["verify", *words])
        except SystemExit as leaving:
            return int(leaving.code or 0)
        return 0

    odd = saved(tmp_path / "odd.safetensors", {"some.thing": torch.ones(3, 3, 3)})
    assert status(str(odd), "--json") == 1
    assert json.loads(capsys.readouterr().out)["metrics"]["kind"] is None
    (tmp_path / "none.safetensors").write_bytes(b"no")
    assert status(str(tmp_path / "none.safetensors")) == 2
    assert status(str(tmp_path / "missing.safetensors")) == 2


@pytest.mark.slow
def test_a_large_file_is_read_in_parts(tmp_path: Path):
    path, count = tmp_path / "large.safetensors", 1 << 28  # a gigabyte of float32, without a byte on the disk
    header = json.dumps({"a": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * count)
    assert read_contents(path).not_finite() == []
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\xff\xff\xff\xff")
    assert read_contents(path).not_finite() == ["a"]


def test_nothing_there(tmp_path: Path):
    with pytest.raises(InputError, match="nothing at"):
        VerifyRecipe(file=tmp_path / "no").check()
