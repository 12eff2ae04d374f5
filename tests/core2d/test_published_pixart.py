"""PixArt as it was published, and tokenizers in the files of older libraries."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer, T5Tokenizer

from core2d.app.errors import InputError
from core2d.files.sentencepiece import read_sentencepiece
from core2d.files.tokenizers import load_tokenizer
from core2d.prior.backbone import Backbone
from core2d.systems.text_to_image.pipeline import TextToImage


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- tokenizers --------------------------------------------------------------------------------------------------


def field(number: int, value: bytes | int | float) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3 | 5) + struct.pack("<f", value) if isinstance(value, float) else (
        varint(number << 3) + varint(value)
    )  # fmt: skip


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def one_letter_charsmap(letter: str, becomes: str) -> bytes:
    """A table of SentencePiece (a double-array trie, then its texts) by which one letter becomes another."""
    units = [0] * 256
    code = ord(letter)
    units[code] = code | 1 << 8 | 1 << 10  # this label, a leaf, its value one place away
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + becomes.encode() + b"\0"


def sentencepiece(pieces: list[tuple[str, float]], charsmap: bytes = b"", kind: int = 1, unknown: int = 2) -> bytes:
    """The bytes of a `spiece.model`: T5's control pieces first, the rest normal ones."""
    special = {0: 3, 1: 3, unknown: 2}
    model = b"".join(
        field(1, field(1, text.encode()) + field(2, score) + (field(3, special[index]) if index in special else b""))
        for index, (text, score) in enumerate(pieces)
    )
    trainer = field(2, field(3, kind) + field(1, b"corpus.txt") + field(40, unknown) + field(10, 0.9995))
    return model + trainer + field(3, field(1, b"nmt_nfkc") + field(2, charsmap) + field(3, 1))


