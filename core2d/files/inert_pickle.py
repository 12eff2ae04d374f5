"""Pickles without what they name: a closed table of stand-ins, and a check of the program before it is run.

A pickle is a program: it names functions and calls them. Here no name is ever looked up. A few names have a stand-in
that only remembers what it was called with, storage types stand for their dtype, and every other name is one inert
class. So a file yields plain data.
"""

import io
import mmap
import pickle
import pickletools
from typing import Any

import torch

LARGEST_PICKLE = 1 << 26  # bytes; the tensors themselves lie outside
MOST_WORK = 8_000_000  # steps of a pickle; 4,000 tensors take some 400,000

RESAVE = "save it again with today's torch.save"
DAMAGED = "is damaged or cut short: fetch it again"
TOO_LARGE = f"holds a pickle that is too large or tangled: {RESAVE}"


class Refusal(Exception):
    """Why a file is not read, and what to do: the sentence after its name."""


class Inert:
    """Stands for a name that is not looked up, and for all that is made of it: nothing that is done to it has effect.

    Each method also takes what a pickle passes when it means the class itself, so that no attribute is ever set.
    """

    __slots__ = ("arguments",)
    arguments: tuple[Any, ...]
    remembered = 0  # how many arguments of its call are kept

    def __new__(cls, *arguments: Any, **_: Any) -> "Inert":
        self = object.__new__(cls)
        self.arguments = arguments[: cls.remembered]
        return self

    def _ignore(*_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        return Inert()

    __setstate__ = __setitem__ = append = extend = add = update = _ignore


class View(Inert):
    """storage, offset, size, stride, requires_grad, hooks, and metadata (v2) or dtype (v3): a tensor to be."""

    __slots__ = ()
    remembered = 8


class Parameter(Inert):
    """A view, and whether it is trained."""

    __slots__ = ()
    remembered = 1


class OtherTensor(Inert):
    """A tensor that is not read: sparse, quantised, of a subclass, or with attributes of its own."""

    __slots__ = ()


TENSORS = (View, Parameter, OtherTensor)


class Storage(Inert):
    """dtype, key, number of elements."""

    __slots__ = ()
    remembered = 3


class _OrderedDict(dict):
    """A dictionary that takes no attributes: those of state dicts (`_metadata`) are dropped."""

    __slots__ = ()

    def __init__(self, *items: Any):
        if items:  # only Python 2 wrote them so
            raise Refusal(f"holds a pickle that today's torch.save does not write: {RESAVE}")
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
    ("torch._utils", "_rebuild_tensor_v2"): View,
    ("torch._utils", "_rebuild_tensor_v3"): View,
    ("torch._utils", "_rebuild_parameter"): Parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): Parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): OtherTensor,
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
        other = OtherTensor if module == "torch._utils" and name.startswith("_rebuild_") else Inert
        return _STAND_INS.get((module, name), other)

    def persistent_load(self, pid: Any) -> Inert:
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or pid[5:] not in ((), (None,)):
            raise Refusal(DAMAGED)
        _, dtype, key, _, count = pid[:5]
        if type(dtype) is not torch.dtype or type(key) is not str or type(count) is not int or count < 0:
            raise Refusal(f"holds tensors of a kind that is not read: {RESAVE}")
        if self.dtypes.setdefault(key, dtype) != dtype:
            raise Refusal(DAMAGED)
        return Storage(dtype, key, count)


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
            raise Refusal(f"holds a pickle that today's torch.save does not write ({name}): {RESAVE}")
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
            raise Refusal(DAMAGED)
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
            raise Refusal(TOO_LARGE)
        if name == "STOP":
            return (position or 0) + 1
    raise Refusal(DAMAGED)


def _cut(stack: list[int], height: int) -> list[int]:
    """Take all above a height."""
    if not 0 <= height <= len(stack):
        raise Refusal(DAMAGED)
    taken = stack[height:]
    del stack[height:]
    return taken


def load_pickle(data: mmap.mmap, start: int, length: int = LARGEST_PICKLE) -> tuple[Any, int, dict[str, torch.dtype]]:
    """What the pickle at a place makes, where it ends, and the storages that it names."""
    pickled = data[start : start + min(length, LARGEST_PICKLE)]
    try:
        end = _pickle_length(pickled)
        unpickler = _Unpickler(pickled[:end])
        return unpickler.load(), start + end, unpickler.dtypes
    except Refusal:
        raise
    except Exception as error:  # pickles fail in every way
        raise Refusal(DAMAGED) from error
