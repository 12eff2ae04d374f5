"""Names and shapes of the original latent-diffusion layout, against diffusers' own converter and against themselves."""

from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core2d.files.ldm import (
    average_of,
    averages_to_ldm,
    clip_vision_config_of,
    clip_vision_on_meta,
    clip_vision_to_openai,
    diffusers_to_ldm,
    ldm_to_diffusers,
    schedule_to_ldm,
    unet_config_of,
    unet_on_meta,
    unet_to_ldm,
    vae_config_of,
    vae_on_meta,
    vae_to_ldm,
)
from core2d.files.manifests import UNET_CONFIGS, VAE_CONFIG, Manifest, manifest_of
from core2d.prior.schedule import alphas_cumprod_from_config, zero_terminal_snr

VIT_L_14: dict[str, Any] = dict(
    hidden_size=1024,
    intermediate_size=4096,
    projection_dim=768,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
)
TINY_CLIP: dict[str, Any] = dict(
    hidden_size=128,
    intermediate_size=96,
    projection_dim=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=32,
    patch_size=8,
)


def shapes(state: dict[str, Tensor]) -> Manifest:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


# -- UNet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNET_CONFIGS)
def test_full_size_unets_are_named_as_diffusers_reads_them(name: str) -> None:
    unet = unet_on_meta(UNET_CONFIGS[name])
    state = unet.state_dict()
    there = diffusers_to_ldm(state, unet_to_ldm(unet.config))
    assert len(there) == len(state)
    read = convert_ldm_unet_checkpoint(prefixed(there, "model.diffusion_model."), dict(unet.config))
    assert read.keys() == state.keys()
    assert all(read[key] is tensor for key, tensor in state.items())  # the very tensor: renamed, not only alike


def test_published_names_of_sd1() -> None:
    names = unet_to_ldm(UNET_CONFIGS["stable-diffusion-1.5"])
    assert names["down_blocks.0.downsamplers.0.conv.weight"] == "input_blocks.3.0.op.weight"
    assert names["down_blocks.1.resnets.0.conv_shortcut.bias"] == "input_blocks.4.0.skip_connection.bias"
    assert names["up_blocks.0.upsamplers.0.conv.weight"] == "output_blocks.2.1.conv.weight"  # no attention before it
    assert names["up_blocks.1.upsamplers.0.conv.weight"] == "output_blocks.5.2.conv.weight"
    assert names["mid_block.resnets.1.time_emb_proj.weight"] == "middle_block.2.emb_layers.1.weight"
    inside = "transformer_blocks.0.attn2.to_out.0.weight"
    assert names[f"up_blocks.3.attentions.2.{inside}"] == f"output_blocks.11.1.{inside}"


