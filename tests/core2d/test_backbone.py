"""The backbone over tiny random folders of every family that it reads."""

import json
import pickle
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from core2d.app.errors import InputError
from core2d.prior.backbone import Backbone
from core2d.prior.base import rescale_contrast
from core2d.prior.camera_token import CameraToken, camera_features
from core2d.prior.condition import Condition

FAMILIES = ["sd1", "sd2", "sdxl", "pixart"]


@pytest.fixture(scope="module")
def backbones(tiny_folder) -> dict[str, Backbone]:
    return {family: Backbone.load(tiny_folder(family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def with_camera(tiny_folder) -> Backbone:
    return Backbone.load(tiny_folder("sd1", camera=True))


@pytest.fixture
def folder(tiny_folder, tmp_path: Path) -> Path:
    """A copy of an SD 1.x folder that a test may spoil."""
    return Path(shutil.copytree(tiny_folder("sd1"), tmp_path / "model"))


def some_latents(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def views(*azimuths: float) -> SimpleNamespace:
    """What of `core2d.prior.cameras.Cameras` a camera token needs."""
    azimuth = torch.tensor(azimuths)
    return SimpleNamespace(
        azimuth=azimuth, elevation=torch.full_like(azimuth, 0.3), radius=torch.full_like(azimuth, 2.0)
    )


# -- all families --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_frozen_and_knows_its_sizes(backbones, family: str):
    backbone = backbones[family]
    assert (backbone.latent_channels, backbone.latent_size) == (4, 8)
    assert (backbone.vae_scale_factor, backbone.image_size) == (2, 16)
    assert backbone.num_train_timesteps == 1000
    assert not backbone.has_camera_token
    for module in backbone.named_models().values():
        assert not module.training
        assert all(not p.requires_grad and p.dtype == torch.float32 for p in module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prediction_explains_the_noisy_latents(backbones, family: str):
    backbone, x_t = backbones[family], some_latents()
    prediction = backbone.predict(x_t, torch.tensor([30, 900]), backbone.encode_text(["a red mug", "a dog"]))
    alpha, sigma = prediction.alpha_t, prediction.sigma_t
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x_t, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prediction.v, alpha * prediction.eps - sigma * prediction.x0, atol=1e-4, rtol=1e-4)
    assert prediction.eps.shape == x_t.shape and prediction.eps.std() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_is_one_call_and_the_formula(backbones, family: str):
    backbone, x_t, t = backbones[family], some_latents(), torch.tensor([100, 700])
    condition, unconditional = backbone.encode_text(["a red mug"]), backbone.encode_text([""])
    with_text, without = backbone.predict(x_t, t, condition), backbone.predict(x_t, t, unconditional)
    assert (with_text.eps - without.eps).abs().max() > 1e-5
    guided = backbone.predict_cfg(x_t, t, condition, unconditional, 7.5)
    torch.testing.assert_close(guided.eps, without.eps + 7.5 * (with_text.eps - without.eps), atol=1e-4, rtol=1e-4)
    plain = backbone.predict_cfg(x_t, t, condition, unconditional, 1.0)
    torch.testing.assert_close(plain.x0, with_text.x0, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_neighbours(backbones, family: str):
    backbone, x_t = backbones[family], some_latents(3)
    prompts, t = ["a red mug", "", "a blue dog"], torch.tensor([5, 500, 995])
    together = backbone.predict(x_t, t, backbone.encode_text(prompts)).eps
    for row in range(3):
        alone = backbone.predict(x_t[row : row + 1], t[row : row + 1], backbone.encode_text([prompts[row]])).eps
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_prompt_is_refused_with_both_counts(backbones, family: str):
    backbone = backbones[family]
    limit = backbone.family.max_tokens
    assert limit == (120 if family == "pixart" else 24)
    with pytest.raises(InputError, match=rf"has \d+ tokens and the model reads {limit}"):
        backbone.encode_text(["red " * 200])


@pytest.mark.parametrize("family", FAMILIES)
def test_loading_stays_away_from_the_network(tiny_folder, family: str, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("a model was loaded through the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert Backbone.load(tiny_folder(family)).image_size == 16


# -- what the families do differently --------------------------------------------------------------------


def test_prediction_types_come_from_the_scheduler(backbones):
    types = {family: backbone.schedule.prediction_type for family, backbone in backbones.items()}
    assert types == {"sd1": "epsilon", "sd2": "v_prediction", "sdxl": "epsilon", "pixart": "epsilon"}
    backbone, x_t = backbones["sd2"], some_latents()
    condition = backbone.encode_text(["a red mug"])
    assert torch.equal(backbone.network(x_t, 300, condition), backbone.family.denoiser(
        x_t, torch.tensor([300, 300]), condition.expand(2).tokens
    ).sample)  # fmt: skip
    output = backbone.network(x_t, 300, condition)
    torch.testing.assert_close(backbone.predict(x_t, 300, condition).v, output, atol=1e-5, rtol=1e-5)


def test_a_flow_matching_checkpoint_predicts_velocity(folder: Path):
    edit_json(folder / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    backbone, x_t, t = Backbone.load(folder), some_latents(), torch.tensor([250.0, 812.5])
    condition = backbone.encode_text(["a red mug"])
    prediction = backbone.predict(x_t, t, condition)
    torch.testing.assert_close(prediction.flow, backbone.network(x_t, t, condition), atol=1e-5, rtol=1e-5)
    assert prediction.sigma_t.flatten().tolist() == [0.25, 0.8125]


def test_sdxl_joins_two_encoders_and_drops_text_to_zeros(backbones, tiny_folder, tmp_path: Path):
    sdxl = backbones["sdxl"]
    condition = sdxl.encode_text(["a red mug", ""])
    assert condition.tokens.shape == (2, 24, 16 + 20) and condition.pooled is not None
    assert condition.pooled.shape == (2, 12)
    assert condition.tokens[0].std() > 0.1
    assert condition.tokens[1].abs().max() == condition.pooled[1].abs().max() == 0
    copy = Path(shutil.copytree(tiny_folder("sdxl"), tmp_path / "sdxl"))
    edit_json(copy / "model_index.json", force_zeros_for_empty_prompt=False)
    assert Backbone.load(copy).encode_text([""]).tokens.std() > 0.1


def test_sdxl_hears_of_the_image_size(backbones):
    sdxl, seen = backbones["sdxl"], {}
    original = sdxl.family.denoiser.forward

    def spy(*arguments, **options):
        seen.update(options["added_cond_kwargs"])
        return original(*arguments, **options)

    sdxl.family.denoiser.forward = spy
    try:
        sdxl.predict(torch.randn(2, 4, 8, 12), 5, sdxl.encode_text(["a dog"]))
    finally:
        del sdxl.family.denoiser.forward
    assert seen["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]] * 2


def test_pixart_hides_padding_and_cuts_off_the_variance(backbones):
    pixart, x_t = backbones["pixart"], some_latents()
    condition = pixart.encode_text(["a red mug"])
    assert condition.mask is not None and 3 <= int(condition.mask.sum()) < 120
    noise = torch.randn_like(condition.tokens) * (1 - condition.mask[..., None])
    spoiled = Condition(condition.tokens + noise, mask=condition.mask)
    assert torch.equal(pixart.predict(x_t, 9, condition).eps, pixart.predict(x_t, 9, spoiled).eps)
    assert pixart.family.denoiser.config.out_channels == 8
    assert torch.equal(
        pixart.encode_text(["A Red Mug "]).tokens, condition.tokens
    )  # read as it was trained: lower case


def test_pixart_at_1024_hears_of_the_image_size(tiny_folder):
    pixart = Backbone.load(tiny_folder("pixart-1024"))
    assert pixart.image_size == 256
    condition = pixart.encode_text(["a red mug"])
    sizes = {"resolution": torch.tensor([[16.0, 24.0]]), "aspect_ratio": torch.tensor([[16 / 24]])}
    x_t = torch.randn(1, 4, 8, 12)
    expected = pixart.family.denoiser(
        x_t, condition.tokens, torch.tensor([7]), sizes, encoder_attention_mask=condition.mask
    ).sample
    assert torch.equal(pixart.network(x_t, 7, condition), expected[:, :4])


# -- text, images, guidance ----------------------------------------------------------------------------


def test_text_is_encoded_once(folder: Path, monkeypatch):
    backbone, calls = Backbone.load(folder), []
    encode = backbone.family.encode
    monkeypatch.setattr(backbone.family, "encode", lambda prompt: calls.append(prompt) or encode(prompt))
    rows = backbone.encode_text(["a dog", "", "a dog"])
    assert calls == ["a dog", ""]
    assert torch.equal(rows.tokens[0], rows.tokens[2]) and not rows.tokens.requires_grad
    monkeypatch.setattr("core2d.prior.backbone.CACHED_PROMPTS", 2)
    backbone.encode_text(["a car"])
    backbone.encode_text([""])
    assert calls == ["a dog", "", "a car"]  # the oldest gave way


def test_conditions_can_be_stacked_picked_and_repeated(backbones):
    both = backbones["sdxl"].encode_text(["a dog", "a car"])
    twice = both.repeat_interleave(2)
    assert len(twice) == 4 and torch.equal(twice.tokens[1], both.tokens[0])
    assert twice.pooled is not None and both.pooled is not None
    assert torch.equal(twice[[3]].pooled, both.pooled[1:])  # pyright: ignore[reportArgumentType]
    assert torch.equal(Condition.cat([both[:1], both[1:]]).tokens, both.tokens)
    with pytest.raises(ValueError, match="2 conditions for 3 samples"):
        both.expand(3)


def test_latents_are_scaled_and_differentiable(backbones):
    backbone = backbones["sd1"]
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    latents = backbone.encode_images(images)
    posterior = backbone.vae.encode(2 * images - 1).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(latents, 0.5 * posterior.mode())
    latents.square().sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(p.grad is None for p in backbone.vae.parameters())
    sample = backbone.encode_images(images, torch.Generator().manual_seed(0))
    again = backbone.encode_images(images, torch.Generator().manual_seed(0))
    assert torch.equal(sample, again) and not torch.equal(sample, latents)
    each = backbone.encode_images(images, [torch.Generator().manual_seed(seed) for seed in (5, 6)])
    alone = backbone.encode_images(images[1:], torch.Generator().manual_seed(6))
    torch.testing.assert_close(each[1:], alone, atol=1e-5, rtol=1e-5)


def test_decoding_undoes_the_scale_and_gives_images(backbones):
    backbone, latents = backbones["sd1"], some_latents().requires_grad_()
    images = backbone.decode(latents)
    assert images.shape == (2, 3, 16, 16) and 0 <= images.min() and images.max() <= 1
    expected = (backbone.vae.decode(latents / 0.5).sample / 2 + 0.5).clamp(0, 1)  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(images, expected)
    images.mean().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0


def test_latent_statistics_of_newer_autoencoders(folder: Path):
    plain = Backbone.load(folder)
    images = torch.rand(1, 3, 16, 16)
    raw = plain.encode_images(images) / 0.5
    edit_json(folder / "vae" / "config.json", shift_factor=0.25)
    shifted = Backbone.load(folder)
    torch.testing.assert_close(shifted.encode_images(images), (raw - 0.25) * 0.5)
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    edit_json(folder / "vae" / "config.json", shift_factor=None, latents_mean=mean, latents_std=std)
    whitened = Backbone.load(folder)
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (mean, std))
    latents = whitened.encode_images(images)
    torch.testing.assert_close(latents, (raw - mean) / std * 0.5)
    torch.testing.assert_close(whitened.decode(latents), plain.decode(raw * 0.5))


def test_guided_contrast_is_pulled_back(backbones):
    backbone, x_t, t = backbones["sd2"], some_latents(), torch.tensor([400, 800])
    condition, unconditional = backbone.encode_text(["a red mug"]), backbone.encode_text([""])
    with_text = backbone.predict(x_t, t, condition)
    on_output = backbone.predict_cfg(x_t, t, condition, unconditional, 50.0, rescale=1.0)
    axes = (1, 2, 3)
    torch.testing.assert_close(on_output.v.std(axes), with_text.v.std(axes), atol=1e-4, rtol=1e-4)
    on_x0 = backbone.predict_cfg(x_t, t, condition, unconditional, 50.0, rescale=1.0, rescale_on="x0")
    torch.testing.assert_close(on_x0.x0.std(axes), with_text.x0.std(axes), atol=1e-4, rtol=1e-4)
    guided, target = torch.randn(2, 4, 8, 8) * 3, torch.randn(2, 4, 8, 8)
    half = rescale_contrast(guided, target, 0.5)
    torch.testing.assert_close(half.std(axes), (guided.std(axes) + target.std(axes)) / 2)


def test_a_gradient_reaches_the_noisy_latents(backbones):
    backbone, x_t = backbones["sd1"], some_latents().requires_grad_()
    backbone.predict(x_t, 500, backbone.encode_text(["a dog"])).x0.sum().backward()
    assert x_t.grad is not None and x_t.grad.abs().sum() > 0


# -- the camera token ----------------------------------------------------------------------------------


def test_camera_features_are_sines_cosines_and_radius():
    features = camera_features(views(0.0, torch.pi / 2))
    expected = torch.tensor([[0, 1, 0.29552, 0.95534, 2], [1, 0, 0.29552, 0.95534, 2]])
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    assert camera_features(features) is features
    with pytest.raises(ValueError, match=r"shape \(n, 5\), got \(2, 16\)"):
        camera_features(torch.zeros(2, 16))


def test_a_view_is_one_more_token_after_the_text(with_camera):
    x_t, condition = some_latents(), with_camera.encode_text(["a red mug"])
    assert with_camera.has_camera_token
    cameras = views(0.5, 2.5)
    seen = with_camera.predict(x_t, 500, condition.seen_from(cameras))
    words = condition.expand(2).tokens  # (2, n, 16)
    tokens = torch.cat([words, with_camera.camera_token(camera_features(cameras), words)], dim=1)
    expected = with_camera.family.denoiser(x_t, 500, tokens).sample
    torch.testing.assert_close(seen.eps, expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(seen.eps, with_camera.predict(x_t, 500, condition).eps, atol=1e-6)
    one = with_camera.predict(x_t, 500, condition.seen_from(views(0.5)))
    torch.testing.assert_close(one.eps[0], seen.eps[0], atol=1e-6, rtol=1e-6)


def test_the_unconditional_half_keeps_the_view(with_camera):
    x_t, cameras = some_latents(), views(0.5, 2.5)
    condition, unconditional = with_camera.encode_text(["a red mug"]), with_camera.encode_text([""])
    guided = with_camera.predict_cfg(x_t, 500, condition.seen_from(cameras), unconditional, 0.0)
    expected = with_camera.predict(x_t, 500, unconditional.seen_from(cameras))
    torch.testing.assert_close(guided.eps, expected.eps, atol=1e-5, rtol=1e-5)


def test_a_view_is_refused_where_the_model_knows_none(backbones, with_camera):
    condition = backbones["sd1"].encode_text(["a dog"])
    with pytest.raises(InputError, match="no camera token"):
        backbones["sd1"].predict(some_latents(), 5, condition.seen_from(views(0.5)))
    with pytest.raises(ValueError, match="3 conditions for 2 samples"):
        with_camera.predict(some_latents(), 5, condition.seen_from(views(0.1, 0.2, 0.3)))


def test_a_camera_token_is_saved_and_loaded(tmp_path: Path):
    token = CameraToken(context_dim=6, subject_dim=4, hidden_dim=3, heads=2)
    token.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    again = CameraToken.from_pretrained(tmp_path)
    features, words = torch.randn(4, 5), torch.randn(4, 7, 6)
    assert torch.equal(token(features, words), again(features, words)) and token(features, words).shape == (4, 1, 6)


def test_a_camera_token_depends_on_the_view_and_on_each_word():
    token = CameraToken(context_dim=6, subject_dim=4, hidden_dim=3, heads=2)
    features, words = torch.randn(1, 5, requires_grad=True), torch.randn(1, 7, 6, requires_grad=True)
    token(features, words)[0, 0, 0].backward()
    assert features.grad is not None and (features.grad != 0).all()
    assert words.grad is not None and (words.grad != 0).any(dim=2).all()
    swapped = token(features, words.flip(1))  # what is said counts, not where
    torch.testing.assert_close(swapped, token(features, words))


# -- number formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_files_are_computed_in_float32(tiny_folder, tmp_path: Path, family: str):
    copy = Path(shutil.copytree(tiny_folder(family), tmp_path / "half"))
    for path in copy.glob("*/*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    for path in copy.glob("text_encoder*/config.json"):
        edit_json(path, dtype="float16")
    backbone = Backbone.load(copy)
    for module in backbone.named_models().values():
        assert {tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point()} == {
            torch.float32
        }
    full = Backbone.load(tiny_folder(family))
    x_t = some_latents()
    ours, theirs = (one.predict(x_t, 500, one.encode_text(["a dog"])).eps for one in (backbone, full))
    torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)


def test_only_half_precision_variants_of_files(tiny_folder, folder: Path):
    for path in list(folder.glob("*/*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    expected = Backbone.load(tiny_folder("sd1")).encode_text(["a dog"])
    assert torch.equal(Backbone.load(folder).encode_text(["a dog"]).tokens, expected.tokens)


def test_bfloat16_computes_and_answers_in_the_format_of_its_input(tiny_folder):
    backbone = Backbone.load(tiny_folder("sd1"), dtype="bfloat16")
    assert backbone.dtype == backbone.vae.dtype == torch.bfloat16
    prediction = backbone.predict(some_latents(), 500, backbone.encode_text(["a dog"]))
    assert prediction.eps.dtype == torch.float32 and prediction.eps.isfinite().all()
    assert backbone.encode_images(torch.rand(1, 3, 16, 16)).dtype == torch.float32


def test_the_autoencoder_stays_in_float32_where_its_config_asks(folder: Path):
    edit_json(folder / "vae" / "config.json", force_upcast=True)
    assert Backbone.load(folder, dtype=torch.float16).vae.dtype == torch.float32
    edit_json(folder / "vae" / "config.json", force_upcast=False)
    assert Backbone.load(folder, dtype=torch.float16).vae.dtype == torch.float16


# -- the image tower -----------------------------------------------------------------------------------


def test_image_embeddings_where_the_folder_has_a_tower(backbones, folder: Path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4, projection_dim=12,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    edit_json(folder / "model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"])
    backbone = Backbone.load(folder)
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    embeddings = backbone.encode_image_embeds(images)
    assert embeddings.shape == (2, 12)
    embeddings.sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    with pytest.raises(InputError, match="no image encoder"):
        backbones["sd1"].encode_image_embeds(images)


# -- folders that are refused --------------------------------------------------------------------------


def drop_tensor(folder: Path) -> str:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["conv_in.weight"]
    save_file(state, path, {"format": "pt"})
    return r"unet do not fit its config.json: 1 tensors missing \(such as conv_in.weight\)"


def add_tensor(folder: Path) -> str:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"extra": torch.zeros(2)}, path, {"format": "pt"})
    return r"vae do not fit its config.json: 1 tensors unexpected \(such as extra\)"


def change_shape(folder: Path) -> str:
    edit_json(folder / "unet" / "config.json", cross_attention_dim=20)
    return r"unet do not fit its config.json: 8 tensors of another shape \(such as .*attn2.to_k.weight\)"


def drop_text_tensor(folder: Path) -> str:
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith("token_embedding.weight"))
    del state[name]
    save_file(state, path, {"format": "pt"})
    return r"text_encoder do not fit its config.json: 1 tensors missing \(such as embeddings.token_embedding"


def only_pickle(folder: Path) -> str:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))
    return "only the pickle diffusion_pytorch_model.bin, which is not read"


def pickle_under_another_name(folder: Path) -> str:
    path = folder / "text_encoder" / "model.safetensors"
    torch.save({"weight": torch.zeros(3)}, path)
    return "is not a safetensors file, or is damaged"


def cut_file(folder: Path) -> str:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    return "is not a safetensors file, or is damaged"


def no_weights(folder: Path) -> str:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    return "holds no .safetensors weights"


def no_index(folder: Path) -> str:
    (folder / "model_index.json").unlink()
    return "is not a model folder that can be read: it has no model_index.json"


def broken_json(folder: Path) -> str:
    (folder / "unet" / "config.json").write_text("{")
    return "is not readable JSON"


def no_tokenizer(folder: Path) -> str:
    shutil.rmtree(folder / "tokenizer")
    return "has no tokenizer"


def other_pipeline(folder: Path) -> str:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "U"]}))
    return "DDPMPipeline is no model that is known here"


def inpainting(folder: Path) -> str:
    edit_json(folder / "unet" / "config.json", in_channels=9)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_in.weight"] = torch.zeros(8, 9, 3, 3)
    save_file(state, path, {"format": "pt"})
    return "takes 9 channels and the autoencoder makes 4"


@pytest.mark.parametrize(
    "spoil",
    [
        drop_tensor, add_tensor, change_shape, drop_text_tensor, only_pickle, pickle_under_another_name,
        cut_file, no_weights, no_index, broken_json, no_tokenizer, other_pipeline, inpainting,
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_refused_in_one_line(folder: Path, spoil):
    message = spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        Backbone.load(folder)
    assert "\n" not in str(caught.value)


def test_no_code_is_run_from_a_pickle_beside_good_weights(folder: Path, tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    Backbone.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_device_is_refused(tiny_folder):
    with pytest.raises(InputError, match="this machine has"):
        Backbone.load(tiny_folder("sd1"), device="cuda:99")
