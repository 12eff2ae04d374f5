"""Our PixArt: the answers of stock diffusers and of a prior that draws with it, published names, and what it learns."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.files.loading import save_model
from core2d.prior.backbone import Backbone
from core2d.prior.schedule import NoiseSchedule
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.training.latent_diffusion import DenoisingTask, PriorNetworks
from core2d.training.loop import TrainingRecipe, train
from core2d.transformer.files import read_pixart, write_pixart
from core2d.transformer.layouts import pixart_from_diffusers, pixart_to_diffusers, positions_of
from core2d.transformer.pixart import SIZES, PixArt

TINY: dict[str, Any] = dict(sample_size=8, dim=24, depth=2, heads=2, caption_dim=12)
TOLD: dict[str, Any] = TINY | dict(micro_conditions=True, interpolation_scale=2.0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(model: Any, seed: int = 1, spread: float = 0.1) -> Any:
    """A model that says something: none of its weights is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(spread * torch.randn(value.shape, generator=generator))
    return model.eval()


def stock(**changes: Any) -> PixArtTransformer2DModel:
    config = dict(num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, num_layers=2, sample_size=8,
                  caption_channels=12)  # fmt: skip
    return filled(PixArtTransformer2DModel(**(config | changes)))  # pyright: ignore[reportArgumentType]


# -- as stock diffusers --------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "as alpha of 512": {},
    "as alpha of 1024": {"use_additional_conditions": True, "interpolation_scale": 2},
    "as sigma of 256": {"interpolation_scale": 0.5},
    "without variance": {"out_channels": 4},
}


