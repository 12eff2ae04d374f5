"""DiT and the blocks of transformers: the answers of stock diffusers, the counts of the paper, and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import Timesteps, get_2d_sincos_pos_embed
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.files.loading import save_model
from core2d.transformer.blocks import (
    AdaLNZeroBlock,
    CrossAttention,
    SelfAttention,
    padded,
    sincos_positions,
    sinusoids,
    unpatched,
)
from core2d.transformer.dit import SIZES, DiT, guided
from core2d.transformer.files import read_dit, write_dit
from core2d.transformer.layouts import dit_from_diffusers, dit_to_diffusers, positions_of

TINY: dict[str, Any] = dict(sample_size=8, dim=32, depth=2, heads=4, classes=5)
CAPTIONED: dict[str, Any] = TINY | dict(classes=None, caption_dim=12)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(model: Any, seed: int = 1, spread: float = 0.1) -> Any:
    """A model that says something: none of its weights is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(spread * torch.randn(value.shape, generator=generator))
    return model.eval()


def parameters(kind: Any, config: dict[str, Any]) -> int:
    with torch.device("meta"):
        return sum(value.numel() for value in kind(**config).parameters())


# -- as stock diffusers --------------------------------------------------------------------------------------------


def stock(learn_sigma: bool = True, **changes: Any) -> DiTTransformer2DModel:
    """One whose blocks embed time and class in one way, as all that was published do."""
    config = dict(num_attention_heads=4, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8,
                  out_channels=8 if learn_sigma else 4, num_embeds_ada_norm=5, norm_eps=1e-6)  # fmt: skip
    model = filled(DiTTransformer2DModel(**(config | changes)))  # pyright: ignore[reportArgumentType]
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return model


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("side", [8, 12])  # that of training, and another
@torch.no_grad()
def test_it_answers_as_diffusers_and_weights_go_both_ways(learn_sigma: bool, side: int) -> None:
    theirs = stock(learn_sigma)
    ours = dit_from_diffusers(theirs)
    x_t, t, labels = noise(3, 4, side, side), torch.tensor([1, 500, 999]), torch.tensor([0, 4, 5])  # 5 is no class
    expected = theirs(x_t, t, labels).sample
    torch.testing.assert_close(ours(x_t, t, labels), expected, atol=1e-5, rtol=0)
    back = dit_to_diffusers(ours)
    assert back.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in back.state_dict().items())
    torch.testing.assert_close(back(x_t, t, labels).sample, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01


@torch.no_grad()
def test_what_diffusers_does_otherwise_than_the_authors() -> None:
    theirs = stock(norm_eps=1e-5)  # its default
    x_t, t, labels = noise(3, 4, 8, 8), torch.tensor([1, 500, 999]), torch.tensor([0, 4, 5])
    expected = theirs(x_t, t, labels).sample
    torch.testing.assert_close(dit_from_diffusers(theirs)(x_t, t, labels), expected, atol=1e-4, rtol=0)
    as_trained = dit_from_diffusers(theirs, frequency_shift=0)
    assert (as_trained(x_t, t, labels) - expected).abs().max() > 1e-3  # other sinusoids of time
    with pytest.raises(InputError, match="other sinusoids of time"):
        dit_to_diffusers(as_trained)


def test_models_of_diffusers_that_are_no_dit_are_refused() -> None:
    apart = stock()
    with torch.no_grad():
        apart.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight[0, 0] += 1  # pyright: ignore
    with pytest.raises(InputError, match=r"transformer_blocks\.1 embeds time and class in another way"):
        dit_from_diffusers(apart)
    with pytest.raises(InputError, match="activation_fn 'geglu'"):
        dit_from_diffusers(stock(activation_fn="geglu"))
    with pytest.raises(InputError, match="not in 5"):
        dit_from_diffusers(stock(out_channels=5))
    with pytest.raises(InputError, match="told classes and no captions"):
        dit_to_diffusers(DiT(**CAPTIONED))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.5, 1.0, 2.0]))
