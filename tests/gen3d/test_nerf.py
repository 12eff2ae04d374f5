"""NeRF: both systems learn a small scene, and what a run of it gives."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.photographed import ball_with_box, write_blender_scene
from safetensors.torch import load_file
from scipy.spatial import KDTree

from core2d.app.provenance import digest
from core2d.app.runs import working_in
from core2d.media.pictures import read_image
from core2d.media.videos import read_video
from core2d.training.checkpoints import newest_checkpoint
from gen3d.__main__ import main
from gen3d.data.photographs import Photographs
from gen3d.data.pictures import Split
from gen3d.data.placing import place
from gen3d.data.scene import CapturedScene, load_scene
from gen3d.mesh import load_mesh
from gen3d.nerf import command as nerf_run
from gen3d.nerf import export as nerf_export
from gen3d.nerf.recipe import FastConfig, VanillaConfig
from gen3d.nerf.task import (
    CameraCorrections,
    FastModel,
    FastTask,
    VanillaModel,
    VanillaTask,
    doubtful_views,
    look,
    psnr,
    ssim,
    training_recipe,
)
from gen3d.toybox.mesh_scores import chamfer, surface_points

ROOT = Path(__file__).resolve().parents[2]
SMALL = FastConfig(
    levels=6, coarsest=8, finest=96, log2_table=14, width=16, cells=32, samples_across=64, samples=8000, most_rays=1024
)
SMALL_VANILLA = VanillaConfig(rays=256, coarse=16, fine=16, width=64, depth=4, learning_rate=2e-3)
Told = tuple[int, dict[str, Any], str]


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Runs train small fields."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nerf_run, "FastConfig", lambda: SMALL)
        patch.setattr(nerf_run, "VANILLA_ON_A_CPU", SMALL_VANILLA)
        patch.setattr(nerf_export, "MESH_RESOLUTION", 64)
        patch.setattr(nerf_export, "TEXTURE_SIZE", 256)
        patch.setattr(nerf_export, "FACES", 6000)
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Far from the origin: it has to be found."""
    return write_blender_scene(tmp_path_factory.mktemp("scene"), offset=(5.0, -3.0, 1.0))


@pytest.fixture(scope="module")
def run(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ball.run"
    main(["nerf", str(scene), "-o", str(folder), "--steps", "250", "--device", "cpu", "--json"])
    return folder


def photographs_of(scene: Path, split: Split = "train") -> Photographs:
    loaded = load_scene(scene)
    placement = place(loaded, Photographs(loaded.of("train")))
    return Photographs(loaded.of(split)).moved(placement)


def test_a_run_learns_the_scene_and_says_how_well(run: Path, scene: Path, command: Callable[..., Told]) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["psnr"] > 24 and metrics["ssim"] > 0.85
    assert (metrics["background"], metrics["views"], metrics["split"]) == ("white", 3, "test")
    assert (metrics["steps"], metrics["training_views"], metrics["skipped"]) == (250, 24, [])
    status, told, _ = command("eval", run)
    assert status == 0
    measured = {name: told["metrics"][name] for name in ("psnr", "ssim")}
    assert measured == pytest.approx({name: metrics[name] for name in measured}, rel=1e-5)
    strip = read_image(run / "views.png")
    assert strip.shape == (80, 120, 3)  # three views, photographs above
    assert psnr(*(torch.from_numpy(part / 255.0) for part in (strip[:40], strip[40:]))) > 22
    assert list((run / "previews").glob("step-*.png"))


def test_a_run_is_filmed_from_around_and_along_cameras_of_a_file(
    run: Path, scene: Path, tmp_path: Path, command: Callable[..., Told]
) -> None:
    status, _, _ = command("render", run, "--path", "orbit", "-o", tmp_path / "turn.mp4", "--size", 32)
    frames, fps = read_video(tmp_path / "turn.mp4")
    assert status == 0 and frames.shape == (96, 32, 32, 3) and fps == 24
    assert np.abs(frames[0].astype(float) - frames[48]).mean() > 5  # from the other side
    status, _, _ = command("render", run, "--path", scene / "transforms_test.json", "-o", tmp_path / "test.mp4")
    frames, _ = read_video(tmp_path / "test.mp4")
    names = [frame["file_path"] for frame in json.loads((scene / "transforms_test.json").read_text())["frames"]]
    assert len(frames) == len(names)
    for frame, name in zip(frames, names, strict=True):
        picture = read_image(scene / f"{name}.png").astype(float) / 255
        truth = picture[..., :3] * picture[..., 3:] + 1 - picture[..., 3:]
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(frame / 255.0).movedim(-1, 0)[None], (40, 40), mode="area"
        )[0]
        assert psnr(resized.movedim(0, -1), torch.from_numpy(truth)) > 19
    status, _, _ = command("render", run, "--azimuth", 0, 90, "-o", tmp_path / "views.png", "--size", 24)
    assert status == 0 and read_image(tmp_path / "views.png").shape == (24, 48, 3)


