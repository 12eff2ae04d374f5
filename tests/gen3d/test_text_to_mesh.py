"""`gen3d text-to-mesh`: one prompt, many, stopped and gone on with, on priors of every kind, and what is wrong."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core2d.app.outputs import plain
from core2d.app.program import main_guard
from core2d.app.provenance import digest
from core2d.app.runs import locked, working_in
from core2d.media.pictures import read_image, read_image_text
from core2d.media.videos import read_video
from core2d.prior.backbone import Backbone
from core2d.training.checkpoints import newest_checkpoint
from gen3d.__main__ import main
from gen3d.dreamfusion import command as gallery
from gen3d.dreamfusion import pipeline as text_to_mesh
from gen3d.dreamfusion.command import mesh_path
from gen3d.dreamfusion.memory import Memory, kept_by_encoder, kept_by_renderer, memory_needed
from gen3d.dreamfusion.recipe import QUALITIES, DreamFusionConfig, TextToMeshRecipe
from gen3d.dreamfusion.task import DreamFusionTask
from gen3d.mesh import build_mesh, load_mesh
from gen3d.shaping import runs as shape_runs
from gen3d.shaping.model import Model

ROOT = Path(__file__).resolve().parents[2]
QUICK = DreamFusionConfig(steps=3, views=2, coarse_size=16, refine_at=1.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps on small pictures, and a coarse mesh."""
    monkeypatch.setattr(text_to_mesh, "QUALITIES", dict.fromkeys(QUALITIES, QUICK))
    monkeypatch.setattr(shape_runs, "build_mesh", partial(build_mesh, resolution=24, face_budget=1000))


@pytest.fixture(scope="module")
def model(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random prior with a camera token that reads as many tokens as published ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "MAX_TOKENS", 77)
        return str(tiny_models.save_tiny_model("sd1", tmp_path_factory.mktemp("prior") / "model", camera=True))


Told = tuple[int, dict[str, Any], str]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], model: str) -> Callable[..., Told]:
    """Follow `gen3d text-to-mesh WORDS --json`: exit status, report, and what stderr says."""

    def follow(*words: object) -> Told:
        chosen = [] if {"--model", "--resume"} & set(words) else ["--model", model]
        status: Any = 0
        try:
            main(["text-to-mesh", *map(str, words), *chosen, "--json"])
        except SystemExit as leaving:
            status = leaving.code
        said = capfd.readouterr()
        return status, json.loads(said.out) if said.out else {}, said.err

    return follow


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- one prompt ------------------------------------------------------------------------------------------------


