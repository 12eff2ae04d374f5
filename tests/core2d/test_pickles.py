"""Pickled weights give the tensors that torch gives, and whatever else they hold does nothing."""

import copyreg
import os
import pickle
import random
import struct
import sys
import time
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.files.pickles import read_state, read_tensors

NEW_DTYPES = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *NEW_DTYPES,
]
LAYOUTS = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])


def save(content: Any, path: Path, as_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    return path


def refused(path: Path, *says: str, read: Callable[[Path], Any] = read_tensors) -> None:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith((str(path), f"no file at {path}")) and "\n" not in message
    for part in says:
        assert part in message


def same(ours: Tensor, theirs: Tensor) -> None:
    assert (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
    assert ours.storage_offset() == theirs.storage_offset()
    assert as_bytes(ours) == as_bytes(theirs)  # NaN and all


def as_bytes(tensor: Tensor) -> list[int]:
    packed = torch.empty_like(tensor, memory_format=torch.contiguous_format, requires_grad=False)
    return packed.copy_(tensor.detach()).untyped_storage().tolist()


def same_as_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a flat file, compared with those of torch's own restricted loader."""
    theirs = torch.load(path, weights_only=True)
    ours = read_tensors(path)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        same(ours[name], tensor)
    return ours


# -- the same as torch ---------------------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype, as_zip: bool) -> None:
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).mul(50).abs().to(dtype)
    cases = {
        "plain": values,
        "turned": values.t(),
        "every other": values[1::2, ::3],
        "scalar": values[2, 3],
        "empty": torch.empty(0, 3, dtype=dtype),
        "empty part": values[4:, 6:],
    }
    path = save(cases, tmp_path / "model.pt", as_zip)
    if as_zip or dtype not in NEW_DTYPES:
        same_as_torch(path)
    else:  # torch.save writes them and torch.load fails on them
        ours = read_tensors(path)
        for name, tensor in cases.items():
            same(ours[name], tensor)


@LAYOUTS
def test_parameters_and_state_dicts(tmp_path: Path, as_zip: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    same_as_torch(save(model.state_dict(), tmp_path / "state.pth", as_zip))
    ours = same_as_torch(save(OrderedDict(model.named_parameters()), tmp_path / "parameters.pth", as_zip))
    assert not any(tensor.requires_grad for tensor in ours.values())


@LAYOUTS
def test_views_of_one_storage_stay_so(tmp_path: Path, as_zip: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    path = save(
        {"base": base, "row": base[2], "again": base, "wide": base[:, :1].expand(4, 9)}, tmp_path / "v.pt", as_zip
    )
    before = path.read_bytes()
    ours = same_as_torch(path)
    ours["row"].fill_(-1)
    assert torch.equal(ours["base"][2], torch.full((6,), -1.0)) and torch.equal(ours["base"], ours["again"])
    assert path.read_bytes() == before  # a changed tensor is a copy of its own


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    weights = {"a": torch.arange(5), "b": nn.Parameter(torch.ones(2, 2))}
    torch.save(weights, tmp_path / "model.bin", pickle_protocol=protocol)
    ours = read_tensors(tmp_path / "model.bin")
    assert all(torch.equal(ours[name], tensor) for name, tensor in weights.items())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), as_zip=st.booleans())
def test_any_views(tmp_path: Path, data: st.DataObject, as_zip: bool) -> None:
    base = torch.arange(data.draw(st.integers(1, 60)), dtype=data.draw(st.sampled_from(DTYPES[:4])))
    views: dict[str, Tensor] = {}
    for name in data.draw(st.sets(st.text("abc._ é", min_size=1, max_size=8), min_size=1, max_size=4)):
        size = data.draw(st.lists(st.integers(0, 4), max_size=3))
        stride = data.draw(st.lists(st.integers(0, 5), min_size=len(size), max_size=len(size)))
        reach = sum(max(length - 1, 0) * step for length, step in zip(size, stride, strict=True))
        if reach < len(base):
            views[name] = base.as_strided(size, stride, data.draw(st.integers(0, len(base) - 1 - reach)))
    path = save(views, tmp_path / "views.pt", as_zip)
    if views:
        same_as_torch(path)
    else:
        refused(path, "no tensors")


def test_a_large_file_is_not_read_before_it_is_used(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = save({"x": torch.zeros(1 << 27, dtype=torch.uint8)}, tmp_path / "large.ckpt")  # 128 MB
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    tensor = read_tensors(path)["x"]
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    assert len(tensor) == 1 << 27 and seconds < 1
    assert after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt < 2000  # of 32,768 pages


# -- names ---------------------------------------------------------------------------------------------------------


def test_nested_names_and_what_is_dropped(tmp_path: Path) -> None:
    ones = torch.ones(2)
    content = {
        "state_dict": OrderedDict({"model.x": ones, "inner": {"y": ones, "list": [ones, 3, (ones,)]}}),
        "epoch": 3,
        "note": "text",
        "optimizer_states": [{"state": {0: {"exp_avg": ones}}}],
        "opt": {"z": ones},
        "ema": {0: ones, "step": torch.tensor(7), ("a", 1): ones, None: ones},
    }
    ours = read_tensors(save(content, tmp_path / "model.ckpt"))
    names = ["model.x", "inner.y", "inner.list.0", "inner.list.2.0"]
    assert list(ours) == [*(f"state_dict.{name}" for name in names), "ema.0", "ema.step"]
    assert list(read_state(tmp_path / "model.ckpt")) == names


@pytest.mark.parametrize("place", ["state_dict", "model", "params_ema", None])
def test_where_weights_lie(tmp_path: Path, place: str | None) -> None:
    weights = {"a.b": torch.ones(2), "optimal": torch.ones(3)}
    others = {"params": {"c": torch.ones(1)}, "optimizer": {"state": {0: torch.ones(1)}}}
    state = read_state(save({**others, place: weights} if place else weights, tmp_path / "model.pth"))
    assert list(state) == ["a.b", "optimal"]


def test_of_several_places_the_first(tmp_path: Path) -> None:
    places = {name: {name: torch.ones(1)} for name in ("params_ema", "model", "state_dict")}
    for first in ("state_dict", "model", "params_ema"):
        assert list(read_state(save(places, tmp_path / "model.pth"))) == [first]
        places.pop(first)


def test_a_tensor_called_model_is_a_tensor(tmp_path: Path) -> None:
    assert list(read_state(save({"model": torch.ones(1), "x": torch.ones(1)}, tmp_path / "m.pt"))) == ["model", "x"]


def test_objects_of_unknown_classes_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in checkpoints of Lightning, whose callbacks and settings are objects."""
    gone = types.ModuleType("package_that_is_gone")
    monkeypatch.setitem(sys.modules, gone.__name__, gone)
    for name, bases in (("Callback", ()), ("Settings", (dict,)), ("Rows", (list,)), ("Kinds", (set,))):
        setattr(gone, name, type(name, bases, {"__module__": gone.__name__}))
    callback = gone.Callback()  # pyright: ignore[reportAttributeAccessIssue]
    callback.best, callback.inner, callback.path = 0.5, {"callback": callback}, Path("x")
    settings_ = gone.Settings(lr=1e-4)  # pyright: ignore[reportAttributeAccessIssue]
    settings_.parent = callback
    objects = [callback, settings_, gone.Rows([1, 2]), gone.Kinds([3])]  # pyright: ignore[reportAttributeAccessIssue]
    weights = {"x": torch.arange(3), "y": nn.Parameter(torch.ones(1))}
    content = {"callbacks": {gone.Callback: callback, "all": objects}, "state_dict": weights}  # pyright: ignore
    path = save({**content, "hyper_parameters": settings_, "device": torch.device("cpu")}, tmp_path / "model.ckpt")
    monkeypatch.delitem(sys.modules, gone.__name__)
    assert list(read_tensors(path)) == ["state_dict.x", "state_dict.y"]
    assert torch.equal(read_state(path)["x"], torch.arange(3))
    assert gone.__name__ not in sys.modules


# -- hostile pickles -----------------------------------------------------------------------------------------------

VIEW = b"ctorch._utils\n_rebuild_tensor_v2\n"
DICT = b"ccollections\nOrderedDict\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count: int = 4, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


def view(offset: int = 0, size: tuple = (4,), stride: tuple = (1,), stored: bytes = storage()) -> bytes:
    arguments = stored + number(offset) + numbers(*size) + numbers(*stride) + b"\x89" + DICT + b")R"
    return VIEW + b"(" + arguments + b"tR"


def program(*entries: tuple[str, bytes]) -> bytes:
    """A pickle of a dictionary whose values are given as code."""
    return b"\x80\x02}(" + b"".join(text(name) + code for name, code in entries) + b"u."


def archive(
    path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, more: dict[str, bytes] | None = None
) -> Path:
    """The zip of torch.save around a pickle; storage 0 holds 0, 1, 2, 3 in float32."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {"data.pkl": pickled, "data/0": struct.pack("<4f", 0, 1, 2, 3), **(more or {})}.items():
            file.writestr(f"archive/{name}", content)
    return path


def call(module: str, name: str, arguments: bytes) -> bytes:
    """GLOBAL, arguments, REDUCE."""
    return f"c{module}\n{name}\n".encode() + b"(" + arguments + b"tR"


class Reduced:
    """Pickles as any call."""

    def __init__(self, function: Callable, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def pickled_call(function: Callable, *arguments: Any) -> bytes:
    """Code of a call, nested ones among the arguments too."""
    return pickle.dumps(Reduced(function, *arguments), protocol=2)[2:-1]


def hostile_values(sentinel: Path) -> dict[str, bytes]:
    """Code for a value, which would make the sentinel if any of it ran."""
    touch, make = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w')"
    python = f"__import__('pathlib').Path({str(sentinel)!r}).touch()"
    state = b"}" + text("__setstate__") + b"cbuiltins\neval\n" + b"s"
    slots = b"N}" + text("__class__") + b"cos\nsystem\n" + b"s\x86"
    return {
        "os.system": call("os", "system", text(touch)),
        "posix.system": call("posix", "system", text(touch)),
        "eval": call("builtins", "eval", text(make)),
        "exec": call("builtins", "exec", text(python)),
        "exec of Python 2": call("__builtin__", "exec", text(python)),
        "open": call("io", "open", text(str(sentinel)) + text("w")),
        "subprocess": call("subprocess", "Popen", b"(" + text("touch") + text(str(sentinel)) + b"l"),
        "getattr": call("builtins", "getattr", b"cos\nsystem\n" + text("__call__")) + b"(" + text(touch) + b"tR",
        "import": call("builtins", "getattr", call("builtins", "__import__", text("os")) + text("system"))
        + b"("
        + text(touch)
        + b"tR",
        "dotted": b"\x80\x04"
        + text("collections")
        + text("OrderedDict.__init__.__globals__")
        + b"\x93("
        + text(touch)
        + b"tR",
        "torch.load": call("torch", "load", text(str(sentinel))),
        "torch.jit": call("torch.jit", "load", text(str(sentinel))),
        "torch._utils": call("torch._utils", "_import_dotted_name", text("os.system")) + b"(" + text(touch) + b"tR",
        "torch.hub": call("torch.hub", "load_state_dict_from_url", text("file:///" + str(sentinel))),
        "partial": call("functools", "partial", b"cos\nsystem\n" + text(touch)) + b")R",
        "nested": pickled_call(list, Reduced(map, eval, [make])),
        "map": call("builtins", "list", call("builtins", "map", b"cos\nsystem\n(" + text(touch) + b"l")),
        "new": b"csubprocess\nPopen\n(" + text(touch) + b"t\x81",
        "new with names": b"\x80\x04csubprocess\nPopen\n(" + text(touch) + b"t}" + text("shell") + b"\x88s\x92",
        "inst": b"(" + text(touch) + b"ios\nsystem\n",
        "obj": b"(cos\nsystem\n" + text(touch) + b"o",
        "build on a view's class": VIEW + state + b"b(" + text(make) + b"tR",
        "build on a class with slots": VIEW + slots + b"b(" + text(touch) + b"tR",
        "build on a dictionary's class": DICT + state + b"b)R" + text(make) + b"b",
        "build on a dictionary": DICT + b")R" + state + b"b" + text(make) + b"b",
        "build on a dictionary with slots": DICT + b")R" + slots + b"b",
        "build on a plain dictionary": b"}" + state + b"b" + text(make) + b"b",
        "build on a dtype": b"ctorch\nFloatStorage\n" + slots + b"b",
        "build on a view": view() + state + b"b" + text(make) + b"b",
        "build on a storage": storage() + state + b"b" + text(make) + b"b",
        "call of a dtype": b"ctorch\nFloatStorage\n(" + text(touch) + b"tR",
        "call of a view": view() + b"(" + text(touch) + b"tR",
        "items of a class": VIEW + text("__call__") + b"cos\nsystem\n" + b"s",
        "appended to a class": VIEW + b"cos\nsystem\n" + b"a(" + text(touch) + b"tR",
        "extension 1": b"\x82\x01(" + text(touch) + b"tR",
        "extension 2": b"\x83\x01\x00(" + text(touch) + b"tR",
        "extension 4": b"\x84\x01\x00\x00\x00(" + text(touch) + b"tR",
        "memo": b"cos\nsystem\nq\x010" + DICT + b"q\x010h\x01(" + text(touch) + b"tR",
        "memo that was never written": b"h\x63(" + text(touch) + b"tR",
        "copyreg": call("copyreg", "_reconstructor", b"cos\nsystem\n" + b"cbuiltins\nobject\nN")
        + b"("
        + text(touch)
        + b"tR",
        "extension made": call("copyreg", "add_extension", text("os") + text("system") + number(1)),
        "persistent module": b"(" + text("module") + b"cos\nsystem\n" + text("file") + text(touch) + b"tQ",
        "persistent text": b"P" + touch.encode() + b"\n",
        "numpy": call("numpy.core.multiarray", "scalar", b"cos\nsystem\n" + text(touch)),
        "rebuild of another type": call(
            "torch._tensor", "_rebuild_from_type_v2", b"cos\nsystem\n" + b"cos\nsystem\n(" + text(touch) + b"tN"
        ),
    }


# What could as well be part of the settings or callbacks of a training: dropped, and the tensors are read.
WELL_FORMED = {
    "os.system",
    "eval",
    "getattr",
    "import",
    "torch.jit",
    "partial",
    "nested",
    "new",
    "build on a view",
    "numpy",
}


@pytest.mark.parametrize("name", hostile_values(Path("sentinel")))
@LAYOUTS
def test_nothing_that_a_pickle_names_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, as_zip: bool
) -> None:
    copyreg.add_extension("os", "system", 1)  # as if the program had one; only its number stands in the pickle
    assert pickle.loads(b"\x80\x02\x82\x01.") is os.system  # from now on unpicklers find it without asking
    sentinel = tmp_path / "sentinel"
    pickled = program(("x", hostile_values(sentinel)[name]), ("weight", view()))
    path = tmp_path / "model.ckpt"
    if as_zip:
        archive(path, pickled)
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        head = content[: content.index(pickle.dumps({}, protocol=2))]
        keys = pickle.dumps(["0"], protocol=2)
        path.write_bytes(head + pickled + keys + struct.pack("<Q4f", 4, 0, 1, 2, 3))
    modules = set(sys.modules)
    try:
        assert torch.equal(read_tensors(path)["weight"], torch.arange(4.0))
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        assert name not in WELL_FORMED
    finally:
        copyreg.remove_extension("os", "system", 1)
    assert not sentinel.exists()
    assert set(sys.modules) == modules
    untouched = read_tensors(save({"y": torch.ones(2)}, tmp_path / "after.pt"))  # no stand-in was changed
    assert torch.equal(untouched["y"], torch.ones(2))


def test_the_programs_do_run_elsewhere(tmp_path: Path) -> None:
    """The sentinels would be seen: the plain unpickler makes them."""
    for name in ("os.system", "eval", "exec", "getattr", "import", "nested", "partial", "inst", "obj", "map"):
        sentinel = tmp_path / f"sentinel of {name}".replace(" ", "_")
        try:
            made = pickle.loads(program(("x", hostile_values(sentinel)[name])))
            getattr(made["x"], "wait", int)()
        except Exception:
            pass
        assert sentinel.exists(), name


TANGLED, DAMAGED, NESTED = "too large or tangled", "damaged", "nests"


def bombs() -> dict[str, tuple[bytes, str]]:
    """Code for a value, well-formed as far as it can be, and what is said of it."""
    doubled = b")" + b"q\x010h\x01h\x01\x86" * 100
    numbers_of_one_hash = b"".join(
        b"\x8a\x0c" + (times * (2**61 - 1)).to_bytes(12, "little") + b"N" for times in range(10_000)
    )
    return {
        "a dictionary in itself": (b"}q\x01" + text("x") + b"h\x01s", NESTED),
        "a list in itself": (b"]q\x01h\x01a", NESTED),
        "a nest of lists": (b"]" * 100_000 + b"a" * 99_999, NESTED),
        "lists of the same list twice": (b"]q\x010" + b"](h\x01h\x01eq\x010" * 60 + b"h\x01", NESTED),
        "a nest of tuples as a key": (b"})" + b"\x85" * 100_000 + b"Ns", TANGLED),
        "a tuple of itself twice, a hundred times, as a key": (b"}" + doubled + b"Ns", TANGLED),
        "the same in a set": (b"\x80\x04\x8f(" + doubled + b"\x90", TANGLED),
        "numbers of one hash": (b"}(" + numbers_of_one_hash + b"u", TANGLED),
        "one long tuple passed often": (b"(" + b"N" * 10_000 + b"tq\x01" + b"0cx\ny\nh\x01R" * 1000, TANGLED),
        "a memo of 67 million": (b"Nr\x00\x00\x00\x04", DAMAGED),
        "a string of 1 EB": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60), DAMAGED),
        "a frame of 1 EB": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N", DAMAGED),
        "a number of 2 GB": (b"\x8b\xff\xff\xff\x7f", DAMAGED),
        "a dictionary made of pairs": (call("collections", "OrderedDict", b"](" + text("a") + b"N\x86e"), "not write"),
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_at_once(tmp_path: Path, name: str) -> None:
    code, says = bombs()[name]
    path = archive(tmp_path / "bomb.pt", program(("x", code), ("weight", view())))
    start = time.perf_counter()
    refused(path, says)
    assert time.perf_counter() - start < 20  # seconds, on a busy machine; the longest takes one


def test_a_nest_of_unknown_objects_is_harmless(tmp_path: Path) -> None:
    nest = b"N" + b"\x85q\x010cx\ny\nh\x01R" * 50_000
    path = archive(tmp_path / "model.pt", program(("x", nest), ("weight", view())))
    assert list(read_tensors(path)) == ["weight"]


# -- storages and views --------------------------------------------------------------------------------------------


def test_a_view_by_hand(tmp_path: Path) -> None:
    """What the refused ones below differ from."""
    ours = read_tensors(archive(tmp_path / "m.pt", program(("x", view(1, (2, 2), (1, 1))))))
    assert torch.equal(ours["x"], torch.tensor([[1.0, 2.0], [2.0, 3.0]]))


@pytest.mark.parametrize(
    "code",
    [
        view(offset=1),
        view(offset=-1),
        view(offset=1 << 62),
        view(size=(5,)),
        view(size=(-1,)),
        view(size=(2, 2), stride=(3, 1)),
        view(size=(2,), stride=(-1,)),
        view(size=(2,), stride=(1 << 62,)),
        view(size=(1 << 40,), stride=(0,)),
        view(size=(1 << 31, 1 << 31, 0), stride=(1 << 62, 1 << 62, 1), offset=1 << 62)[:-2] + b"0",
        view(size=(2, 2), stride=(1,)),
        view(size=(1,) * 65, stride=(1,) * 65),
        view(stored=storage(5)),
        view(stored=storage(3)),
        view(stored=storage(-4)),
        view(stored=storage(key="1")),
        view(stored=storage(key="../data.pkl")),
        view(stored=storage(kind="DoubleStorage")),
        view(stored=storage(kind="QInt8Storage")),
        view(stored=b"N"),
        view(stored=numbers(1, 2)),
        VIEW + b")R",
        VIEW + b"(" + storage() + b"tR",
        VIEW + b"(" + storage() + b"NNN\x89NtR",
        b"ctorch._utils\n_rebuild_parameter\n)R",
        b"ctorch._utils\n_rebuild_parameter\n(N\x88NtR",
        call("torch._utils", "_rebuild_sparse_tensor", b"NN"),
        call("torch._utils", "_rebuild_qtensor", storage()),
        view()[:-2] + b"}" + text("conj") + b"\x88stR",
    ],
)
def test_no_view_reaches_out_of_its_storage(tmp_path: Path, code: bytes) -> None:
    refused(archive(tmp_path / "m.pt", program(("x", code))))


def test_a_storage_has_one_dtype(tmp_path: Path) -> None:
    whole = view(stored=storage(kind="IntStorage"))
    refused(archive(tmp_path / "m.pt", program(("x", view()), ("y", whole))), "damaged")


def test_names_are_plain_and_differ(tmp_path: Path) -> None:
    refused(save({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, tmp_path / "twice.pt"), "two tensors", "'a.b'")
    for name in ("\x1b[31m", "a\nb", "x" * 2000, ""):
        refused(save({name: torch.ones(1)}, tmp_path / "odd.pt"), "odd")
        assert list(read_tensors(save({name: ["text"], "a": torch.ones(1)}, tmp_path / "fine.pt"))) == ["a"]


# -- zips ----------------------------------------------------------------------------------------------------------


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.ckpt", program(("x", view())), zipfile.ZIP_DEFLATED)
    refused(path, "compressed", "torch.save")
    path = archive(tmp_path / "bomb.ckpt", program(("x", view())), zipfile.ZIP_DEFLATED, {"data/1": bytes(1 << 24)})
    refused(path, "compressed")


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    ("where", "what"), [(8, b"\x08\x00"), (22, b"\xff\xff\xff\x7f"), (18, b"\x00"), (26, b"\x00\x01"), (30, b"?")]
)
def test_records_that_lie(tmp_path: Path, where: int, what: bytes, local: bool) -> None:
    """Method, size, packed size, length of the name, name (in the directory two bytes later; for name, comment)."""
    path = archive(tmp_path / "model.ckpt", program(("x", view())))
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x03\x04") if local else content.index(b"PK\x01\x02") + 2
    content[start + where : start + where + len(what)] = what
    path.write_bytes(content)
    if local and where in (18, 22):  # sizes in front are not used
        assert torch.equal(read_tensors(path)["x"], torch.arange(4.0))
    else:
        refused(path)


def test_records_of_one_name_or_one_place(tmp_path: Path) -> None:
    path = tmp_path / "twice.pt"
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        for content in (program(("x", view())), program()):
            file.writestr("archive/data.pkl", content)
    refused(path, "damaged")
    refused(
        archive(tmp_path / "two.pt", program(("x", view())), more={"deeper/data.pkl": b"N."}), "not one of torch.save"
    )
    path = archive(tmp_path / "place.pt", program(("x", view())), more={"data/1": bytes(1 << 12)})
    content = bytearray(path.read_bytes())
    entries = [place for place in range(len(content)) if content[place : place + 4] == b"PK\x01\x02"]
    content[entries[1] + 42 : entries[1] + 46] = content[entries[0] + 42 : entries[0] + 46]
    path.write_bytes(content)
    refused(path, "damaged")


def test_records_that_overlap_and_what_follows_the_zip(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.pt", program(("x", view())))
    whole = path.read_bytes()
    path.write_bytes(whole + b"more")
    refused(path, "damaged")
    entry = whole.index(b"PK\x01\x02")
    (size,) = struct.unpack_from("<I", whole, entry + 20)
    for longer in (1, 30, 100, len(whole)):  # the first record, into the next one or beyond all
        content = bytearray(whole)
        struct.pack_into("<II", content, entry + 20, size + longer, size + longer)
        path.write_bytes(content)
        refused(path, "damaged")


def test_a_record_behind_the_directory(tmp_path: Path) -> None:
    """Its header is the comment of the zip, and its bytes would lie behind the end of the file."""
    path = archive(tmp_path / "model.pt", program(("x", view())))
    whole = path.read_bytes()
    start, entry = whole.rindex(b"PK\x03\x04"), whole.rindex(b"PK\x01\x02")
    header = whole[start : start + 30 + len("archive/data/0")]
    moved = whole[: entry + 42] + struct.pack("<I", len(whole)) + whole[entry + 46 : -2]
    path.write_bytes(moved + struct.pack("<H", len(header)) + header)
    refused(path, "damaged")


def test_a_large_zip_has_wide_numbers(tmp_path: Path) -> None:
    """zip64, which files beyond 4 GB have, on a small one: sizes and places moved to the extra field."""
    path = archive(tmp_path / "model.ckpt", program(("x", view())))
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    entries, place = b"", directory
    while content[place : place + 4] == b"PK\x01\x02":
        head = bytearray(content[place : place + 46])
        packed, size, name_length = struct.unpack_from("<IIH", head, 20)
        (start,) = struct.unpack_from("<I", head, 42)
        struct.pack_into("<II", head, 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<H", head, 30, 6 + 28)
        struct.pack_into("<I", head, 42, 0xFFFFFFFF)
        wide = b"\x99\x99\x02\x00??" + struct.pack("<HHQQQ", 1, 24, size, packed, start)
        entries += head + content[place + 46 : place + 46 + name_length] + wide
        place += 46 + name_length
    end = directory + len(entries)
    zip64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, len(entries), directory)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(content[:directory] + entries + zip64 + locator + tail)
    assert torch.equal(read_tensors(path)["x"], torch.arange(4.0))
    path.write_bytes(
        content[:directory] + entries + zip64 + locator.replace(struct.pack("<Q", end), b"\xff" * 8) + tail
    )
    refused(path, "damaged")


# -- files as they come --------------------------------------------------------------------------------------------


@LAYOUTS
def test_truncated_files(tmp_path: Path, as_zip: bool) -> None:
    model = nn.Sequential(nn.Linear(9, 20), nn.LayerNorm(20))
    whole = save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "whole.ckpt", as_zip).read_bytes()
    path = tmp_path / "part.ckpt"
    places = [0, 1, 3, 4, 16, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 40)]
    for place in places:
        path.write_bytes(whole[:place])
        refused(path)
        refused(path, read=read_state)