def test_the_mesh_lies_where_the_object_is(run: Path, tmp_path: Path, command: Callable[..., Told]) -> None:
    status, told, said = command("export", run, "-o", tmp_path / "ball.ply")
    assert status == 0, said
    assert told["metrics"]["bodies"] == 1 and told["metrics"]["watertight"]
    mesh, truth = load_mesh(tmp_path / "ball.ply"), ball_with_box()
    points = surface_points(mesh.vertices - np.array([5.0, -3.0, 1.0], np.float32), mesh.faces)
    assert chamfer(points, surface_points(truth.vertices, truth.faces)) < 0.035  # other CPUs give other bits
    status, _, _ = command("export", run, "-o", tmp_path / "half.glb", "--box", 4, -4, 1.0, 6, -2, 2)
    assert status == 0 and load_mesh(tmp_path / "half.glb").bounds[0, 2] > 0.95
    status, _, _ = command("export", run, "-o", tmp_path / "colours.ply", "--colors", "vertices")
    assert status == 0 and load_mesh(tmp_path / "colours.ply").colors is not None


def test_points_and_data_sets_come_out_of_a_run(
    run: Path, scene: Path, tmp_path: Path, command: Callable[..., Told]
) -> None:
    status, told, _ = command("export", run, "--as", "points", "-o", tmp_path / "points.ply")
    assert status == 0 and told["metrics"]["points"] > 1000
    import trimesh

    loaded: Any = trimesh.load(tmp_path / "points.ply")
    cloud = np.asarray(loaded.vertices) - np.array([5.0, -3.0, 1.0])
    truth = ball_with_box()
    nearest, _ = KDTree(surface_points(truth.vertices, truth.faces)).query(cloud)
    assert np.median(nearest) < 0.05
    status, told, _ = command("export", run, "--as", "transforms", "-o", tmp_path / "copy")
    assert status == 0
    before, after = load_scene(scene), load_scene(tmp_path / "copy")
    assert len(after.views) == len(before.views) == 27
    for one, other in zip(before.views, after.views, strict=True):
        assert np.abs(one.camera_to_world - other.camera_to_world).max() < 1e-6
        assert (one.split, one.lens) == (other.split, other.lens)
        assert (read_image(one.path) == read_image(other.path)).all()


def test_the_networks_of_the_paper_learn_too(scene: Path, tmp_path: Path, command: Callable[..., Told]) -> None:
    words = ("nerf", scene, "-o", tmp_path / "v.run", "--system", "vanilla", "--steps", 120, "--device", "cpu")
    status, told, said = command(*words)
    assert status == 0, said
    assert told["metrics"]["psnr"] > 16