def test_one_prompt_makes_a_mesh_a_film_and_a_picture(quick: None, command, tmp_path: Path) -> None:
    output, film, picture = (tmp_path / name for name in ("mug.glb", "mug.mp4", "mug.png"))
    status, told, said = command("a red mug", "-o", output, "--turntable", film, "--preview", picture, "--seed", 5)
    assert status == 0 and told["outputs"] == [str(output), str(picture), str(film)] and told["seed"] == 5
    assert names(tmp_path) == ["mug.glb", "mug.mp4", "mug.png", "mug.run"]
    assert told["metrics"]["watertight"] and told["metrics"]["faces"] == len(load_mesh(output).faces) <= 1000
    assert read_image(picture).shape == (2 * 192, 4 * 192, 3)
    frames, fps = read_video(film)
    assert frames.shape == (48, 256, 256, 3) and fps == 16
    assert "3 steps, about" in said and "GB of memory" in said
    log = [json.loads(line) for line in (tmp_path / "mug.run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 3


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(quick: None, command, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert command("a red mug", "-o", tmp_path / folder / "mug.glb", "--seed", seed)[0] == 0
    first, again, other = ((tmp_path / folder / "mug.glb").read_bytes() for folder in "abc")
    assert first == again != other


def test_a_run_goes_on_without_a_prompt_and_a_plain_rerun_starts_anew(quick: None, command, tmp_path: Path) -> None:
    output, run = tmp_path / "mug.glb", tmp_path / "mug.run"
    command("a red mug", "-o", output, "--steps", 2)
    first = output.read_bytes()
    output.unlink()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    run.rename(moved / "mug.run")  # the mesh of a run lies beside it, wherever that is
    status, told, _ = command("--resume", moved / "mug.run", "--preview", tmp_path / "mug.png")
    assert status == 0 and told["outputs"] == [str(moved / "mug.glb"), str(tmp_path / "mug.png")]
    assert (moved / "mug.glb").read_bytes() == first and not output.exists()
    command("a red mug", "-o", moved / "mug.glb", "--seed", 1)
    assert names(moved / "mug.run") == ["checkpoints", "checkpoints.previous", "log.jsonl", "result.json", "run.json"]
    assert (moved / "mug.glb").read_bytes() != first


def test_a_prompt_names_no_file(quick: None, command, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    assert command("../outside/../../a mug", "-o", tmp_path / "inside" / "mug.glb")[0] == 0
    assert names(tmp_path) == ["inside"] and names(tmp_path / "inside") == ["mug.glb", "mug.run"]


# -- many prompts ----------------------------------------------------------------------------------------------


def test_many_prompts_make_a_folder_once(quick: None, command, tmp_path: Path) -> None:
    listed = tmp_path / "prompts.txt"
    listed.write_text("# three\n\na red mug\n  ../../A red MUG!  \na red mug\n", encoding="utf-8")
    folder = tmp_path / "meshes"
    words = ("a blue mug", "--prompts", listed, "-o", folder)
    status, told, said = command(*words)
    files = [mesh_path(folder, prompt) for prompt in ("a blue mug", "a red mug", "../../A red MUG!")]
    assert status == 0 and told["outputs"] == [str(path) for path in (*files, folder / "contact-sheet.png")]
    assert told["metrics"] == {"made": 3, "done_before": 0, "failed": {}} and "mesh 3 of 3: ../../A red MUG!" in said
    stems = [path.stem for path in files]
    assert stems[:2] == ["a-blue-mug", "a-red-mug"] and stems[2].startswith("a-red-mug-")
    made = sorted([*(f"{stem}{end}" for stem in stems for end in (".glb", ".run")), "contact-sheet.png"])
    assert names(folder) == made and names(tmp_path) == ["meshes", "prompts.txt"]
    assert read_image(folder / "contact-sheet.png").shape == (3 * 128, 8 * 128, 3)
    shown = json.loads(read_image_text(folder / "contact-sheet.png")["prompts"])
    assert shown == ["a blue mug", "a red mug", "../../A red MUG!"]

    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    files[1].write_bytes(b"not what was made")  # one that someone changed is made again
    status, told, _ = command(*words)
    assert status == 0 and told["metrics"] == {"made": 1, "done_before": 2, "failed": {}}
    assert {path: path.read_bytes() for path in files} == {path: data for path, (_, data) in before.items()}
    assert all(files[i].stat().st_mtime_ns == before[files[i]][0] for i in (0, 2))
    assert command(*words, "--seed", 1)[1]["metrics"]["made"] == 3  # other settings: all of them


def test_one_that_fails_does_not_lose_the_others(
    quick: None, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = DreamFusionTask.loss

    def diverging(task: DreamFusionTask, *rest: Any) -> Any:
        value, parts = loss(task, *rest)
        return value * (torch.nan if task.prompt == "a bad mug" else 1), parts

    monkeypatch.setattr(DreamFusionTask, "loss", diverging)
    status, told, said = command("a red mug", "a bad mug", "a blue mug", "-o", tmp_path / "meshes")
    assert status == 2 and list(told["metrics"]["failed"]) == ["a bad mug"] and told["metrics"]["made"] == 2
    assert [Path(path).name for path in told["outputs"]] == ["a-red-mug.glb", "a-blue-mug.glb", "contact-sheet.png"]
    assert read_image(tmp_path / "meshes" / "contact-sheet.png").shape == (2 * 128, 8 * 128, 3)
    last = said.splitlines()[-1]
    assert last.startswith("error: 1 of 3 prompts made no mesh: the optimisation of 'a bad mug' diverged: loss is nan")

    monkeypatch.setattr(DreamFusionTask, "loss", loss)
    status, told, _ = command("a red mug", "a bad mug", "a blue mug", "-o", tmp_path / "meshes")
    assert status == 0 and told["metrics"] == {"made": 1, "done_before": 2, "failed": {}}


def test_a_folder_that_was_stopped_is_gone_on_with(
    quick: None, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("a red mug", "a blue mug", "-o", tmp_path / "meshes")
    build = text_to_mesh.mesh_of
    stops = iter([False, True])

    def stopped(field: Model) -> Any:
        if next(stops):
            raise KeyboardInterrupt  # once the second is optimised, before its mesh is written
        return build(field)

    monkeypatch.setattr(text_to_mesh, "mesh_of", stopped)
    assert command(*words)[0] == 130
    assert names(tmp_path / "meshes") == ["a-blue-mug.run", "a-red-mug.glb", "a-red-mug.run"]
    log = (tmp_path / "meshes" / "a-blue-mug.run" / "log.jsonl").read_bytes()
    monkeypatch.setattr(text_to_mesh, "mesh_of", build)
    status, told, _ = command(*words)
    assert status == 0 and told["metrics"] == {"made": 1, "done_before": 1, "failed": {}}
    assert (tmp_path / "meshes" / "a-blue-mug.run" / "log.jsonl").read_bytes() == log  # no step was taken twice


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=5, unique=True))
def test_file_names_are_safe_unique_and_stable(prompts: list[str]) -> None:
    folder = Path("meshes")
    paths = [mesh_path(folder, prompt) for prompt in prompts]
    assert len(set(paths)) == len(paths) and paths == [mesh_path(folder, prompt) for prompt in prompts]
    for path in paths:
        assert path.parent == folder and path.suffix == ".glb" and 1 <= len(path.stem) <= 69
        assert set(path.stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and not path.stem.startswith("-")


def test_names_that_could_be_taken_for_each_other() -> None:
    hashed = mesh_path(Path(), "A red mug").stem
    alike = ["A red mug", "a red mug", "a-red-mug", "a red  mug", "a red mug.", hashed, hashed.replace("-", " ")]
    alike += ["赤い", "青い"]
    alike += ["a mug " * 50 + end for end in ("red", "blue")]
    assert len({mesh_path(Path(), prompt) for prompt in alike}) == len(alike)
    assert mesh_path(Path(), "a red mug").name == "a-red-mug.glb"


def test_half_a_run_of_other_settings_is_not_gone_on_with(tmp_path: Path, model: str) -> None:
    copied = shutil.copytree(model, tmp_path / "model")
    recipe = TextToMeshRecipe(prompts=("a red mug",), output=tmp_path / "a-red-mug.glb", model=str(copied))
    assert not gallery.half_done(recipe)
    shape_runs.start_anew(tmp_path / "a-red-mug.run", recipe, text_to_mesh.inputs_of(recipe))
    assert gallery.half_done(recipe) and gallery.undone(recipe) == "not made yet"
    others: dict[str, Any] = {"seed": 1, "steps": 7, "quality": "draft", "views": "words", "model": model}
    for name, value in others.items():
        assert not gallery.half_done(replace(recipe, **{name: value})), name
    assert gallery.half_done(replace(recipe, device="cpu", json=True))
    change_weights(copied)
    assert not gallery.half_done(recipe)


def change_weights(model: Path) -> None:
    """Another seed's worth of one tensor: as large, under the same name."""
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"] = weights["conv_in.bias"] + 1
    save_file(weights, path)


def test_other_weights_under_the_same_name_make_the_meshes_anew(quick: None, command, model: str, tmp_path) -> None:
    copied, listed = shutil.copytree(model, tmp_path / "model"), tmp_path / "prompts.txt"
    listed.write_text("a red mug\na blue mug\n")
    words = ("--prompts", listed, "-o", tmp_path / "meshes", "--model", copied)
    assert command(*words)[1]["metrics"]["made"] == 2
    first = (tmp_path / "meshes" / "a-red-mug.glb").read_bytes()
    inputs = {"model": digest(copied)}
    for name in ("run.json", "result.json"):
        assert json.loads((tmp_path / "meshes" / "a-red-mug.run" / name).read_text())["inputs"] == inputs
    sheet = read_image_text(tmp_path / "meshes" / "contact-sheet.png")
    assert json.loads(sheet["inputs"]) == {"prompts": digest(listed)}
    change_weights(copied)
    status, told, said = command(*words)
    assert status == 0 and told["metrics"] == {"made": 2, "done_before": 0, "failed": {}}
    assert "mesh 1 of 2: a red mug (model has changed)" in said
    assert (tmp_path / "meshes" / "a-red-mug.glb").read_bytes() != first
    with listed.open("a") as file:
        file.write("a green mug\n")  # what is asked beside it does not touch what is done
    assert command(*words)[1]["metrics"] == {"made": 1, "done_before": 2, "failed": {}}
    assert "a red mug (seed was 0 and is 1)" in command(*words, "--seed", 1)[2]
    (tmp_path / "meshes" / "a-red-mug.glb").unlink()
    assert "mesh 1 of 1: a red mug (a-red-mug.glb is gone)" in command(*words, "--seed", 1)[2]
    for damaged in ("{", "[]", '{"recipe": 3, "inputs": null, "outputs": [1]}'):
        (tmp_path / "meshes" / "a-red-mug.run" / "result.json").write_text(damaged)
        status, told, said = command(*words, "--seed", 1)
        assert status == 0 and told["metrics"]["made"] == 1 and "result.json cannot be read" in said


def test_a_run_is_not_gone_on_with_on_other_weights(quick: None, command, model: str, tmp_path: Path) -> None:
    copied, run = shutil.copytree(model, tmp_path / "model"), tmp_path / "mug.run"
    assert command("a red mug", "-o", tmp_path / "mug.glb", "--model", copied)[0] == 0
    change_weights(copied)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, told, said = command("--resume", run)
    assert status == 2 and not told
    assert said == f"error: cannot go on with {run}: since it began, model has changed; start it anew\n"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# -- what is wrong ---------------------------------------------------------------------------------------------

ONE = ["a red mug", "-o", "a.glb"]
MANY = ["a red mug", "a blue mug", "-o", "meshes"]
BAD_WORDS = [
    (["-o", "a.glb"], "no prompt"),
    ([" \t", "-o", "a.glb"], "a prompt is empty"),
    (["m" * 3000, "-o", "a.glb"], "3000 characters: the limit is 1000"),
    ([*ONE, "--model", "toybox-unknown"], "toybox-unknown"),
    ([*ONE, "--device", "cuda:99"], "--device cuda:99: this machine has cpu"),
    ([*ONE, "--steps", "0"], "--steps 0: give a number from 1"),
    (["a red mug", "-o", "folder"], "must end in one of .glb, .obj, .ply, .stl"),
    (["a red mug", "-o", "folder.glb"], "it is a folder"),
    (["a red mug", "-o", "file.txt/a.glb"], "Not a directory"),
    (["a red mug", "-o", "a.fbx"], "must end in one of .glb"),
    ([*ONE, "--turntable", "a.gif"], "must end in one of .mp4"),
    ([*ONE, "--preview", "a.glb"], "must end in one of .png"),
    (["mug " * 200, "-o", "a.glb"], "tokens and the model reads"),
    (["a red mug " * 24, "-o", "a.glb"], "tokens and the model reads"),  # only with the background named after it
    (["a red mug", "-o", "taken.glb"], "taken.run is not a run folder"),
    (["a red mug", "a blue mug", "-o", "a.glb"], "name one without a suffix"),
    (["a red mug", "a blue mug", "-o", "file"], "it is a file; name a folder"),
    (["a red mug", "a blue mug", "-o", "file/meshes"], "Not a directory"),
    ([*MANY, "--turntable", "a.mp4"], "--turntable is of a single mesh"),
    ([*MANY, "--preview", "a.png"], "--preview is of a single mesh"),
    (["a red mug", "", "-o", "meshes"], "a prompt is empty"),
    (["a red mug", "mug " * 200, "-o", "meshes"], "tokens and the model reads"),
    (["--prompts", "nothing.txt", "-o", "meshes"], "nothing.txt: No such file"),
    (["--prompts", "file.txt", "-o", "meshes"], "holds no prompt"),
    (["--prompts", "binary.txt", "-o", "meshes"], "not UTF-8"),
    (["--prompts", "folder", "-o", "meshes"], "Is a directory"),
    (["--resume", "folder"], "not a run folder"),
    (["--resume", "nothing.run"], "not a run folder"),
    (["--resume", "other.run"], "other.run is not a run of gen3d text-to-mesh"),
    (["--resume", "odd.run"], "odd.run is not a run folder: run.json does not hold an object"),
    (["--resume", "old.run"], "another version"),
    (["--resume", "wrong.run"], "another version, or its run.json is damaged"),
    (["--resume", "cut.run"], "not a run folder"),
    (["a red mug", "-o", "cut.glb"], "cut.run is not a run folder"),
    (["--resume", "old.run", "--quality", "draft"], "--resume goes on with the quality of the run"),
    (["--resume", "old.run", "a red mug"], "--resume goes on with the prompts of the run"),
]  # fmt: skip


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with things in the way."""
    for name in ("folder", "folder.glb", "taken.run", "other.run", "odd.run", "old.run", "wrong.run", "cut.run"):
        (tmp_path / name).mkdir()
    for name in ("file", "file.txt", "taken.run/holiday.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "file.txt").write_text("# nothing\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00a")
    (tmp_path / "other.run" / "run.json").write_text('{"recipe": {"name": "TextToImageRecipe"}}')
    (tmp_path / "odd.run" / "run.json").write_text("[1, 2]")
    (tmp_path / "old.run" / "run.json").write_text('{"recipe": {"name": "TextToMeshRecipe", "prompt": "a mug"}}')
    wrong = '{"recipe": {"name": "TextToMeshRecipe", "prompts": ["a mug"], "output": "a.glb", "steps": "many"}}'
    (tmp_path / "wrong.run" / "run.json").write_text(wrong)
    (tmp_path / "cut.run" / "run.json").write_text('{"recipe": {"name": "TextTo')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("words", "reason"), BAD_WORDS, ids=[" ".join(words)[:60] for words, _ in BAD_WORDS])
def test_bad_input_is_one_line_and_leaves_nothing(crowded: Path, command, words: list[str], reason: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in crowded.rglob("*") if path.is_file()}
    status, told, said = command(*words)
    lines = [line for line in said.splitlines() if "GB of memory" not in line]
    assert status == 2 and not told and len(lines) == 1, said
    assert lines[0].startswith("error: ") and reason in lines[0]
    assert {path: path.stat().st_mtime_ns for path in crowded.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("words", [ONE, MANY])
def test_a_full_disk_is_one_line(
    quick: None, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)  # of the texture
    monkeypatch.chdir(tmp_path)
    status, told, said = command(*words)
    assert status == 2 and not told and said.splitlines()[-1].startswith("error: no space is left on the disk")
    assert not list(tmp_path.rglob("*.glb")) and not list(tmp_path.rglob(".*.tmp*"))


NO_SPACE = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EDQUOT, "quota"), SafetensorError(f"I/O error: {NO_SPACE}"), RuntimeError(f"ffmpeg: {NO_SPACE}")],
)
def test_a_full_disk_is_known_in_all_languages(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    with pytest.raises(SystemExit, match="2"), main_guard():
        raise error
    assert capsys.readouterr().err.startswith("error: no space is left on the disk")
    with pytest.raises(PermissionError), main_guard():
        raise PermissionError(errno.EACCES, "not yours")


# -- damaged ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, with its mesh beside it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_to_mesh, "QUALITIES", dict.fromkeys(QUALITIES, QUICK))
        patch.setattr(shape_runs, "build_mesh", partial(build_mesh, resolution=24, face_budget=1000))
        main(["text-to-mesh", "a red mug", "-o", str(folder / "mug.glb"), "--model", model])
    return folder


@pytest.fixture
def run(quick: None, finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "copy") / "mug.run"


WHOLE = {"step": 3, "seconds": 1.0, "recipe": {}}
NONSENSE = ["{", "", "[]", "3", "[" * 100_000, '{"files": []}', '{"files": {}}']  # to whoever reads it
HALF = [WHOLE | said for said in ({"step": "x"}, {"seconds": None}, {"recipe": 3}, {"phases": 3}, {"phases": [3]})]


@pytest.mark.parametrize("content", [*NONSENSE, *HALF], ids=lambda content: str(content)[:40])
def test_a_checkpoint_that_says_nonsense_is_one_line_that_names_the_file(
    content: str | dict[str, Any], run: Path, command, capfd: pytest.CaptureFixture[str]
) -> None:
    state = run / "checkpoints" / "step-000003" / "state.json"
    files = json.loads(state.read_text())["files"]
    state.write_text(content if isinstance(content, str) else json.dumps(content | {"files": files}))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    status, _, said = command("--resume", run)
    assert status == 2 and said.splitlines()[-1].startswith(f"error: {state} is damaged") and "start" in said
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    if isinstance(content, str):
        with pytest.raises(SystemExit, match="2"):
            main(["export", str(run), "-o", str(run.parent / "again.glb")])
        assert capfd.readouterr().err.startswith(f"error: {state} is damaged")


def test_a_damaged_run_can_be_begun_anew(run: Path, command) -> None:
    state = run / "checkpoints" / "step-000003" / "state.json"
    state.write_text("{")
    assert command("a red mug", "-o", run.with_suffix(".glb"))[0] == 0
    assert newest_checkpoint(run / "checkpoints") == state.parent


def test_damaged_tensors_are_one_line_that_names_the_file(run: Path, command) -> None:
    for kind in ("model", "ema", "optimizer"):
        weights = run / "checkpoints" / "step-000003" / f"{kind}.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(b"\xff" * len(whole))
        status, _, said = command("--resume", run)
        assert status == 2 and said.splitlines()[-1] == f"error: {weights} is damaged: start the run anew"
        weights.write_bytes(whole)


def test_damaged_lines_of_the_log_and_what_stands_beside_checkpoints_do_not_count(run: Path, command) -> None:
    log, newest = run / "log.jsonl", run / "checkpoints" / "step-000003"
    whole = log.read_bytes()
    damaged = [b"{", b"[]", b'{"a": 1}', b'{"step": "x"}', b"\xff", b"[" * 100_000]
    log.write_bytes(b"\n".join(damaged) + b"\n" + whole + b'{"step": 3, "lo')
    for name in ("step-abc", "step-", "step-000004"):  # the last of which is what a deletion may leave
        (newest.parent / name).mkdir()
    assert newest_checkpoint(newest.parent) == newest
    assert command("--resume", run)[0] == 0 and log.read_bytes() == whole


# -- memory ----------------------------------------------------------------------------------------------------


def kept_bytes(function: Callable[[], object], prior: Backbone) -> int:
    """What a function keeps for the backward pass, each storage once, without the prior's weights."""
    weights = {p.untyped_storage().data_ptr() for m in prior.named_models().values() for p in m.parameters()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(storage.nbytes() for storage in kept.values())


def test_the_estimate_of_memory_is_within_a_factor_of_two(model: str) -> None:
    prior = Backbone.load(model)
    images = torch.rand(2, 3, prior.image_size, prior.image_size, requires_grad=True)
    encoder = kept_bytes(lambda: prior.encode_images(images), prior)
    assert encoder / 2 <= kept_by_encoder(prior, 2) <= 2 * encoder

    config = DreamFusionConfig(steps=10, views=2, coarse_size=64, refine_at=1.0, shaded=1.0)
    task = DreamFusionTask(Model(0), prior, "a red mug", config)
    task.loss(task.model, task.batch(0, torch.arange(2), 2))  # looks at the cells once
    batch = task.batch(9, torch.arange(2), 2)
    step = kept_bytes(lambda: task.loss(task.model, batch), prior)
    assert step / 2 <= kept_by_renderer(prior.image_size, config) <= 2 * step  # pictures alone: no encoder in it


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "pixart"])
def test_memory_is_told_for_every_family(tiny_folder, family: str) -> None:
    prior = Backbone.load(tiny_folder(family))
    need = memory_needed(prior, QUICK)
    files = sum(path.stat().st_size for path in tiny_folder(family).rglob("*.safetensors"))
    assert 0.8 * files <= need.weights <= 1.2 * files and need.step > 0
    more = memory_needed(prior, replace(QUICK, views=4))
    assert more.step == 2 * need.step and more.weights == need.weights


def test_memory_in_words() -> None:
    said = "about 4.9 GB of memory (3.4 for the weights, 1 for a step, 0.5 for the program)"
    assert str(Memory(3_400_000_000, 1_000_000_000, 500_000_000)) == said
    assert str(Memory(103_000_000_000, 0, 0)) == "about 100 GB of memory (100 for the weights)"
    assert str(Memory(3_400_000_000, 600_000_000, 0)) == "about 4 GB of memory (3.4 for the weights, 0.6 for a step)"


# -- published checkpoints -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "pixart"])
def test_any_folder_of_a_known_family_is_a_prior(
    quick: None, command, tiny_folder, tmp_path: Path, family: str
) -> None:
    """Random weights, three steps: the way is the same as for a published checkpoint."""
    output = tmp_path / "mug.glb"
    status, told, said = command("a red mug", "-o", output, "--model", tiny_folder(family), "--steps", 3)
    assert status == 0 and told["metrics"]["watertight"], said
    log = [json.loads(line) for line in (tmp_path / "mug.run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 3 and log[-1]["sds"] > 0 and log[-1]["gradient_norm"] > 0
    assert load_mesh(output).texture is not None


def test_pictures_reach_a_prior_at_its_own_size_with_sizes_and_both_encoders(
    quick: None, command, tiny_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    load = Backbone.load.__func__  # type: ignore[attr-defined]

    def watched(cls: type[Backbone], *rest: Any) -> Backbone:
        prior = load(cls, *rest)
        prior.family.denoiser.register_forward_pre_hook(
            lambda _module, arguments, named: seen.append({"x_t": arguments[0], **named}), with_kwargs=True
        )
        return prior

    monkeypatch.setattr(Backbone, "load", classmethod(watched))
    assert command("a red mug", "-o", tmp_path / "mug.glb", "--model", tiny_folder("sdxl"))[0] == 0
    assert len(seen) == 3
    for call in seen:
        assert call["x_t"].shape == (8, 4, 8, 8)  # two views, without text and with three; 16 pixels are 8 latents
        assert call["encoder_hidden_states"].shape[2] == 16 + 20  # the widths of the two encoders
        added = call["added_cond_kwargs"]
        assert added["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 8
        assert added["text_embeds"].any(dim=1).tolist() == 2 * [False] + 6 * [True]


# -- killed ----------------------------------------------------------------------------------------------------

STEPS = 30
KILLED = f"""
import sys
from dataclasses import replace
from functools import partial
from gen3d.__main__ import main
from gen3d.dreamfusion import pipeline as text_to_mesh
from gen3d.dreamfusion.recipe import DreamFusionConfig
from gen3d.shaping import runs as shape_runs

often = text_to_mesh.training_recipe
text_to_mesh.training_recipe = lambda *given: replace(often(*given), checkpoint_every=3, log_every=1)
text_to_mesh.QUALITIES = {{"normal": DreamFusionConfig(steps={STEPS}, views=2, coarse_size=12, refine_at=1.0)}}
shape_runs.build_mesh = partial(shape_runs.build_mesh, resolution=24, face_budget=1000)
main(["text-to-mesh", *sys.argv[1:]])
"""


def start(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", KILLED, *words, "--device", "cpu"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def steps_of(run: Path) -> Iterator[int]:
    path = run / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    yield from (json.loads(line)["step"] for line in lines if line.endswith("\n"))


def killed_and_resumed(folder: Path, model: str, kills: list[int], dice: random.Random) -> bytes:
    """The mesh of a run that is killed shortly after each of these steps, and gone on with."""
    output, run = folder / "mug.glb", folder / "mug.run"
    words = ["a red mug", "-o", str(output), "--model", model]
    for step in kills:
        process = start(*words)
        while not any(taken >= step for taken in steps_of(run)):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.002)
        time.sleep(dice.random() * 0.1)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not output.exists(), kills
        words = ["--resume", str(run)]
    finish(start(*words))
    return output.read_bytes()


def test_a_run_killed_three_times_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path, model: str) -> None:
    dice = random.Random()  # other moments each time
    kills = sorted(dice.sample(range(1, STEPS - 2), 3))
    unbroken = start("a red mug", "-o", str(tmp_path / "whole" / "mug.glb"), "--model", model)
    broken = killed_and_resumed(tmp_path / "broken", model, kills, dice)
    finish(unbroken)
    assert broken == (tmp_path / "whole" / "mug.glb").read_bytes(), kills


@pytest.mark.slow
def test_twenty_runs_killed_at_random_end_with_the_same_bytes(tmp_path: Path, model: str) -> None:
    dice = random.Random()
    finish(start("a red mug", "-o", str(tmp_path / "whole" / "mug.glb"), "--model", model))
    whole = (tmp_path / "whole" / "mug.glb").read_bytes()
    for turn in range(20):
        step = dice.randrange(1, STEPS - 2)
        assert killed_and_resumed(tmp_path / str(turn), model, [step], dice) == whole, step


# -- two at once -----------------------------------------------------------------------------------------------

TURNS, RIVAL_STEPS = 3, 8
RIVAL = KILLED.replace(f"steps={STEPS}", f"steps={RIVAL_STEPS}").replace('main(["text-to-mesh", *sys.argv[1:]])', """
import random, time
from pathlib import Path
prompt, mine, other, model = sys.argv[1:]
for turn in range(TURNS):
    Path(f"{turn}.{mine}").touch()
    while not Path(f"{turn}.{other}").exists():
        time.sleep(0.01)
    time.sleep(random.random() * 0.4)
    try:
        main(["text-to-mesh", prompt, "-o", f"{turn}/mug.glb", "--model", model, "--device", "cpu"])
        print("status 0")
    except SystemExit as leaving:
        print("status", leaving.code)
""").replace("TURNS", str(TURNS))  # fmt: skip


def test_two_with_one_output_are_never_mixed(tmp_path: Path, model: str) -> None:
    """The second says that the run is in use and leaves it alone, or comes late enough to begin it anew."""
    prompts = {"red": "a red mug", "blue": "a blue car"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    rivals = {
        name: subprocess.Popen([sys.executable, "-c", RIVAL, prompts[name], name, other, model],
                               cwd=tmp_path, env=environment, **pipes)
        for name, other in (("red", "blue"), ("blue", "red"))
    }  # fmt: skip
    said = {name: process.communicate(timeout=600) for name, process in rivals.items()}
    statuses = {name: [int(code) for code in re.findall(r"status (\d)", out)] for name, (out, _) in said.items()}
    assert all(len(codes) == TURNS for codes in statuses.values()), said
    pairs = list(zip(statuses["red"], statuses["blue"], strict=True))
    assert {*pairs} <= {(0, 2), (2, 0), (0, 0)} and {*pairs} & {(0, 2), (2, 0)}, said
    refusals = [line for _, errors in said.values() for line in errors.splitlines() if line.startswith("error: ")]
    assert len(refusals) == sum(map(sum, pairs)) // 2
    numbers = "|".join(str(process.pid) for process in rivals.values())
    refusal = rf"error: \d+/mug\.run is in use by process ({numbers}): wait, or name another output"
    assert all(re.fullmatch(refusal, line) for line in refusals), refusals
    meshes: dict[str, set[bytes]] = {name: set() for name in prompts}
    for turn in range(TURNS):
        folder = tmp_path / str(turn)
        assert names(folder) == ["mug.glb", "mug.run"] and ".lock" not in names(folder / "mug.run")
        manifest, result = (json.loads((folder / "mug.run" / name).read_text()) for name in ("run.json", "result.json"))
        (winner,) = [name for name, prompt in prompts.items() if manifest["recipe"]["prompts"] == [prompt]]
        assert result["recipe"]["prompts"] == [prompts[winner]] and statuses[winner][turn] == 0
        assert result["outputs"] == {"mug.glb": digest(folder / "mug.glb")}
        log = [json.loads(line)["step"] for line in (folder / "mug.run" / "log.jsonl").read_text().splitlines()]
        assert log == list(range(1, RIVAL_STEPS + 1))
        meshes[winner].add((folder / "mug.glb").read_bytes())
    assert all(len(same) <= 1 for same in meshes.values()) and not meshes["red"] & meshes["blue"]


def test_a_folder_in_use_is_refused_and_left_as_it_is(quick: None, command, tmp_path: Path) -> None:
    words = ("a red mug", "a blue mug", "-o", tmp_path / "meshes")
    assert command(*words)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with locked(tmp_path / "meshes"):
        status, told, said = command(*words, "--seed", 1)
    assert status == 2 and not told and f"meshes is in use by process {os.getpid()}: wait" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with working_in(tmp_path / "meshes" / "a-red-mug.run"):  # one of them is made alone
        status, told, said = command(*words, "--seed", 1)
    assert status == 2 and told["metrics"]["made"] == 1 and "a-red-mug.run is in use" in said
    of_red = [path for path in before if "a-red-mug" in str(path)]
    assert len(of_red) > 5 and all(path.read_bytes() == before[path] for path in of_red)


def test_what_a_run_depends_on_is_what_its_manifest_says(model: str, tmp_path: Path) -> None:
    recipe = TextToMeshRecipe(prompts=("a red mug",), output=tmp_path / "a.glb", model=model, seed=4, steps=9)
    run = shape_runs.start_anew(tmp_path / "a.run", recipe)
    again = shape_runs.recipe_to_go_on(run, TextToMeshRecipe(resume=run, device="cpu"))
    assert again == replace(recipe, device="cpu")
    assert text_to_mesh.settings_of(recipe) == plain(text_to_mesh.settings_of(again))
    assert text_to_mesh.config_of(recipe) == replace(QUALITIES["normal"], steps=9)