def test_positions_of_any_grid_are_those_of_diffusers(rows: int, columns: int, base: int, scale: float) -> None:
    expected = get_2d_sincos_pos_embed(24, (rows, columns), interpolation_scale=scale, base_size=base)
    ours = sincos_positions(rows, columns, 24, base, scale)
    torch.testing.assert_close(ours, torch.as_tensor(expected).float(), atol=1e-5, rtol=0)


def test_positions_count_patches_where_no_base_is_given() -> None:
    positions = sincos_positions(3, 5, 8).view(3, 5, 8)
    place = torch.arange(5.0)
    torch.testing.assert_close(positions[2, :, 0], place.sin())  # of the column, whatever the row
    torch.testing.assert_close(positions[:, 4, 4], place[:3].sin())  # of the row
    with pytest.raises(ValueError, match="multiple of 4 numbers, not 6"):
        sincos_positions(2, 2, 6)


@pytest.mark.parametrize("shift", [0, 1])
def test_sinusoids_are_those_of_diffusers(shift: int) -> None:
    t = torch.tensor([0.0, 0.5, 17.0, 999.0])
    expected = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=shift)(t)
    torch.testing.assert_close(sinusoids(t, shift=shift), expected, atol=1e-5, rtol=0)


# -- as in the paper -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_parameters_are_as_many_as_in_table_1(size: str, millions: int) -> None:
    assert round(parameters(DiT, SIZES[size]) / 1e6) == millions


def test_the_largest_is_that_which_was_published_to_the_number() -> None:
    positions = 16 * 16 * 1152  # which the authors count
    assert parameters(DiT, SIZES["XL"]) + positions == 675_129_632


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_a_fresh_one_says_nothing(learn_sigma: bool) -> None:
    model = DiT(**TINY, learn_sigma=learn_sigma)
    said = model(noise(2, 4, 8, 6), 300, torch.tensor([0, 5]))
    assert said.shape == (2, 8 if learn_sigma else 4, 8, 6) and not said.any()
    model = DiT(**CAPTIONED)
    assert not model(noise(2, 4, 8, 6), 300, captions=noise(2, 3, 12)).any()


def test_a_fresh_block_leaves_tokens_as_they_are() -> None:
    model = DiT(**CAPTIONED)
    x, condition, context = noise(2, 7, 32), noise(2, 32, seed=1), noise(2, 3, 32, seed=2)
    assert torch.equal(model.blocks[0](x, condition, context), x)


# -- what it is told -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_time_class_and_captions_are_heard() -> None:
    model = filled(DiT(**TINY))
    x_t, labels = noise(2, 4, 8, 8), torch.tensor([0, 1])
    said = model(x_t, 10, labels)
    assert torch.equal(said, model(x_t, torch.tensor([10, 10]), labels))
    assert (said - model(x_t, 20, labels)).abs().amax((1, 2, 3)).min() > 1e-4
    assert (said - model(x_t, 10, torch.tensor([5, 5]))).abs().amax((1, 2, 3)).min() > 1e-4
    model = filled(DiT(**CAPTIONED))
    captions = noise(2, 3, 12)
    assert (model(x_t, 10, None, captions) - model(x_t, 10, None, captions.flip(0))).abs().max() > 1e-4


@torch.no_grad()
def test_padding_of_captions_changes_nothing() -> None:
    model, x_t, captions = filled(DiT(**CAPTIONED)), noise(2, 4, 8, 8), noise(2, 3, 12)
    alone = torch.cat([model(x_t[:1], 10, None, captions[:1]), model(x_t[1:], 10, None, captions[1:, :1])])
    filler = torch.cat([captions, 100 * noise(2, 4, 12, seed=5)], dim=1)  # (2, 7, 12)
    filler[1, 1:] = -50.0
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(model(x_t, 10, None, filler, mask), alone, atol=1e-6, rtol=0)
    assert (model(x_t, 10, None, filler) - alone).abs().max() > 1e-3  # and without a mask it would


