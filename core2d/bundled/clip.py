"""toybox-clip: a text and an image tower with a tokenizer of their own, in transformers' format."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from core2d.bundled.world import picture_rows
from core2d.toybox import captions
from core2d.toybox.dataset import Pictures
from core2d.training.contrastive import ContrastiveTask
from core2d.training.loop import TrainingRecipe

LENGTH = 32  # tokens of a caption, start and end included
WIDTH = 128
SPECIAL_TOKENS = ["<|startoftext|>", "<|endoftext|>"]
RECIPE = TrainingRecipe(
    steps=1200, batch_size=128, learning_rate=1e-3, warmup_steps=150, weight_decay=0.05, ema_decay=0.99
)


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding of the caption grammar: each of its words is one token, other words fall into pieces.

    The trainer breaks ties between equally frequent pairs as it likes: ids belong to one build and ship with it.
    """
    reference = CLIPTokenizer()  # lends its normaliser and its way of splitting words
    tokenizer = Tokenizer(
        models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    )
    tokenizer.normalizer = reference.backend_tokenizer.normalizer
    tokenizer.pre_tokenizer = reference.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions.vocabulary(), trainer)
    merges: Any = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    letters = sorted(ByteLevel.alphabet())
    # every letter can also end a word, so that no word is unknown
    tokens = [*SPECIAL_TOKENS, *letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def build(tokenizer: CLIPTokenizer, size: int) -> CLIPModel:
    """Fresh towers for pictures of `size` pixels."""
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS)
    ids: dict[str, Any] = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    common: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), num_hidden_layers=3, max_position_embeddings=LENGTH, projection_dim=WIDTH,
        **common, **ids,
    )  # fmt: skip
    vision = CLIPVisionConfig(num_hidden_layers=4, image_size=size, patch_size=8, projection_dim=WIDTH, **common)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH)
    return CLIPModel(config)


def tokenise(tokenizer: CLIPTokenizer, sentences: list[str]) -> Tensor:
    """(n, LENGTH) int64 token ids, padded."""
    return tokenizer(sentences, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids


def normalise(pictures: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]: mean and deviation 0.5, as the image processor's config says."""
    return 2.0 * pictures - 1.0


def task(model: CLIPModel, tokenizer: CLIPTokenizer, pictures: Pictures) -> ContrastiveTask:
    """Train `model` on `pictures` and their captions."""
    tokens = tokenise(tokenizer, pictures.captions)
    return ContrastiveTask(model, lambda rows: picture_rows(pictures, rows)[0], tokens, normalise, seed=12)


def image_processor(size: int) -> dict[str, object]:
    """`preprocessor_config.json`: what stock transformers does to a picture before the image tower."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "do_resize": True,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