def test_minutes_are_of_the_whole_run(scene: Path, tmp_path: Path, command: Callable[..., Told]) -> None:
    started = time.perf_counter()
    status, told, _ = command("nerf", scene, "-o", tmp_path / "m.run", "--minutes", 0.1, "--background", "random")
    assert status == 0 and time.perf_counter() - started < 12
    assert told["metrics"]["seconds_of_training"] < 6.5 and told["metrics"]["background"] == "white"
    steps = told["metrics"]["steps"]
    status, told, _ = command("nerf", "--resume", tmp_path / "m.run")
    assert status == 0 and steps <= told["metrics"]["steps"] < 1.5 * steps  # what loading left of its time
    assert told["metrics"]["seconds_of_training"] < 6.5


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("nerf", "-o", "x.run"), "no scene"),
        (("nerf", "nowhere", "-o", "x.run"), "no folder at nowhere"),
        (("nerf", "SCENE"), "no output"),
        (("nerf", "SCENE", "-o", "x.run", "--steps", "3", "--minutes", "1"), "give one of them"),
        (("nerf", "SCENE", "-o", "x.run", "--minutes", "nan"), "--minutes nan"),
        (("nerf", "SCENE", "-o", "x.run", "--dtype", "float16"), "float32 only"),
        (("nerf", "--resume", "SCENE"), "is not a run folder"),
        (("nerf", "--resume", "RUN", "--steps", "9"), "leave yours out"),
        (("nerf", "--resume", "nowhere.run"), "is not a run folder"),
        (("nerf", "SCENE", "-o", "/proc/x.run", "--steps", "1"), "cannot write into /proc/x.run"),
        (("eval", "SCENE"), "is not a run folder"),
        (("eval", "RUN", "--split", "val"), "no val views"),
        (("export", "RUN", "-o", "x.glb", "--box", "1", "0", "0", "0", "1", "1"), "the low corner, then the high"),
        (("export", "RUN", "-o", "x.glb", "--as", "points"), ".ply"),
        (("export", "RUN", "-o", "x.glb", "--box", "50", "50", "50", "51", "51", "51"), ""),
        (("render", "RUN", "-o", "x.mp4", "--path", "nowhere.json"), "nowhere.json"),
        (("render", "RUN", "-o", "x.png", "--path", "orbit"), "must end in one of .mp4"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: tuple[str, ...],
    complaint: str,
    run: Path,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Told],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"SCENE": str(scene), "RUN": str(run)}
    status, _, said = command(*(places.get(word, word) for word in words))
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and complaint in errors[0], said
    assert "Traceback" not in said and not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_not_written_into(scene: Path, tmp_path: Path, command: Callable[..., Told]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    status, _, said = command("nerf", scene, "-o", tmp_path / "mine", "--steps", 1)
    assert status == 2 and "is not a run folder" in said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_truncated_picture_is_named_and_can_be_left_out(
    scene: Path, tmp_path: Path, command: Callable[..., Told]
) -> None:
    copy = shutil.copytree(scene, tmp_path / "scene")
    picture = sorted((copy / "train").glob("*.png"))[3]
    picture.write_bytes(picture.read_bytes()[:200])
    words = ("nerf", copy, "-o", tmp_path / "run", "--steps", 1, "--device", "cpu")
    status, _, said = command(*words)
    assert status == 2 and said.count("error: ") == 1 and picture.name in said and "--skip-missing" in said
    assert not (tmp_path / "run").exists()
    status, told, _ = command(*words, "--skip-missing")
    assert status == 0 and told["metrics"]["training_views"] == 23
    assert len(told["metrics"]["skipped"]) == 1 and picture.name in told["metrics"]["skipped"][0]


def test_what_a_run_learned_from_is_recorded_and_compared(
    scene: Path, tmp_path: Path, command: Callable[..., Told]
) -> None:
    copy, run = shutil.copytree(scene, tmp_path / "scene"), tmp_path / "run"
    words = ("--device", "cpu")
    assert command("nerf", copy, "-o", run, "--steps", 2, *words)[0] == 0
    inputs = json.loads((run / "run.json").read_text())["inputs"]
    pictures = [path.relative_to(copy).as_posix() for path in copy.rglob("*.png")]
    described = ("transforms_train.json", "transforms_test.json")
    assert inputs == {name: digest(copy / name) for name in (*described, *pictures)} and len(pictures) == 27
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    first, second, *_ = sorted((copy / "train").glob("*.png"))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with (copy / "transforms_test.json").open("a") as file:
        file.write("\n")
    status, told, said = command("nerf", "--resume", run, *words)
    changed = f"train/{first.name} has changed, transforms_test.json has changed"
    assert status == 2 and not told
    assert said == f"error: cannot go on with {run}: since it began, {changed}; start it anew\n"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    first.write_bytes(kept)
    (copy / "transforms_test.json").write_bytes((scene / "transforms_test.json").read_bytes())
    assert command("nerf", "--resume", run, *words)[0] == 0


@pytest.mark.parametrize("kind", ["blender", "nerfstudio", "colmap", "llff"])
def test_what_describes_a_scene_is_among_what_a_run_depends_on(kind: str, tmp_path: Path) -> None:
    described = {
        "blender": ["transforms_train.json", "transforms_val.json"],
        "nerfstudio": ["transforms.json"],
        "colmap": ["sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin", "sparse/cameras.txt"],
        "llff": ["poses_bounds.npy"],
    }
    for name in (*described[kind], "images/a.png", "masks/a.png", "notes.json", "sparse/0/project.ini"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    view: Any = SimpleNamespace(path=tmp_path / "images" / "a.png", mask=tmp_path / "masks" / "a.png")
    found = nerf_run.inputs_of(CapturedScene(tmp_path, kind, (view,), None, ()))
    assert found == {name: digest(tmp_path / name) for name in (*described[kind], "images/a.png", "masks/a.png")}


def test_a_run_in_use_is_left_as_it_is(run: Path, scene: Path, command: Callable[..., Told]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for words in (("--resume", run), (scene, "-o", run, "--steps", 3)):
        with working_in(run):
            status, told, said = command("nerf", *words)
            assert command("eval", run, "--device", "cpu")[0] == 0  # looking is free
        assert status == 2 and not told
        assert said == f"error: {run} is in use by process {os.getpid()}: wait, or name another output\n"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_is_of_the_device_that_it_began_on(scene: Path, tmp_path: Path, command: Callable[..., Told]) -> None:
    """What a GPU began is the same model when a CPU looks at it, with as many samples of a ray."""
    words = ("nerf", scene, "-o", tmp_path / "v.run", "--system", "vanilla", "--steps", 1, "--device", "cpu")
    assert command(*words)[0] == 0
    manifest = json.loads((tmp_path / "v.run" / "run.json").read_text())
    assert manifest["recipe"]["device"] == "cpu"
    assert nerf_run.load_run(tmp_path / "v.run").model.config == SMALL_VANILLA
    manifest["recipe"]["device"] = "cuda:0"
    (tmp_path / "v.run" / "run.json").write_text(json.dumps(manifest))
    recipe = nerf_run.saved_recipe(tmp_path / "v.run")
    assert nerf_run.model_of(recipe, nerf_run.placement_of(tmp_path / "v.run"), 24).config == VanillaConfig()


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"scale": 1}', '{"center": "x"}'])
def test_a_damaged_placement_is_one_line_that_names_the_file(
    content: str, run: Path, tmp_path: Path, command: Callable[..., Told]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy.run")
    (copy / "placement.json").write_text(content)
    for words in (("eval", copy), ("export", copy, "-o", tmp_path / "a.glb"), ("nerf", "--resume", copy)):
        status, told, said = command(*words, "--device", "cpu")
        assert status == 2 and not told and said.count("\n") == 1
        assert said.startswith(f"error: {copy / 'placement.json'} ")
    assert not (tmp_path / "a.glb").exists()


# -- parts -----------------------------------------------------------------------------------------------------


def test_rays_are_adapted_to_the_samples_that_a_step_aims_at() -> None:
    model = FastModel(SMALL, 0)
    model.samples_a_ray.fill_(40.0)
    assert model.rays == 256  # more than 8000 / 40
    model.samples_a_ray.fill_(10.0)
    assert model.rays == 800
    model.samples_a_ray.fill_(1.0)
    assert model.rays == SMALL.most_rays


def test_batches_are_a_function_of_seed_and_step_and_split_among_processes(scene: Path) -> None:
    photographs = photographs_of(scene)
    task = FastTask(FastModel(SMALL, 0), photographs, background="random", seed=3)
    whole = task.batch(5, torch.arange(8), 8)
    halves = [task.batch(5, rows, 8) for rows in torch.arange(8).split(4)]
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([half[name] for half in halves])), name
    assert not torch.equal(whole["row"], task.batch(6, torch.arange(8), 8)["row"])


def test_targets_stand_on_the_background(scene: Path) -> None:
    photographs = photographs_of(scene)
    task = FastTask(FastModel(SMALL, 0), photographs)
    rows = photographs.rows_of(0)
    red = torch.tensor([1.0, 0.0, 0.0]).expand(len(rows), 3)
    found, (color, alpha) = task.target(rows, red), photographs.colors(rows)
    assert torch.equal(found[alpha == 0], red[alpha == 0]) and torch.equal(found[alpha == 1], color[alpha == 1])
    assert 0.1 < float((alpha == 1).float().mean()) < 0.9


def test_corrections_start_as_nothing_and_turn_about_the_camera() -> None:
    cameras = torch.eye(4).repeat(3, 1, 1)
    cameras[:, :3, 3] = torch.tensor([1.0, 2.0, 3.0])
    corrections = CameraCorrections(3)
    assert torch.equal(corrections(cameras), cameras)
    with torch.no_grad():
        corrections.turn[1, 2] = 100 * math.pi / 2  # a quarter about z, in hundredths
    turned = corrections(cameras)[1]
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert torch.allclose(turned[:3, :3], quarter, atol=1e-5) and torch.equal(turned[:3, 3], cameras[1, :3, 3])


def trained(task: Any, recipe: Any, folder: Path) -> Any:
    from core2d.training.loop import train

    result = train(task, recipe, folder)
    task.model.load_state_dict(result.ema)
    return task


def test_cameras_that_are_a_little_off_find_back(scene: Path, tmp_path: Path) -> None:
    photographs = photographs_of(scene)
    true = photographs.camera_to_world.clone()
    wrong = true.clone()
    shift = 0.03 * torch.randn(len(true), 3, generator=torch.Generator().manual_seed(1))
    wrong[:, :3, 3] += shift - shift.mean(0)
    photographs.camera_to_world = wrong
    task = FastTask(FastModel(SMALL, 0, cameras=len(true)), photographs, seed=0)
    trained(task, training_recipe(SMALL, 0, steps=300), tmp_path)
    assert task.model.corrections is not None
    found = task.model.corrections(wrong).detach()
    points = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(2)), dim=1)

    def pixels(poses: torch.Tensor) -> torch.Tensor:
        local = [(0.8 * points - pose[:3, 3]) @ pose[:3, :3] for pose in poses]
        return torch.stack([lens.project(x) for lens, x in zip(photographs.lenses, local, strict=True)])

    before, after = ((pixels(poses) - pixels(true)).norm(dim=2).mean() for poses in (wrong, found))
    assert before > 0.5 and after < 0.4 * before