def test_a_row_without_any_token_is_finite() -> None:
    model = filled(DiT(**CAPTIONED))
    captions = noise(2, 3, 12).requires_grad_()
    said = model(noise(2, 4, 8, 8), 10, None, captions, torch.tensor([[1, 1, 0], [0, 0, 0]]))
    said.square().sum().backward()
    assert said.isfinite().all() and captions.grad is not None and captions.grad.isfinite().all()
    assert not captions.grad[0, 2].any()  # what is hidden is not learned from


@torch.no_grad()
def test_mixed_sizes_in_one_pass_are_what_each_would_get_alone() -> None:
    model = filled(DiT(**TINY))
    x_t = [noise(4, *size, seed=size[0]) for size in ((8, 8), (4, 12), (6, 2))]
    t, labels = torch.tensor([3, 400, 900]), torch.tensor([0, 5, 2])
    together = model.mixed(x_t, t, labels)
    for said, one, time, label in zip(together, x_t, t, labels, strict=True):
        assert said.shape == (8, *one.shape[1:])
        torch.testing.assert_close(said, model(one[None], time, label[None])[0], atol=1e-5, rtol=0)
    lying = model(x_t[1][None], 3, labels[:1])
    upright = model(x_t[1].mT[None], 3, labels[:1])
    assert (lying.mT - upright).abs().max() > 1e-4  # rows and columns are not the same to it


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any))
def test_padded_rows_hold_what_was_given(lengths: list[int]) -> None:
    rows = [noise(length, 3, seed=index) for index, length in enumerate(lengths)]
    tokens, mask = padded(rows)
    assert tokens.shape == (len(rows), max(lengths), 3) and mask.sum(1).tolist() == lengths
    assert torch.equal(tokens[mask], torch.cat(rows)) and not tokens[~mask].any()


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), patch=st.integers(1, 3), channels=st.integers(1, 3))
def test_patches_come_back_where_they_were(rows: int, columns: int, patch: int, channels: int) -> None:
    picture = noise(2, channels, rows * patch, columns * patch)
    cut = picture.unfold(2, patch, patch).unfold(3, patch, patch)  # (b, c, rows, cols, p, p)
    patches = cut.permute(0, 2, 3, 4, 5, 1).reshape(2, rows * columns, -1)  # (b, n, p p c)
    assert torch.equal(unpatched(patches, (rows, columns), patch), picture)


@torch.no_grad()
def test_attention_is_that_of_torch() -> None:
    ours = filled(SelfAttention(16, 4))
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict({
        "in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias,
        "out_proj.weight": ours.proj.weight, "out_proj.bias": ours.proj.bias,
    })  # fmt: skip
    x, mask = noise(2, 5, 16), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = theirs(x, x, x, key_padding_mask=~mask, need_weights=False)[0]
    torch.testing.assert_close(ours(x, mask), expected, atol=1e-6, rtol=0)
    cross = filled(CrossAttention(16, 4))
    theirs.load_state_dict({
        "in_proj_weight": torch.cat([cross.q_linear.weight, cross.kv_linear.weight]),
        "in_proj_bias": torch.cat([cross.q_linear.bias, cross.kv_linear.bias]),
        "out_proj.weight": cross.proj.weight, "out_proj.bias": cross.proj.bias,
    })  # fmt: skip
    context = noise(2, 5, 16, seed=3)
    expected = theirs(x, context, context, key_padding_mask=~mask, need_weights=False)[0]
    torch.testing.assert_close(cross(x, context, mask), expected, atol=1e-6, rtol=0)


def test_gradients_reach_every_weight_and_are_finite() -> None:
    of_classes, of_captions = {"labels": torch.tensor([0, 1])}, {"captions": noise(2, 3, 12)}
    for model, told in ((DiT(**TINY), of_classes), (DiT(**CAPTIONED), of_captions)):
        filled(model)(noise(2, 4, 8, 6), 10, **told).square().sum().backward()
        for name, value in model.named_parameters():
            assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), name


