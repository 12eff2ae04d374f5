"""LoRA: files of all styles count what stock diffusers and peft make of them; fused, taken out, attached, written."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from core2d.adapters.lora import Lora, LoraAdapter, LowRank, attach, fuse, go_on_from, lora_of, unfuse
from core2d.adapters.lora_files import METADATA, PEFT_CONFIG, PEFT_WEIGHTS, read_lora, write_lora
from core2d.adapters.lora_names import flattened, of_ldm, place_of, written
from core2d.app.errors import InputError
from core2d.app.recipe import file_and_strength, files_and_strengths
from core2d.files.ldm import unet_to_ldm
from core2d.files.manifests import UNET_CONFIGS
from core2d.prior.backbone import Backbone

Fold = Callable[..., Path]
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
WORDS = "encoder.layers.0.self_attn.q_proj"
UNET_LAYERS = r".*(to_q|to_out\.0|proj_in|ff\.net\.2|conv1|conv_shortcut|time_emb_proj)"
TEXT_LAYERS = r".*(q_proj|out_proj|fc1)"


@pytest.fixture
def stock(tiny_folder: Fold) -> Any:
    """A fresh pipeline of diffusers with the tiny weights."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder("sd1"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def prior(tiny_folder: Fold) -> Backbone:
    return Backbone.load(tiny_folder("sd1"))


def weights_of(models: Mapping[str, Any]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value.clone() for part in ("unet", "text_encoder")
            for name, value in models[part].state_dict().items()}  # fmt: skip