def test_a_view_whose_pose_is_wrong_is_named(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs = photographs_of(scene)
    poses = photographs.camera_to_world.clone()
    far = int((poses[:, :3, 3] - poses[2, :3, 3]).norm(dim=1).argmax())  # on the other side
    poses[[2, far]] = poses[[far, 2]]
    task = trained(FastTask(FastModel(SMALL, 0), photographs), training_recipe(SMALL, 0, steps=250), tmp_path / "true")
    assert not doubtful_views(task)[1]
    photographs.camera_to_world = poses
    task = trained(FastTask(FastModel(SMALL, 0), photographs), training_recipe(SMALL, 0, steps=250), tmp_path / "wrong")
    median, doubtful = doubtful_views(task)
    assert median > 17 and {view for view, _ in doubtful} == {2, far}
    views = load_scene(scene).of("train")
    capsys.readouterr()
    nerf_run.warn_of_doubtful_views(task, views)
    said = capsys.readouterr().err
    assert said.startswith("warning: 2 of 24 training views") and said.count("\n") == 1
    assert views[2].path.name in said and views[far].path.name in said and "--refine-poses" in said


def test_a_scene_without_bounds_is_learned_in_contracted_space(scene: Path, tmp_path: Path) -> None:
    photographs = photographs_of(scene)
    coarse = replace(SMALL, samples_across=32)
    task = FastTask(FastModel(coarse, 0, unbounded=True), photographs)
    trained(task, training_recipe(coarse, 0, steps=500), tmp_path)
    truth, seen, opacity = look(task.model, photographs, 0, 1.0)
    assert psnr(seen, truth) > 19 and opacity.shape == seen.shape[1:]


def test_the_coarse_network_learns_beside_the_fine_one(scene: Path) -> None:
    model = VanillaModel(SMALL_VANILLA, 0)
    task = VanillaTask(model, photographs_of(scene))
    loss, _ = task.loss(model, task.batch(0, torch.arange(64), 64))
    loss.backward()
    for network in (model.coarse, model.fine):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_measures_in_closed_form() -> None:
    flat = torch.full((3, 16, 16), 0.5)
    assert psnr(flat, flat + 0.1) == pytest.approx(20.0, abs=1e-4)
    assert ssim(flat, flat) == pytest.approx(1.0)
    c1 = 0.01**2
    assert ssim(flat, flat + 0.1) == pytest.approx((2 * 0.5 * 0.6 + c1) / (0.25 + 0.36 + c1), abs=1e-6)


# -- killed ----------------------------------------------------------------------------------------------------

STEPS = 40
KILLED = f"""
import sys
from dataclasses import replace
from gen3d.__main__ import main
from gen3d.nerf import command as nerf_run
from gen3d.nerf.recipe import FastConfig

often = nerf_run.training_recipe
nerf_run.training_recipe = lambda *given: replace(often(*given), checkpoint_every=3, log_every=1)
nerf_run.FastConfig = lambda: {SMALL!r}
main(["nerf", *sys.argv[1:]])
"""


def start(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", KILLED, *words, "--device", "cpu"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None and checkpoint.name == f"step-{STEPS:06d}"
    return {
        f"{kind}:{name}": value
        for kind in ("model", "ema", "optimizer")
        for name, value in load_file(checkpoint / f"{kind}.safetensors").items()
    }


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def killed_and_resumed(scene: Path, run: Path, kills: list[int], dice: random.Random) -> dict[str, torch.Tensor]:
    """The weights of a run that is killed shortly after each of these steps, and gone on with."""
    words = [str(scene), "-o", str(run), "--steps", str(STEPS)]
    for step in kills:
        process = start(*words)
        log = run / "log.jsonl"
        while not (log.exists() and log.read_text().count("\n") >= step):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.002)
        time.sleep(dice.random() * 0.1)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        words = ["--resume", str(run)]
    finish(start(*words))
    return weights_of(run)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_killed_three_times_ends_with_the_weights_of_an_unbroken_one(scene: Path, tmp_path: Path) -> None:
    dice = random.Random()  # other moments each time
    kills = sorted(dice.sample(range(1, STEPS - 8), 3))
    finish(start(str(scene), "-o", str(tmp_path / "whole"), "--steps", str(STEPS)))
    assert same(killed_and_resumed(scene, tmp_path / "broken", kills, dice), weights_of(tmp_path / "whole")), kills


@pytest.mark.slow
def test_twenty_runs_killed_at_random_end_with_the_same_weights(scene: Path, tmp_path: Path) -> None:
    dice = random.Random()
    finish(start(str(scene), "-o", str(tmp_path / "whole"), "--steps", str(STEPS)))
    whole = weights_of(tmp_path / "whole")
    for turn in range(20):
        step = dice.randrange(1, STEPS - 8)
        assert same(killed_and_resumed(scene, tmp_path / str(turn), [step], dice), whole), step