def test_gradients_of_a_block_by_finite_differences() -> None:
    block = filled(AdaLNZeroBlock(8, 2, cross=True), spread=0.3).double()
    x, condition, context = noise(1, 3, 8).double(), noise(1, 8, seed=1).double(), noise(1, 2, 8, seed=2).double()
    mask = torch.tensor([[True, False]])
    inputs = [value.requires_grad_() for value in (x, condition, context)]
    assert torch.autograd.gradcheck(lambda *values: block(*values, mask), inputs)


def test_guidance_is_of_the_first_channels_alone() -> None:
    told, nothing = noise(2, 8, 4, 4), noise(2, 8, 4, 4, seed=1)
    result = guided(told, nothing, 3.0, channels=4)
    torch.testing.assert_close(result[:, :4], nothing[:, :4] + 3 * (told - nothing)[:, :4])
    assert torch.equal(result[:, 4:], told[:, 4:])


# -- what does not fit ---------------------------------------------------------------------------------------------

LABELS = torch.tensor([0, 1])
BAD: dict[str, tuple[dict[str, Any], Callable[[DiT], Any], str]] = {
    "odd side": (TINY, lambda m: m(noise(2, 4, 7, 8), 1, LABELS), r"\(2, 4, 7, 8\).*multiples of the patch size 2"),
    "channels": (TINY, lambda m: m(noise(2, 3, 8, 8), 1, LABELS), r"\(2, 3, 8, 8\).*\(b, 4, h, w\)"),
    "no batch": (TINY, lambda m: m(noise(4, 8, 8), 1, LABELS), r"\(4, 8, 8\)"),
    "times": (TINY, lambda m: m(noise(2, 4, 8, 8), torch.arange(3), LABELS), r"\(3,\) for 2 rows"),
    "labels": (TINY, lambda m: m(noise(2, 4, 8, 8), 1, LABELS[:1]), r"\(1,\) for 2 rows"),
    "no labels": (TINY, lambda m: m(noise(2, 4, 8, 8), 1), "hears of classes, and is told nothing"),
    "captions": (TINY, lambda m: m(noise(2, 4, 8, 8), 1, LABELS, noise(2, 3, 12)), r"no captions.*\(2, 3, 12\)"),
    "width": (CAPTIONED, lambda m: m(noise(2, 4, 8, 8), 1, None, noise(2, 3, 9)), r"\(2, 3, 9\).*\(2, tokens, 12\)"),
    "mask": (CAPTIONED, lambda m: m(noise(1, 4, 8, 8), 1, None, noise(1, 3, 12), LABELS[None]), r"\(1, 2\).*\(1, 3\)"),
    "mixed": (TINY, lambda m: m.mixed([noise(4, 8, 8), noise(4, 8, 9)], 1, LABELS), r"\(1, 4, 8, 9\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_shapes_that_do_not_fit_are_told(case: str) -> None:
    config, call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call(DiT(**config))


def test_heads_that_do_not_share_evenly() -> None:
    with pytest.raises(ValueError, match="3 heads cannot share 32"):
        SelfAttention(32, 3)


# -- files ---------------------------------------------------------------------------------------------------------

PUBLISHED = {  # of a DiT of one block
    "pos_embed", "x_embedder.proj.weight", "x_embedder.proj.bias", "t_embedder.mlp.0.weight", "t_embedder.mlp.0.bias",
    "t_embedder.mlp.2.weight", "t_embedder.mlp.2.bias", "y_embedder.embedding_table.weight",
    "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias", "blocks.0.attn.proj.weight", "blocks.0.attn.proj.bias",
    "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.bias", "blocks.0.mlp.fc2.weight", "blocks.0.mlp.fc2.bias",
    "blocks.0.adaLN_modulation.1.weight", "blocks.0.adaLN_modulation.1.bias", "final_layer.linear.weight",
    "final_layer.linear.bias", "final_layer.adaLN_modulation.1.weight", "final_layer.adaLN_modulation.1.bias",
}  # fmt: skip
WIDE: dict[str, Any] = dict(sample_size=8, dim=384, depth=1, heads=6, classes=3)  # heads are known by width


def published(model: DiT) -> dict[str, Tensor]:
    return {**model.state_dict(), "pos_embed": positions_of(model)}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@torch.no_grad()
def test_a_published_file_is_read_and_written(tmp_path: Path, suffix: str) -> None:
    model = filled(DiT(**WIDE), spread=0.02)
    state, path = published(model), tmp_path / f"DiT{suffix}"
    assert state.keys() == PUBLISHED
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    read = read_dit(path)
    assert {name: read.config[name] for name in WIDE} == WIDE and read.config["frequency_shift"] == 0
    write_dit(tmp_path / "again.safetensors", read, "original")
    again = read_dit(tmp_path / "again.safetensors")
    assert all(again.config[name] == value for name, value in read.config.items() if not name.startswith("_"))
    for name, value in published(again).items():
        assert torch.equal(value, state[name]), name
    x_t = noise(1, 4, 8, 8)
    said = [one(x_t, 7, torch.tensor([3])) for one in (again, model)]
    torch.testing.assert_close(*said, atol=1e-6, rtol=0)  # weights that lie askew in a file may be summed otherwise


def test_names_of_the_largest_are_the_published_ones() -> None:
    with torch.device("meta"):
        names = DiT(**SIZES["XL"]).state_dict().keys()
    expected = {name.replace("blocks.0.", f"blocks.{block}.") for name in PUBLISHED for block in range(28)}
    assert names == expected - {"pos_embed"}


def test_folders_of_diffusers_and_of_ours(tmp_path: Path) -> None:
    theirs = stock()
    save_model(theirs, tmp_path / "theirs")
    ours = read_dit(tmp_path / "theirs")
    x_t, labels = noise(1, 4, 8, 8), torch.tensor([2])
    torch.testing.assert_close(ours(x_t, 7, labels), theirs(x_t, torch.tensor([7]), labels).sample, atol=1e-5, rtol=0)
    write_dit(tmp_path / "back", ours)
    back = DiTTransformer2DModel.from_pretrained(tmp_path / "back", local_files_only=True)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in back.state_dict().items())
    told = filled(DiT(**CAPTIONED))
    save_model(told, tmp_path / "own")
    captions = noise(1, 3, 12)
    assert torch.equal(read_dit(tmp_path / "own")(x_t, 7, None, captions), told(x_t, 7, None, captions))


SPOILED: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "one is missing": (lambda state: state.pop("blocks.0.mlp.fc2.bias"), r"lacks blocks\.0\.mlp\.fc2\.bias"),
    "one too many": (lambda state: state.update(extra=torch.zeros(1)), "also holds extra"),
    "another shape": (lambda state: state.update({"blocks.0.attn.proj.bias": torch.zeros(3)}), "another shape of"),
    "no positions": (lambda state: state.pop("pos_embed"), "lacks pos_embed"),
    "others": (lambda state: state["pos_embed"].mul_(-1), "not the sines and cosines of a square"),
    "no number": (lambda state: state["x_embedder.proj.bias"].fill_(torch.nan), "not finite, in x_embedder"),
    "nothing of it": (lambda state: [state.pop(name) for name in PUBLISHED - {"pos_embed"}], "no whole DiT"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED)
def test_files_that_are_no_dit_are_told(tmp_path: Path, case: str) -> None:
    spoil, message = SPOILED[case]
    state = {name: value.clone() for name, value in published(DiT(**WIDE)).items()}
    spoil(state)
    save_file(state, tmp_path / "dit.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        read_dit(tmp_path / "dit.safetensors")
    assert "\n" not in str(caught.value)


def test_nothing_there_and_another_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DiT at"):
        read_dit(tmp_path / "dit.safetensors")
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        write_dit(tmp_path / "dit.bin", DiT(**TINY), "original")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(InputError, match="holds a UNet2DConditionModel"):
        read_dit(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
