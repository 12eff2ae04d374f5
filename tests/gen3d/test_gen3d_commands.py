"""`gen3d export`, `gen3d render`, `gen3d mesh check`, and the help of all commands."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.mesh_fields import BOX, arrows, checker, psnr, soft, sphere
from helpers.photographed import write_blender_scene
from safetensors.torch import load_file, save_file

from core2d.app.errors import InputError
from core2d.app.outputs import write_json
from core2d.media.pictures import read_image
from core2d.media.videos import read_video
from gen3d.__main__ import main
from gen3d.dreamfusion import pipeline as text_to_mesh
from gen3d.dreamfusion.recipe import DreamFusionConfig, TextToMeshRecipe
from gen3d.mesh import TexturedMesh, build_mesh, check_mesh, load_mesh, save_mesh
from gen3d.mesh.pictures import REACH, around, in_view, picture
from gen3d.nerf import command as nerf_run
from gen3d.shaping import runs as shape_runs
from gen3d.shaping.model import Model

BIN = Path(sys.executable).parent
Told = tuple[int, dict[str, Any], str]


@pytest.fixture(autouse=True, scope="module")
def coarse() -> Iterator[None]:
    """Runs give coarse meshes, which are made at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape_runs, "build_mesh", partial(build_mesh, resolution=24, face_budget=1000))
        yield


@pytest.fixture(scope="module")
def ball() -> TexturedMesh:
    """A checkered ball of 0.8 m."""
    density = soft(partial(sphere, radius=0.4))
    return build_mesh(density, checker, BOX / 2, resolution=32, face_budget=800, texture_size=128)[0]


