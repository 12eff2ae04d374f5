"""The tensors of a file by name, shape and type, and, read in small parts, whether their numbers are finite.

Where a loader is asked what it takes of a file, stand-ins go in place of the tensors: each is one number, seen in the
shape of the tensor, and takes no memory. The number says which tensor it is, so that wherever a loader has put it,
cut it or joined it, it can be told (`Contents.arrived`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from core2d.app.errors import InputError
from core2d.files.pickles import read_state
from core2d.files.tensors import PICKLES

PART = 1 << 24  # bytes that are looked at together
FIRST_MARK = 1 << 20  # no number that a layer begins with; all marks are whole in float32
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
USUAL = (torch.float32, torch.float16, torch.bfloat16)
COUNTS = ("position_ids", "num_updates", "num_batches_tracked")  # ends of names of whole numbers that belong


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        path: of the file.
        shapes: of every tensor, in the order of the file.
        dtypes: their types, None for one that is not known here.
        spans: first byte and number of bytes of each tensor of a safetensors file.
        tensors: those of a pickle, mapped.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype | None]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def stand_ins(self) -> dict[str, Tensor]:
        """In place of each tensor its mark, float32 in its shape; single numbers, such as alpha, are as they are."""
        return {
            name: self._value(name) if self._is_number(name) else torch.tensor(float(mark)).expand(shape)
            for mark, (name, shape) in enumerate(self.shapes.items(), FIRST_MARK)
        }

    def arrived(self, tensors: Iterable[Tensor]) -> set[str]:
        """The names of those whose stand-ins are among the tensors that a loader has filled."""
        names, found = list(self.shapes), set()
        for tensor in tensors:
            if tensor.numel() and tensor.device.type != "meta":
                mark = float(tensor.detach()[(0,) * tensor.ndim]) - FIRST_MARK
                if 0 <= mark < len(names) and mark == int(mark):
                    found.add(names[int(mark)])
        return found

    def _is_number(self, name: str) -> bool:
        return prod(self.shapes[name]) == 1 and len(self.shapes[name]) <= 1 and self.dtypes[name] is not None

    def _value(self, name: str) -> Tensor:
        return torch.cat(list(self._parts(name))).float().view(self.shapes[name])

    def odd_types(self) -> dict[str, str]:
        """Tensors that are neither float32, float16 nor bfloat16, but for counters that belong, and their types."""
        odd = {name: dtype for name, dtype in self.dtypes.items() if dtype not in USUAL and not name.endswith(COUNTS)}
        return {name: str(dtype).removeprefix("torch.") if dtype else "unknown" for name, dtype in odd.items()}

    def not_finite(self) -> list[str]:
        """Names of tensors with a NaN or an infinity in them; the file is read in parts of some megabytes."""
        broken = []
        sizes = {name: prod(shape) * (self.dtypes[name] or torch.int8).itemsize for name, shape in self.shapes.items()}
        with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, disable=None, leave=False) as bar:
            for name, size in sizes.items():
                dtype = self.dtypes[name]
                if dtype is not None and dtype.is_floating_point:
                    if not all(bool(_wide(part).isfinite().all()) for part in self._parts(name)):
                        broken.append(name)
                bar.update(size)
        return broken

    def _parts(self, name: str) -> Iterator[Tensor]:
        """The values of a tensor in their order, flat, some megabytes at a time."""
        if name in self.tensors:
            yield from self.tensors[name].reshape(-1).split(PART // 4)
            return
        start, length = self.spans[name]
        dtype = self.dtypes[name]
        assert dtype is not None
        with self.path.open("rb") as file:
            file.seek(start)
            for done in range(0, length, PART):
                raw = bytearray(min(PART, length - done))
                file.readinto(raw)
                yield torch.frombuffer(raw, dtype=dtype)


def _wide(part: Tensor) -> Tensor:
    """As a type that can be asked whether it is finite."""
    return part.float() if part.dtype.itemsize == 1 else part


def read_contents(path: Path) -> Contents:
    """What a file holds; of a safetensors file only the header is read, of a pickle what is not tensors.

    Raises:
        InputError: it is damaged, of no such kind, or holds more than tensors (see `core2d.files.pickles`).
    """
    if path.suffix in PICKLES:
        tensors = read_state(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return Contents(path, shapes, {name: tensor.dtype for name, tensor in tensors.items()}, tensors=tensors)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} is no file of weights: give .safetensors or {', '.join(PICKLES)}")
    try:
        with safe_open(path, "pt"):  # which refuses headers that point out of the file
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    return Contents(
        path,
        {name: tuple(entry["shape"]) for name, entry in header.items()},
        {name: DTYPES.get(entry["dtype"]) for name, entry in header.items()},
        {name: (8 + length + first, last - first) for name, (first, last) in places.items()},
    )
