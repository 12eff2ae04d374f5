"""Model folders as they were published: variants, parts, hidden files, and what older libraries wrote."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from core2d.app.errors import InputError
from core2d.app.registry import bundled
from core2d.files.command import describe_model
from core2d.files.loading import load_model, weights_files
from core2d.prior.backbone import Backbone


@pytest.fixture
def folder(tiny_folder, tmp_path: Path) -> Path:
    """A copy of an SD 1.x folder that a test may change."""
    return Path(shutil.copytree(tiny_folder("sd1"), tmp_path / "model"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_same_weights(ours: Backbone, theirs: Backbone, dtype: torch.dtype = torch.float32) -> None:
    """Equal once those of theirs have been through a number format."""
    for name, module in ours.named_models().items():
        expected = theirs.named_models()[name].state_dict()
        assert all(torch.equal(tensor, expected[key].to(dtype).float()) for key, tensor in module.state_dict().items())


# -- variants and parts ------------------------------------------------------------------------------------------


def rewrite(folder: Path, variant: str | None, shard: str, dtype: torch.dtype) -> None:
    """The weights of a folder as the libraries write them under a variant, in parts of at most `shard`."""
    for part, kind in (("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel)):
        model: Any = load_model(kind, folder / part, torch.float32)
        for path in (folder / part).glob("*.safetensors"):
            path.unlink()
        model.to(dtype).save_pretrained(folder / part, variant=variant, max_shard_size=shard)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = {name: tensor.to(dtype) for name, tensor in load_file(vae).items()}
    vae.unlink()
    save_file(state, vae.with_suffix(f".{variant}.safetensors" if variant else ".safetensors"), {"format": "pt"})


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
@pytest.mark.parametrize(
    ("variant", "dtype"),
    [(None, torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16), ("non_ema", torch.float32)],
)
def test_folders_of_one_variant(folder: Path, tiny_folder, variant: str | None, shard: str, dtype: torch.dtype) -> None:
    rewrite(folder, variant, shard, dtype)
    assert weights_files(folder / "unet")[1] == variant
    assert (len(weights_files(folder / "unet")[0]) > 2) == (shard == "20KB")
    assert_same_weights(Backbone.load(folder), Backbone.load(tiny_folder("sd1")), dtype)


def test_parts_as_older_versions_named_their_variant(folder: Path, tiny_folder) -> None:
    rewrite(folder, "fp16", "8KB", torch.float16)
    index = folder / "text_encoder" / "model.safetensors.index.fp16.json"
    places = json.loads(index.read_text())
    for path in (folder / "text_encoder").glob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".fp16", "").replace(".safetensors", ".fp16.safetensors")))
    old = {name: file.replace(".fp16", "").replace(".safetensors", ".fp16.safetensors")
           for name, file in places["weight_map"].items()}  # fmt: skip
    index.write_text(json.dumps(places | {"weight_map": old}))
    assert_same_weights(Backbone.load(folder), Backbone.load(tiny_folder("sd1")), torch.float16)


@pytest.mark.parametrize(
    ("names", "chosen", "variant"),
    [
        (["model.fp16", "model"], ["model"], None),
        (["diffusion_pytorch_model.non_ema", "diffusion_pytorch_model"], ["diffusion_pytorch_model"], None),
        (["model.bf16", "model.fp16"], ["model.fp16"], "fp16"),
        (["model.non_ema", "model.bf16"], ["model.bf16"], "bf16"),
        (["model.fp8"], ["model.fp8"], "fp8"),
        (["model.fp16-00001-of-00002", "model.fp16-00002-of-00002"], ["model.fp16-00001-of-00002",
         "model.fp16-00002-of-00002"], "fp16"),
        (["model-00001-of-00002.fp16", "model-00002-of-00002.fp16", "model-00001-of-00001"],
         ["model-00001-of-00001"], None),
        (["model", "pytorch_lora_weights"], ["model"], None),
        (["weights.of.mine"], ["weights.of.mine"], None),
        (["model.fp16", "._model", "._model.fp16", ".hidden"], ["model.fp16"], "fp16"),
    ],
)  # fmt: skip
def test_which_files_are_the_weights(tmp_path: Path, names: list[str], chosen: list[str], variant: str | None) -> None:
    for name in names:
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    files, found = weights_files(tmp_path)
    assert [path.name.removesuffix(".safetensors") for path in files] == chosen and found == variant


def test_variants_of_unknown_kinds_are_not_guessed_among(folder: Path) -> None:
    unet = folder / "unet"
    plain = unet / "diffusion_pytorch_model.safetensors"
    for variant in ("ema", "non_ema"):
        shutil.copy(plain, plain.with_suffix(f".{variant}.safetensors"))
    assert weights_files(unet) == ([plain], None)
    plain.unlink()
    with pytest.raises(InputError, match=r"several variants \(ema, non_ema\): keep the files of one"):
        Backbone.load(folder)


def test_a_part_that_is_missing_is_one_line(folder: Path) -> None:
    rewrite(folder, "fp16", "20KB", torch.float16)
    next((folder / "unet").glob("*-00002-of-*")).unlink()
    with pytest.raises(InputError, match="unet ") as caught:
        Backbone.load(folder)
    assert "\n" not in str(caught.value)


# -- hidden files ------------------------------------------------------------------------------------------------


def test_what_macos_leaves_beside_files_is_no_weights(folder: Path, tiny_folder, monkeypatch) -> None:
    card = folder / "README.md"
    card.write_text("# Card\n")
    before = describe_model(folder)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7" * 9000)
    (folder / "unet" / "._diffusion_pytorch_model.fp16.safetensors").write_bytes(b"\0")
    (folder.parent / ".trash").mkdir()
    (folder.parent / ".trash" / "README.md").write_text("# Gone\n")
    assert_same_weights(Backbone.load(folder), Backbone.load(tiny_folder("sd1")))
    assert describe_model(folder) == before
    monkeypatch.setattr("core2d.app.registry.assets_folder", lambda: folder.parent)
    assert bundled() == {"model": folder}
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"unet holds no \.safetensors weights"):
        Backbone.load(folder)


# -- older libraries ---------------------------------------------------------------------------------------------


def test_names_of_older_libraries(folder: Path, tiny_folder) -> None:
    text = folder / "text_encoder" / "model.safetensors"
    state = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(text).items()}
    save_file(state | {"text_model.embeddings.position_ids": torch.arange(24)[None]}, text, {"format": "pt"})
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for name, tensor in load_file(vae).items():
        for new, before in old.items():
            name = name.replace(new, before)
        renamed[name] = tensor
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in renamed
    save_file(renamed, vae, {"format": "pt"})
    assert_same_weights(Backbone.load(folder), Backbone.load(tiny_folder("sd1")))


@pytest.mark.filterwarnings("ignore:The configuration file")
@pytest.mark.parametrize(
    ("version", "size", "expected"), [("0.2.2", 8, 64), ("0.8.1", 32, 64), ("0.9.0", 8, 8), ("0.10.2", 8, 8)]
)
def test_the_size_that_oldest_configs_do_not_tell(folder: Path, version: str, size: int, expected: int) -> None:
    edit_json(folder / "unet" / "config.json", _diffusers_version=version, sample_size=size)
    stock: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert stock.unet.config.sample_size == expected == Backbone.load(folder).latent_size


@pytest.mark.parametrize("size", [None, 0, "64", [], [8, -8], 7.5])
def test_a_size_that_is_none(folder: Path, size: Any) -> None:
    edit_json(folder / "unet" / "config.json", sample_size=size)
    with pytest.raises(InputError, match=r"unet.config\.json has the sample_size .*: write the side of the latents"):
        Backbone.load(folder)


@pytest.mark.parametrize(("family", "dtype"), [("sd1", torch.float16), ("sdxl", torch.float32)])
def test_the_autoencoder_of_sdxl_overflows_where_nothing_is_said(
    tiny_folder, tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    folder = Path(shutil.copytree(tiny_folder(family), tmp_path / "model"))
    config = json.loads((folder / "vae" / "config.json").read_text())
    config.pop("force_upcast")
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    assert Backbone.load(folder, dtype=torch.float16).vae.dtype == dtype
    assert Backbone.load(folder, dtype=torch.bfloat16).vae.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": "X", "unet": []},
        {"transformer": ["diffusers", "FluxTransformer2DModel"], "text_encoder": ["transformers", "T5EncoderModel"]},
        {"transformer": ["diffusers", "Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]},  # DiT
    ],
)
def test_an_index_of_no_known_family(folder: Path, index: dict[str, Any]) -> None:
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="no model that is known here"):
        Backbone.load(folder)