@pytest.fixture(scope="module")
def finished(tiny_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on a random prior, with its mesh beside it: mug.glb and mug.run."""
    folder = tmp_path_factory.mktemp("finished")
    quick = DreamFusionConfig(steps=3, views=2, coarse_size=16, refine_at=1.0)
    recipe = TextToMeshRecipe(
        prompts=("a red mug",), output=folder / "mug.glb", model=str(tiny_folder("sd1")), device="cpu"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_to_mesh, "QUALITIES", {"normal": quick})
        text_to_mesh.follow_one(recipe)
    return folder


# -- help ------------------------------------------------------------------------------------------------------

HELP = {
    "": ["text-to-mesh", "export", "render", "mesh check"],
    "mesh": ["mesh check"],
    "text-to-mesh": ["PROMPT...", "--prompts FILE", "-o PATH", "--quality", "--steps", "--turntable", "--resume RUN"],
    "export": ["RUN|MESH", "-o PATH"],
    "render": ["RUN|MESH", "--azimuth", "--elevation", "--size", "--turntable", "-o PATH"],
    "mesh check": ["FILE", "--json", "exit status 1"],
}


@pytest.mark.parametrize("words", HELP)
def test_help_takes_half_a_second_at_most(words: str) -> None:
    for _ in range(5):  # the best of five counts
        before = resource.getrusage(resource.RUSAGE_CHILDREN)  # processor time: others at work do not count
        command = [BIN / "gen3d", *words.split(), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if seconds <= 0.5:
            break
    assert seconds <= 0.5 and done.stderr == ""
    for piece in HELP[words]:
        assert piece in done.stdout


def test_recipes_import_nothing_heavy() -> None:
    program = (
        "import sys; from gen3d.__main__ import main\n"
        "try: main(['render', 'nothing.glb'])\n"
        "except SystemExit: print(*{'torch', 'numpy', 'trimesh', 'PIL', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "" and done.stderr == "error: no run and no mesh at nothing.glb\n"


# -- device ----------------------------------------------------------------------------------------------------


def test_the_cpu_that_was_asked_for_is_where_fields_are_trained(
    command, tiny_folder, zero123_folder, cut_out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever accelerator is beside it; and of such a run that cannot even begin, nothing stays."""
    asked: list[torch.device | None] = []

    def train(task: Any, *_: Any, device: torch.device | None = None, **__: Any) -> None:
        assert (tmp_path / "out.run" / "run.json").is_file()
        asked.append(device)
        raise InputError("enough")

    monkeypatch.setattr(shape_runs, "train", train)
    monkeypatch.setattr(nerf_run, "train", train)
    write_blender_scene(tmp_path / "scene")
    before = sorted(tmp_path.rglob("*"))
    for words in (
        ("text-to-mesh", "a red mug", "-o", tmp_path / "out.glb", "--model", tiny_folder("sd1")),
        ("image-to-3d", cut_out, "-o", tmp_path / "out.glb", "--model", zero123_folder),
        ("nerf", tmp_path / "scene", "-o", tmp_path / "out.run"),
    ):
        status, _, said = command(*words, "--device", "cpu")
        assert status == 2 and said.endswith("error: enough\n")
        assert sorted(tmp_path.rglob("*")) == before
    assert asked == [torch.device("cpu")] * 3


# -- export ----------------------------------------------------------------------------------------------------


def test_a_run_is_exported_to_the_bytes_that_it_wrote(finished: Path, command, tmp_path: Path) -> None:
    status, told, _ = command("export", finished / "mug.run", "-o", tmp_path / "mug.glb", "--device", "cpu")
    assert status == 0 and told["outputs"] == [str(tmp_path / "mug.glb")]
    assert (tmp_path / "mug.glb").read_bytes() == (finished / "mug.glb").read_bytes()


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_a_mesh_is_exported_to_every_format(ball: TexturedMesh, command, tmp_path: Path, suffix: str) -> None:
    save_mesh(tmp_path / "ball.glb", ball)
    status, told, _ = command("export", tmp_path / "ball.glb", "-o", tmp_path / f"out{suffix}")
    found = load_mesh(tmp_path / f"out{suffix}")
    assert status == 0 and told["metrics"] == {"faces": len(ball.faces)}
    assert told["outputs"] == [str(path) for path in save_mesh(tmp_path / f"out{suffix}", ball)]
    np.testing.assert_allclose(found.bounds, ball.bounds, atol=1e-6)
    assert (found.texture is not None) == (suffix in (".glb", ".obj"))


# -- render ----------------------------------------------------------------------------------------------------


def test_views_are_those_of_the_sides_that_are_named(ball: TexturedMesh, command, tmp_path: Path) -> None:
    save_mesh(tmp_path / "ball.glb", ball)
    words = ["render", tmp_path / "ball.glb", "--azimuth", 0, 90, -45, "--elevation", 35, "--size", 64]
    status, told, _ = command(*words, "-o", tmp_path / "views.png", "--turntable", tmp_path / "turn.mp4")
    assert status == 0 and told["outputs"] == [str(tmp_path / "views.png"), str(tmp_path / "turn.mp4")]
    sheet = torch.from_numpy(read_image(tmp_path / "views.png")) / 255  # (h, w, 3)
    assert sheet.shape == (64, 3 * 64, 3)
    right = picture(load_mesh(tmp_path / "ball.glb"), around(4, 35), 64)[1].movedim(0, -1)  # 90 degrees
    assert psnr(sheet[:, 64:128], right) > 45 > 30 > psnr(sheet[:, :64], right)
    frames, fps = read_video(tmp_path / "turn.mp4")
    assert frames.shape == (48, 64, 64, 3) and fps == 16


def test_a_run_is_drawn_as_its_mesh_is(finished: Path, command, tmp_path: Path) -> None:
    for name, source in (("run.png", "mug.run"), ("mesh.png", "mug.glb")):
        assert command("render", finished / source, "-o", tmp_path / name, "--size", 32, "--device", "cpu")[0] == 0
    pictures = [read_image(tmp_path / name).astype(int) for name in ("run.png", "mesh.png")]
    assert pictures[0].shape == (2 * 32, 4 * 32, 3) and np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (100.0, 0.0), (0.001, 0.0), (1.0, 40.0), (0.1, 0.6)])
def test_a_mesh_of_any_size_and_place_is_seen_whole(scale: float, offset: float) -> None:
    mesh = arrows()
    moved = TexturedMesh(mesh.vertices * scale + [offset, 0, 0], mesh.faces, colors=mesh.colors)
    seen = in_view(moved)
    assert np.linalg.norm(seen.vertices, axis=1).max() <= REACH[1] + 1e-6
    covered = (picture(seen, around(8), 64) < 0.99).any(dim=1)  # (8, 64, 64)
    assert (covered.flatten(1).sum(1) > 10).all()
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert not covered[:, border].any()


def test_a_mesh_of_our_own_size_is_not_moved(ball: TexturedMesh) -> None:
    assert in_view(ball) is ball


# -- check -----------------------------------------------------------------------------------------------------


