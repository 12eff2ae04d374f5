"""Tokenizers of a diffusers folder, in the files of today (`tokenizer.json`) and in those of older libraries."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, T5Tokenizer

from core2d.app.errors import InputError
from core2d.files.loading import quiet_libraries, read_json
from core2d.files.sentencepiece import read_sentencepiece

_TOKENIZER_FILE = "tokenizer.json"


def load_tokenizer(kind: type[PreTrainedTokenizerBase], folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer from its folder; no code of the folder is run.

    Raises:
        InputError: it is not there, lacks its vocabulary, or cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"the model folder {folder.parent} has no {folder.name}")
    whole, parts = _TOKENIZER_FILE, [name for name in kind.vocab_files_names.values() if name != _TOKENIZER_FILE]
    if not (folder / whole).is_file():  # without a vocabulary the libraries make up one of a few pieces
        absent = [name for name in parts if not (folder / name).is_file()]
        if absent:
            raise InputError(f"the tokenizer in {folder} has no vocabulary: it needs {whole}, or {' and '.join(parts)}")
        if kind is T5Tokenizer:
            return _t5_tokenizer(folder)
    try:
        with quiet_libraries():
            return kind.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        raise InputError(f"the tokenizer in {folder} cannot be read: {error}") from error


def _t5_tokenizer(folder: Path) -> T5Tokenizer:
    """T5's tokenizer of its `spiece.model`, as transformers reads it where the sentencepiece library is installed."""
    pieces, unknown, charsmap = read_sentencepiece(folder / "spiece.model")
    said = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    extra, longest = said.get("extra_ids", 100), said.get("model_max_length")
    if [piece for piece, _ in pieces[:3]] != ["<pad>", "</s>", "<unk>"] or unknown != 2:
        raise InputError(f"{folder / 'spiece.model'} is not the vocabulary of a T5: it has other special pieces")
    if not isinstance(extra, int) or not 0 <= extra <= 1000:
        raise InputError(f"{folder / 'tokenizer_config.json'} has extra_ids {extra!r}: write a number such as 100")
    pieces += [(f"<extra_id_{index}>", 0.0) for index in reversed(range(extra))]
    options: dict[str, Any] = {"model_max_length": longest} if isinstance(longest, int) else {}
    return T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=charsmap or None, extra_ids=extra, **options)
