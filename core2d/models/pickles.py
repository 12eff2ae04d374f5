"""Tensors of `.ckpt`, `.pth`, `.pt` and `.bin` files, which are pickles, without running anything that they name.

A pickle is a program: it names functions and calls them. Here no name is ever looked up. Five names have a stand-in
that only remembers what it was called with, storage types stand for their dtype, and every other name is one inert
class. So a file yields plain data, of which the tensors are built afterwards, each checked against the file.

    read_state(Path("zero123-xl.ckpt"))["model.diffusion_model.out.2.bias"]

Two layouts are read, both as `torch.save` writes them: the zip of torch 1.6 and later (PKWARE's APPNOTE, 4.3), and the
row of pickles and raw storages before it. Nothing falls back to `torch.load`.
"""

import io
import math
import mmap
import pickle
import pickletools
import struct
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core2d.errors import InputError

LARGEST_PICKLE = 1 << 26  # bytes; the tensors themselves lie outside
MOST_WORK = 8_000_000  # steps of a pickle; 4,000 tensors take some 400,000
MOST_RECORDS = 1 << 18  # of a zip
MOST_VALUES = 2_000_000  # looked at for tensors
DEEPEST, LONGEST_NAME, MOST_DIMENSIONS = 64, 1024, 64
LARGEST_EXPANSION = 1 << 24  # elements of a view that has more than its storage (strides of 0)
ALIGNMENT = 16  # bytes; of the widest element

Spans = dict[str, tuple[int, int]]  # name -> (first byte, number of bytes)

_RESAVE = "save it again with today's torch.save"
_DAMAGED = "is damaged or cut short: fetch it again"
_TOO_LARGE = f"holds a pickle that is too large or tangled: {_RESAVE}"
_POINTER = b"version https://git-lfs"
_LEGACY = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."  # a pickled number, after two bytes


class _Refusal(Exception):
    """Why a file is not read, and what to do: the sentence after its name."""


# -- what a pickle may make ----------------------------------------------------------------------------------------


class _Inert:
    """Stands for a name that is not looked up, and for all that is made of it: nothing that is done to it has effect.

    Each method also takes what a pickle passes when it means the class itself, so that no attribute is ever set.
    """

    __slots__ = ("arguments",)
    arguments: tuple[Any, ...]
    remembered = 0  # how many arguments of its call are kept

    def __new__(cls, *arguments: Any, **_: Any) -> "_Inert":
        self = object.__new__(cls)
        self.arguments = arguments[: cls.remembered]
        return self

    def _ignore(*_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> "_Inert":
        return _Inert()

    __setstate__ = __setitem__ = append = extend = add = update = _ignore


class _View(_Inert):
    """storage, offset, size, stride, requires_grad, hooks, and metadata (v2) or dtype (v3): a tensor to be."""

    __slots__ = ()
    remembered = 8


class _Parameter(_Inert):
    """A view, and whether it is trained."""

    __slots__ = ()
    remembered = 1


class _OtherTensor(_Inert):
    """A tensor that is not read: sparse, quantised, of a subclass, or with attributes of its own."""

    __slots__ = ()


_TENSORS = (_View, _Parameter, _OtherTensor)


class _Storage(_Inert):
    """dtype, key, number of elements."""

    __slots__ = ()
    remembered = 3


class _OrderedDict(dict):
    """A dictionary that takes no attributes: those of state dicts (`_metadata`) are dropped."""

    __slots__ = ()

    def __init__(self, *items: Any):
        if items:  # only Python 2 wrote them so
            raise _Refusal(f"holds a pickle that today's torch.save does not write: {_RESAVE}")
        super().__init__()

    def __setstate__(*_: Any) -> None: ...


_DTYPES = {  # by the name of the storage, as pickled
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
}
_NEW_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")

_STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _View,
    ("torch._utils", "_rebuild_tensor_v3"): _View,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _Parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _OtherTensor,
    ("torch.storage", "UntypedStorage"): torch.uint8,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    **{("torch", name): getattr(torch, name) for name in _NEW_DTYPES},
}