def test_a_sound_mesh_has_no_problem_and_status_0(ball: TexturedMesh, command, tmp_path: Path) -> None:
    save_mesh(tmp_path / "ball.glb", ball)
    status, told, said = command("mesh", "check", tmp_path / "ball.glb")
    report = check_mesh(load_mesh(tmp_path / "ball.glb"))
    assert status == 0 and said == "" and told["outputs"] == [] and told["seed"] is None
    assert told["metrics"]["problems"] == [] and told["metrics"]["watertight"] is True
    assert told["metrics"]["faces"] == report.faces and told["metrics"]["volume"] == report.volume


def test_a_broken_mesh_is_told_in_sentences_and_status_1(
    ball: TexturedMesh, command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_mesh(tmp_path / "open.ply", TexturedMesh(ball.vertices, ball.faces[5:]))
    status, told, said = command("mesh", "check", tmp_path / "open.ply")
    assert status == 1 and said == ""
    (problem,) = told["metrics"]["problems"]
    assert problem.startswith("The surface is open: ")
    with pytest.raises(SystemExit, match="1"):
        main(["mesh", "check", str(tmp_path / "open.ply")])
    printed = capfd.readouterr().out
    assert f"problems: {problem}\n" in printed and "watertight: False\n" in printed and "None" not in printed


# -- what is wrong ---------------------------------------------------------------------------------------------

BAD_WORDS = [
    (["export", "nothing.glb", "-o", "a.obj"], "no run and no mesh at nothing.glb"),
    (["export", "text.glb", "-o", "a.obj"], "text.glb cannot be read as a mesh"),
    (["export", "empty.glb", "-o", "a.obj"], "empty.glb cannot be read as a mesh"),
    (["export", "text.txt", "-o", "a.obj"], "must end in one of .glb, .gltf, .obj, .ply, .stl"),
    (["export", "folder", "-o", "a.obj"], "folder is not a run folder"),
    (["export", "other.run", "-o", "a.obj"], "other.run is not a run of gen3d text-to-mesh"),
    (["export", "young.run", "-o", "a.obj"], "young.run has no checkpoint yet"),
    (["export", "ball.glb", "-o", "a.fbx"], "must end in one of .glb, .obj, .ply, .stl"),
    (["export", "ball.glb", "-o", "folder"], "must end in one of .glb"),
    (["export", "ball.glb", "-o", "text.txt/a.obj"], "Not a directory"),
    (["export", "ball.glb"], "-o PATH, --output PATH"),
    (["export", "ball.glb", "-o", "a.obj", "--device", "cuda:99"], "--device cuda:99"),
    (["export", "ball.glb", "-o", "a.obj", "--dtype", "float16"], "float32 only"),
    (["render", "ball.glb"], "nothing to write"),
    (["render", "ball.glb", "-o", "a.gif"], "must end in one of .png"),
    (["render", "ball.glb", "--turntable", "a.png"], "must end in one of .mp4"),
    (["render", "ball.glb", "-o", "a.png", "--azimuth"], "--azimuth names 0 sides"),
    (["render", "ball.glb", "-o", "a.png", "--azimuth", "nan"], "--azimuth nan"),
    (["render", "ball.glb", "-o", "a.png", "--elevation", "91"], "--elevation 91"),
    (["render", "ball.glb", "-o", "a.png", "--size", "4096"], "--size 4096: give a number from 16 to 1024"),
    (["render", "text.glb", "-o", "a.png"], "text.glb cannot be read as a mesh"),
    (["mesh", "check", "nothing.glb"], "no mesh at nothing.glb"),
    (["mesh", "check", "text.glb"], "text.glb cannot be read as a mesh"),
    (["mesh", "check", "nan.ply"], "nan.ply cannot be read as a mesh"),
    (["mesh", "check", "folder"], "must end in one of"),
    (["mesh"], ""),
    (["mesh", "mend", "ball.glb"], "'mesh mend ball.glb' is no command of gen3d"),
]


@pytest.fixture(scope="module")
def crowded(ball: TexturedMesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mesh, and with things that are none."""
    folder = tmp_path_factory.mktemp("crowded")
    save_mesh(folder / "ball.glb", ball)
    (folder / "folder").mkdir()
    (folder / "empty.glb").touch()
    for name in ("text.glb", "text.txt"):
        (folder / name).write_text("a red mug")
    corners = "\n".join(f"{x} 0 {z}" for x, z in (("nan", 0), (1, 0), (0, 1)))
    header = ["ply", "format ascii 1.0", "element vertex 3", *(f"property float {axis}" for axis in "xyz")]
    header += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    (folder / "nan.ply").write_text("\n".join([*header, corners, "3 0 1 2", ""]))
    for name, recipe in (("other.run", {"name": "TextToImageRecipe"}), ("young.run", {"name": "TextToMeshRecipe"})):
        write_json(folder / name / "run.json", {"recipe": recipe})
    return folder


@pytest.mark.parametrize(("words", "reason"), BAD_WORDS, ids=[" ".join(words)[:60] for words, _ in BAD_WORDS])
def test_bad_input_is_one_line_and_leaves_nothing(
    crowded: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    monkeypatch.chdir(crowded)
    before = sorted(crowded.rglob("*"))
    if words == ["mesh"]:
        main(words)  # a group alone shows its commands
        assert "mesh check" in capfd.readouterr().out
        return
    with pytest.raises(SystemExit) as leaving:
        main(words)
    said = capfd.readouterr()
    assert leaving.value.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and reason in said.err
    assert sorted(crowded.rglob("*")) == before


def field_of_run(finished: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a run whose averaged weights are changed."""
    shape_runs.saved_recipe(finished / "mug.run")
    checkpoint = max((finished / "mug.run" / "checkpoints").iterdir())
    copied = folder / "mug.run" / "checkpoints" / checkpoint.name
    copied.mkdir(parents=True)
    for file in (*checkpoint.iterdir(), finished / "mug.run" / "run.json"):
        place = copied if file.parent == checkpoint else folder / "mug.run"
        (place / file.name).write_bytes(file.read_bytes())
    weights = load_file(copied / "ema.safetensors")
    change(weights)
    save_file(weights, copied / "ema.safetensors")
    return folder / "mug.run"


def make_empty(weights: dict[str, torch.Tensor]) -> None:
    """Nothing anywhere: the density network says a large negative number."""
    layers = [name for name in weights if "density_network" in name]
    for name in weights:
        weights[name].fill_(-1.0 if name == layers[-1] else 1.0)


def make_nan(weights: dict[str, torch.Tensor]) -> None:
    weights["field.table"][0] = torch.nan


@pytest.mark.parametrize(("change", "reason"), [(make_empty, "the field is empty"), (make_nan, "NaN or infinite")])
def test_a_field_without_a_surface_is_one_line(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Callable[..., None], reason: str
) -> None:
    run = field_of_run(finished, tmp_path, change)
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(run), "-o", str(tmp_path / "mug.glb")])
    said = capfd.readouterr()
    assert said.err.startswith("error: the field") and reason in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "mug.glb").exists()


