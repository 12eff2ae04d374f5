"""Tensors of `.ckpt`, `.pth`, `.pt` and `.bin` files, which are pickles, without running anything that they name.

No name in the pickle is ever looked up (`inert_pickle.py`): it yields plain data, of which the tensors are built here,
each checked against the file (`torch_archives.py` says where it lies). Nothing falls back to `torch.load`.

    read_state(Path("zero123-xl.ckpt"))["model.diffusion_model.out.2.bias"]
"""

import math
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.files.inert_pickle import DAMAGED, RESAVE, TENSORS, Inert, Parameter, Refusal, Storage, View
from core2d.files.torch_archives import Spans, open_archive

MOST_VALUES = 2_000_000  # looked at for tensors
DEEPEST, LONGEST_NAME, MOST_DIMENSIONS = 64, 1024, 64
LARGEST_EXPANSION = 1 << 24  # elements of a view that has more than its storage (strides of 0)
ALIGNMENT = 16  # bytes; of the widest element


def _leaves(root: Any) -> Iterator[tuple[str, Inert]]:
    """Dotted name and stand-in of every tensor, in the order of the file; optimisers at the top are left out."""
    waiting: list[tuple[str | None, Any, int]] = [("", root, 0)]
    looked_at = 0
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, TENSORS):
            if not name:
                raise Refusal(f"holds a tensor without a name, or with an odd one: {RESAVE} in a dictionary")
            yield name, value
        elif isinstance(value, dict | list | tuple):
            looked_at += 1 + len(value)
            if depth == DEEPEST or looked_at > MOST_VALUES:
                raise Refusal(f"nests what it holds too deep, or holds too much: {RESAVE} from a plain state_dict")
            for key, child in reversed(list(value.items() if isinstance(value, dict) else enumerate(value))):
                holds = isinstance(child, dict | list | tuple) and not (depth == 0 and _is_optimiser(key))
                if type(key) in (str, int) and (holds or isinstance(child, TENSORS)):
                    waiting.append((_join(name, key), child, depth + 1))


def _is_optimiser(key: Any) -> bool:
    return isinstance(key, str) and (key == "opt" or key.startswith("optim"))


def _join(name: str | None, key: str | int) -> str | None:
    """The name of a child; None if it cannot be one, which matters only where a tensor has it."""
    if isinstance(key, int) and key.bit_length() > 64:  # Python refuses to write out the longest ones
        return None
    key = str(key)
    if name is None or len(name) + len(key) > LONGEST_NAME or not key.isprintable():
        return None
    return f"{name}.{key}" if name else key


def _tensors(root: Any, data: mmap.mmap, spans: Spans) -> dict[str, Tensor]:
    """The tensors below a dictionary or list, mapped into memory."""
    storages: dict[str, torch.UntypedStorage] = {}
    tensors: dict[str, Tensor] = {}
    for name, leaf in _leaves(root):
        view = leaf.arguments[0] if isinstance(leaf, Parameter) and leaf.arguments else leaf
        if not isinstance(view, View):
            raise Refusal(f"holds the tensor {name!r} of a kind that is not read: {RESAVE} in a plain state_dict")
        if name in tensors:
            raise Refusal(f"holds two tensors of the name {name!r}: {RESAVE} under other names")
        tensors[name] = _tensor(view, data, spans, storages)
    if not tensors:
        raise Refusal("holds no tensors by name, perhaps a whole model: save its state_dict() with torch.save")
    return tensors


def _tensor(view: View, data: mmap.mmap, spans: Spans, storages: dict[str, torch.UntypedStorage]) -> Tensor:
    """One view of one storage, after making sure that it lies within."""
    if len(view.arguments) < 6 or not isinstance(view.arguments[0], Storage):
        raise Refusal(DAMAGED)
    storage, offset, size, stride, _, _, *rest = view.arguments
    stored, key, count = storage.arguments
    dtype = rest[0] if rest and isinstance(rest[0], torch.dtype) else stored
    if any(part for part in rest if not isinstance(part, torch.dtype)):
        raise Refusal(f"holds conjugated or negated tensors, which are not read: {RESAVE} after resolve_conj()")
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= MOST_DIMENSIONS:
        raise Refusal(DAMAGED)
    if any(type(number) is not int or not 0 <= number < 1 << 63 for number in (offset, *size, *stride)):
        raise Refusal(DAMAGED)
    if key not in spans or spans[key][1] != count * stored.itemsize:
        raise Refusal(DAMAGED)
    elements, room = math.prod(size), spans[key][1] // dtype.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if (elements and last >= room) or elements > max(room, LARGEST_EXPANSION):
        raise Refusal("holds a tensor that reaches out of its storage: fetch it again")
    if key not in storages:
        storages[key] = _storage(data, *spans[key])
    try:
        return torch.empty(0, dtype=dtype).set_(storages[key], offset, size, stride)  # pyright: ignore[reportCallIssue]
    except RuntimeError as error:  # sizes that overflow beside one of 0
        raise Refusal(DAMAGED) from error


def _storage(data: mmap.mmap, start: int, length: int) -> torch.UntypedStorage:
    """Bytes of the file, read when they are used; copied where elements would lie askew."""
    if length == 0:
        return torch.UntypedStorage(0)
    raw = torch.frombuffer(data, dtype=torch.uint8, count=length, offset=start)
    return (raw.clone() if start % ALIGNMENT else raw).untyped_storage()


# -- reading -------------------------------------------------------------------------------------------------------


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file that `torch.save` wrote, by dotted name ("state_dict.model.x"), in the file's order.

    Numbers, strings and objects are dropped, and what lies at the top under "opt" or "optim...". Tensors are on the
    CPU, without gradient, as large as saved; those that shared a storage share one. They are mapped: pages are read
    when they are used, and writing to a tensor changes its own copy, never the file. Checksums are not compared.

    Args:
        path: any name; the content decides.

    Raises:
        InputError: missing, a folder, damaged, not of torch.save, without tensors by name, with tensors of a kind that
            is not read (sparse, quantised, subclasses), or hostile.
    """
    return _read(path, lambda root: root)


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights of a model: what a file has under "state_dict", else "model", else "params_ema", else all of it.

    Raises:
        InputError: as `read_tensors`.
    """
    return _read(path, _weights)


def _weights(root: Any) -> Any:
    if isinstance(root, dict):
        for name in ("state_dict", "model", "params_ema"):
            if isinstance(root.get(name), dict):
                return root[name]
    return root


def _read(path: Path, choose: Callable[[Any], Any]) -> dict[str, Tensor]:
    data = _map(path)
    try:
        root, spans = open_archive(data)
        return _tensors(choose(root), data, spans)
    except Refusal as refusal:
        raise InputError(f"{path} {refusal}") from refusal


def _map(path: Path) -> mmap.mmap:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give a file in it")
        if not path.is_file():
            raise InputError(f"no file at {path}: give a .ckpt, .pth, .pt or .bin of torch.save")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty: fetch it again")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): see to its rights and to free memory") from error