@pytest.mark.parametrize("size", [(8, 8), (6, 12)])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_answers_as_diffusers_and_weights_go_both_ways(kind: str, size: tuple[int, int]) -> None:
    theirs = stock(**KINDS[kind])
    ours = pixart_from_diffusers(theirs)
    call: dict[str, Any] = dict(
        hidden_states=noise(3, 4, *size),
        encoder_hidden_states=noise(3, 5, 12, seed=2),
        timestep=torch.tensor([1, 500, 999]),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    )
    if theirs.use_additional_conditions:
        sizes = {"resolution": torch.tensor([[64.0, 96.0]]), "aspect_ratio": torch.tensor([[64 / 96]])}
        call["added_cond_kwargs"] = {name: value.expand(3, -1) for name, value in sizes.items()}
    expected = theirs(**call).sample
    said = cast(Any, ours(**call)).sample
    torch.testing.assert_close(said, expected, atol=1e-5, rtol=0)
    assert torch.equal(ours(**call, return_dict=False)[0], said)
    back = pixart_to_diffusers(ours)
    assert back.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in back.state_dict().items())
    torch.testing.assert_close(back(**call).sample, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01


def test_models_of_diffusers_that_are_no_pixart_are_refused() -> None:
    with pytest.raises(InputError, match="without projecting them"):
        pixart_from_diffusers(stock(caption_channels=None))
    with pytest.raises(InputError, match="activation_fn 'geglu'"):
        pixart_from_diffusers(stock(activation_fn="geglu"))


@pytest.mark.parametrize("family", ["pixart", "pixart-1024"])
def test_a_prior_draws_the_same_picture_with_either(tiny_folder: Callable[..., Path], family: str) -> None:
    folder = tiny_folder(family)
    prior = Backbone.load(folder)
    ours = prior.with_denoiser(read_pixart(folder / "transformer"))
    assert isinstance(ours.denoiser, PixArt)
    options: dict[str, Any] = dict(seed=0, num_inference_steps=4, guidance_scale=4.5, height=32, width=48)
    for kind in ("pt", "latent"):  # latents of an untrained model are in the hundreds
        drawn = [
            TextToImage(one)("a red mug on plain ground", output_type=kind, **options).images for one in (prior, ours)
        ]
        spread = drawn[0].std()
        assert spread > 0.1
        torch.testing.assert_close(drawn[1], drawn[0], atol=1e-5 * max(1.0, float(spread)), rtol=0)


def test_a_prior_of_ours_is_saved_for_stock_pipelines_once_it_is_theirs_again(
    tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    prior = Backbone.load(tiny_folder("pixart"))
    ours = read_pixart(tiny_folder("pixart") / "transformer")
    TextToImage(prior.with_denoiser(pixart_to_diffusers(ours))).save_pretrained(tmp_path / "saved")
    again: Any = PixArtAlphaPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    expected: Any = prior.denoiser.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.transformer.state_dict().items())


# -- as in the papers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["alpha-1024", "sigma-1024"])
def test_parameters_are_those_of_the_published_models(kind: str) -> None:
    size = SIZES[kind]
    with torch.device("meta"):
        ours = PixArt(**size)
        theirs = PixArtTransformer2DModel(
            sample_size=size["sample_size"],
            interpolation_scale=1,  # of positions, which have no parameters
            caption_channels=4096,
            use_additional_conditions="micro_conditions" in size,
        )
    count = sum(value.numel() for value in ours.parameters())
    assert count == sum(value.numel() for value in theirs.parameters())
    assert count == (611_349_152 if kind == "alpha-1024" else 610_856_096)


@pytest.mark.parametrize("config", [TINY, TOLD])
def test_a_fresh_one_says_nothing(config: dict[str, Any]) -> None:
    sizes = {"resolution": torch.ones(2, 2), "aspect_ratio": torch.ones(2, 1)} if config is TOLD else {}
    said = PixArt(**config).denoise(noise(2, 4, 8, 6), 300, noise(2, 5, 12), **sizes)
    assert said.shape == (2, 8, 8, 6) and not said.any()


def test_captions_add_nothing_to_a_fresh_block() -> None:
    block: Any = PixArt(**TINY).blocks[0]
    x, modulation = noise(2, 7, 24), noise(2, 6, 24, seed=1)
    assert torch.equal(block(x, modulation, noise(2, 3, 24, seed=2)), block(x, modulation))


@torch.no_grad()
def test_padding_of_captions_changes_nothing() -> None:
    model, x_t, captions = filled(PixArt(**TINY)), noise(2, 4, 8, 8), noise(2, 3, 12)
    alone = torch.cat([model.denoise(x_t[:1], 10, captions[:1]), model.denoise(x_t[1:], 10, captions[1:, :1])])
    filler = torch.cat([captions, 100 * noise(2, 4, 12, seed=5)], dim=1)  # (2, 7, 12)
    filler[1, 1:] = -50.0
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(model.denoise(x_t, 10, filler, mask), alone, atol=1e-6, rtol=0)
    assert (model.denoise(x_t, 10, filler) - alone).abs().max() > 1e-3  # and without a mask it would


@torch.no_grad()
def test_time_and_sizes_are_heard() -> None:
    model, x_t, captions = filled(PixArt(**TOLD)), noise(1, 4, 8, 8), noise(1, 3, 12)
    told = [(10, 64.0, 64.0, 1.0), (20, 64.0, 64.0, 1.0), (10, 96.0, 64.0, 1.0), (10, 64.0, 96.0, 1.0),
            (10, 64.0, 64.0, 1.5)]  # fmt: skip
    said = [
        model.denoise(x_t, t, captions, None, torch.tensor([[height, width]]), torch.tensor([[aspect]]))
        for t, height, width, aspect in told
    ]
    assert all((one - said[0]).abs().max() > 1e-4 for one in said[1:])


def test_gradients_reach_every_weight_and_are_finite() -> None:
    model = filled(PixArt(**TOLD))
    sizes = {"resolution": torch.tensor([[64.0, 48.0]] * 2), "aspect_ratio": torch.tensor([[0.75]] * 2)}
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    model.denoise(noise(2, 4, 8, 6), 10, noise(2, 3, 12), mask, **sizes).square().sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), name


# -- what it learns ------------------------------------------------------------------------------------------------


def test_it_learns_by_the_task_of_priors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    words = nn.Embedding(5, 12).requires_grad_(False)  # four captions and the empty one
    task = DenoisingTask(
        model=PriorNetworks(cast(Any, PixArt(**{**TINY, "dim": 48}, out_channels=4))),
        mean=noise(4, 4, 1, 1, seed=7).expand(-1, -1, 8, 8),
        deviation=torch.zeros(4, 4, 8, 8),
        tokens=torch.arange(1, 5)[:, None].expand(-1, 3),
        empty=torch.zeros(3, dtype=torch.long),
        encode_text=words,
        camera=torch.zeros(4, 5),
        stills=torch.arange(4),
        schedule=NoiseSchedule.from_config(config),
    )
    seen = task.batch(1000, torch.arange(32), 32)  # of a step that is not trained on
    with torch.no_grad():
        before = task.loss(task.model, seen)[1]["mse"]
    assert before == pytest.approx(float(seen["target"].square().mean()))  # a fresh one says 0
    recipe = TrainingRecipe(steps=60, batch_size=8, learning_rate=3e-3, warmup_steps=10, ema_decay=0, log_every=60)
    train(task, recipe, tmp_path, device=torch.device("cpu"))
    with torch.no_grad():
        after = task.loss(task.model, seen)[1]["mse"]
    assert after < 0.5 * before