@LAYOUTS
def test_damaged_files_give_tensors_or_one_error(tmp_path: Path, as_zip: bool) -> None:
    whole = save({"a": torch.arange(6.0), "b": nn.Parameter(torch.ones(2, 2))}, tmp_path / "m.pt", as_zip).read_bytes()
    rng = random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "m.pt").write_bytes(content)
        try:
            assert all(tensor.sum().numel() for tensor in read_tensors(tmp_path / "m.pt").values())
        except InputError as error:
            assert str(error).startswith(str(tmp_path / "m.pt"))


def test_what_is_no_torch_file(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    refused(path, "no file at")
    refused(tmp_path, "is a folder")
    for content, says in [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n", "git lfs pull"),
        (struct.pack("<Q", 2) + b"{}", ".safetensors"),
        (b"<!DOCTYPE html><html>Not found</html>", "not a file of torch.save"),
        (pickle.dumps({"a": 1}), "not a file of torch.save"),
        (random.Random(0).randbytes(5000), "not a file of torch.save"),
    ]:
        path.write_bytes(content)
        refused(path, says)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "<xml/>")
    refused(path, "not one of torch.save")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_files_without_tensors_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    refused(save({"epoch": 3}, path), "no tensors")
    refused(save(nn.Linear(2, 2), path), "whole model", "state_dict()")
    refused(save(torch.ones(2), path), "without a name")
    refused(save({"state_dict": {}, "other": torch.ones(1)}, path), "no tensors", read=read_state)
    refused(save({"a": torch.eye(2).to_sparse()}, path), "'a'", "not read")
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), str(path))
    refused(path, "TorchScript")


def test_another_byte_order(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.pt", program(("x", view())), more={"byteorder": b"big"})
    refused(path, "byte order")
    assert read_tensors(archive(path, program(("x", view())), more={"byteorder": sys.byteorder.encode()}))


@pytest.mark.parametrize("key", [10**5000, -(10**5000), 2**80], ids=["long", "negative", "wide"])
def test_a_number_that_cannot_be_written_out_is_no_name(tmp_path: Path, key: int) -> None:
    """Python raises ValueError when it writes more than 4,300 digits."""
    torch.save({key: torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="without a name"):
        read_state(tmp_path / "a.pt")