class _Unpickler(pickle.Unpickler):
    """Makes plain data and stand-ins; what it gives for a storage is only its description."""

    def __init__(self, pickled: bytes):
        super().__init__(io.BytesIO(pickled))
        self.dtypes: dict[str, torch.dtype] = {}  # key of a storage -> its type

    def find_class(self, module: str, name: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        other = _OtherTensor if module == "torch._utils" and name.startswith("_rebuild_") else _Inert
        return _STAND_INS.get((module, name), other)

    def persistent_load(self, pid: Any) -> _Inert:
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or pid[5:] not in ((), (None,)):
            raise _Refusal(_DAMAGED)
        _, dtype, key, _, count = pid[:5]
        if type(dtype) is not torch.dtype or type(key) is not str or type(count) is not int or count < 0:
            raise _Refusal(f"holds tensors of a kind that is not read: {_RESAVE}")
        if self.dtypes.setdefault(key, dtype) != dtype:
            raise _Refusal(_DAMAGED)
        return _Storage(dtype, key, count)


# -- the pickle, first checked, then loaded ------------------------------------------------------------------------

_PUT = {"BINPUT", "LONG_BINPUT"}
_GET = {"BINGET", "LONG_BINGET"}
_BUILD_TUPLE = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_KEYS = {"SETITEM": slice(1, 2), "SETITEMS": slice(0, None, 2), "ADDITEMS": slice(None), "FROZENSET": slice(None)}
_OPCODES = {  # of protocols 2 to 5, without extensions (looked up elsewhere), buffers and what only Python 2 wrote
    *_PUT | _GET | _BUILD_TUPLE | _KEYS.keys(),
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "MEMOIZE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_TUPLE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "EMPTY_SET"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "BINPERSID"),
}


def _pickle_length(pickled: bytes) -> int:
    """The bytes up to the end of the first pickle, if loading it takes bounded time and memory.

    Follows the stack with the weight of each value, which for a tuple is that of all it holds: so long it takes to hash
    or pass it, even where it repeats itself. A nest of depth n costs n^2 / 2, so none is deep enough to overflow.
    """
    stack: list[int] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[int, int] = {}
    work = 0
    for step, (opcode, argument, position) in enumerate(pickletools.genops(pickled)):
        name, before = opcode.name, opcode.stack_before
        if name not in _OPCODES:
            raise _Refusal(f"holds a pickle that today's torch.save does not write ({name}): {_RESAVE}")
        taken: list[int] = []
        if name in _PUT and isinstance(argument, int) and argument <= step:  # C reserves memory up to that number
            memo[argument] = stack[-1]
        elif name in _GET and isinstance(argument, int):
            stack.append(memo[argument])
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _PUT:
            raise _Refusal(_DAMAGED)
        else:
            below = len(before)
            if pickletools.markobject in before:
                below = before.index(pickletools.markobject)
                taken = _cut(stack, marks.pop())
            taken += _cut(stack, len(stack) - below)
            weight = 1 + sum(taken) if name in _BUILD_TUPLE else 1 + name.startswith("LONG")
            stack += [weight] * len(opcode.stack_after)
        work += 1 + sum(taken)
        if name in _KEYS:  # hashes of numbers beyond 64 bits and of tuples can be made to collide
            work += 1000 * sum(weight > 1 for weight in taken[_KEYS[name]])
        if work > MOST_WORK or (marks and marks[-1] > len(stack)):
            raise _Refusal(_TOO_LARGE)
        if name == "STOP":
            return (position or 0) + 1
    raise _Refusal(_DAMAGED)


def _cut(stack: list[int], height: int) -> list[int]:
    """Take all above a height."""
    if not 0 <= height <= len(stack):
        raise _Refusal(_DAMAGED)
    taken = stack[height:]
    del stack[height:]
    return taken


def _load(data: mmap.mmap, start: int, length: int = LARGEST_PICKLE) -> tuple[Any, int, dict[str, torch.dtype]]:
    """What the pickle at a place makes, where it ends, and the storages that it names."""
    pickled = data[start : start + min(length, LARGEST_PICKLE)]
    try:
        end = _pickle_length(pickled)
        unpickler = _Unpickler(pickled[:end])
        return unpickler.load(), start + end, unpickler.dtypes
    except _Refusal:
        raise
    except Exception as error:  # pickles fail in every way
        raise _Refusal(_DAMAGED) from error


# -- the two layouts -----------------------------------------------------------------------------------------------


def _open(data: mmap.mmap) -> tuple[Any, Spans]:
    """What a file holds, and where its storages lie."""
    try:
        if data[:4] == b"PK\x03\x04":
            return _open_zip(data)
        if data[2:15] == _LEGACY:
            return _open_legacy(data)
    except (struct.error, ValueError, OverflowError) as error:  # numbers that point out of the file
        raise _Refusal(_DAMAGED) from error
    if data[: len(_POINTER)] == _POINTER:
        raise _Refusal("is a Git LFS pointer: fetch the file itself with `git lfs pull`")
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        raise _Refusal("is a safetensors file: name it .safetensors")
    raise _Refusal("is not a file of torch.save, or is damaged: give a .ckpt, .pth, .pt or .bin of tensors")


def _open_zip(data: mmap.mmap) -> tuple[Any, Spans]:
    records = _zip_records(data)
    roots = [name.removesuffix("data.pkl") for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise _Refusal(f"is a zip, but not one of torch.save: give another file, or {_RESAVE}")
    start, length = records.get(roots[0] + "byteorder", (0, 0))
    if length and data[start : start + min(length, 6)] != sys.byteorder.encode():
        raise _Refusal("was written on a machine of the other byte order: save it there as .safetensors")
    start, length = records[roots[0] + "data.pkl"]
    if length > LARGEST_PICKLE:
        raise _Refusal(_TOO_LARGE)
    folder = roots[0] + "data/"
    spans = {name.removeprefix(folder): span for name, span in records.items() if name.startswith(folder)}
    return _load(data, start, length)[0], spans


def _zip_records(data: mmap.mmap) -> Spans:
    """Where the records of a zip lie, from its directory; each checked against its own header."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 65557))
    count, size, place, comment = struct.unpack_from("<HIIH", data, max(end, 0) + 10)
    if end < 0 or end + 22 + comment != len(data):
        raise _Refusal(_DAMAGED)
    if data[max(end - 20, 0) : max(end - 16, 0)] == b"PK\x06\x07":  # zip64
        (end,) = struct.unpack_from("<Q", data, end - 12)
        count, size, place = struct.unpack_from("<QQQ", data, end + 32)
    if place + size > end or count > MOST_RECORDS:
        raise _Refusal(_DAMAGED)
    spans: Spans = {}
    taken = [(place, place + size), (len(data), len(data))]  # directory, end of the file, and the records, headers too
    program = packs = False
    for _ in range(count):
        entry = struct.unpack_from("<4s4xHH8xIIHHH8xI", data, place)
        signature, flags, method, packed, size, name_length, extra_length, comment, start = entry
        name = data[place + 46 : place + 46 + name_length]
        extra = data[place + 46 + name_length : place + 46 + name_length + extra_length]
        size, packed, start = _zip64(extra, [size, packed, start])
        local, local_method, local_name_length, local_extra_length = struct.unpack_from("<4s4xH16xHH", data, start)
        place += 46 + name_length + extra_length + comment
        program |= name.endswith(b"/constants.pkl")
        packs |= bool(method or local_method or flags & 1)
        first = start + 30 + local_name_length + local_extra_length
        same = data[start + 30 : start + 30 + local_name_length] == name and (packed == size or method)
        key = name.decode()
        if signature != b"PK\x01\x02" or local != b"PK\x03\x04" or not same or key in spans:
            raise _Refusal(_DAMAGED)
        spans[key] = first, size
        taken.append((start, first + packed))
    if program:
        raise _Refusal("is a TorchScript program: save the state_dict() of its model with torch.save")
    if packs:
        raise _Refusal(f"is a zip of compressed or locked records, which torch.save does not write: {_RESAVE}")
    if any(end > following for (_, end), (following, _) in pairwise(sorted(taken))):
        raise _Refusal(_DAMAGED)
    return spans


def _zip64(extra: bytes, fields: list[int]) -> list[int]:
    """Fields of 32 bits, those that are full replaced by the 64 bits of the extra field 1, in order."""
    place = 0
    while 0xFFFFFFFF in fields:
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, place + 4))
            return [next(wide, field) if field == 0xFFFFFFFF else field for field in fields]
        place += 4 + length
    return fields


def _open_legacy(data: mmap.mmap) -> tuple[Any, Spans]:
    """A magic number, a version, facts of the machine, the content, the keys; each a pickle; then the storages."""
    _, end, _ = _load(data, 0)
    version, end, _ = _load(data, end)
    machine, end, _ = _load(data, end)
    root, end, dtypes = _load(data, end)
    keys, end, _ = _load(data, end)
    little = type(machine) is dict and machine.get("little_endian")
    if version != 1001 or little is not (sys.byteorder == "little") or type(keys) is not list:
        raise _Refusal(f"is of an unknown version or byte order, or damaged: {_RESAVE}")
    spans: Spans = {}
    for key in keys:
        if type(key) is not str or key not in dtypes or key in spans:
            raise _Refusal(_DAMAGED)
        length = struct.unpack_from("<Q", data, end)[0] * dtypes[key].itemsize
        spans[key] = end + 8, length
        end += 8 + length
    if end > len(data):
        raise _Refusal(_DAMAGED)
    return root, spans


# -- tensors -------------------------------------------------------------------------------------------------------


def _leaves(root: Any) -> Iterator[tuple[str, _Inert]]:
    """Dotted name and stand-in of every tensor, in the order of the file; optimisers at the top are left out."""
    waiting: list[tuple[str | None, Any, int]] = [("", root, 0)]
    looked_at = 0
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, _TENSORS):
            if not name:
                raise _Refusal(f"holds a tensor without a name, or with an odd one: {_RESAVE} in a dictionary")
            yield name, value
        elif isinstance(value, dict | list | tuple):
            looked_at += 1 + len(value)
            if depth == DEEPEST or looked_at > MOST_VALUES:
                raise _Refusal(f"nests what it holds too deep, or holds too much: {_RESAVE} from a plain state_dict")
            for key, child in reversed(list(value.items() if isinstance(value, dict) else enumerate(value))):
                holds = isinstance(child, dict | list | tuple) and not (depth == 0 and _is_optimiser(key))
                if type(key) in (str, int) and (holds or isinstance(child, _TENSORS)):
                    waiting.append((_join(name, str(key)), child, depth + 1))


def _is_optimiser(key: Any) -> bool:
    return isinstance(key, str) and (key == "opt" or key.startswith("optim"))


def _join(name: str | None, key: str) -> str | None:
    """The name of a child; None if it cannot be one, which matters only where a tensor has it."""
    if name is None or len(name) + len(key) > LONGEST_NAME or not key.isprintable():
        return None
    return f"{name}.{key}" if name else key


def _tensors(root: Any, data: mmap.mmap, spans: Spans) -> dict[str, Tensor]:
    """The tensors below a dictionary or list, mapped into memory."""
    storages: dict[str, torch.UntypedStorage] = {}
    tensors: dict[str, Tensor] = {}
    for name, leaf in _leaves(root):
        view = leaf.arguments[0] if isinstance(leaf, _Parameter) and leaf.arguments else leaf
        if not isinstance(view, _View):
            raise _Refusal(f"holds the tensor {name!r} of a kind that is not read: {_RESAVE} in a plain state_dict")
        if name in tensors:
            raise _Refusal(f"holds two tensors of the name {name!r}: {_RESAVE} under other names")
        tensors[name] = _tensor(view, data, spans, storages)
    if not tensors:
        raise _Refusal("holds no tensors by name, perhaps a whole model: save its state_dict() with torch.save")
    return tensors


def _tensor(view: _View, data: mmap.mmap, spans: Spans, storages: dict[str, torch.UntypedStorage]) -> Tensor:
    """One view of one storage, after making sure that it lies within."""
    if len(view.arguments) < 6 or not isinstance(view.arguments[0], _Storage):
        raise _Refusal(_DAMAGED)
    storage, offset, size, stride, _, _, *rest = view.arguments
    stored, key, count = storage.arguments
    dtype = rest[0] if rest and isinstance(rest[0], torch.dtype) else stored
    if any(part for part in rest if not isinstance(part, torch.dtype)):
        raise _Refusal(f"holds conjugated or negated tensors, which are not read: {_RESAVE} after resolve_conj()")
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= MOST_DIMENSIONS:
        raise _Refusal(_DAMAGED)
    if any(type(number) is not int or not 0 <= number < 1 << 63 for number in (offset, *size, *stride)):
        raise _Refusal(_DAMAGED)
    if key not in spans or spans[key][1] != count * stored.itemsize:
        raise _Refusal(_DAMAGED)
    elements, room = math.prod(size), spans[key][1] // dtype.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if (elements and last >= room) or elements > max(room, LARGEST_EXPANSION):
        raise _Refusal("holds a tensor that reaches out of its storage: fetch it again")
    if key not in storages:
        storages[key] = _storage(data, *spans[key])
    try:
        return torch.empty(0, dtype=dtype).set_(storages[key], offset, size, stride)  # pyright: ignore[reportCallIssue]
    except RuntimeError as error:  # sizes that overflow beside one of 0
        raise _Refusal(_DAMAGED) from error


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
        root, spans = _open(data)
        return _tensors(choose(root), data, spans)
    except _Refusal as refusal:
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