def test_a_checkpoint_of_another_field_is_one_line(finished: Path, tmp_path: Path, capfd) -> None:
    run = field_of_run(finished, tmp_path, lambda weights: weights.update({"field.table": torch.zeros(3, 2)}))
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(run), "-o", str(tmp_path / "mug.glb")])
    assert "has no checkpoint yet" in capfd.readouterr().err  # of another size: not what was written


@pytest.mark.parametrize("content", ["{", "", '"thick"', "[1]", "NaN", "-3", "true", "[" * 100_000])
@pytest.mark.parametrize("name", ["export", "render"])
def test_a_damaged_level_is_one_line_that_names_the_file(
    finished: Path, tmp_path: Path, command, name: str, content: str
) -> None:
    run = field_of_run(finished, tmp_path, lambda weights: None)
    (run / "level.json").write_text(content)
    output = tmp_path / ("mug.glb" if name == "export" else "mug.png")
    status, told, said = command(name, run, "-o", output, "--device", "cpu")
    assert status == 2 and not told and said.startswith(f"error: {run / 'level.json'} ") and said.count("\n") == 1
    assert "start the run anew" in said and not output.exists()


@pytest.mark.parametrize("content", ["{", "[1, 2]", "3", '{"recipe": []}', '{"recipe": {"name": ["NerfRecipe"]}}'])
@pytest.mark.parametrize("name", ["export", "render", "eval"])
def test_a_damaged_manifest_is_one_line_that_names_the_run(
    finished: Path, tmp_path: Path, command, name: str, content: str
) -> None:
    run = field_of_run(finished, tmp_path, lambda weights: None)
    (run / "run.json").write_text(content)
    output = tmp_path / ("mug.glb" if name == "export" else "mug.png")
    status, told, said = command(name, run, *(() if name == "eval" else ("-o", output)))
    assert status == 2 and not told and said.startswith(f"error: {run} is not a run") and said.count("\n") == 1
    assert not output.exists()


def test_a_new_model_has_the_names_that_are_changed_above() -> None:
    names = [name for name, _ in Model(0).named_parameters()]
    assert "field.table" in names and any("density_network" in name for name in names)
