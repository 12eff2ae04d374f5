"""The vocabulary of a SentencePiece model (`spiece.model`), without the library that wrote it.

The file is one protocol buffer, `ModelProto`: a row of fields, each a number, a wire type and a value. Three are read:
the pieces with their scores, the kind of the model, and the table by which text is normalised
(github.com/google/sentencepiece, sentencepiece_model.proto).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core2d.app.errors import InputError

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_UNIGRAM, _NORMAL, _UNKNOWN = 1, 1, 2  # a model_type; types of pieces


class Vocabulary(NamedTuple):
    """Pieces with their log-probabilities, by id; the id of the unknown piece; the table that normalises text."""

    pieces: list[tuple[str, float]]
    unknown: int
    charsmap: bytes


def read_sentencepiece(path: Path) -> Vocabulary:
    """Read a unigram model of SentencePiece.

    Raises:
        InputError: it cannot be read, is no such file, or is a model of another kind (BPE, words, characters).
    """
    try:
        model = [*_fields(path.read_bytes())]
        pieces = [_piece(value) for number, value in model if number == _PIECE and isinstance(value, bytes)]
        trainer = _message(model, _TRAINER)
        kind, charsmap = trainer.get(3, _UNIGRAM), _message(model, _NORMALIZER).get(2, b"")
        unknown = [index for index, (_, _, piece_kind) in enumerate(pieces) if piece_kind == _UNKNOWN]
        if len(unknown) != 1 or not isinstance(charsmap, bytes):
            raise ValueError("no vocabulary")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, struct.error) as error:
        raise InputError(f"{path} is no SentencePiece model, or is damaged: fetch it again") from error
    if kind != _UNIGRAM:
        raise InputError(f"{path} is a SentencePiece model of another kind than unigram, which is the one that T5 has")
    return Vocabulary([(piece, score) for piece, score, _ in pieces], unknown[0], charsmap)


def _piece(message: bytes) -> tuple[str, float, int]:
    """Text, log-probability and type of a piece."""
    fields = dict(_fields(message))
    text, score, kind = fields.get(1, b""), fields.get(2, 0.0), fields.get(3, _NORMAL)
    if not (isinstance(text, bytes) and isinstance(score, float) and isinstance(kind, int)):
        raise ValueError("a piece of other types")
    return text.decode(), score, kind


def _message(fields: list[tuple[int, bytes | float | int]], number: int) -> dict[int, bytes | float | int]:
    """The fields of the message under a number; empty if it is not there."""
    found = [value for key, value in fields if key == number and isinstance(value, bytes)]
    return dict(_fields(found[-1])) if found else {}


def _fields(message: bytes) -> Iterator[tuple[int, bytes | float | int]]:
    """Number and value of every field, in order: bytes, 32-bit floats, or whole numbers."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire_type == 2:
            length, place = _varint(message, place)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        value = message[place : place + length]
        if len(value) != length:
            raise ValueError("cut short")
        place += length
        yield number, struct.unpack("<f", value)[0] if wire_type == 5 else value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        byte = message[place]
        value, place = value | (byte & 0x7F) << shift, place + 1
        if byte < 0x80:
            return value, place
    raise ValueError("a number beyond 64 bits")