@st.composite
def unets(draw: st.DrawFn) -> dict[str, Any]:
    levels = draw(st.integers(1, 4))
    layers = draw(st.lists(st.integers(1, 3), min_size=levels, max_size=levels))
    attention = st.lists(st.booleans(), min_size=levels, max_size=levels)
    return {
        "in_channels": draw(st.integers(1, 9)),
        "out_channels": draw(st.integers(1, 9)),
        "block_out_channels": draw(st.lists(st.sampled_from([32, 64, 96]), min_size=levels, max_size=levels)),
        "layers_per_block": draw(st.sampled_from([layers, layers[0]])),
        "down_block_types": ["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in draw(attention)],
        "up_block_types": ["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in draw(attention)],
        "cross_attention_dim": draw(st.integers(1, 40)),
        "use_linear_projection": draw(st.booleans()),
    }


@settings(max_examples=25, deadline=None)
@given(unets())
def test_any_unet_there_and_back(config: dict[str, Any]) -> None:
    unet = unet_on_meta(config)
    state, names = unet.state_dict(), unet_to_ldm(config)
    assert len(set(names.values())) == len(names) == len(state)  # one to one
    there = diffusers_to_ldm(state, names)
    back = ldm_to_diffusers(there, names)
    assert back.keys() == state.keys() and shapes(back) == manifest_of(unet)
    found = unet_config_of(shapes(there))
    assert manifest_of(unet_on_meta(found)) == manifest_of(unet)
    assert found["down_block_types"] == config["down_block_types"]
    assert found["up_block_types"] == config["up_block_types"]


def test_what_has_no_place_is_refused() -> None:
    config = {"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj", "block_out_channels": (32, 64, 64, 64)}
    with pytest.raises(ValueError, match=r"no place for encoder_hid_proj\.weight"):
        unet_to_ldm(dict(unet_on_meta(config).config))
    with pytest.raises(ValueError, match=r"0 tensors has no input_blocks"):
        ldm_to_diffusers({}, {"conv_in.weight": "input_blocks.0.0.weight"})


# -- autoencoder -------------------------------------------------------------------------------------------------


def filled(module: nn.Module) -> dict[str, Tensor]:
    """Different values in every tensor, few enough to hold."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(tensor.shape, generator=generator) for name, tensor in module.state_dict().items()}


def test_full_size_autoencoder_is_named_as_diffusers_reads_it() -> None:
    vae = vae_on_meta(VAE_CONFIG)
    state, names = vae.state_dict(), vae_to_ldm(vae.config)
    there = diffusers_to_ldm(state, names)
    assert len(there) == len(state) == 248
    assert tuple(there["encoder.mid.attn_1.q.weight"].shape) == (512, 512, 1, 1)
    assert tuple(there["decoder.up.3.upsample.conv.weight"].shape) == (512, 512, 3, 3)
    read = convert_ldm_vae_checkpoint(prefixed(there, "first_stage_model."), dict(vae.config))
    assert shapes(read) == manifest_of(vae)
    assert all(read[key] is tensor for key, tensor in state.items() if ".attentions." not in key)
    assert manifest_of(vae_on_meta(vae_config_of(shapes(there)))) == manifest_of(vae)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize(("channels", "layers"), [((32,), 1), ((32, 64), 2), ((32, 32, 64), 3)])
def test_any_autoencoder_there_and_back(channels: tuple[int, ...], layers: int, attention: bool) -> None:
    config = {
        "block_out_channels": channels,
        "layers_per_block": layers,
        "mid_block_add_attention": attention,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
    }
    vae = vae_on_meta(config)
    state, names = filled(vae), vae_to_ldm(config)
    there = diffusers_to_ldm(state, names)
    read = convert_ldm_vae_checkpoint(prefixed(there, "first_stage_model."), dict(vae.config))
    back = ldm_to_diffusers(there, names)
    for key, tensor in state.items():
        assert torch.equal(read[key], tensor) and torch.equal(back[key], tensor)
        assert back[key].data_ptr() == tensor.data_ptr()  # a view, not a copy
    assert manifest_of(vae_on_meta(vae_config_of(shapes(there)))) == manifest_of(vae)


# -- CLIP --------------------------------------------------------------------------------------------------------


def test_full_size_vision_tower() -> None:
    tower = clip_vision_on_meta(VIT_L_14)
    names = clip_vision_to_openai(VIT_L_14)
    there = shapes(diffusers_to_ldm(tower.state_dict(), names))
    assert len(there) == 24 * 12 + 8
    assert there["visual.conv1.weight"] == (1024, 3, 14, 14)
    assert there["visual.class_embedding"] == (1024,)
    assert there["visual.positional_embedding"] == (257, 1024)
    assert there["visual.proj"] == (1024, 768)
    assert there["visual.ln_pre.weight"] == there["visual.ln_post.bias"] == (1024,)
    last = "visual.transformer.resblocks.23"
    assert there[f"{last}.attn.in_proj_weight"] == (3072, 1024) and there[f"{last}.attn.in_proj_bias"] == (3072,)
    assert there[f"{last}.attn.out_proj.weight"] == (1024, 1024)
    assert there[f"{last}.mlp.c_fc.weight"] == (4096, 1024) and there[f"{last}.mlp.c_proj.weight"] == (1024, 4096)
    assert there[f"{last}.ln_1.weight"] == there[f"{last}.ln_2.bias"] == (1024,)
    found = clip_vision_config_of(there)
    assert found == clip_vision_config_of(manifest_of(tower))  # transformers' names say the same
    assert {key: found[key] for key in VIT_L_14} == VIT_L_14


def openai_tower(state: dict[str, Tensor], images: Tensor, heads: int) -> Tensor:
    """The vision transformer of CLIP (2103.00020), written for its original tensors: (b, c, h, w) -> (b, d)."""
    state = {name.removeprefix("visual."): tensor for name, tensor in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    patch = state["conv1.weight"].shape[-1]
    x = F.conv2d(images, state["conv1.weight"], stride=patch).flatten(2).mT  # (b, n, w)
    x = torch.cat([state["class_embedding"].expand(len(x), 1, -1), x], dim=1) + state["positional_embedding"]
    x = norm(x, "ln_pre")
    for layer in range(2):
        block = f"transformer.resblocks.{layer}"
        attention = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        attention.load_state_dict(
            {
                name.removeprefix(f"{block}.attn."): tensor
                for name, tensor in state.items()
                if name.startswith(f"{block}.attn.")
            }
        )
        y = norm(x, f"{block}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        y = F.linear(norm(x, f"{block}.ln_2"), state[f"{block}.mlp.c_fc.weight"], state[f"{block}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, state[f"{block}.mlp.c_proj.weight"], state[f"{block}.mlp.c_proj.bias"])
    return norm(x[:, 0], "ln_post") @ state["proj"]


def test_the_vision_tower_computes_the_same_from_its_original_tensors() -> None:
    torch.manual_seed(0)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**TINY_CLIP)).double().eval()
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.3)
    names = clip_vision_to_openai(TINY_CLIP)
    there = diffusers_to_ldm(tower.state_dict(), names)
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad(), torch.random.fork_rng():
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            expected = openai_tower(there, images, heads=2)
        finally:
            torch.set_default_dtype(default)
        torch.testing.assert_close(tower(images).image_embeds, expected, rtol=1e-9, atol=1e-9)
    back = ldm_to_diffusers(there, names)
    assert back.keys() == tower.state_dict().keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in tower.state_dict().items())


# -- schedule and averages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_schedule_is_that_of_the_original_code(zero_snr: bool) -> None:
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # (1000,)
    if zero_snr:
        root = zero_terminal_snr((1 - betas).cumprod(0))  # (1000,) abar_t, 0 at the end
        betas = 1 - root / torch.cat([torch.ones(1), root[:-1]])
    found = schedule_to_ldm(alphas_cumprod_from_config(config | {"rescale_betas_zero_snr": zero_snr}))
    assert all(buffer.dtype == torch.float32 and buffer.shape == (1000,) for buffer in found.values())
    alphas = 1 - betas
    abar = alphas.cumprod(0)
    before = torch.cat([torch.ones(1), abar[:-1]])
    # Of the product of two Gaussians: q(x_t | x_t-1) around x_t / sqrt(alpha), and q(x_t-1 | x_0).
    precision = alphas / betas + 1 / (1 - before)  # (1000,), infinite at the first step
    expected = {
        "betas": betas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": abar**0.5,
        "sqrt_one_minus_alphas_cumprod": (1 - abar) ** 0.5,
        "log_one_minus_alphas_cumprod": torch.log1p(-abar),
        "sqrt_recip_alphas_cumprod": abar**-0.5,
        "sqrt_recipm1_alphas_cumprod": ((1 - abar) / abar) ** 0.5,
        "posterior_variance": 1 / precision,
        "posterior_log_variance_clipped": torch.cat([torch.tensor([-46.0517019]), -precision[1:].log()]),  # log 1e-20
        "posterior_mean_coef1": torch.cat([torch.ones(1), (before**0.5 / (1 - before) / precision)[1:]]),
        "posterior_mean_coef2": alphas**0.5 / betas / precision,
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values.float(), rtol=2e-5, atol=1e-7, msg=name)


def test_variances_are_those_of_diffusers() -> None:
    config: dict[str, Any] = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    theirs = DDPMScheduler(**config)
    found = schedule_to_ldm(alphas_cumprod_from_config(config))["posterior_variance"]
    for step in (1, 10, 500, 999):
        torch.testing.assert_close(found[step], theirs._get_variance(step), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", UNET_CONFIGS)
def test_every_tensor_of_a_unet_has_an_average_of_its_own(name: str) -> None:
    names = unet_to_ldm(UNET_CONFIGS[name])
    unet = {there: torch.tensor(index) for index, there in enumerate(names.values())}
    found = averages_to_ldm(unet)
    assert len(found) == len(unet) + 2
    assert found["model_ema.diffusion_modelinput_blocks00weight"] is unet["input_blocks.0.0.weight"]
    assert all(found[average_of(name)] is tensor for name, tensor in unet.items())
    assert found["model_ema.num_updates"].dtype == torch.int32 and found["model_ema.decay"].dtype == torch.float32


@pytest.mark.parametrize("config_of", [unet_config_of, vae_config_of, clip_vision_config_of])
def test_shapes_of_something_else(config_of: Any) -> None:
    for nothing in ({}, {"weight": (3,)}):
        with pytest.raises(KeyError):
            config_of(nothing)
