"""Outputs that are whole or absent, run folders, the report, devices."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from core2d.app import devices, outputs, program
from core2d.app import runs as run
from core2d.app.errors import InputError


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


# -- run folders ---------------------------------------------------------------------------------------


def test_a_run_tells_how_its_result_came_to_be(tmp_path: Path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"abc")
    folder = run.start_run(run.run_folder(tmp_path / "mug.glb"), MugRecipe(tmp_path / "mug.glb"), [photo])
    assert folder == tmp_path / "mug.run"
    manifest = run.read_run(folder)
    assert manifest["recipe"] == {"name": "MugRecipe", "output": str(tmp_path / "mug.glb"), "seed": 7}
    assert manifest["seed"] == 7 and manifest["versions"]["torch"] == torch.__version__
    assert manifest["inputs"] == {
        "photo.png": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, "abc"
    }
    assert manifest["machine"]["cores"] >= 1 and manifest["command"]


def test_a_run_is_never_written_into_something_else(tmp_path: Path):
    (tmp_path / "mug.run").mkdir()
    (tmp_path / "mug.run" / "holiday.jpg").touch()
    with pytest.raises(InputError, match="not a run folder"):
        run.start_run(tmp_path / "mug.run", MugRecipe(tmp_path))
    assert names(tmp_path / "mug.run") == ["holiday.jpg"]
    run.start_run(tmp_path / "cup.run", MugRecipe(tmp_path, seed=1))
    run.start_run(tmp_path / "cup.run", MugRecipe(tmp_path, seed=2))  # a run of ours is taken over
    assert run.read_run(tmp_path / "cup.run")["seed"] == 2
    (tmp_path / "cup.run" / "run.json").write_text("{")
    with pytest.raises(InputError, match="not a run folder"):
        run.read_run(tmp_path / "cup.run")


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
