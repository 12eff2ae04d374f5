"""Outputs that are whole or absent, run folders, the report, devices."""

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from core2d.app import devices, outputs, program
from core2d.app import runs as run
from core2d.app.errors import InputError
from core2d.app.provenance import changed_inputs, changed_settings, digest, digests, in_short, machine, sha256


@dataclass(frozen=True)
class MugRecipe:
    output: Path
    seed: int = 7


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- outputs -------------------------------------------------------------------------------------------


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path):
    target = tmp_path / "a" / "b" / "mug.glb"
    with outputs.atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".glb"
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole" and names(target.parent) == ["mug.glb"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_and_keeps_what_was(tmp_path: Path, error: type[BaseException]):
    (tmp_path / "mug.glb").write_text("old")
    for target in (tmp_path / "mug.glb", tmp_path / "new" / "deep" / "mug.glb"):
        with pytest.raises(error), outputs.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error
    assert names(tmp_path) == ["mug.glb"] and (tmp_path / "mug.glb").read_text() == "old"


def test_a_body_that_writes_nothing_is_a_failure(tmp_path: Path):
    (tmp_path / "mug.glb").write_text("old")
    with pytest.raises(FileNotFoundError), outputs.atomic_path(tmp_path / "mug.glb"):
        pass
    assert (tmp_path / "mug.glb").read_text() == "old" and names(tmp_path) == ["mug.glb"]


