"""Checkpoints of Zero-1-to-3 in all their formats: what is read is what was written, and what is wrong is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_zero123 import WIDTH, tiny_clip_config, tiny_vae, tiny_zero123
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from core2d.app.errors import InputError
from core2d.app.registry import bundled
from core2d.files import ldm
from core2d.files.loading import load_model, save_model
from core2d.files.manifests import UNET_CONFIGS, VAE_CONFIG, Manifest
from core2d.prior.schedule import alphas_cumprod_from_config
from gen3d.zero123.camera_projection import CameraProjection, PictureReader
from gen3d.zero123.formats import CLIP_MEAN, PUBLISHED_SCHEDULER, SETTINGS, Zero123Parts, read_zero123, write_zero123

PARTS = ("unet", "vae", "image_encoder", "projection")
PLACES = {
    "model.safetensors": "ldm",
    "model.ckpt": "ldm",
    "model": "diffusers",
    "clip": "clip_camera_projection",
}
SCHEDULE = ldm.schedule_to_ldm(alphas_cumprod_from_config(PUBLISHED_SCHEDULER))
UNET, EMA, CLIP = "model.diffusion_model.", "model_ema.diffusion_model", "cond_stage_model.model."


def config_of(module: Any) -> dict[str, Any]:
    config = module.config if isinstance(module.config, dict) else module.config.to_dict()
    kept = {key: value for key, value in config.items() if not key.startswith("_") and key != "dtype"}
    return json.loads(json.dumps(kept))


def assert_same(ours: Zero123Parts, theirs: Zero123Parts) -> None:
    """Every tensor to the bit, every config and every number."""
    for part in PARTS:
        one, other = getattr(ours, part), getattr(theirs, part)
        assert type(one) is type(other) and config_of(one) == config_of(other)
        state, found = one.state_dict(), other.state_dict()
        assert state.keys() == found.keys()
        assert all(found[name].dtype == tensor.dtype for name, tensor in state.items())
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
        assert not other.training and not any(parameter.requires_grad for parameter in other.parameters())
    for name in ("scheduler_config", "absolute_elevation", "image_mean", "image_std", "margin"):
        assert getattr(ours, name) == getattr(theirs, name)


def refused(path: Path, *says: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        read_zero123(path, **options)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in says), message


def edited(path: Path, change: Callable[[dict[str, Tensor]], Any], name: str = "edited.safetensors") -> Path:
    """A copy of a safetensors file with its tensors changed."""
    state = load_file(path)
    change(state)
    save_file(state, path.parent / name)
    return path.parent / name


@pytest.fixture(scope="module")
def parts() -> Zero123Parts:
    return tiny_zero123()


@pytest.fixture(scope="module")
def original(parts: Zero123Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "model.safetensors"
    write_zero123(path, parts)
    return path


# -- round trips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "format"), PLACES.items())
def test_every_format_gives_back_what_was_written(parts: Zero123Parts, tmp_path: Path, place: str, format: Any) -> None:
    write_zero123(tmp_path / place, parts, format)
    found, report = read_zero123(tmp_path / place)
    assert_same(parts, found)
    assert report.format == format and report.betas_ok and report.ema_used == (format == "ldm")
    assert not report.missing and not report.unexpected
    assert str(report).startswith(f"Zero-1-to-3 in the format {format}\n") and "as published" in str(report)
    assert [path.name for path in tmp_path.iterdir()] == [place]


def test_through_all_formats_in_turn(parts: Zero123Parts, tmp_path: Path) -> None:
    found = parts
    for place, format in (*PLACES.items(), ("again.safetensors", "ldm")):
        write_zero123(tmp_path / place, found, format)  # pyright: ignore[reportArgumentType]
        found, _ = read_zero123(tmp_path / place)
    assert_same(parts, found)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def unusual() -> Zero123Parts:
    """Parts in which all is different that shapes do not tell."""
    parts = tiny_zero123(seed=1, attention_head_dim=2, norm_num_groups=8, sample_size=8, layers_per_block=2)
    parts.vae = tiny_vae(norm_num_groups=4, scaling_factor=0.7, mid_block_add_attention=False, force_upcast=False)
    parts.image_encoder = CLIPVisionModelWithProjection(tiny_clip_config(num_attention_heads=4, hidden_act="gelu"))
    for module in (parts.vae, parts.image_encoder):
        module.requires_grad_(False).eval()
    parts.scheduler_config = PUBLISHED_SCHEDULER | {"prediction_type": "v_prediction", "beta_end": 0.02}
    parts.image_mean, parts.image_std = (0.5, 0.4, 0.3), (0.25, 0.5, 0.125)
    parts.absolute_elevation = True
    return parts


@pytest.mark.parametrize(("place", "format"), PLACES.items())
def test_what_shapes_do_not_tell_is_kept(tmp_path: Path, place: str, format: Any) -> None:
    parts = unusual()
    write_zero123(tmp_path / place, parts, format)
    found, report = read_zero123(tmp_path / place)
    assert_same(parts, found)
    assert report.betas_ok is False and "not the published one" in str(report)


def test_all_formats_compute_the_same(parts: Zero123Parts, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, images = torch.randn(2, 8, 8, 8, generator=generator), torch.rand(2, 3, 16, 16, generator=generator)
    view = torch.randn(2, 4, generator=generator)

    def predict(parts: Zero123Parts) -> Tensor:
        context = parts.projection(parts.image_encoder(images).image_embeds, view, latents[:, :4])
        return parts.vae.decode(parts.unet(latents, 7, context).sample, return_dict=False)[0]

    expected = predict(parts)
    assert expected.isfinite().all()
    for place, format in PLACES.items():
        write_zero123(tmp_path / place, parts, format)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(predict(read_zero123(tmp_path / place)[0]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["model", "model.safetensors"])
def test_half_precision(parts: Zero123Parts, tmp_path: Path, place: str) -> None:
    write_zero123(tmp_path / place, parts, PLACES[place], torch.float16)  # pyright: ignore[reportArgumentType]
    found, _ = read_zero123(tmp_path / place, torch.float16)
    for part in PARTS:
        state = getattr(parts, part).state_dict()
        for name, tensor in getattr(found, part).state_dict().items():
            assert tensor.dtype == torch.float16 and torch.equal(tensor, state[name].half())
    assert read_zero123(tmp_path / place)[0].unet.dtype == torch.float32


# -- the original layout -----------------------------------------------------------------------------------------


def test_full_size_names_and_shapes() -> None:
    """zero123-xl: SD 1.x with 8 channels in, ViT-L/14 of OpenAI, one linear projection."""
    sizes = dict(hidden_size=1024, intermediate_size=4096, projection_dim=768, num_hidden_layers=24)
    clip = dict(**sizes, num_attention_heads=16, image_size=224, patch_size=14)
    unet = UNET_CONFIGS["stable-diffusion-1.5"] | {"in_channels": 8}
    there: Manifest = {}
    for prefix, module, names in (
        (UNET, ldm.unet_on_meta(unet), ldm.unet_to_ldm(unet)),
        ("first_stage_model.", ldm.vae_on_meta(VAE_CONFIG), ldm.vae_to_ldm(VAE_CONFIG)),
        (CLIP, ldm.clip_vision_on_meta(clip), ldm.clip_vision_to_openai(clip)),
        ("cc_", CameraProjection(), {f"projection.{name}": f"projection.{name}" for name in ("weight", "bias")}),
    ):
        state = ldm.diffusers_to_ldm(module.state_dict(), names)
        there |= {prefix + name: tuple(tensor.shape) for name, tensor in state.items()}
    assert len(there) == 686 + 248 + 296 + 2
    assert sum(name.startswith(UNET) for name in there) == 686
    published = {
        f"{UNET}input_blocks.0.0.weight": (320, 8, 3, 3),
        f"{UNET}time_embed.2.weight": (1280, 1280),
        f"{UNET}input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        f"{UNET}output_blocks.8.2.conv.bias": (640,),
        f"{UNET}output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
        f"{UNET}out.2.weight": (4, 320, 3, 3),
        "first_stage_model.encoder.down.2.block.0.nin_shortcut.weight": (512, 256, 1, 1),
        "first_stage_model.decoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        "first_stage_model.post_quant_conv.bias": (4,),
        f"{CLIP}visual.transformer.resblocks.11.attn.in_proj_weight": (3072, 1024),
        f"{CLIP}visual.proj": (1024, 768),
        "cc_projection.weight": (768, 772),
        "cc_projection.bias": (768,),
    }
    assert {name: there[name] for name in published} == published


def test_a_published_model_needs_no_settings(original: Path) -> None:
    state = load_file(original)
    assert SETTINGS not in state
    assert {name for name in state if "." not in name} == SCHEDULE.keys()
    assert all(torch.equal(state[name], buffer) for name, buffer in SCHEDULE.items())
    root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    torch.testing.assert_close(state["betas"], (root**2).float(), rtol=1e-6, atol=0)


class LatentDiffusion(nn.Module):
    """What the original code loads a file into: modules by name, averages as `LitEma` names them, and the schedule."""

    def __init__(self, shapes: Manifest) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *path, last = name.split(".")
            place: nn.Module = self
            for step in path:
                if not hasattr(place, step):
                    place.add_module(step, nn.Module())
                place = getattr(place, step)
            place.register_parameter(last, nn.Parameter(torch.full(shape, torch.nan)))
        self.model_ema = nn.Module()
        self.model_ema.register_buffer("decay", torch.tensor(0.0))
        self.model_ema.register_buffer("num_updates", torch.tensor(-1, dtype=torch.int))
        for name, parameter in self.get_submodule("model").named_parameters():
            self.model_ema.register_buffer(name.replace(".", ""), parameter.clone().detach())
        for name in SCHEDULE:
            self.register_buffer(name, torch.full((1000,), torch.nan))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_the_original_code_finds_all_that_it_samples_with(tmp_path: Path, suffix: str) -> None:
    parts = unusual()
    write_zero123(tmp_path / f"model{suffix}", parts)
    path = tmp_path / f"model{suffix}"
    state = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)["state_dict"]
    shapes = {
        name: tuple(tensor.shape) for name, tensor in state.items() if name.startswith((UNET, "first", CLIP, "cc"))
    }
    there = LatentDiffusion(shapes)
    expected = {f"{UNET}{name}" for name in ldm.unet_to_ldm(config_of(parts.unet)).values()}
    assert {name for name in shapes if name.startswith(UNET)} == expected
    missing, unexpected = there.load_state_dict(state, strict=False)
    assert missing == [] and unexpected == [SETTINGS]
    for name, weight in there.get_submodule("model").named_parameters():  # what `ema_scope` swaps in
        assert torch.equal(getattr(there.model_ema, name.replace(".", "")), weight) and weight.isfinite().all()
    assert there.model_ema.decay == torch.tensor(0.9999) and there.model_ema.num_updates == 0
    for name, buffer in ldm.schedule_to_ldm(alphas_cumprod_from_config(parts.scheduler_config)).items():
        assert torch.equal(getattr(there, name), buffer) and buffer.isfinite().all()
        assert not torch.equal(buffer, SCHEDULE[name])  # that of these parts, not the usual one


def test_a_pickle_holds_weights_and_averages_once(parts: Zero123Parts, original: Path, tmp_path: Path) -> None:
    write_zero123(tmp_path / "model.ckpt", parts)
    averages = sum(tensor.nbytes for name, tensor in load_file(original).items() if name.startswith(EMA))
    sizes = [path.stat().st_size for path in (original, tmp_path / "model.ckpt")]
    assert averages == sum(tensor.nbytes for tensor in parts.unet.state_dict().values())
    assert sizes[0] - sizes[1] > 0.8 * averages


def test_other_betas_are_noticed(original: Path) -> None:
    betas = torch.linspace(0.02**0.5, 0.085**0.5, 1000) ** 2
    assert read_zero123(edited(original, lambda state: state.update(betas=betas)))[1].betas_ok is False
    assert read_zero123(edited(original, lambda state: state.update(betas=betas[:10].clone())))[1].betas_ok is False
    assert read_zero123(edited(original, lambda state: state.pop("betas")))[1].betas_ok is None


def test_both_styles_of_clip(parts: Zero123Parts, original: Path) -> None:
    def rename(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith(CLIP)]:
            del state[name]
        tower = parts.image_encoder.state_dict()
        state |= {f"cond_stage_model.transformer.{name}": tensor for name, tensor in tower.items()}
        state["cond_stage_model.transformer.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        state["cond_stage_model.transformer.text_projection.weight"] = torch.zeros(2, 2)

    found, report = read_zero123(edited(original, rename))
    assert_same(parts, found)
    assert "cond_stage_model.transformer.visual_projection.weight" in report.matched
    assert {name for name in report.ignored if name.startswith("cond")} == {
        "cond_stage_model.transformer.vision_model.embeddings.position_ids",
        "cond_stage_model.transformer.text_projection.weight",
    }


def test_text_tensors_of_clip_are_left_over(parts: Zero123Parts, original: Path) -> None:
    left = ["token_embedding.weight", "positional_embedding", "ln_final.bias", "text_projection", "logit_scale"]
    extra = {f"{CLIP}{name}": torch.zeros(2, 2) for name in left} | {"logvar": torch.zeros(1000)}
    found, report = read_zero123(edited(original, lambda state: state.update(extra)))
    assert_same(parts, found)
    beside = {"model_ema.decay", "model_ema.num_updates", *extra, *SCHEDULE}
    assert {name for name in report.ignored if not name.startswith(UNET)} == beside and not report.unexpected


# -- averages ----------------------------------------------------------------------------------------------------


def add_averages(state: dict[str, Tensor]) -> None:
    for name in [name for name in state if name.startswith(UNET)]:
        state[EMA + name.removeprefix(UNET).replace(".", "")] = state[name] + 1
    state["model_ema.decay"], state["model_ema.num_updates"] = torch.tensor(0.9999), torch.tensor(7)


def test_averages_are_used_where_they_are(parts: Zero123Parts, original: Path) -> None:
    path = edited(original, add_averages)
    found, report = read_zero123(path)
    state = parts.unet.state_dict()
    assert all(torch.equal(tensor, state[name] + 1) for name, tensor in found.unet.state_dict().items())
    assert report.ema_used and "the UNet is the averaged one" in str(report) and not report.unexpected
    assert f"{EMA}input_blocks00weight" in report.matched and f"{UNET}input_blocks.0.0.weight" in report.ignored
    plain, report = read_zero123(path, ema=False)
    assert_same(parts, plain)
    assert not report.ema_used and not report.unexpected and "model_ema.decay" in report.ignored


@pytest.mark.parametrize(
    "cut", [lambda state, name: state.pop(name), lambda state, name: state.update({name: torch.ones(3)})]
)
def test_averages_are_used_completely_or_not_at_all(parts: Zero123Parts, original: Path, cut: Any) -> None:
    def change(state: dict[str, Tensor]) -> None:
        add_averages(state)
        cut(state, f"{EMA}out2weight")

    found, report = read_zero123(edited(original, change))
    assert_same(parts, found)
    assert not report.ema_used and report.missing == [f"{EMA}out2weight"] and not report.unexpected
    assert "1 tensor of the averaged UNet missing" in str(report)


# -- what is wrong -----------------------------------------------------------------------------------------------


def test_no_checkpoint(tmp_path: Path, original: Path) -> None:
    refused(tmp_path / "nothing.ckpt", "no checkpoint at", "nothing.ckpt")
    (tmp_path / "model.txt").write_text("")
    refused(tmp_path / "model.txt", "no checkpoint by its name")
    for name in ("half.safetensors", "half.ckpt"):
        (tmp_path / name).write_bytes(original.read_bytes()[:5000])
        refused(tmp_path / name, name)
    refused(
        edited(original, lambda state: [state.pop(name) for name in list(state)[1:]]), "no whole Zero-1-to-3", "unet"
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_tensor_that_is_missing_or_of_another_shape(original: Path, data: st.DataObject) -> None:
    names = [name for name in load_file(original) if "." in name and not name.startswith("model_ema.")]
    name = data.draw(st.sampled_from(names))
    refused(edited(original, lambda state: state.pop(name)), "missing")
    shape = data.draw(st.sampled_from([(), (1,), (3, 5), (2, 2, 2, 2), (0, 4)]))
    refused(edited(original, lambda state: state.update({name: torch.zeros(shape)})))


def test_how_many_and_which(original: Path) -> None:
    names = [f"{UNET}input_blocks.1.0.in_layers.0.{kind}" for kind in ("weight", "bias")]
    path = edited(original, lambda state: [state.pop(name) for name in names])
    refused(path, f"of its unet 2 tensors missing (such as {names[1]})")
    wrong = {"first_stage_model.encoder.norm_out.bias": torch.zeros(3)}
    refused(edited(original, lambda state: state.update(wrong)), "of its vae 1 tensor of another shape")
    refused(edited(original, lambda state: state.pop("cc_projection.bias")), "camera projection 1 tensor missing")


def test_unexpected_tensors_are_told(parts: Zero123Parts, original: Path) -> None:
    extra = {
        name: torch.ones(2) for name in (f"{UNET}label_emb.0.0.weight", "control_model.weight", "cc_projection.scale")
    }
    found, report = read_zero123(edited(original, lambda state: state.update(extra)))
    assert_same(parts, found)
    assert sorted(report.unexpected) == sorted(extra) and "3 tensors unexpected and not used" in str(report)


def test_parts_that_do_not_fit_each_other(parts: Zero123Parts, original: Path, tmp_path: Path) -> None:
    def narrow(state: dict[str, Tensor]) -> None:
        state[f"{UNET}input_blocks.0.0.weight"] = torch.zeros(32, 4, 3, 3)

    refused(edited(original, narrow), "is not Zero-1-to-3", "has 4 channels into the UNet", "need 8")
    with pytest.raises(InputError, match="context channels"):
        write_zero123(tmp_path / "a.ckpt", tiny_zero123(cross_attention_dim=16))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 60_000,
        b'{"unet": 3}',
        b'{"unet": {"attention_head_dim": 0}}',
        b'{"unet": {"act_fn": "os.system"}}',
        b'{"vae": {"norm_num_groups": 7}}',
        b'{"scheduler": []}',
        b'{"image_mean": 1}',
        b'{"absolute_elevation": "yes"}',
    ],
)
def test_settings_that_cannot_be(original: Path, said: bytes) -> None:
    tensor = torch.tensor(list(said), dtype=torch.uint8)
    refused(edited(original, lambda state: state.update({SETTINGS: tensor})))


def test_settings_do_not_change_sizes(parts: Zero123Parts, original: Path) -> None:
    said = json.dumps({"unet": {"block_out_channels": [10**9], "layers_per_block": 10**9}}).encode()
    tensor = torch.tensor(list(said), dtype=torch.uint8)
    assert_same(parts, read_zero123(edited(original, lambda state: state.update({SETTINGS: tensor})))[0])


def test_heads(original: Path, tmp_path: Path, parts: Zero123Parts) -> None:
    assert read_zero123(original, heads=4)[0].unet.config["attention_head_dim"] == 4
    refused(original, "cannot be built", heads=0)
    write_zero123(tmp_path / "model", parts, "diffusers")
    refused(tmp_path / "model", "leave out heads", heads=4)


# -- Stable Zero123 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stable_zero123.safetensors", "my-Stable-Zero123-c.safetensors"])
def test_stable_by_name(original: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(original.read_bytes())
    assert read_zero123(tmp_path / name)[0].absolute_elevation
    assert not read_zero123(tmp_path / name, stable=False)[0].absolute_elevation
    assert not read_zero123(original)[0].absolute_elevation
    assert read_zero123(original, stable=True)[0].absolute_elevation


@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("name", ["model", "stable-zero123"])
def test_stable_is_kept_whatever_the_name(parts: Zero123Parts, tmp_path: Path, name: str, stable: bool) -> None:
    made = Zero123Parts(*(getattr(parts, part) for part in PARTS), absolute_elevation=stable)
    for place, format in ((f"{name}.ckpt", "ldm"), (name, "diffusers")):
        write_zero123(tmp_path / place, made, format)  # pyright: ignore[reportArgumentType]
        assert read_zero123(tmp_path / place)[0].absolute_elevation is stable
    (tmp_path / name / "zero123.json").unlink()
    assert read_zero123(tmp_path / name)[0].absolute_elevation is (name == "stable-zero123")
    (tmp_path / name / "zero123.json").write_text('{"absolute_elevation": 3}')
    refused(tmp_path / name, "zero123.json", "write true or false")


# -- folders -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(parts: Zero123Parts, tmp_path: Path) -> Path:
    write_zero123(tmp_path / "model", parts, "diffusers")
    return tmp_path / "model"


def test_names_of_the_projections(parts: Zero123Parts, folder: Path, tmp_path: Path) -> None:
    write_zero123(tmp_path / "clip", parts, "clip_camera_projection")
    weights = load_file(tmp_path / "clip" / "clip_camera_projection" / "diffusion_pytorch_model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        "proj.weight": (WIDTH, WIDTH + 4),
        "proj.bias": (WIDTH,),
    }
    config = json.loads((tmp_path / "clip" / "clip_camera_projection" / "config.json").read_text())
    said = {"_class_name": "CLIPCameraProjection", "embedding_dim": WIDTH, "additional_embeddings": 4}
    assert config == said
    weights = load_file(folder / "cc_projection" / "diffusion_pytorch_model.safetensors")
    assert set(weights) == {"projection.weight", "projection.bias"}
    assert json.loads((folder / "cc_projection" / "config.json").read_text())["_class_name"] == "CCProjection"


def test_what_a_config_of_a_projection_says_is_not_asked(parts: Zero123Parts, folder: Path) -> None:
    odd = {"_class_name": "os.system", "clip_image_encoder": [1, {"a": None}], "embedding_dim": 9**9}
    (folder / "cc_projection" / "config.json").write_text(json.dumps(odd))
    (folder / "model_index.json").write_text('{"_class_name": ["os", "system"], "cc_projection": ["os", "system"]}')
    assert_same(parts, read_zero123(folder)[0])
    (folder / "cc_projection" / "config.json").unlink()
    assert_same(parts, read_zero123(folder)[0])


def test_our_own_reader(tmp_path: Path) -> None:
    parts = tiny_zero123(reads=True)
    write_zero123(tmp_path / "model", parts, "diffusers")
    assert (tmp_path / "model" / "picture_reader").is_dir()
    assert_same(parts, read_zero123(tmp_path / "model")[0])
    for place, format in (("a.safetensors", "ldm"), ("a.ckpt", "ldm"), ("clip", "clip_camera_projection")):
        with pytest.raises(InputError, match="has no picture reader"):
            write_zero123(tmp_path / place, parts, format)  # pyright: ignore[reportArgumentType]
        assert not (tmp_path / place).exists()


def test_a_folder_that_lacks_something(folder: Path) -> None:
    projection = folder / "cc_projection"
    weights = projection / "diffusion_pytorch_model.safetensors"
    weights.rename(projection / "diffusion_pytorch_model.bin")
    refused(folder, "holds only the pickle diffusion_pytorch_model.bin, which is not read: convert it to safetensors")
    (projection / "diffusion_pytorch_model.bin").rename(weights)
    (folder / "clip_camera_projection").mkdir()
    refused(folder, "cc_projection and clip_camera_projection")
    (folder / "clip_camera_projection").rmdir()
    projection.rename(folder / "projection")
    refused(folder, "needs one of cc_projection, clip_camera_projection", "has none")
    (folder / "projection").rename(projection)
    (folder / "vae").rename(folder / "other")
    refused(folder, "vae", "no config.json")


def test_half_precision_files_of_a_folder(parts: Zero123Parts, folder: Path) -> None:
    """As bennyguo/zero123-xl-diffusers has them."""
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert_same(parts, read_zero123(folder)[0])


def test_a_folder_without_schedule_has_the_published_one(folder: Path) -> None:
    for file in (folder / "scheduler").iterdir():
        file.write_text('{"_class_name": "PNDMScheduler"}')
    found, report = read_zero123(folder)
    assert found.scheduler_config["_class_name"] == "PNDMScheduler" and found.scheduler_config["beta_end"] == 0.012
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_start": 0.02, "beta_end": 0.085}')
    assert report.betas_ok and read_zero123(folder)[1].betas_ok is False


@pytest.mark.parametrize(
    ("place", "said", "says"),
    [
        ("scheduler/scheduler_config.json", {"beta_start": "x"}, "noise schedule that cannot be used"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "noise schedule that cannot be used"),
        ("scheduler/scheduler_config.json", {"_class_name": None}, "noise schedule that cannot be used"),
        ("unet/config.json", {"sample_size": None}, "sample_size None"),
        ("unet/config.json", {"sample_size": 0}, "sample_size 0"),
        ("unet/config.json", {"sample_size": []}, "sample_size"),
    ],
)
def test_odd_configs_are_one_clear_error(folder: Path, place: str, said: dict, says: str) -> None:
    path = folder / place
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    refused(folder, says)


def test_normalisation(folder: Path) -> None:
    path = folder / "feature_extractor" / "preprocessor_config.json"
    path.write_text('{"image_mean": [0.5, 0.5, 0.25]}')
    assert read_zero123(folder)[0].image_mean == (0.5, 0.5, 0.25)
    path.write_text('{"image_mean": [0.5, 0.5]}')
    refused(folder, "preprocessor_config.json", "three numbers")
    path.unlink()
    assert read_zero123(folder)[0].image_mean == CLIP_MEAN


def test_an_older_model_is_replaced_and_nothing_else(parts: Zero123Parts, folder: Path, tmp_path: Path) -> None:
    (folder / "left.txt").write_text("")
    write_zero123(folder, parts, "clip_camera_projection")
    assert not (folder / "left.txt").exists() and not (folder / "cc_projection").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("words")
    for place in ("mine", "mine/thesis.tex"):
        with pytest.raises(InputError, match="something else"):
            write_zero123(tmp_path / place, parts, "diffusers")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "words"
    with pytest.raises(InputError, match="must end in"):
        write_zero123(tmp_path / "model.pth", parts)


# -- borrowed parts ----------------------------------------------------------------------------------------------

BORROWED = {"vae": ["toybox-sd", "vae"], "image_encoder": ["toybox-clip", "."]}
needs_bundled = pytest.mark.skipif(
    not {"toybox-sd", "toybox-clip"} <= bundled().keys(), reason="the bundled models are not there"
)


def toybox_parts(tmp_path: Path) -> Zero123Parts:
    """Random UNet and projection, the rest as bundled."""
    parts = tiny_zero123(cross_attention_dim=128)
    parts.projection = PictureReader(128, tokens=2, hidden_dim=8).requires_grad_(False).eval()
    save_model(parts.unet, tmp_path / "start" / "unet")
    save_model(parts.projection, tmp_path / "start" / "picture_reader")
    (tmp_path / "start" / "borrowed.json").write_text(json.dumps(BORROWED))
    return read_zero123(tmp_path / "start")[0]


@needs_bundled
def test_borrowed_parts(tmp_path: Path) -> None:
    from transformers import CLIPModel

    parts = toybox_parts(tmp_path)
    assert parts.image_mean == (0.5, 0.5, 0.5)  # as toybox-clip was trained
    assert parts.vae.config["scaling_factor"] != 0.18215
    whole: Any = load_model(CLIPModel, bundled()["toybox-clip"], torch.float32)
    images = torch.rand(2, 3, 64, 64)
    expected = whole.visual_projection(whole.vision_model(images).pooler_output)
    torch.testing.assert_close(parts.image_encoder(images).image_embeds, expected)
    write_zero123(tmp_path / "model", parts, "diffusers", borrowed=BORROWED)
    assert not (tmp_path / "model" / "vae").exists() and not (tmp_path / "model" / "image_encoder").exists()
    assert_same(parts, read_zero123(tmp_path / "model")[0])
    write_zero123(tmp_path / "whole", parts, "diffusers")
    assert_same(parts, read_zero123(tmp_path / "whole")[0])
    parts.projection = CameraProjection(128).requires_grad_(False).eval()
    write_zero123(tmp_path / "model.ckpt", parts)  # heads, groups, scale and normalisation of the Toybox come back
    assert_same(parts, read_zero123(tmp_path / "model.ckpt")[0])


@needs_bundled
@pytest.mark.parametrize(
    "named",
    [
        {"unet": ["toybox-sd", "unet"]},
        {"vae": ["/tmp", "vae"]},
        {"vae": ["owner/name", "vae"]},
        {"vae": ["toybox-sd", "../toybox-clip"]},
        {"vae": ["toybox-sd", "/etc"]},
        {"vae": "toybox-sd"},
        {"vae": [["a"], 3]},
    ],
)
def test_what_cannot_be_borrowed(parts: Zero123Parts, tmp_path: Path, named: dict[str, Any]) -> None:
    write_zero123(tmp_path / "model", parts, "diffusers")
    (tmp_path / "model" / "borrowed.json").write_text(json.dumps(named))
    refused(tmp_path / "model", "borrowed.json", "only vae and image_encoder", "toybox-sd")


@needs_bundled
def test_a_part_that_is_another_one_is_not_left_out(parts: Zero123Parts, tmp_path: Path) -> None:
    for part in BORROWED:
        with pytest.raises(InputError, match=f"the {part} is not that of"):
            write_zero123(tmp_path / "model", parts, "diffusers", borrowed={part: BORROWED[part]})
    with pytest.raises(InputError, match="leave out borrowed"):
        write_zero123(tmp_path / "model.ckpt", parts, borrowed=BORROWED)
    assert not list(tmp_path.iterdir())


def test_a_link_is_stable_by_its_own_name(parts: Zero123Parts, tmp_path: Path) -> None:
    """In a Hugging Face cache a file is a link to one that is named by its hash."""
    write_zero123(tmp_path / "0a1b.safetensors", parts)
    link = tmp_path / "snapshots" / "2c3d" / "stable_zero123.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "0a1b.safetensors")
    assert read_zero123(link)[0].absolute_elevation
    assert not read_zero123(tmp_path / "0a1b.safetensors")[0].absolute_elevation


def test_a_margin_that_is_none_is_refused(parts: Zero123Parts, tmp_path: Path) -> None:
    write_zero123(tmp_path / "model", parts, "diffusers")
    for margin in (0.5, -0.1, "wide"):
        (tmp_path / "model" / "zero123.json").write_text(json.dumps({"margin": margin}))
        refused(tmp_path / "model", "zero123.json", "margin")