@pytest.fixture
def pieces(tiny_folder) -> list[tuple[str, float]]:
    vocabulary = json.loads((tiny_folder("pixart") / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    return [(text, float(score)) for text, score in vocabulary]


def put_sentencepiece(folder: Path, model: bytes, **settings: Any) -> Path:
    """A T5 tokenizer as published before `tokenizer.json`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "spiece.model").write_bytes(model)
    said = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said | settings))
    return folder


PROMPTS = ["a red mug", "  a   blue car,\tseen from the front ", "zebra 123 ☃", "", "</s> of <pad>"]


def test_a_vocabulary_of_sentencepiece_reads_as_one_of_today(tiny_folder, tmp_path: Path, pieces) -> None:
    today = load_tokenizer(T5Tokenizer, tiny_folder("pixart") / "tokenizer")
    path = put_sentencepiece(tmp_path / "tokenizer", sentencepiece(pieces), model_max_length=120)
    assert read_sentencepiece(path / "spiece.model").pieces == [
        (text, struct.unpack("<f", struct.pack("<f", score))[0]) for text, score in pieces
    ]
    older = load_tokenizer(T5Tokenizer, path)
    for prompt in PROMPTS:
        for options in ({}, {"padding": "max_length", "max_length": 40}):
            assert dict(older(prompt, **options)) == dict(today(prompt, **options))
    assert older.model_max_length == 120
    assert len(older) == len(pieces) + 100
    assert older.convert_tokens_to_ids("<extra_id_0>") == len(pieces) + 99  # as T5 was trained: the last one


def test_text_is_normalised_by_the_table_in_the_file(tmp_path: Path, pieces) -> None:
    model = sentencepiece(pieces, one_letter_charsmap("~", "m"))
    tokenizer = load_tokenizer(T5Tokenizer, put_sentencepiece(tmp_path / "tokenizer", model, extra_ids=0))
    assert tokenizer("a red ~ug").input_ids == tokenizer("a red mug").input_ids
    assert len(tokenizer) == len(pieces)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(T5Tokenizer, tmp_path / "saved")
    assert again("a red ~ug").input_ids == tokenizer("a red mug").input_ids


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model[: len(model) // 2], "is no SentencePiece model, or is damaged"),
        (lambda model: b"", "is no SentencePiece model"),
        (lambda model: b"version https://git-lfs.github.com/spec/v1\n", "is no SentencePiece model"),
        (lambda model: b"\xff" * 50, "is no SentencePiece model"),
        (lambda model: model + b"\x0b", "is no SentencePiece model"),  # a wire type that none has
    ],
)
def test_a_damaged_vocabulary(tmp_path: Path, pieces, spoil: Callable[[bytes], bytes], message: str) -> None:
    path = put_sentencepiece(tmp_path / "tokenizer", spoil(sentencepiece(pieces)))
    with pytest.raises(InputError, match=message):
        load_tokenizer(T5Tokenizer, path)


def test_other_vocabularies_of_sentencepiece(tmp_path: Path, pieces) -> None:
    with pytest.raises(InputError, match="another kind than unigram"):
        load_tokenizer(T5Tokenizer, put_sentencepiece(tmp_path / "bpe", sentencepiece(pieces, kind=2)))
    llama = sentencepiece([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *pieces[3:]], unknown=0)
    with pytest.raises(InputError, match="is not the vocabulary of a T5"):
        load_tokenizer(T5Tokenizer, put_sentencepiece(tmp_path / "llama", llama))
    path = put_sentencepiece(tmp_path / "extra", sentencepiece(pieces), extra_ids="many")
    with pytest.raises(InputError, match="has extra_ids 'many'"):
        load_tokenizer(T5Tokenizer, path)


@pytest.mark.parametrize(
    ("kind", "left", "needs"),
    [
        (CLIPTokenizer, [], r"tokenizer\.json, or vocab\.json and merges\.txt"),
        (CLIPTokenizer, ["vocab.json"], r"tokenizer\.json, or vocab\.json and merges\.txt"),
        (T5Tokenizer, [], r"tokenizer\.json, or spiece\.model"),
    ],
)
def test_a_tokenizer_without_vocabulary_is_not_made_up(tmp_path: Path, kind: Any, left: list[str], needs: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind.__name__}))
    for name in left:
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=f"has no vocabulary: it needs {needs}"):
        load_tokenizer(kind, tmp_path)


def test_a_clip_tokenizer_in_the_files_of_old(tiny_folder, tiny_models, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder("sd1"), tmp_path / "model"))
    vocabulary, merges = tiny_models.clip_vocabulary()
    place = folder / "tokenizer"
    (place / "tokenizer.json").unlink()
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]))
    ours, theirs = Backbone.load(folder), Backbone.load(tiny_folder("sd1"))
    prompts = ["A Red mug, seen", "", "zebra!"]
    assert torch.equal(ours.encode_text(prompts).tokens, theirs.encode_text(prompts).tokens)


# -- PixArt as published -----------------------------------------------------------------------------------------


@pytest.fixture
def published_pixart(tiny_folder, tmp_path: Path, pieces) -> Path:
    """A folder as that of PixArt-XL-2: transformer under its old name, the tokenizer a `spiece.model`, T5 in parts."""
    folder = Path(shutil.copytree(tiny_folder("pixart"), tmp_path / "model"))
    put_sentencepiece(folder / "tokenizer", sentencepiece(pieces), extra_ids=100, model_max_length=120, legacy=True)
    old = dict(_class_name="Transformer2DModel", _diffusers_version="0.22.0.dev0", double_self_attention=False,
               num_vector_embeds=None, only_cross_attention=False, use_linear_projection=False)  # fmt: skip
    edit_json(folder / "transformer" / "config.json", **old)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    for name in ("use_additional_conditions", "interpolation_scale"):
        config.pop(name)  # of newer versions
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    edit_json(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    text = folder / "text_encoder" / "model.safetensors"
    state = load_file(text)
    state["encoder.embed_tokens.weight"] = state["shared.weight"].clone()  # the same tensor under both of its names
    names = sorted(state)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, text.with_name(file), {"format": "pt"})
        places |= dict.fromkeys(part, file)
    text.unlink()
    size = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    text.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_pixart_as_published_draws_what_the_stock_pipeline_draws(published_pixart: Path, tiny_folder) -> None:
    options: dict[str, Any] = dict(num_inference_steps=4, guidance_scale=4.5, output_type="latent")
    ours = TextToImage.from_pretrained(published_pixart)("A red mug on plain ground", seed=0, **options).images
    tokenizer = T5Tokenizer.from_pretrained(tiny_folder("pixart") / "tokenizer")  # without the sentencepiece library
    stock: Any = PixArtAlphaPipeline.from_pretrained(published_pixart, tokenizer=tokenizer, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    expected = stock(
        "A red mug on plain ground",
        generator=torch.Generator().manual_seed(0),
        use_resolution_binning=False,
        clean_caption=False,
        **options,
    ).images
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.1


def test_pixart_as_published_is_saved_as_one_of_today(published_pixart: Path, tmp_path: Path) -> None:
    pipeline = TextToImage.from_pretrained(published_pixart)
    pipeline.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "PixArtTransformer2DModel"]
    assert index["tokenizer"] == ["transformers", "T5Tokenizer"]
    stock: Any = PixArtAlphaPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    assert stock.tokenizer("a red mug").input_ids == pipeline.backbone.family.parts["tokenizer"]("a red mug").input_ids  # pyright: ignore[reportAttributeAccessIssue]
    again = TextToImage.from_pretrained(tmp_path / "saved")
    drawn = [one("a red mug", seed=0, num_inference_steps=2, output_type="latent").images for one in (pipeline, again)]
    assert torch.equal(*drawn)


def test_another_transformer_of_the_old_name_is_refused(published_pixart: Path) -> None:
    edit_json(published_pixart / "transformer" / "config.json", norm_type="ada_norm_zero")  # that of DiT
    with pytest.raises(InputError, match="transformer ") as caught:
        Backbone.load(published_pixart)
    assert "\n" not in str(caught.value)