def test_folders_are_replaced_whole(tmp_path: Path):
    for content in ("old", "new"):
        with outputs.atomic_path(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    with pytest.raises(OSError, match="full"), outputs.atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise OSError("full")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["new"]


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: Path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with outputs.atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_cleans_up_and_exits_130(tmp_path: Path, number: signal.Signals):
    program = (
        "import signal, sys, time\n"
        "from core2d.app.outputs import atomic_path\n"
        "from core2d.app.program import main_guard\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # jobs in the background of a script ignore it
        "with main_guard(), atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "new" / "mug.glb")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "interrupted\n")
    assert names(tmp_path) == []


def test_outputs_that_could_not_be_written_are_refused_before_any_work(tmp_path: Path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    refused = {
        "mug.gif": "must end in one of .png, .jpg",
        "mug": "must end in one of",
        "folder.png": "it is a folder",
        "file/mug.png": "Not a directory",
        f"{'m' * 300}.png": "File name too long",
    }
    before = names(tmp_path)
    for name, reason in refused.items():
        with pytest.raises(InputError, match=reason):
            outputs.check_output(tmp_path / name, (".png", ".jpg"))
    if Path("/proc/self").exists():  # not writable, not even by root
        with pytest.raises(InputError, match=r"cannot write /proc/mug\.png"):
            outputs.check_output("/proc/mug.png", (".png",))
    for fine in ("mug.png", "MUG.PNG", "new/folder/mug.jpg"):
        assert outputs.check_output(tmp_path / fine, (".png", ".jpg")) == tmp_path / fine
    assert names(tmp_path) == before


# -- hashes ------------------------------------------------------------------------------------------------------------

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


def test_the_hash_of_a_folder_is_of_names_and_contents_of_what_is_loaded(tmp_path: Path):
    for name, content in (
        ("config.json", "{}"),
        ("unet/a.safetensors", "abc"),
        ("README.md", "a"),
        (".git/a.json", ""),
    ):
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "model" / "gone.json").symlink_to("nowhere")  # as in a hub cache of which parts were fetched
    empty = hashlib.sha256(b"{}").hexdigest()
    listed = f"config.json {empty}\nunet/a.safetensors {ABC}\n"
    assert digest(tmp_path / "model" / "unet" / "a.safetensors") == ABC
    assert digest(tmp_path / "model") == hashlib.sha256(listed.encode()).hexdigest()
    before = digests({"model": tmp_path / "model"})["model"]
    (tmp_path / "model" / "README.md").write_text("b")
    (tmp_path / "model" / ".git" / "a.json").write_text("b")
    assert digest(tmp_path / "model") == before
    (tmp_path / "model" / "unet" / "a.safetensors").rename(tmp_path / "model" / "unet" / "b.safetensors")
    assert digest(tmp_path / "model") != before
    with pytest.raises(InputError, match=f"cannot read {tmp_path / 'none'}: No such file"):
        digest(tmp_path / "none")


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    whole = hashlib.file_digest

    def counted(file: Any, kind: Any) -> Any:
        read.append(file.name)
        return whole(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"abc")
    assert [sha256(path) for _ in range(3)] == [ABC] * 3 and len(read) == 1
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    time.sleep(0.05)  # longer than the clock of the file system stands still
    path.write_bytes(b"abd")
    os.utime(path, ns=times)  # as large and as old as before
    assert sha256(path) == hashlib.sha256(b"abd").hexdigest() and len(read) == 2


def test_what_differs_is_said_in_words():
    before, now = {"seed": 0, "steps": None, "old": 1}, {"seed": 1, "steps": None, "new": "x"}
    said = changed_settings(before, now)
    assert said == ["seed was 0 and is 1", "new was None and is 'x'", "old was 1 and is None"]
    assert changed_inputs({"model": "a", "mask": "b"}, {"model": "c", "vae": "d"}) == [
        "model has changed", "vae is new", "mask is gone"
    ]  # fmt: skip
    for damaged in (None, [], "x", 3):
        assert changed_inputs(damaged, {"model": "a"}) == ["model is new"]
        assert changed_settings(damaged, {"seed": 0}) == ["seed was None and is 0"]
    assert changed_inputs(now, now) == [] and in_short(["a", "b"]) == "a, b"
    assert in_short(list("abcdef")) == "a, b, c, d and 2 more"


# -- run folders -------------------------------------------------------------------------------------------------------


def test_a_run_tells_how_its_result_came_to_be(tmp_path: Path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"abc")
    recipe = MugRecipe(tmp_path / "mug.glb")
    folder = run.start_run(run.run_folder(tmp_path / "mug.glb"), recipe, digests({"picture": photo}))
    assert folder == tmp_path / "mug.run"
    manifest = run.read_run(folder)
    assert manifest["recipe"] == {"name": "MugRecipe", "output": str(tmp_path / "mug.glb"), "seed": 7}
    assert manifest["seed"] == 7 and manifest["versions"]["torch"] == torch.__version__
    assert manifest["inputs"] == {"picture": ABC}
    assert manifest["machine"]["cores"] >= 1 and manifest["command"]


def test_a_run_goes_on_with_what_it_began_with_only(tmp_path: Path):
    run.start_run(tmp_path / "mug.run", MugRecipe(tmp_path), {"model": "a", "picture": "b"})
    run.check_inputs(tmp_path / "mug.run", {"model": "a", "picture": "b"})
    run.check_inputs(tmp_path / "mug.run", {"model": "a"}, own=("picture",))
    with pytest.raises(
        InputError, match=r"cannot go on with .*mug\.run: since it began, model has changed; start it anew"
    ):
        run.check_inputs(tmp_path / "mug.run", {"model": "c"}, own=("picture",))


def test_a_run_is_never_written_into_something_else(tmp_path: Path):
    (tmp_path / "mug.run").mkdir()
    (tmp_path / "mug.run" / "holiday.jpg").touch()
    with pytest.raises(InputError, match="not a run folder"), run.working_in(tmp_path / "mug.run"):
        pass
    assert names(tmp_path / "mug.run") == ["holiday.jpg"]
    for seed in (1, 2):  # a run of ours is taken over
        with run.working_in(tmp_path / "cup.run") as folder:
            run.start_run(folder, MugRecipe(tmp_path, seed=seed))
    assert run.read_run(tmp_path / "cup.run")["seed"] == 2
    for damaged in ("{", "[1]", "\xff", "[" * 100_000):
        (tmp_path / "cup.run" / "run.json").write_bytes(damaged.encode("latin-1"))
        with pytest.raises(InputError, match="not a run folder"):
            run.read_run(tmp_path / "cup.run")
    with pytest.raises(InputError, match="not a run folder"), run.working_in(tmp_path / "none.run", resume=True):
        pass
    assert names(tmp_path) == ["cup.run", "mug.run"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_of_a_new_run_that_fails_before_its_first_checkpoint_nothing_stays(tmp_path: Path, error: type[BaseException]):
    (tmp_path / "empty.run").mkdir()
    for name in ("new/deep/mug.run", "empty.run"):
        with pytest.raises(error), run.working_in(tmp_path / name) as folder:
            run.start_run(folder, MugRecipe(tmp_path))
            (folder / "checkpoints").mkdir()
            raise error("no")
    assert names(tmp_path) == ["empty.run"] and names(tmp_path / "empty.run") == []
    with pytest.raises(error), run.working_in(tmp_path / "mug.run") as folder:
        run.start_run(folder, MugRecipe(tmp_path))
        (folder / "checkpoints" / "step-000001").mkdir(parents=True)
        raise error("no")
    assert names(tmp_path / "mug.run") == ["checkpoints", "run.json"]
    with pytest.raises(error), run.working_in(tmp_path / "mug.run"):
        (tmp_path / "mug.run" / "checkpoints" / "step-000001").rmdir()
        raise error("no")
    assert names(tmp_path / "mug.run") == ["checkpoints", "run.json"]  # what was there before is not this run's


HOLDING = """
import sys, time
from core2d.app.program import main_guard
from core2d.app.runs import working_in
with main_guard(), working_in(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_run_in_use_is_refused_until_its_process_ends_however_that_ends(tmp_path: Path):
    folder, used = tmp_path / "mug.run", r"mug\.run is in use by process {}: wait, or name another output"
    for end in (signal.SIGKILL, signal.SIGTERM):
        holding = subprocess.Popen([sys.executable, "-c", HOLDING, folder], stdout=subprocess.PIPE, text=True)
        assert holding.stdout and holding.stdout.readline() == "ready\n"
        before = sorted(tmp_path.rglob("*"))
        for refused in (lambda: run.check_free(folder), run.working_in(folder).__enter__, run.locked(folder).__enter__):
            with pytest.raises(InputError, match=used.format(holding.pid)):
                refused()
        assert sorted(tmp_path.rglob("*")) == before
        holding.send_signal(end)
        holding.communicate(timeout=30)
        run.check_free(folder)
        with run.working_in(folder):
            run.start_run(folder, MugRecipe(tmp_path))
        assert names(folder) == ["run.json"]
        (folder / "run.json").unlink()


def test_a_run_is_read_where_nothing_can_be_written_or_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    run.start_run(tmp_path / "mug.run", MugRecipe(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        patch.setattr(fcntl, "flock", refuse)
        run.check_free(tmp_path / "mug.run")
        assert run.read_run(tmp_path / "mug.run")["seed"] == 7
        with (
            pytest.raises(InputError, match=r"cannot write into .*mug\.run: Read-only"),
            run.locked(tmp_path / "mug.run"),
        ):
            pass
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    with run.locked(tmp_path / "mug.run"):  # a network file system without locks
        pass
    if Path("/proc/self").exists():
        with pytest.raises(InputError, match=r"cannot write into /proc/mug\.run"), run.working_in("/proc/mug.run"):
            pass


MANY = """
import random, sys, time
from pathlib import Path
from core2d.app.errors import InputError
from core2d.app.runs import locked
folder, mine, taken = Path(sys.argv[1]), sys.argv[2], 0
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        with locked(folder):
            (folder / "owner").write_text(mine)
            time.sleep(random.random() * 0.003)
            assert (folder / "owner").read_text() == mine
            (folder / "owner").unlink()
            taken += 1
    except InputError as error:
        assert "is in use by" in str(error)
print(taken)
"""


def test_a_folder_is_never_held_twice(tmp_path: Path):
    """Locks are taken, given back and removed as fast as it goes: no two processes are in the folder at once."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", MANY, tmp_path / "a"]
    started: list[Any] = [subprocess.Popen([*command, str(number)], **pipes) for number in range(3)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 3
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    taken = [int(process.communicate(timeout=60)[0]) for process in started]
    assert all(process.returncode == 0 for process in started) and sum(map(bool, taken)) > 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@dataclass(frozen=True)
class FullRecipe:
    output: Path | None
    kind: Literal["a", "b"]
    prompts: tuple[str, ...]
    box: tuple[float, float] | None = None
    minutes: float | None = None
    seed: int = 0
    json: bool = False


def test_a_recipe_comes_back_as_it_was_or_not_at_all(tmp_path: Path):
    recipe = FullRecipe(Path("a/b.glb"), "b", ("a mug", "ein Krug f\u00fcr \udcff"), (1, 2.5), 3, json=True)
    for one in (recipe, FullRecipe(None, "a", ())):
        run.start_run(tmp_path, one)
        found = run.recipe_of_run(tmp_path, FullRecipe)
        assert found == one and type(found.prompts) is tuple
    saved = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    wrong = {"output": 3, "kind": "c", "prompts": "a mug", "box": [1, 2, 3], "minutes": "3", "seed": 1.5, "json": 1,
             "unknown": 1, "name": "MugRecipe"}  # fmt: skip
    for name, value in wrong.items():
        outputs.write_json(tmp_path / "run.json", {"recipe": saved["recipe"] | {name: value}})
        with pytest.raises(InputError, match=r"another version, or its run\.json is|not a run of FullRecipe"):
            run.recipe_of_run(tmp_path, FullRecipe)


def test_plain_says_anything_in_json(tmp_path: Path):
    value = {
        1: Path("a/b"),
        "t": (np.float32(0.5), torch.tensor(3)),
        "bad": [float("nan"), np.inf],
        "on": True,
    }
    assert outputs.plain(value) == {"1": "a/b", "t": [0.5, 3], "bad": [None, None], "on": True}
    outputs.write_json(tmp_path / "x.json", {"prompt": "ein Krug für Übermut"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"prompt": "ein Krug für Übermut"}


# -- commands ------------------------------------------------------------------------------------------


def test_the_report_is_exactly_one_object(capsys: pytest.CaptureFixture[str]):
    metrics = {"psnr": np.float64(31.2), "worst": float("inf")}
    program.report([Path("out.png")], metrics, 3, time.perf_counter() - 2, json=True)
    printed = capsys.readouterr().out
    found = json.loads(printed)
    assert printed.count("\n") == 1
    assert list(found) == ["outputs", "metrics", "seconds", "peak_memory_gb", "seed"]
    assert found["outputs"] == ["out.png"] and found["metrics"] == {"psnr": 31.2, "worst": None}
    assert found["seed"] == 3 and 2 <= found["seconds"] < 3 and found["peak_memory_gb"] > 0


def test_the_report_for_a_person(capsys: pytest.CaptureFixture[str]):
    program.report([Path("out.png")], {"psnr": 31.23456, "views": {"right": 7}}, 3, time.perf_counter(), json=False)
    assert capsys.readouterr().out == "psnr: 31.23\nviews: right 7\nwrote out.png (0.0 s)\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_peak_memory_is_this_process_and_not_its_parent():
    held = bytearray(300_000_000)  # more than a bare Python ever needs
    held[::4096] = b"x" * len(held[::4096])
    program = (
        "from core2d.app.devices import peak_memory_gb; before = peak_memory_gb()\n"
        "data = bytearray(b'x') * 100_000_000; print(before, peak_memory_gb())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before < 0.1 and 0.099 < after - before < 0.11
    assert devices.peak_memory_gb() > 0.3


def test_input_errors_become_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as leaving, program.main_guard():
        raise InputError("two\nlines")
    assert leaving.value.code == 2 and capsys.readouterr().err == "error: two lines\n"
    with (
        pytest.raises(ValueError, match="a bug"),
        program.main_guard(),
    ):  # a programmer's error keeps its traceback
        raise ValueError("a bug")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# -- devices -------------------------------------------------------------------------------------------


def test_a_gpu_counts_where_work_was_done_on_it_only(monkeypatch: pytest.MonkeyPatch):
    """Beside a GPU that libraries have woken, memory and machine of a run on the CPU are those of the CPU."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    for held, name in ((0, None), (3_000_000_000, "A GPU")):
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda held=held: held)
        assert machine()["accelerator"] == name
        assert (devices.peak_memory_gb() == 3.0) == (name is not None)


def test_devices_and_formats():
    assert devices.pick_device("cpu") == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert devices.pick_device().type == best
    for name in ("cuda:99", "banana", "", "CPU"):
        with pytest.raises(InputError, match=f"--device {name}: this machine has cpu"):
            devices.pick_device(name)
    assert devices.pick_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(InputError, match="float32, float16, bfloat16"):
        devices.pick_dtype("int8")
