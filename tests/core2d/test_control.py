"""Pictures by maps: how maps are drawn and read, the command, the training, and the stages in miniature."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.control_training import control_task, recipe
from helpers.training_runs import LAUNCH, ROOT, assert_same, finish, read_log
from PIL import Image
from safetensors.torch import load_file

import core2d.app.registry
from core2d.__main__ import main
from core2d.adapters.controlnet import ControlNet, fresh_controlnet
from core2d.adapters.controlnet_files import read_controlnet, write_controlnet
from core2d.app.errors import InputError
from core2d.app.registry import assets_folder
from core2d.bundled import control, control_scores
from core2d.bundled import prior as prior_recipe
from core2d.bundled.control import CONTROL_DEPTH, CONTROL_POSE, DEPTH, POSE
from core2d.bundled.nested import LAYOUT
from core2d.bundled.scores import pictures_of
from core2d.bundled.training import TrainingSetup
from core2d.media.pictures import read_image_text
from core2d.media.skeletons import COLORS, LIMBS, draw_skeleton
from core2d.prior.backbone import Backbone
from core2d.systems.control.maps import depth_map, edge_map, normal_map, segmentation_map
from core2d.systems.control.task import MAP
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import doll
from core2d.toybox.sample import sample, seen_joints
from core2d.toybox.scene import Scene, View, still
from core2d.training.log import measured
from core2d.training.loop import train

# -- maps ----------------------------------------------------------------------------------------------------------


def test_depth_is_inverse_depth_over_its_largest() -> None:
    depth = torch.tensor([[2.0, 4.0], [torch.inf, 8.0]])
    assert depth_map(depth)[0].tolist() == [[1.0, 0.5], [0.0, 0.25]]
    assert depth_map(torch.full((2, 2), torch.inf)).sum() == 0  # nothing is there


def test_normals_are_red_to_the_left_green_to_the_top_blue_to_the_camera() -> None:
    """A camera on +X that looks along -X: +Y is to its right."""
    axes = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])  # right, up, forward
    normals = torch.tensor([[1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0], [0, 0, 0]]).T[:, None]  # (3, 1, 4)
    drawn = normal_map(normals, axes)[:, 0].T
    assert drawn.tolist() == [[0.5, 0.5, 1.0], [1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.0, 0.0, 0.0]]


def test_edges_are_where_a_square_ends() -> None:
    picture = torch.zeros(3, 32, 32)
    picture[:, 8:24, 8:24] = 1.0
    found = edge_map(picture)
    rows, columns = found[0].nonzero().T
    away = torch.minimum((rows - 7.5).abs(), (rows - 23.5).abs()).minimum(
        torch.minimum((columns - 7.5).abs(), (columns - 23.5).abs()))  # fmt: skip
    assert found.unique().tolist() == [0.0, 1.0] and len(rows) > 40 and away.max() <= 1.5
    assert not edge_map(torch.full((3, 16, 16), 0.5)).any()


def test_classes_have_hues_of_their_own() -> None:
    colors = segmentation_map(torch.ones(25, 1, 1), torch.arange(25))[:, :, 0, 0]
    apart = torch.cdist(colors, colors) + torch.eye(25)
    assert apart.min() > 0.1
    assert not segmentation_map(torch.zeros(1, 2, 2), torch.tensor([3])).any()


def test_a_skeleton_has_dimmed_limbs_and_bright_joints_of_its_colours() -> None:
    joints = np.full((18, 2), np.nan, np.float32)
    joints[2], joints[3] = (100, 256), (400, 256)  # right shoulder and elbow
    drawn = draw_skeleton(joints, 512, 512)
    limb = LIMBS.index((2, 3))
    np.testing.assert_allclose(drawn[256, 250], 0.6 * np.array(COLORS[limb]) / 255, atol=1e-6)
    np.testing.assert_allclose(drawn[256, 99], np.array(COLORS[2]) / 255, atol=1e-6)
    assert (drawn[:, 250].max(1) > 0.3).sum() in (7, 8, 9)  # four pixels on either side
    assert not draw_skeleton(np.full((18, 2), np.nan), 8, 8).any()
    with pytest.raises(ValueError, match=r"\(18, 2\) joints, not \(3, 2\)"):
        draw_skeleton(np.zeros((3, 2)), 8, 8)


def test_skeletons_follow_the_doll_and_tell_where_it_looks() -> None:
    one = sample(2000, 3, "doll")
    seen = seen_joints([one.scene], 64)[0]
    there = np.isfinite(seen).all(1)
    np.testing.assert_array_equal(seen[there], one.joints_2d[there])
    assert there[1:14].all()  # a body is never left out
    scene = still(2000, 3, "doll")
    looks = {azimuth: seen_joints([_seen_from(scene, azimuth)], 64)[0] for azimuth in (0.0, np.pi)}
    assert np.isfinite(looks[0.0]).all()
    face = [doll.JOINTS.index(name) for name in ("nose", "right eye", "left eye")]
    assert np.isnan(looks[np.pi][face]).all()
    assert looks[0.0][2, 0] < looks[0.0][5, 0] and looks[np.pi][2, 0] > looks[np.pi][5, 0]  # its right and its left


def _seen_from(scene: Scene, azimuth: float) -> Scene:
    return replace(scene, view=View(azimuth, 0.2, 2.0), yaw=0.0)


@pytest.mark.parametrize(
    "maps_of", [control.depth_maps, control.normal_maps, control.segmentation_maps, control.edge_maps]
)
def test_maps_of_scenes_lie_where_the_body_is(maps_of: control_scores.MapsOf) -> None:
    scenes = list(islice(control_scores.scored_scenes(2000, "object"), 3))
    _, coverage = pictures_of(scenes, 64)
    maps = maps_of(scenes, 64)
    assert maps.shape == (3, 3, 64, 64) and maps.min() >= 0 and maps.max() <= 1 and maps.amax((1, 2, 3)).min() > 0.4
    grown = torch.nn.functional.max_pool2d(coverage, 5, 1, 2)  # edges may be drawn beside a body
    assert not maps[(grown == 0).expand_as(maps)].any()


# -- what is read from pictures ------------------------------------------------------------------------------------


def test_the_measures_of_control_know_the_truth_and_a_shift() -> None:
    scenes = list(islice(control_scores.scored_scenes(2000, "doll"), 4))
    true, coverage = pictures_of(scenes, 64)
    joints = torch.from_numpy(seen_joints(scenes, 64))
    assert control_scores.silhouette_iou(true, coverage[:, 0]) > 0.98
    assert control_scores.joint_errors(true, true, joints).max() == 0
    assert control_scores.clothes_right(true, true, scenes) == 1.0
    moved = torch.roll(true, 3, dims=3)
    assert control_scores.joint_errors(moved, true, joints).tolist() == [3.0] * len(
        control_scores.joint_errors(true, true, joints)
    )
    assert control_scores.silhouette_iou(moved, coverage[:, 0]) < 0.75
    other = true.roll(1, dims=0)
    assert control_scores.joint_errors(other, true, joints).mean() > 3
    assert control_scores.clothes_right(other, true, scenes) < 0.5
    assert control_scores.silhouette_iou(torch.ones_like(true), coverage[:, 0]) == 0


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place to work in, with a ControlNet of the tiny model, a map and a picture."""
    model = fresh_controlnet(Backbone.load(tiny_folder("sd1")))
    with torch.no_grad():
        for value in model.controlnet_mid_block.parameters():
            value.fill_(0.5)
    write_controlnet(tmp_path / "net", model)
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[4:12, 4:12] = 200
    Image.fromarray(pixels).save(tmp_path / "map.png")
    big = np.full((60, 80, 3), 255, np.uint8)
    big[20:40, 20:50] = (200, 30, 30)
    Image.fromarray(big).save(tmp_path / "big.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def words(model: Path, picture: str = "map.png", *more: str) -> list[str]:
    """The words of the command; what `more` says anew stands there alone."""
    usual = {"--kind": "depth", "--controlnet": "net", "--model": str(model), "--steps": "2", "-o": "out.png"}
    options = [word for option, value in usual.items() if option not in more for word in (option, value)]
    return ["control", picture, "a red mug", *options, *more]


def test_the_command_draws_and_says_how(
    folder: Path, tiny_folder: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny_folder("sd1")
    spread = ["control", "map.png", "--kind", "pose", "a red mug", *words(model)[5:]]  # options between the words
    assert run(*spread, "--json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["outputs"] == ["out.png"] and report["metrics"] == {"images": 1, "height": 16, "width": 16}
    said = read_image_text(folder / "out.png")
    assert said["prompt"] == "a red mug" and set(json.loads(said["inputs"])) == {"model", "controlnet 0", "map 0"}
    first = np.array(Image.open("out.png"))
    assert run(*words(model, "map.png", "--control-weight", "0")) == 0
    assert (np.array(Image.open("out.png")) != first).any()
    assert run(*words(model, "map.png", "--also", "net:map.png@0.5", "--num-images", "2", "--start", "0.2")) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["000.png", "001.png"]


def test_edges_are_made_of_a_picture_of_any_size(folder: Path, tiny_folder: Callable[..., Path]) -> None:
    assert run(*words(tiny_folder("sd1"), "big.png", "--kind", "edges", "--from-picture")) == 0
    drawn = np.array(Image.open("out.map.png"))
    assert drawn.shape == (16, 16, 3) and set(np.unique(drawn)) == {0, 255}
    assert run(*words(tiny_folder("sd1"), "big.png", "--fit")) == 0


BAD: dict[str, tuple[list[str], str]] = {
    "another size": (["big.png"], "big.png has 80 x 60 pixels, and 16 x 16 are drawn"),
    "one colour": (["plain.png"], "plain.png is of one colour"),
    "one pixel": (["pixel.png"], "is of one colour"),
    "no map": (["nothing.png"], "no map at nothing.png"),
    "no picture": (["text.png"], "text.png cannot be read"),
    "no edges": (["plain.png", "--kind", "edges", "--from-picture"], "plain.png has no edges"),
    "no model for depth": (["map.png", "--from-picture"], "needs a model that reads depth"),
    "no model for poses": (["map.png", "--from-picture", "--kind", "pose"], "needs a model that reads poses"),
    "weight": (["map.png", "--control-weight", "nan"], "--control-weight nan"),
    "times": (["map.png", "--start", "0.8", "--end", "0.2"], "--start 0.8 --end 0.2"),
    "no network": (["map.png", "--controlnet", "nothing"], "no ControlNet at nothing"),
    "not a network": (["map.png", "--controlnet", "map.png"], "map.png is no file of weights"),
    "no bundled one": (["map.png", "--controlnet", "normal"], "no ControlNet for normal comes with this"),
    "also without a map": (["map.png", "--also", "depth"], "--also depth: give KIND:MAP"),
    "also with no map": (["map.png", "--also", "net:nothing.png"], "nothing.png: no such file"),
    "also too strong": (["map.png", "--also", "net:map.png@50"], "give a number from 0 to 10"),
    "odd side": (["map.png", "--height", "17", "--fit"], "an image side of 17 pixels is not possible"),
    "empty prompt": (["map.png", "--negative-prompt", "x" * 2000], "a prompt has 2000 characters"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_line_and_leaves_nothing(
    folder: Path, tiny_folder: Callable[..., Path], capfd: pytest.CaptureFixture[str], case: str
) -> None:
    (picture, *more), line = BAD[case]
    Image.new("RGB", (16, 16), (9, 9, 9)).save("plain.png")
    Image.new("RGB", (1, 1)).save("pixel.png")
    Path("text.png").write_text("no picture")
    before = {path.name for path in folder.iterdir()}
    assert run(*words(tiny_folder("sd1"), picture, *more)) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and line in said
    assert {path.name for path in folder.iterdir()} == before


def test_bundled_controlnets_are_found_by_their_kind(
    folder: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("net", "assets/toybox-control-depth")
    Path("assets/toybox-control-depth/README.md").touch()
    monkeypatch.setattr(core2d.app.registry, "assets_folder", lambda: folder / "assets")
    given = words(tiny_folder("sd1"))
    place = given.index("--controlnet")
    assert run(*given[:place], *given[place + 2 :], "--also", "depth:map.png") == 0


# -- training ------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.fixture
def prior(tiny_folder: Callable[..., Path]) -> Backbone:
    return Backbone.load(tiny_folder("sd1"))


def test_rows_are_a_function_of_the_step_and_half_of_the_prompts_are_dropped(prior: Backbone) -> None:
    task = control_task(prior)
    whole = task.batch(7, torch.arange(200), 200)
    part = task.batch(7, torch.arange(50, 60), 200)
    for name, rows in part.items():
        assert torch.equal(rows, whole[name][50:60]), name
    assert 0.4 < (whole["asked"] == -1).float().mean() < 0.6 and whole[MAP].shape == (200, 3, 16, 16)


def test_before_the_first_step_the_loss_is_that_of_the_prior_alone(prior: Backbone) -> None:
    task = control_task(prior)
    rows = task.batch(0, torch.arange(8), 8)
    loss, _ = task.loss(task.model, rows)
    alone, _ = task.objective.loss(prior.network(rows["noisy"], rows["timesteps"], task.told(rows["asked"])), rows)
    assert torch.equal(loss.detach(), alone)


def test_it_learns_and_tells_the_true_error_at_each_checkpoint(
    prior: Backbone, tmp_path: Path, on_the_cpu: None, capfd: pytest.CaptureFixture[str]
) -> None:
    def measure(model: Any) -> dict[str, float]:
        assert not model.training and prior.with_adapters(ControlNet(model))  # which freezes what it is given
        return {"iou": float(sum(value.abs().sum() for value in model.controlnet_mid_block.parameters()))}

    task = control_task(prior, measure=measure)
    before = {name: value.clone() for name, value in prior.denoiser.state_dict().items()}
    train(task, recipe(steps=40, checkpoint_every=20), tmp_path)
    told = measured(tmp_path)
    assert [line["step"] for line in told] == [20, 40] and 0 < told[0]["iou"] < told[1]["iou"]
    assert "step 40: iou" in capfd.readouterr().err
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert_same(dict(prior.denoiser.state_dict()), before)  # the prior is as it was


def start(folder: Path, model: Path, options: dict[str, Any], *more: str, launcher: list[str] | None = None) -> Any:
    program = ROOT / "tests" / "helpers" / "control_training.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *(launcher or []), str(program), str(folder), str(model), json.dumps(options), *more]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_and_resumed_and_two_processes_end_as_one(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    model, options = tiny_folder("sd1"), {"steps": 20, "learning_rate": 1e-3}
    finish(start(tmp_path / "whole", model, options))
    process = start(tmp_path / "broken", model, options)
    while not any(line["step"] >= 6 for line in read_log(tmp_path / "broken")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finish(start(tmp_path / "broken", model, options, "resume"))
    finish(start(tmp_path / "two", model, options, launcher=LAUNCH))
    whole, broken, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken", "two"))
    assert_same(broken, whole)
    for name, value in two.items():
        torch.testing.assert_close(value, whole[name], atol=1e-5, rtol=0)


# -- the bundled ones ----------------------------------------------------------------------------------------------


def test_the_bundled_controlnets_are_small_and_begin_as_nothing() -> None:
    prior = Backbone.load("toybox-sd")
    model = control.slim(fresh_controlnet(prior))
    assert 2 * sum(value.numel() for value in model.parameters()) <= 2e6  # bytes, in halves
    condition = prior.encode_text(["a red mug"]).telling(control=torch.rand(1, 3, 64, 64))
    x_t = torch.randn(2, 4, 8, 8)
    heard = prior.with_adapters(ControlNet(model)).network(x_t, 500, condition)
    assert torch.equal(heard, prior.network(x_t, 500, condition))


@pytest.mark.parametrize("stage", [CONTROL_DEPTH, CONTROL_POSE], ids=lambda stage: stage.name)
def test_the_stages_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_cpu: None, stage: Any) -> None:
    """From new weights, then from those that stand; the folder is one that stock diffusers and the command read."""
    monkeypatch.setattr(control_scores, "SCORED", 2)
    monkeypatch.setattr(control_scores, "FOLLOWED", 1)
    monkeypatch.setattr(control_scores.scores, "STEPS", 2)
    for name in ("toybox-sd", "toybox-judge"):
        (tmp_path / "assets").mkdir(exist_ok=True)
        (tmp_path / "assets" / name).symlink_to(assets_folder() / name)
    changes = (("steps", 2), ("batch_size", 4), ("checkpoint_every", 2))
    setup = TrainingSetup(tmp_path / "assets", tmp_path / "runs", pictures=16, changes=changes)
    for resume in (True, False):
        found = stage.run(replace(setup, resume=resume))
        assert 0 <= found[stage.main_score] <= 1
    folder = setup.assets / stage.folder
    ControlNet(read_controlnet(folder)).check_fit(Backbone.load(setup.assets / "toybox-sd"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2e6
    card = (folder / "README.md").read_text()
    assert f"| {stage.name} | {stage.main_score} |" in card
    assert [line["size"] for line in json.loads((folder / "training.json").read_text())] == [64, 64]
    kind = {"control-depth": DEPTH, "control-pose": POSE}[stage.name]
    maps = np.load(next((setup.data).glob(f"v1-{kind.name}-64px-*-maps.npy")))
    again = kind.maps_of([kind.scene_of(0, index) for index in range(2)], 64)
    np.testing.assert_allclose(maps[:2] / 255, again.numpy(), atol=0.51 / 255)
    with pytest.raises(InputError, match="train the prior stage first"):
        stage.run(TrainingSetup(tmp_path / "none", tmp_path / "runs"))


def test_a_prior_of_128_pixels_needs_no_other_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_cpu: None
) -> None:
    """8x8 latents of 16 channels, 16 times smaller than pictures: maps, encoder of maps and scores follow from it."""
    monkeypatch.setattr(control_scores, "SCORED", 1)
    monkeypatch.setattr(control_scores, "FOLLOWED", 1)
    monkeypatch.setattr(control_scores.scores, "STEPS", 1)
    old = Backbone.load("toybox-sd")
    wide = prior_recipe.widened(prior_recipe.load(assets_folder() / "toybox-sd"), 16)
    assert wide.text_encoder is not None
    made = prior_recipe.assemble(wide, LAYOUT.build(), wide.text_encoder, old.family.parts["tokenizer"])
    TextToImage(made).save_pretrained(tmp_path / "assets" / "toybox-sd")
    changes = (("steps", 1), ("batch_size", 2))
    setup = TrainingSetup(tmp_path / "assets", tmp_path / "runs", pictures=8, changes=changes)
    assert CONTROL_POSE.run(setup).keys() >= {"joints_near", "joint_error_without", "clothes_of_truth"}
    model = read_controlnet(setup.assets / CONTROL_POSE.folder)
    assert model.config["in_channels"] == 16 and len(model.config["conditioning_embedding_out_channels"]) == 5
    ControlNet(model).check_fit(Backbone.load(setup.assets / "toybox-sd"))
    assert np.load(next(setup.data.glob("*-maps.npy")), mmap_mode="r").shape[1:] == (3, 128, 128)
