"""DreamFusion: its steps, its losses, its command; and the whole of it on exact scores of a known object."""

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from torch import nn

from core2d.guidance import PerpNegDistillation, ScoreDistillation, ScoreDistillationConfig
from core2d.prior.backbone import Backbone
from core2d.prior.base import Prior
from core2d.prior.cameras import orbit
from core2d.prior.oracle import OracleBackbone
from core2d.toybox import world
from core2d.toybox.captions import background_phrase
from core2d.toybox.render import render
from core2d.toybox.sample import mesh_of as true_mesh
from core2d.toybox.scene import Scene, View, plain, portrait
from core2d.training.loop import train
from gen3d.__main__ import main
from gen3d.dreamfusion.recipe import DreamFusionConfig
from gen3d.dreamfusion.task import OPEN, DreamFusionTask, manner_of
from gen3d.shaping.model import Model, binary_entropy, training_recipe
from gen3d.shaping.runs import mesh_of

CONFIG = DreamFusionConfig(steps=10, views=3, coarse_size=8)


@pytest.fixture(scope="module")
def prior(tiny_folder) -> Backbone:
    return Backbone.load(tiny_folder("sd1", camera=True))


def test_a_step_is_a_function_of_seed_and_step(prior: Backbone) -> None:
    task = DreamFusionTask(Model(0), prior, "a red mug", CONFIG, seed=3)
    rows = torch.arange(3)
    first, again = task.batch(4, rows, 3), task.batch(4, rows, 3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    part = task.batch(4, rows[1:], 3)
    assert all(torch.equal(first[name][1:], part[name]) for name in first)
    assert not torch.equal(first["azimuth"], task.batch(5, rows, 3)["azimuth"])
    turns = (first["azimuth"] - first["azimuth"][0]) / (2 * math.pi)
    torch.testing.assert_close(turns, torch.tensor([0.0, 1 / 3, 2 / 3]))
    near, far = world.CAMERA_RADIUS
    assert ((first["radius"] >= near) & (first["radius"] <= far)).all()


def test_words_are_told_from_where_they_fit(prior: Backbone) -> None:
    """Each camera has a word of Toybox for its view; all four words are used, the one overhead seldom."""
    task = DreamFusionTask(Model(0), prior, "a red mug", CONFIG, views="words", seed=3)
    seen = []
    for step in range(300):
        rows = task.batch(step, torch.arange(2), 2)
        sides = zip(rows["azimuth"].rad2deg().tolist(), rows["elevation"].rad2deg().tolist(), strict=True)
        words = [world.view_word(*side) for side in sides]
        assert (words[0] == "overhead") == (words[1] == "overhead")
        turned = math.degrees(rows["azimuth"][1] - rows["azimuth"][0])
        assert abs(turned - 180) <= 20 and (words[0] == "side") == (words[1] == "side")
        seen += words
    shares = {word: seen.count(word) / len(seen) for word in seen}
    assert shares.keys() == set(world.VIEWS)
    assert 0.05 < shares["overhead"] < 0.15 and 0.35 < shares["side"] < 0.55


def test_words_of_published_priors_are_mixed_and_guided(tiny_folder) -> None:
    """They get Perp-Neg, mixed words and cameras from everywhere; a prior of Toybox is asked plainly."""
    task = DreamFusionTask(Model(0), Backbone.load(tiny_folder("sd1")), "a red mug", CONFIG)
    ours = DreamFusionTask(Model(0), Backbone.load(tiny_folder("sd1", camera=True)), "a red mug", CONFIG, views="words")
    (theirs,), first = task.guidance.values(), next(iter(ours.guidance.values()))
    assert isinstance(theirs, PerpNegDistillation) and theirs.config.wording.interpolate
    assert type(first) is ScoreDistillation and not first.config.wording.interpolate
    assert first.config.guidance_scale == 1
    turns = task.batch(4, torch.arange(3), 3)["azimuth"] / (2 * math.pi)
    torch.testing.assert_close(turns - turns[0], torch.tensor([0.0, 1 / 3, 2 / 3]))


def test_no_background_hides_the_object(prior: Backbone) -> None:
    task = DreamFusionTask(Model(0), prior, "a pink duck", CONFIG)
    drawn = {int(task.batch(step, torch.arange(1), 1)["background"][0]) for step in range(200)}
    words = task._backgrounds()
    assert drawn == set(range(len(words))) and "pink" not in words and "white" in words


def test_the_loss_moves_the_field_and_looks_at_its_cells(prior: Backbone) -> None:
    task = DreamFusionTask(Model(0), prior, "a red mug", replace(CONFIG, shaded=1.0))
    for step in (0, 9):  # without and with shading
        task.model.zero_grad()
        batch = task.batch(step, torch.arange(3), 3)
        assert bool(batch["shaded"][0]) == (step == 9)
        loss, parts = task.loss(task.model, batch)
        loss.backward()
        table = task.model.field.table.grad
        assert table is not None and table.isfinite().all() and table.abs().sum() > 0
        assert 0 < float(torch.as_tensor(parts["opacity"]).detach()) < 1
    assert task.model.occupancy.share < 1  # the first step has looked


def test_entropy_is_one_bit_halfway_and_none_at_the_ends() -> None:
    torch.testing.assert_close(binary_entropy(torch.tensor([0.5])), torch.tensor([1.0]))
    assert binary_entropy(torch.tensor([0.0, 1.0])).max() < 2e-3


def test_a_run_that_stopped_goes_on_to_the_same_bits(prior: Backbone, tmp_path: Path) -> None:
    recipe = replace(training_recipe(CONFIG, 0), checkpoint_every=4)
    tables = []
    for name, calls in (("whole", [None]), ("halves", [0.0, None])):
        for minutes in calls:  # 0 minutes: one step, a checkpoint, and stop
            task = DreamFusionTask(Model(0), prior, "a red mug", CONFIG)
            result = train(task, replace(recipe, minutes=minutes), tmp_path / name, resume=True)
        tables.append(result.ema["field.table"])
    assert torch.equal(*tables)


class Learned(ScoreDistillation):
    """A guidance with state: one number, that learns what the mean colour of all pictures is."""

    def __init__(self, prior: Prior, config: ScoreDistillationConfig, seed: int, learner: nn.Module) -> None:
        super().__init__(prior, config, seed)
        self.learner = learner

    def learner_loss(self, images: torch.Tensor, prompt: str, cameras: Any, step: int) -> torch.Tensor:
        assert not images.requires_grad and len(cameras) == len(images) and prompt.startswith("a red mug")
        return (self.learner(images.mean().view(1, 1)) - images.std()).square().sum()


def test_a_guidance_with_state_is_trained_saved_and_resumed_with_the_field(prior: Backbone, tmp_path: Path) -> None:
    def learn(folder: str, *minutes: float | None) -> dict[str, torch.Tensor]:
        result = None
        for allowed in minutes:
            learner = nn.Linear(1, 1)
            nn.init.zeros_(learner.weight)
            nn.init.zeros_(learner.bias)
            task = DreamFusionTask(Model(0), prior, "a red mug", CONFIG, distill=partial(Learned, learner=learner))
            assert list(task.model.learners) == [learner]  # one, whatever the number of backgrounds
            recipe = replace(training_recipe(CONFIG, 0), checkpoint_every=4, minutes=allowed)
            result = train(task, recipe, tmp_path / folder, resume=True)
        assert result is not None
        return result.ema

    whole, halves = learn("whole", None), learn("halves", 0.0, None)
    assert whole.keys() == halves.keys() and all(torch.equal(whole[name], halves[name]) for name in whole)
    assert whole["learners.0.bias"].abs() > 1e-3  # it has learned something, and the field as it does without it
    alone = DreamFusionTask(Model(0), prior, "a red mug", CONFIG)
    plain = train(alone, training_recipe(CONFIG, 0), tmp_path / "plain").ema
    torch.testing.assert_close(plain["field.table"], whole["field.table"], atol=1e-4, rtol=1e-3)


def test_a_camera_token_alone_does_not_make_a_prior_one_of_toybox(tiny_folder, tmp_path: Path) -> None:
    """One like MVDream's knows views, but no names of backgrounds: a model's own metadata says of which world it is."""
    shutil.copytree(tiny_folder("sd1", camera=True), tmp_path / "mvdream")
    (tmp_path / "mvdream" / "liftkit.json").unlink()
    other = Backbone.load(tmp_path / "mvdream")
    assert other.has_camera_token and other.world is None
    task = DreamFusionTask(Model(0), other, "a red mug", CONFIG)
    assert list(task.guidance) == ["white"] and manner_of(other) == OPEN
    (guidance,) = task.guidance.values()
    assert type(guidance) is ScoreDistillation and guidance.config.views == "camera"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["", "-o", "a.glb"], "prompt is empty"),
        (["a red mug"], "no output"),
        (["a red mug", "-o", "a.fbx"], ".glb"),
        (["a red mug", "-o", "a.glb", "--model", "nothing"], "no model"),
        (["--resume", "."], "not a run folder"),
        (["a red mug", "-o", "a.glb", "--quality", "best"], "quality"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["text-to-mesh", *arguments])
    said = capsys.readouterr()
    assert stop.value.code == 2 and words in said.err and said.err.count("\n") == 1 and not said.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_makes_a_mesh_and_goes_on(tiny_folder, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("gen3d.dreamfusion.pipeline.QUALITIES", {"draft": CONFIG})
    output, model = tmp_path / "mug.glb", str(tiny_folder("sd1", camera=True))
    main(["text-to-mesh", "a red mug", "-o", str(output), "--model", model, "--quality", "draft", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["outputs"] == [str(output)] and told["metrics"]["watertight"] and told["seed"] == 0
    first = output.read_bytes()
    output.unlink()
    main(["text-to-mesh", "--resume", str(tmp_path / "mug.run"), "--preview", str(tmp_path / "mug.png"), "--json"])
    assert output.read_bytes() == first and (tmp_path / "mug.png").is_file()


def views_of(scene: Scene, count: int = 32) -> tuple[list[Scene], list[str]]:
    """A body from `count` sides, over each plain background, with captions."""
    scenes, captions = [], []
    for word in world.COLOR_NAMES:
        if word in ("black", *scene.colors):
            continue
        for i in range(count):
            view = View(2 * math.pi * i / count, math.radians((-5, 15, 35, 50)[i % 4]), 1.95)
            scenes.append(replace(scene, view=view, background=plain(word)))
            captions.append(f"{scene.caption}, {background_phrase(None, word)}")
    return scenes, captions


@pytest.mark.slow
def test_exact_scores_rebuild_a_known_object(tmp_path: Path) -> None:
    """With the oracle there is no prior to blame: what is wrong here is wrong in guidance, field or renderer."""
    scene = portrait("chair", "red", 0, 20, world.TUNING_SEEDS[0], 0)
    scenes, captions = views_of(scene)
    pictures = torch.from_numpy(render(scenes).rgb).movedim(-1, 1) * 2 - 1
    view = [[s.view.azimuth, s.view.elevation, s.view.radius] for s in scenes]
    azimuth, elevation, radius = torch.tensor(view).T
    oracle = OracleBackbone(pictures, captions, orbit(azimuth, elevation, radius), select=str.__eq__, world="toybox")
    config = DreamFusionConfig(steps=300)
    task = DreamFusionTask(Model(0), oracle, "a red chair", config)
    result = train(task, training_recipe(config, 0), tmp_path)
    task.model.load_state_dict(result.ema)
    mesh, build = mesh_of(task.model)
    assert build.report.watertight and build.report.bodies == 1
    true = true_mesh(scene)
    truth, found = (np.asarray(m.sample(4000, seed=0)) for m in (true, _trimesh(mesh)))
    distance = (KDTree(truth).query(found)[0].mean() + KDTree(found).query(truth)[0].mean()) / 2
    assert distance <= 0.05


def _trimesh(mesh):
    import trimesh

    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