# -- what does not fit ---------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], Callable[[PixArt], Any], str]] = {
    "odd side": (TINY, lambda m: m.denoise(noise(2, 4, 8, 7), 1, noise(2, 3, 12)), r"\(2, 4, 8, 7\)"),
    "channels": (TINY, lambda m: m.denoise(noise(2, 9, 8, 8), 1, noise(2, 3, 12)), r"\(2, 9, 8, 8\).*\(b, 4, h, w\)"),
    "rows": (TINY, lambda m: m.denoise(noise(2, 4, 8, 8), 1, noise(3, 3, 12)), r"\(3, 3, 12\) for 2 rows"),
    "mask": (TINY, lambda m: m.denoise(noise(2, 4, 8, 8), 1, noise(2, 3, 12), torch.ones(2, 4)), r"\(2, 4\).*\(2, 3\)"),
    "times": (TINY, lambda m: m.denoise(noise(2, 4, 8, 8), torch.ones(2, 2), noise(2, 3, 12)), r"\(2, 2\) for 2"),
    "no sizes": (TOLD, lambda m: m.denoise(noise(2, 4, 8, 8), 1, noise(2, 3, 12)), r"\(2, 2\), and is None"),
    "aspect": (TOLD, lambda m: m.denoise(noise(2, 4, 8, 8), 1, noise(2, 3, 12), None, torch.ones(2, 2), torch.ones(2)),
               r"aspect_ratio is to be \(2, 1\), and is \(2,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_shapes_that_do_not_fit_are_told(case: str) -> None:
    config, call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call(PixArt(**config))


def test_a_width_that_sizes_cannot_share() -> None:
    with pytest.raises(ValueError, match="which 32 numbers do not allow"):
        PixArt(**{**TOLD, "dim": 32})


# -- files ---------------------------------------------------------------------------------------------------------

BLOCK = {
    "scale_shift_table", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias",
    "cross_attn.q_linear.weight", "cross_attn.q_linear.bias", "cross_attn.kv_linear.weight",
    "cross_attn.kv_linear.bias", "cross_attn.proj.weight", "cross_attn.proj.bias", "mlp.fc1.weight", "mlp.fc1.bias",
    "mlp.fc2.weight", "mlp.fc2.bias",
}  # fmt: skip
SIGMA = {
    "pos_embed", "x_embedder.proj.weight", "x_embedder.proj.bias", "t_embedder.mlp.0.weight", "t_embedder.mlp.0.bias",
    "t_embedder.mlp.2.weight", "t_embedder.mlp.2.bias", "t_block.1.weight", "t_block.1.bias",
    "y_embedder.y_embedding", "y_embedder.y_proj.fc1.weight", "y_embedder.y_proj.fc1.bias",
    "y_embedder.y_proj.fc2.weight", "y_embedder.y_proj.fc2.bias", "final_layer.linear.weight",
    "final_layer.linear.bias", "final_layer.scale_shift_table",
}  # fmt: skip
ALPHA = SIGMA | {
    f"{part}.mlp.{layer}.{kind}" for part in ("csize_embedder", "ar_embedder") for layer in (0, 2)
    for kind in ("weight", "bias")
}  # fmt: skip


@pytest.mark.parametrize(("kind", "names"), [("alpha-512", SIGMA), ("alpha-1024", ALPHA), ("sigma-2048", SIGMA)])
def test_names_are_the_published_ones(kind: str, names: set[str]) -> None:
    with torch.device("meta"):
        ours = PixArt(**SIZES[kind]).state_dict().keys()
    assert ours == (names - {"pos_embed"}) | {f"blocks.{block}.{name}" for block in range(28) for name in BLOCK}


def published(model: PixArt) -> dict[str, Tensor]:
    return {**model.state_dict(), "pos_embed": positions_of(model)}


WIDE: dict[str, Any] = dict(sample_size=16, dim=384, depth=1, heads=6, caption_dim=12, null_tokens=5)  # heads by width
LAYOUTS: dict[str, dict[str, Any]] = {
    "alpha": {"interpolation_scale": 2.0, "micro_conditions": True},
    "sigma": {"interpolation_scale": 0.5},
    "sigma of few bits": {"interpolation_scale": 4.0},
    "without variance": {"out_channels": 4},
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_file_is_read_and_written(tmp_path: Path, layout: str, suffix: str) -> None:
    config = WIDE | LAYOUTS[layout]
    model = filled(PixArt(**config), spread=0.02)
    state, path = published(model), tmp_path / f"PixArt{suffix}"
    if "bits" in layout:
        state = {name: value.half() for name, value in state.items()}
    torch.save({"state_dict": state}, path) if suffix == ".pth" else save_file(state, path)
    read = read_pixart(path)
    assert {name: read.config[name] for name in config} == config
    write_pixart(tmp_path / "again.safetensors", read, "original")
    again = read_pixart(tmp_path / "again.safetensors")
    assert {name: again.config[name] for name in config} == config
    written = published(again)
    assert written.keys() == state.keys()
    for name in written.keys() - {"pos_embed"}:
        assert torch.equal(written[name], state[name].float()), name
    torch.testing.assert_close(written["pos_embed"], state["pos_embed"].float(), atol=1e-3, rtol=0)


def test_a_file_whose_positions_tell_no_scale(tmp_path: Path) -> None:
    model = PixArt(**WIDE | {"sample_size": 128, "interpolation_scale": 2.0})
    state = published(model)
    save_file(state | {"pos_embed": torch.zeros_like(state["pos_embed"])}, tmp_path / "zeros.safetensors")
    read = read_pixart(tmp_path / "zeros.safetensors")
    assert read.config["sample_size"] == 128 and read.config["interpolation_scale"] == 2
    state.pop("pos_embed")
    save_file(state, tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="lacks pos_embed, which tells its size: give sample_size"):
        read_pixart(tmp_path / "none.safetensors")
    assert read_pixart(tmp_path / "none.safetensors", sample_size=64).config["interpolation_scale"] == 1


def test_folders_of_diffusers_and_of_ours(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    theirs = tiny_folder("pixart") / "transformer"
    ours = read_pixart(theirs)
    write_pixart(tmp_path / "back", ours)
    stored = [
        PixArtTransformer2DModel.from_pretrained(path, local_files_only=True) for path in (theirs, tmp_path / "back")
    ]
    assert all(torch.equal(value, stored[0].state_dict()[name]) for name, value in stored[1].state_dict().items())
    save_model(ours, tmp_path / "own")
    own = read_pixart(tmp_path / "own")
    x_t, captions = noise(1, 4, 8, 8), noise(1, 3, 16)
    assert torch.equal(own.denoise(x_t, 7, captions), ours.denoise(x_t, 7, captions))


def test_files_that_are_no_pixart_are_told(tmp_path: Path) -> None:
    state = published(PixArt(**WIDE))
    save_file({name: value for name, value in state.items() if "cross_attn" not in name}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"lacks blocks\.0\.cross_attn"):
        read_pixart(tmp_path / "a.safetensors")
    save_file(state | {"blocks.0.attn.q_norm.weight": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"also holds blocks\.0\.attn\.q_norm\.weight"):
        read_pixart(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="no PixArt at"):
        read_pixart(tmp_path / "c.safetensors")


# -- exported ------------------------------------------------------------------------------------------------------


class Exported(nn.Module):
    """What a runtime is handed: tensors in, one tensor out."""

    def __init__(self, model: PixArt) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_t: Tensor, t: Tensor, captions: Tensor, mask: Tensor) -> Tensor:
        return self.model.denoise(x_t, t, captions, mask)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")), reason="needs onnx and onnxruntime"
)
@torch.no_grad()
def test_onnx_runtime_runs_it_at_other_sizes_than_it_was_exported_at(tmp_path: Path) -> None:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    model = Exported(filled(PixArt(**TINY)))

    def told(count: int, height: int, width: int, tokens: int) -> tuple[Tensor, ...]:
        mask = (torch.arange(tokens) < torch.arange(1, count + 1)[:, None]).long()  # (count, tokens)
        return noise(count, 4, height, width), torch.full((count,), 321), noise(count, tokens, 12, seed=1), mask

    names = ["x_t", "t", "captions", "mask"]
    axes = {"x_t": {0: "b", 2: "h", 3: "w"}, "t": {0: "b"}, "captions": {0: "b", 1: "m"}, "mask": {0: "b", 1: "m"}}
    path = tmp_path / "pixart.onnx"
    torch.onnx.export(model, told(2, 8, 8, 4), path, input_names=names, output_names=["said"], dynamic_axes=axes,
                      opset_version=17, dynamo=False)  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((2, 8, 8, 4), (3, 6, 12, 5)):
        inputs = told(*shape)
        said = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})[0]
        torch.testing.assert_close(torch.from_numpy(said), model(*inputs), atol=1e-4, rtol=0)