def fused_by_stock(tiny_folder: Fold, file: Path) -> dict[str, Tensor]:
    """The weights that stock diffusers makes of the tiny model and a file."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(tiny_folder("sd1"))
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return weights_of(pipeline.components)


def fused_here(prior: Backbone, lora: Lora, strength: float = 1.0) -> dict[str, Tensor]:
    fuse(prior.family.parts, lora, strength)
    return weights_of(prior.family.parts)


def assert_same_change(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], before: Mapping[str, Tensor]):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-6, msg=name)
    grown = max((value - before[name]).abs().max().item() for name, value in expected.items())
    assert grown > 0.05  # and not by doing nothing


def trained(model: Any, targets: str, seed: int = 1, **settings: Any) -> Any:
    """Low-rank layers of peft that have learned something, as diffusers' training scripts make them."""
    inject_adapter_in_model(LoraConfig(target_modules=targets, **settings), model, "default")
    model._hf_peft_config_loaded = True  # as `add_adapter` does, which transformers 5.24 allows with peft 0.22 only
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def written_by_stock(stock: Any, path: Path, metadata: bool = True) -> Path:
    """One file of UNet and text encoder as stock diffusers writes it."""
    settings = {f"{part}_lora_adapter_metadata": getattr(stock, part).peft_config["default"].to_dict()
                for part in ("unet", "text_encoder") if metadata}  # fmt: skip
    stock.save_lora_weights(
        path.parent, unet_lora_layers=get_peft_model_state_dict(stock.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(stock.text_encoder), weight_name=path.name, **settings,
    )  # fmt: skip
    return path


# -- what files say, against stock ---------------------------------------------------------------------------------

RANKS: Any = {"rank_pattern": {"attn1.to_q": 2, "conv1": 3}}
PATTERNS: Any = RANKS | {"alpha_pattern": {"^.*conv1": 7, r"ff\.net\.2": 0.5, "fc1": 3}}


@pytest.mark.parametrize(
    ("settings", "metadata"),
    [
        ({"r": 4, "lora_alpha": 16}, True),
        ({"r": 4, "lora_alpha": 16} | PATTERNS, True),
        ({"r": 4, "lora_alpha": 16, "use_rslora": True}, True),
        ({"r": 4, "lora_alpha": 4}, False),
        ({"r": 4, "lora_alpha": 4} | RANKS, False),  # and no word on alpha
    ],
    ids=["alpha", "patterns", "rslora", "plain", "mixed-ranks"],
)
def test_a_file_of_stock_diffusers_counts_as_stock_counts_it(
    stock: Any, prior: Backbone, tiny_folder: Fold, tmp_path: Path, settings: dict, metadata: bool
):
    trained(stock.unet, UNET_LAYERS, **settings)
    trained(stock.text_encoder, TEXT_LAYERS, **settings)
    file = written_by_stock(stock, tmp_path / "lora.safetensors", metadata)
    before, lora = weights_of(prior.family.parts), read_lora(file)
    assert lora.parts.keys() == {"unet", "text_encoder"} and len(lora.parts["text_encoder"]) == 6
    assert any(layer.down.ndim == 4 and layer.shape[2:] == (3, 3) for layer in lora.unet.values())
    assert_same_change(fused_here(prior, lora), fused_by_stock(tiny_folder, file), before)
    ranks = {layer.rank for layer in lora.unet.values()}
    assert ranks == ({2, 3, 4} if "rank_pattern" in settings else {4})


def test_one_part_saved_by_its_model_alone(stock: Any, prior: Backbone, tmp_path: Path):
    """`save_lora_adapter` writes names and settings without the name of a part."""
    before = weights_of(prior.family.parts)
    trained(stock.unet, UNET_LAYERS, r=2, lora_alpha=6).save_lora_adapter(tmp_path, weight_name="lora.safetensors")
    assert not any(name.startswith("unet.") for name in load_file(tmp_path / "lora.safetensors"))
    found = fused_here(prior, read_lora(tmp_path / "lora.safetensors"))
    stock.unet.fuse_lora()
    stock.unet.unload_lora()
    assert_same_change(found, weights_of(stock.components), before)


def test_old_spellings_of_diffusers(prior: Backbone, tiny_folder: Fold, tmp_path: Path):
    """Of attention processors, and of the text encoder's own time."""
    generator = torch.Generator().manual_seed(3)
    block, state = QUERY.rpartition(".")[0], {}
    for name in ("to_q", "to_k", "to_v", "to_out"):
        starts = {f"unet.{block}.processor.": 8, "text_encoder.text_model.encoder.layers.1.self_attn.": 16}
        for start, width in starts.items():
            state[f"{start}{name}_lora.down.weight"] = torch.randn(2, width, generator=generator)
            state[f"{start}{name}_lora.up.weight"] = torch.randn(width, 2, generator=generator)
    save_file(state, tmp_path / "lora.safetensors")
    lora, before = read_lora(tmp_path / "lora.safetensors"), weights_of(prior.family.parts)
    assert set(lora.parts["text_encoder"]) == {
        f"encoder.layers.1.self_attn.{name}_proj" for name in ("q", "k", "v", "out")
    }
    assert_same_change(fused_here(prior, lora), fused_by_stock(tiny_folder, tmp_path / "lora.safetensors"), before)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_folder_of_peft_counts_as_peft_counts_it(stock: Any, prior: Backbone, tmp_path: Path, part: str):
    before, model = weights_of(prior.family.parts), getattr(stock, part)
    targets = UNET_LAYERS if part == "unet" else TEXT_LAYERS
    config = LoraConfig(r=4, lora_alpha=16, target_modules=targets, init_lora_weights=False, **PATTERNS)
    torch.manual_seed(2)
    wrapped = get_peft_model(model, config)
    wrapped.save_pretrained(str(tmp_path))
    expected = weights_of(stock.components | {part: wrapped.merge_and_unload()})
    lora = read_lora(tmp_path)
    assert list(lora.parts) == [part]
    assert_same_change(fused_here(prior, lora), expected, before)
    assert read_lora(tmp_path / PEFT_WEIGHTS).parts.keys() == lora.parts.keys()
    (tmp_path / PEFT_CONFIG).unlink()
    with pytest.raises(InputError, match=r"adapter_config\.json says what its layers count"):
        read_lora(tmp_path)


def kohya_file(path: Path, alphas: Mapping[str, float | None] = {}) -> tuple[Path, dict[str, tuple[Tensor, Tensor]]]:
    """As kohya's trainers write it, for attention, feed-forward, 1x1 and 3x3 convolutions and text; alpha by layer."""
    generator = torch.Generator().manual_seed(4)
    shapes = {
        f"lora_unet_{QUERY.replace('.', '_')}": (8, 8),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0": (8, 8),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2": (8, 32),
        "lora_unet_down_blocks_0_attentions_0_proj_in": (8, 8, 1, 1),
        "lora_unet_down_blocks_0_resnets_0_conv1": (8, 8, 3, 3),
        "lora_unet_up_blocks_1_resnets_0_time_emb_proj": (8, 32),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (16, 16),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (32, 16),
    }
    state, factors = {}, {}
    for index, (name, (out, into, *kernel)) in enumerate(shapes.items()):
        rank, ones = 1 + index % 3, [1] * len(kernel)
        down = torch.randn(rank, into, *kernel, generator=generator)
        up = torch.randn(out, rank, *ones, generator=generator)
        factors[name] = (down, up)
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        alpha = alphas.get(name, 0.5 + index)
        if alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(float(alpha))
    save_file(state, path, metadata={"ss_network_dim": "128", "ss_network_alpha": "64"})
    return path, factors


def layer_of(parts: Mapping[str, Any], kohya: str) -> str:
    """The full name of the layer, found in the models themselves."""
    part = "unet" if kohya.startswith("lora_unet_") else "text_encoder"
    flat = kohya.removeprefix("lora_unet_").removeprefix("lora_te_")
    (name,) = [name for name, _ in parts[part].named_modules() if flat.endswith(name.replace(".", "_")) and "." in name
               and isinstance(parts[part].get_submodule(name), nn.Linear | nn.Conv2d)]  # fmt: skip
    return f"{part}.{name}"


def test_a_file_of_kohya_keeps_the_alpha_of_every_layer(prior: Backbone, tiny_folder: Fold, tmp_path: Path):
    """Stock diffusers (0.42.1) drops those of attention and of text; elsewhere it counts the same."""
    file, factors = kohya_file(tmp_path / "lora.safetensors")
    before, found = weights_of(prior.family.parts), fused_here(prior, read_lora(file))
    stock = fused_by_stock(tiny_folder, file)
    changed = set()
    for index, (kohya, (down, up)) in enumerate(factors.items()):
        name = f"{layer_of(prior.family.parts, kohya)}.weight"
        delta = (0.5 + index) / len(down) * (up.flatten(1) @ down.flatten(1)).view(before[name].shape)
        torch.testing.assert_close(found[name], before[name] + delta, atol=1e-6, rtol=1e-6)
        assert delta.abs().max() > 0.05
        if "attn" not in name and name.startswith("unet"):
            torch.testing.assert_close(found[name], stock[name], atol=1e-6, rtol=1e-6)
        changed.add(name)
    assert len(changed) == 8 and all(torch.equal(found[name], before[name]) for name in found.keys() - changed)


def test_without_alpha_kohya_means_the_rank(tmp_path: Path):
    name = f"lora_unet_{QUERY.replace('.', '_')}"
    file, _ = kohya_file(tmp_path / "lora.safetensors", {name: None})
    lora = read_lora(file)
    assert lora.unet[QUERY].scale == 1 and lora.unet["down_blocks.0.resnets.0.conv1"].scale == 4.5 / 2


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNET_CONFIGS)
def test_every_layer_of_a_unet_is_found_by_its_kohya_name(name: str):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET_CONFIGS[name])
    layers = [place for place, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert len(layers) > 200
    for layer in layers:
        assert place_of(flattened("unet", layer, False)) == ("unet", layer)
        assert place_of(f"unet.{layer}") == place_of(layer) == place_of(f"base_model.model.{layer}") == ("unet", layer)


def test_every_layer_of_a_text_tower_is_found_by_its_names():
    config = CLIPTextConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    first, second = CLIPTextModel(config), CLIPTextModelWithProjection(config)
    cases = (("text_encoder", first, False), ("text_encoder", first, True), ("text_encoder_2", second, True))
    for part, model, two in cases:
        layers = [name.removeprefix("text_model.") for name, module in model.named_modules()
                  if isinstance(module, nn.Linear)]  # fmt: skip
        assert len(layers) == 12 + (part == "text_encoder_2")
        for layer in layers:
            assert place_of(flattened(part, layer, two)) == (part, layer)
            assert place_of(f"{part}.{written(layer)}") == place_of(f"{part}.{layer}") == (part, layer)
    assert flattened("text_encoder", "encoder.layers.0.mlp.fc1", True) == "lora_te1_text_model_encoder_layers_0_mlp_fc1"


def test_names_of_the_original_layout_are_those_of_both_models():
    """kohya's SDXL files have them; what one name means does not depend on the model."""
    for config in ("stable-diffusion-1.5", "stable-diffusion-xl-1.0"):
        for ours, theirs in unet_to_ldm(UNET_CONFIGS[config]).items():
            if ours.endswith(".weight"):
                assert of_ldm()[theirs.removesuffix(".weight").replace(".", "_")] == ours.removesuffix(".weight")
    assert place_of("lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k") == (
        "unet", "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k")  # fmt: skip
    assert place_of("lora_unet_output_blocks_2_2_conv") == ("unet", "up_blocks.0.upsamplers.0.conv")
    assert place_of("lora_unet_input_blocks_77_1_proj_in") is None
    assert place_of("controlnet.down_blocks.0.attentions.0.proj_in") is None
    assert place_of("transformer.blocks.0.attn1.to_q") is None


# -- writing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lora(tmp_path: Path) -> Lora:
    return read_lora(kohya_file(tmp_path / "a.safetensors")[0])


def same(found: LowRank, expected: LowRank) -> bool:
    halves = ((found.down, expected.down), (found.up, expected.up))
    return all(torch.equal(*pair) for pair in halves) and math.isclose(found.scale, expected.scale, rel_tol=1e-6)


def names_of(lora: Lora) -> set[tuple[str, str]]:
    return {(part, name) for part, name, _ in lora.named()}


def test_kohya_and_peft_come_back_number_by_number(lora: Lora, tmp_path: Path):
    write_lora(tmp_path / "kohya.safetensors", lora, "kohya")
    read = read_lora(tmp_path / "kohya.safetensors")
    assert names_of(read) == names_of(lora)
    assert all(same(read.parts[part][name], layer) for part, name, layer in lora.named())
    assert load_file(tmp_path / "kohya.safetensors").keys() == load_file(tmp_path / "a.safetensors").keys()
    for part, layers in lora.parts.items():
        write_lora(tmp_path / part, Lora({part: layers}), "peft")
        read = read_lora(tmp_path / part).parts[part]
        assert read.keys() == layers.keys() and all(same(read[name], layer) for name, layer in layers.items())
    with pytest.raises(InputError, match="holds one part, and this LoRA changes text_encoder, unet"):
        write_lora(tmp_path / "both", lora, "peft")
    assert not (tmp_path / "both").exists()


def test_what_is_written_is_what_stock_diffusers_fuses(lora: Lora, prior: Backbone, tiny_folder: Fold, tmp_path: Path):
    write_lora(tmp_path / "b.safetensors", lora)
    before, found = weights_of(prior.family.parts), fused_here(prior, lora)
    assert_same_change(fused_by_stock(tiny_folder, tmp_path / "b.safetensors"), found, before)
    again = fused_here(Backbone.load(tiny_folder("sd1")), read_lora(tmp_path / "b.safetensors"))
    assert_same_change(again, found, before)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        said = json.loads(file.metadata()[METADATA])
    assert said["unet.r"] == said["unet.lora_alpha"] and len(said["unet.rank_pattern"]) == 4
    write_lora(tmp_path / "c.safetensors", lora, dtype=torch.float16)
    half = load_file(tmp_path / "c.safetensors")
    assert {value.dtype for value in half.values()} == {torch.float16}
    save_file(half, tmp_path / "d.safetensors")  # programs that read no metadata count the same
    told, untold = (read_lora(tmp_path / f"{name}.safetensors") for name in "cd")
    assert all(same(told.parts[part][name], layer) for part, name, layer in untold.named())


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_what_is_written_is_what_peft_merges(lora: Lora, stock: Any, prior: Backbone, tmp_path: Path, part: str):
    alone = Lora({part: lora.parts[part]})
    write_lora(tmp_path / "peft", alone, "peft")
    before = weights_of(prior.family.parts)
    merged: Any = PeftModel.from_pretrained(getattr(stock, part), str(tmp_path / "peft"))
    expected = weights_of(stock.components | {part: merged.merge_and_unload()})
    assert_same_change(fused_here(prior, alone), expected, before)


@pytest.mark.parametrize("style", ["diffusers", "kohya", "peft"])
def test_layers_may_share_their_factors(tmp_path: Path, style: Any):
    shared = LowRank(torch.ones(1, 8), torch.ones(8, 1), 2.0)
    path = tmp_path / ("lora" if style == "peft" else "lora.safetensors")
    write_lora(path, Lora({"unet": {QUERY: shared, QUERY.replace("to_q", "to_k"): shared}}), style)
    found = read_lora(path).unet
    assert len(found) == 2 and all(torch.equal(one.delta(), shared.delta()) for one in found.values())


def test_where_nothing_can_be_written(lora: Lora, tmp_path: Path):
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        write_lora(tmp_path / "lora.ckpt", lora)
    assert not (tmp_path / "lora.ckpt").exists()


# -- refused -------------------------------------------------------------------------------------------------------

PAIR = {f"unet.{QUERY}.lora_A.weight": torch.ones(2, 8), f"unet.{QUERY}.lora_B.weight": torch.ones(8, 2)}
KOHYA_QUERY = f"lora_unet_{QUERY.replace('.', '_')}"
KOHYA_PAIR = {f"{KOHYA_QUERY}.lora_down.weight": torch.ones(2, 8), f"{KOHYA_QUERY}.lora_up.weight": torch.ones(8, 2)}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "it holds no tensors"),
        ({f"unet.{QUERY}.lora_A.weight": torch.ones(2, 8)}, f"one half of unet.{QUERY} only"),
        ({"unet.conv_in.weight": torch.ones(2, 8)}, "1 tensors such as unet.conv_in.weight"),
        ({"lora_transformer_blocks_0.lora_down.weight": torch.ones(2, 8)}, "1 tensors such as lora_transformer"),
        (PAIR | {f"unet.{QUERY}.lora_B.weight": torch.ones(8, 3)}, r"factors that do not fit: \(2, 8\) and \(8, 3\)"),
        (PAIR | {f"unet.{QUERY}.lora_B.weight": torch.ones(8, 2, 1, 1)}, "factors that do not fit"),
        (PAIR | {f"unet.{QUERY}.lora_A.weight": torch.full((2, 8), torch.nan)}, "not finite"),
        (PAIR | KOHYA_PAIR, f"two factors of one kind for unet.{QUERY}"),
        (KOHYA_PAIR | {f"{KOHYA_QUERY}.alpha": torch.tensor(0.0)}, "the alpha 0.0, where one number above 0 belongs"),
        (KOHYA_PAIR | {f"{KOHYA_QUERY}.alpha": torch.ones(3)}, "where one number above 0 belongs"),
        (KOHYA_PAIR | {f"{KOHYA_QUERY}.alpha": torch.tensor(torch.inf)}, "where one number above 0 belongs"),
        (KOHYA_PAIR | {f"{KOHYA_QUERY}.dora_scale": torch.ones(8, 1)}, "holds DoRA"),
        (PAIR | {f"unet.{QUERY}.lora_magnitude_vector": torch.ones(8)}, "holds DoRA"),
        ({f"{KOHYA_QUERY}.lokr_w1": torch.ones(2, 2), f"{KOHYA_QUERY}.lokr_w2": torch.ones(4, 4)}, "holds LoKr"),
        ({f"{KOHYA_QUERY}.hada_w1_a": torch.ones(2, 2)}, "holds LoHa"),
        ({f"base_model.model.{QUERY}.ia3_l": torch.ones(8, 1)}, "holds IA3"),
        ({f"{KOHYA_QUERY}.weight": torch.ones(8), f"{KOHYA_QUERY}.on_input": torch.tensor(True)}, "holds IA3"),
        (KOHYA_PAIR | {f"{KOHYA_QUERY}.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "holds LoCon with a third factor"),
        ({f"{KOHYA_QUERY}.diff": torch.ones(8, 8)}, "holds whole differences of weights"),
        (PAIR | {f"unet.{QUERY}.lora_B.bias": torch.ones(8)}, "holds LoRA with a bias"),
        ({"lora_unet_x.oft_blocks": torch.ones(2, 2)}, "holds OFT"),
    ],
)  # fmt: skip
def test_files_that_are_no_lora_of_two_factors(tmp_path: Path, state: dict[str, Tensor], words: str):
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=words) as said:
        read_lora(tmp_path / "a.safetensors")
    assert "\n" not in str(said.value) and "a.safetensors" in str(said.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("[]", "no JSON object"),
        ("{", "no JSON object"),
        ({"unet.r": 4}, "has rank 4, and its factors have 2"),
        ({"unet.lora_alpha": 2}, "has rank 8, and its factors have 2"),  # peft's own default
        ({"unet.r": 2, "unet.rank_pattern": {"attn1.to_q": 3}}, "has rank 3, and its factors have 2"),
        ({"unet.r": 2, "unet.use_dora": True}, "use_dora = true, which is not followed here"),
        ({"unet.r": 2, "unet.bias": "lora_only"}, 'bias = "lora_only"'),
        ({"unet.r": 2, "unet.peft_type": "LOKR"}, 'peft_type = "LOKR"'),
        ({"unet.r": 2, "unet.init_lora_weights": "pissa"}, 'init_lora_weights = "pissa"'),
        ({"unet.r": 2, "unet.modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"unet.r": 2, "unet.something_new": 3}, "something_new = 3"),
        ({"unet.r": "two"}, "does not say what its LoRA counts"),
        ({"unet.r": True}, "does not say what its LoRA counts"),
        ({"unet.r": 2, "unet.lora_alpha": float("nan")}, "does not say what its LoRA counts"),
        ({"unet.r": 2, "unet.alpha_pattern": [1]}, "does not say what its LoRA counts"),
        ({"unet.r": 2, "unet.alpha_pattern": {"(a+)+b": 1}}, "which is not followed here"),
    ],
)  # fmt: skip
def test_settings_that_are_not_followed_are_refused_by_name(tmp_path: Path, settings: Any, words: str):
    said = settings if isinstance(settings, str) else json.dumps(settings)
    save_file(PAIR, tmp_path / "a.safetensors", metadata={METADATA: said})
    with pytest.raises(InputError, match=words) as raised:
        read_lora(tmp_path / "a.safetensors")
    assert "\n" not in str(raised.value)


def test_settings_of_another_part_and_an_alpha_that_is_said_twice(tmp_path: Path):
    save_file(PAIR, tmp_path / "a.safetensors", metadata={METADATA: json.dumps({"text_encoder.r": 4})})
    assert read_lora(tmp_path / "a.safetensors").unet[QUERY].scale == 1
    save_file(KOHYA_PAIR | {f"{KOHYA_QUERY}.alpha": torch.tensor(1.0)}, tmp_path / "b.safetensors",
              metadata={METADATA: json.dumps({"unet.r": 2, "unet.lora_alpha": 1})})  # fmt: skip
    with pytest.raises(InputError, match="says twice what"):
        read_lora(tmp_path / "b.safetensors")
    save_file(PAIR | {f"text_encoder.text_model.{WORDS}.lora_A.weight": torch.ones(2, 16),
                      f"text_encoder.text_model.{WORDS}.lora_B.weight": torch.ones(16, 2)},
              tmp_path / "c.safetensors", metadata={METADATA: json.dumps({"r": 2})})  # fmt: skip
    with pytest.raises(InputError, match="does not say which of text_encoder, unet its settings are of"):
        read_lora(tmp_path / "c.safetensors")


def test_where_no_file_is(tmp_path: Path):
    cases = ((tmp_path / "none.safetensors", "no LoRA at"), (tmp_path, "holds no LoRA: it has no adapter_model"))
    for path, words in cases:
        with pytest.raises(InputError, match=words):
            read_lora(path)
    (tmp_path / "a.txt").write_text("no weights")
    with pytest.raises(InputError, match="no file of weights"):
        read_lora(tmp_path / "a.txt")


def test_a_file_and_its_strength(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "name@work").mkdir()
    for name in ("a.safetensors", "name@work/b.safetensors", "c@2", "c"):
        (tmp_path / name).write_bytes(b"")
    cases = {
        "a.safetensors": ("a.safetensors", 1.0), "a.safetensors@0.8": ("a.safetensors", 0.8),
        "a.safetensors@-.5": ("a.safetensors", -0.5), "a.safetensors@2.": ("a.safetensors", 2.0),
        "name@work/b.safetensors": ("name@work/b.safetensors", 1.0),
        "name@work/b.safetensors@0.5": ("name@work/b.safetensors", 0.5), "c@2": ("c@2", 1.0), "c@3": ("c", 3.0),
        "c@2@3": ("c@2", 3.0), "name@work": ("name@work", 1.0),  # a folder, as peft writes it
    }  # fmt: skip
    assert {said: file_and_strength("--lora", said) for said in cases} == {
        said: (Path(file), strength) for said, (file, strength) in cases.items()}  # fmt: skip
    assert list(files_and_strengths("--lora", ["c@3", "a.safetensors"]).items()) == [
        (Path("c"), 3.0), (Path("a.safetensors"), 1.0)]  # fmt: skip
    wrong = {"none": "--lora none: no such file", "none@0.5": "--lora none: no such file",
             "name@work/none": "--lora name@work/none: no such file",
             "c@much": "c@0.8", "c@nan": "c@0.8", "c@": "c@0.8", "c@101": "up to 100", "c@1e1": "c@0.8", "c@.": "c@0.8",
             f"c@{'9' * 400}": "up to 100", "c@--1": "c@0.8", "c@\u0662": "c@0.8"}  # fmt: skip
    for said, words in wrong.items():
        with pytest.raises(InputError, match=re.escape(words)):
            file_and_strength("--lora", said)
    with pytest.raises(InputError, match="--lora c@1: it is given twice"):
        files_and_strengths("--lora", ["c@3", "c@1"])


def test_one_of_another_model_names_a_shape_that_differs_and_changes_nothing(prior: Backbone):
    before = weights_of(prior.family.parts)
    fits, other = LowRank(torch.ones(1, 8), torch.ones(8, 1)), LowRank(torch.ones(1, 768), torch.ones(320, 1))
    key = QUERY.replace("attn1.to_q", "attn2.to_k")
    cases = (
        (Lora({"unet": {QUERY: fits, "down_blocks.9.x": fits, key: other}}),
         f"of another model: it changes unet.{key} by 320 x 768, which has 8 x 16"),
        (Lora({"unet": {QUERY: fits, "down_blocks.9.x": fits}}),
         r"of another model: it changes unet.down_blocks.9.x, which this one does not have \(1 of 2 layers\)"),
        (Lora({"unet": {QUERY: fits}, "text_encoder_2": {WORDS: fits}}), "changes the text_encoder_2 too"),
    )  # fmt: skip
    for lora, words in cases:
        for add in (fuse, lambda models, lora: attach(models, lora, "a")):
            with pytest.raises(InputError, match=words):
                add(prior.family.parts, lora)
    with pytest.raises(InputError, match="a strength of nan"):
        fuse(prior.family.parts, Lora({"unet": {QUERY: fits}}), math.nan)
    after = weights_of(prior.family.parts)
    assert before.keys() == after.keys() and all(torch.equal(value, before[name]) for name, value in after.items())


# -- fused, taken out, attached ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fused_weights_are_rounded_once_and_come_back_bit_by_bit(prior: Backbone, lora: Lora, dtype: torch.dtype):
    for part in ("unet", "text_encoder"):
        prior.family.parts[part].to(dtype)
    before = weights_of(prior.family.parts)
    first = fuse(prior.family.parts, lora, 0.7)
    name = f"unet.{QUERY}.weight"
    expected = (before[name].float() + 0.7 * lora.unet[QUERY].delta()).to(dtype)
    assert torch.equal(weights_of(prior.family.parts)[name], expected) and not torch.equal(expected, before[name])
    once = weights_of(prior.family.parts)
    second = fuse(prior.family.parts, lora, -3.0)
    with pytest.raises(ValueError, match="take out first what was fused last"):
        unfuse(first)
    unfuse(second)
    assert all(torch.equal(value, once[key]) for key, value in weights_of(prior.family.parts).items())
    unfuse(first)
    assert all(torch.equal(value, before[key]) for key, value in weights_of(prior.family.parts).items())
    assert not any(parameter.requires_grad for parameter in prior.family.denoiser.parameters())


def test_weights_that_have_moved_come_back_where_they_are(prior: Backbone, lora: Lora):
    before, unet = weights_of(prior.family.parts), prior.family.denoiser
    original = unet.get_submodule(QUERY).weight
    fused = fuse(prior.family.parts, lora)
    unet.double()
    unfuse(fused)
    assert all(value.dtype == torch.float64 for value in unet.state_dict().values())
    assert all(torch.equal(value.float(), before[f"unet.{name}"]) for name, value in unet.state_dict().items())
    assert original.dtype == torch.float32  # which another model may share
    fuse(unet, Lora({"unet": {QUERY: lora.unet[QUERY]}}), 1e-9)
    grown = unet.get_submodule(QUERY).weight - original.double()
    torch.testing.assert_close(grown, 1e-9 * lora.unet[QUERY].delta().double(), rtol=1e-5, atol=1e-15)


def test_an_adapter_makes_another_prior_and_leaves_this_one(prior: Backbone, lora: Lora, tiny_folder: Fold):
    alone = Lora({"unet": lora.unet})
    x_t, words = torch.randn(2, 4, 8, 8), prior.encode_text(["a red mug"])
    before = prior.predict(x_t, 500, words).eps
    changed = prior.with_adapters(LoraAdapter(alone, 0.5))
    other = Backbone.load(tiny_folder("sd1"))
    fuse(other.family.denoiser, alone, 0.5)
    assert torch.equal(changed.predict(x_t, 500, words).eps, other.predict(x_t, 500, words).eps)
    assert torch.equal(prior.predict(x_t, 500, words).eps, before)
    assert (changed.predict(x_t, 500, words).eps - before).abs().max() > 1e-3
    with pytest.raises(InputError, match="changes the text_encoder too"):
        prior.with_adapters(LoraAdapter(lora))


def test_attached_layers_compute_what_fused_ones_do_and_are_taken_out_as_they_were(
    prior: Backbone, lora: Lora, tiny_folder: Fold, tmp_path: Path
):
    other = Backbone.load(tiny_folder("sd1"))
    fuse(other.family.parts, lora, 0.5)
    plain, x_t = prior.encode_text(["a red mug"]).tokens, torch.randn(2, 4, 8, 8)
    prior.to(torch.device("cpu"))  # which forgets what has been encoded
    attach(prior.family.parts, lora, "style", 0.5)
    words = [one.encode_text(["a red mug"]) for one in (prior, other)]
    torch.testing.assert_close(words[0].tokens, words[1].tokens, atol=5e-5, rtol=1e-4)  # sums in another order
    assert (words[0].tokens - plain).abs().max() > 1e-3
    outputs = [one.predict(x_t, 500, words[1]).eps for one in (prior, other)]
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)
    more = Lora({"unet": {QUERY: lora.unet[QUERY]}})
    attach(prior.family.parts, more, "more")  # and what was attached before stays on
    fuse(other.family.parts, more)
    torch.testing.assert_close(*(one.predict(x_t, 500, words[1]).eps for one in (prior, other)), atol=1e-4, rtol=1e-4)
    assert names_of(lora_of(prior.family.parts, "more")) == {("unet", QUERY)}
    with pytest.raises(InputError, match="of the name 'more' beside the unet already"):
        attach(prior.family.denoiser, more, "more")
    taken = lora_of(prior.family.parts, "style")
    assert names_of(taken) == names_of(lora)
    for part, name, layer in taken.named():
        given = lora.parts[part][name]
        assert same(LowRank(layer.down, layer.up, layer.scale / 0.5), given)  # at the strength that it has now
    for one in (prior, other):
        fuse(one.family.denoiser, more)  # under what is attached
    torch.testing.assert_close(*(one.predict(x_t, 500, words[1]).eps for one in (prior, other)), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no low-rank layers of the name 'none'"):
        lora_of(prior.family.parts, "none")


def test_training_goes_on_from_a_lower_rank_only(stock: Any, lora: Lora):
    layer = lora.unet[QUERY]  # of rank 1, scale 0.5
    trained(stock.unet, f".*{QUERY}", r=3, lora_alpha=6)
    nn.init.zeros_(stock.unet.get_submodule(QUERY).lora_B["default"].weight)
    go_on_from(stock.unet, Lora({"unet": {QUERY: layer}}), "default")
    found = lora_of(stock.unet, "default").unet[QUERY]
    assert found.rank == 3 and found.scale == 2
    torch.testing.assert_close(found.delta(), layer.delta())
    ff = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"
    wide = LowRank(torch.ones(4, 8), torch.ones(8, 4))
    for name, change, words in ((ff, lora.unet[ff], "where no layer learns"), (QUERY, wide, "8 x 8 of rank 4, and")):
        with pytest.raises(InputError, match=words):
            go_on_from(stock.unet, Lora({"unet": {name: change}}), "default")
    with pytest.raises(ValueError, match="more than two factors"):
        lora_of(trained(stock.text_encoder, TEXT_LAYERS, r=2, use_dora=True), "default")


@pytest.mark.parametrize("shapes", [((2, 8), (8, 2, 1)), ((0, 8), (8, 0)), ((2,), (2,)), ((2, 8, 3, 3), (8, 2, 3, 3))])
def test_factors_that_are_no_pair(shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    with pytest.raises(ValueError, match="factors that do not fit"):
        LowRank(torch.ones(shapes[0]), torch.ones(shapes[1]))
