"""The two layouts of `torch.save`: what a file holds, as plain data, and where its storages lie.

The zip of torch 1.6 and later (PKWARE's APPNOTE, 4.3), and the row of pickles and raw storages before it.
"""

import mmap
import struct
import sys
from itertools import pairwise
from typing import Any

from core2d.files.inert_pickle import DAMAGED, LARGEST_PICKLE, RESAVE, TOO_LARGE, Refusal, load_pickle

MOST_RECORDS = 1 << 18  # of a zip

Spans = dict[str, tuple[int, int]]  # name -> (first byte, number of bytes)

_POINTER = b"version https://git-lfs"
_LEGACY = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."  # a pickled number, after two bytes


def open_archive(data: mmap.mmap) -> tuple[Any, Spans]:
    """What a file holds, and where its storages lie."""
    try:
        if data[:4] == b"PK\x03\x04":
            return _open_zip(data)
        if data[2:15] == _LEGACY:
            return _open_legacy(data)
    except (struct.error, ValueError, OverflowError) as error:  # numbers that point out of the file
        raise Refusal(DAMAGED) from error
    if data[: len(_POINTER)] == _POINTER:
        raise Refusal("is a Git LFS pointer: fetch the file itself with `git lfs pull`")
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        raise Refusal("is a safetensors file: name it .safetensors")
    raise Refusal("is not a file of torch.save, or is damaged: give a .ckpt, .pth, .pt or .bin of tensors")


def _open_zip(data: mmap.mmap) -> tuple[Any, Spans]:
    records = _zip_records(data)
    roots = [name.removesuffix("data.pkl") for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refusal(f"is a zip, but not one of torch.save: give another file, or {RESAVE}")
    start, length = records.get(roots[0] + "byteorder", (0, 0))
    if length and data[start : start + min(length, 6)] != sys.byteorder.encode():
        raise Refusal("was written on a machine of the other byte order: save it there as .safetensors")
    start, length = records[roots[0] + "data.pkl"]
    if length > LARGEST_PICKLE:
        raise Refusal(TOO_LARGE)
    folder = roots[0] + "data/"
    spans = {name.removeprefix(folder): span for name, span in records.items() if name.startswith(folder)}
    return load_pickle(data, start, length)[0], spans


def _zip_records(data: mmap.mmap) -> Spans:
    """Where the records of a zip lie, from its directory; each checked against its own header."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 65557))
    count, size, place, comment = struct.unpack_from("<HIIH", data, max(end, 0) + 10)
    if end < 0 or end + 22 + comment != len(data):
        raise Refusal(DAMAGED)
    if data[max(end - 20, 0) : max(end - 16, 0)] == b"PK\x06\x07":  # zip64
        (end,) = struct.unpack_from("<Q", data, end - 12)
        count, size, place = struct.unpack_from("<QQQ", data, end + 32)
    if place + size > end or count > MOST_RECORDS:
        raise Refusal(DAMAGED)
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
            raise Refusal(DAMAGED)
        spans[key] = first, size
        taken.append((start, first + packed))
    if program:
        raise Refusal("is a TorchScript program: save the state_dict() of its model with torch.save")
    if packs:
        raise Refusal(f"is a zip of compressed or locked records, which torch.save does not write: {RESAVE}")
    if any(end > following for (_, end), (following, _) in pairwise(sorted(taken))):
        raise Refusal(DAMAGED)
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
    _, end, _ = load_pickle(data, 0)
    version, end, _ = load_pickle(data, end)
    machine, end, _ = load_pickle(data, end)
    root, end, dtypes = load_pickle(data, end)
    keys, end, _ = load_pickle(data, end)
    little = type(machine) is dict and machine.get("little_endian")
    if version != 1001 or little is not (sys.byteorder == "little") or type(keys) is not list:
        raise Refusal(f"is of an unknown version or byte order, or damaged: {RESAVE}")
    spans: Spans = {}
    for key in keys:
        if type(key) is not str or key not in dtypes or key in spans:
            raise Refusal(DAMAGED)
        length = struct.unpack_from("<Q", data, end)[0] * dtypes[key].itemsize
        spans[key] = end + 8, length
        end += 8 + length
    if end > len(data):
        raise Refusal(DAMAGED)
    return root, spans
