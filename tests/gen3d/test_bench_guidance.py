"""`gen3d bench-guidance`: equal compute, known truth, runs that are made once, and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers.mesh_looks import textured_body

from core2d.app.errors import InputError
from core2d.media.pictures import read_image, read_image_text
from core2d.prior.backbone import Backbone
from core2d.prior.oracle import OracleBackbone
from core2d.toybox import world
from core2d.toybox.judge import load_picture_judge
from core2d.training.loop import train
from gen3d.bench_guidance import bench
from gen3d.bench_guidance import command as work
from gen3d.bench_guidance.compute import counted, rows_of_a_step, steps_for
from gen3d.bench_guidance.recipe import class_and_color
from gen3d.bench_guidance.scores import Scores, Truth, interval, score, summary, worst
from gen3d.bench_guidance.settings import KINDS, PUBLISHED, distilling
from gen3d.dreamfusion.recipe import QUALITIES, DreamFusionConfig
from gen3d.dreamfusion.task import LEARNER_RATE, DreamFusionTask, LearningTask
from gen3d.mesh import build_mesh
from gen3d.shaping import runs as shape_runs
from gen3d.shaping.model import Model, training_recipe
from gen3d.toybox import mesh_scores

SEED = world.TUNING_SEEDS[0]
QUICK = DreamFusionConfig(steps=3, views=2, coarse_size=16, refine_at=1.0)
ROWS = {"sds": 1, "vsd": 3, "csd": 2, "ism": 5, "sdi": 11}  # of a picture, without guidance by words
ROWS_OPEN = {"sds": 2, "vsd": 4, "csd": 2, "ism": 6, "sdi": 22}  # as published


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures, coarse meshes, few true shapes."""
    monkeypatch.setitem(QUALITIES, "draft", QUICK)
    monkeypatch.setattr(mesh_scores, "SHAPES", 2)
    coarse = {"resolution": 24, "face_budget": 1000, "texture_size": 64}
    monkeypatch.setattr(shape_runs, "build_mesh", lambda *given, **more: build_mesh(*given, **(more | coarse)))


@pytest.fixture(scope="module")
def model(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random prior of Toybox with a camera token that reads as many tokens as published ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "MAX_TOKENS", 77)
        return tiny_models.save_tiny_model("sd1", tmp_path_factory.mktemp("prior") / "model", camera=True)


@pytest.fixture(scope="module")
def open_model(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that knows neither Toybox nor cameras."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "MAX_TOKENS", 77)
        return tiny_models.save_tiny_model("sd1", tmp_path_factory.mktemp("prior") / "model")


Told = tuple[int, dict[str, Any], str]


@pytest.fixture
def told(command: Callable[..., Told], model: Path) -> Callable[..., Told]:
    """`gen3d bench-guidance WORDS` on the tiny prior."""
    return lambda *words: command("bench-guidance", *words, "--model", model, "--quality", "draft", "--device", "cpu")


def without_seconds(path: Path) -> dict[str, Any]:
    """The table without what no two runs share."""
    found = json.loads(path.read_text())
    for part in (*found["runs"], *found["guidances"].values()):
        part.pop("seconds")
    return found


# -- equal compute ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_step_asks_for_so_many_rows(name: str, model: Path, open_model: Path) -> None:
    for folder, rows in ((model, ROWS), (open_model, ROWS_OPEN)):
        prior = Backbone.load(folder)
        assert rows_of_a_step(distilling(name), prior, "a red mug", QUICK) == QUICK.views * rows[name]
        assert type(prior) is Backbone  # what counts is another


def test_a_prior_that_counts_answers_as_it_did(model: Path) -> None:
    prior = Backbone.load(model)
    counting, tally = counted(prior)
    x_t, words = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), prior.encode_text(["a red mug"])
    assert torch.equal(counting.network(x_t, 5, words), prior.network(x_t, 5, words))
    counting.predict_cfg(x_t, 5, words, prior.encode_text([""]), 2.0)
    assert tally.rows == 3 + 6


def test_a_budget_is_spent_to_within_one_step() -> None:
    for rows in ROWS.values():
        assert 0 <= 100 - rows * steps_for(100, rows, "sdi") < rows
    with pytest.raises(InputError, match="10 evaluations is not one step of sdi, which takes 11"):
        steps_for(10, 11, "sdi")


# -- settings --------------------------------------------------------------------------------------------------


def test_a_prior_of_toybox_is_asked_in_its_manner_and_others_as_published(model: Path, open_model: Path) -> None:
    assert KINDS.keys() == PUBLISHED.keys()
    for name in ("sds", "ism"):
        task, plain = (DreamFusionTask(Model(0), Backbone.load(model), "a red mug", QUICK, distill=distill)
                       for distill in (distilling(name), None))  # fmt: skip
        for word, guidance in task.guidance.items():
            assert type(guidance) is KINDS[name] and guidance.config == plain.guidance[word].config  # pyright: ignore
        other = DreamFusionTask(Model(0), Backbone.load(open_model), "a red mug", QUICK, distill=distilling(name))
        (guidance,) = other.guidance.values()
        config: Any = guidance.config  # pyright: ignore[reportAttributeAccessIssue]
        assert config.space == "latent" and config.rescale == 0
        assert {key: getattr(config, key) for key in PUBLISHED[name]} == PUBLISHED[name]


def test_the_layers_of_vsd_are_one_for_all_backgrounds_and_learn_at_their_own_rate(model: Path, tmp_path: Path) -> None:
    def learn(folder: str, *minutes: float | None) -> dict[str, torch.Tensor]:
        found = {}
        for allowed in minutes:
            prior = Backbone.load(model)
            task = DreamFusionTask(Model(0), prior, "a red mug", QUICK, distill=distilling("vsd"))
            assert len(task.guidance) == 8 and len(task.model.learners) == 1
            recipe = replace(training_recipe(QUICK, 0), checkpoint_every=1, minutes=allowed, warmup_steps=0)
            train(LearningTask(task), recipe, tmp_path / folder, resume=True)
            found = {name: value.clone() for name, value in task.model.state_dict().items()}
        return found

    whole, halves = learn("whole", None), learn("halves", 0.0, None)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    ups = [value for name, value in whole.items() if name.startswith("learners.") and ".up." in name]
    furthest = max(float(up.abs().max()) for up in ups)
    assert 0.5 * LEARNER_RATE < furthest <= 1.01 * QUICK.steps * LEARNER_RATE
    table = Model(0).field.table
    assert (whole["field.table"] - table).abs().max() > 10 * LEARNER_RATE


# -- scores ----------------------------------------------------------------------------------------------------


def test_a_true_object_is_right_in_everything_and_another_colour_only_in_shape() -> None:
    judge = load_picture_judge()
    truth = Truth("chair", "red", SEED, 1)
    found = score(textured_body(truth.body()), judge, truth)
    assert found.chamfer < 0.03 and found.views_right == 1 and found.color_error < 0.02 and found.janus == 0
    blue = score(textured_body(replace(truth, color="blue").body()), judge, truth)
    assert blue.chamfer == found.chamfer and blue.views_right == 0 and blue.color_error > 0.2
    assert score(textured_body(replace(truth, seed=SEED + 1).body()), judge, truth).chamfer > found.chamfer
    assert worst(truth) == Scores(1, 0, 1, 1) and worst(Truth("mug", "red", SEED, 1)).janus is None


def test_an_interval_is_of_the_mean() -> None:
    assert interval([0.25] * 5, 0) == {"mean": 0.25, "low": 0.25, "high": 0.25}
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = interval(list(values), 0)
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([found["low"], found["high"]], [found["mean"] - half, found["mean"] + half], atol=0.03)
    shifted = interval(list(values + 1), 0)  # the same draws: paired
    np.testing.assert_allclose(list(shifted.values()), [value + 1 for value in found.values()])
    assert interval(list(values), 1) != found


def test_a_class_without_a_front_has_no_janus() -> None:
    run = {"chamfer": 0.1, "views_right": 0.5, "color_error": 0.2, "janus": None, "seconds": 1.0, "evaluations": 8,
           "steps": 4, "failed": None}  # fmt: skip
    found = summary([run, run | {"failed": "the field is empty", "chamfer": 1.0}], 0)
    assert found["janus"] is None and found["failed"] == 1 and found["chamfer"]["mean"] == pytest.approx(0.55)
    fronted = summary([run, run | {"janus": 0.4}], 0)
    assert fronted["janus"] == {"mean": 0.4, "low": 0.4, "high": 0.4}


# -- the command -----------------------------------------------------------------------------------------------


def test_a_bench_repeats_and_is_made_once(told, tmp_path: Path) -> None:
    words = ("a red mug", "--budget", 22, "--seeds", 1, "--guidance")
    status, report, said = told(*words, *ROWS, "-o", tmp_path / "a" / "bench.json")
    assert status == 0, said
    table = tmp_path / "a" / "bench.json"
    assert report["outputs"] == [str(table), str(table.with_suffix(".png"))]
    found = json.loads(table.read_text())
    assert report["metrics"] == found["guidances"] and list(found["guidances"]) == list(ROWS)
    for run in found["runs"]:
        name = run["settings"]["guidance"]
        assert run["steps"] == 22 // (2 * ROWS[name]) and run["evaluations"] == run["steps"] * 2 * ROWS[name]
        assert 22 - run["evaluations"] < 2 * ROWS[name] and run["failed"] is None
    assert len({run["chamfer"] for run in found["runs"]}) == len(ROWS)
    picture = read_image(table.with_suffix(".png"))
    assert picture.shape == ((1 + len(ROWS)) * work.SIDE_SIZE, 4 * work.SIDE_SIZE, 3)
    assert json.loads(read_image_text(table.with_suffix(".png"))["rows"]) == ["truth", *ROWS]
    before = table.read_bytes()
    status, _, said = told(*words, *ROWS, "-o", table)  # all is there
    assert status == 0 and "run 1 of" not in said and table.read_bytes() == before
    assert told(*words, "vsd", "csd", "-o", tmp_path / "b" / "bench.json")[0] == 0
    again = without_seconds(tmp_path / "b" / "bench.json")
    assert again["runs"] == [without_seconds(table)["runs"][list(ROWS).index(name)] for name in ("vsd", "csd")]
    status, _, said = told(*words, "csd", "--seed", 1, "-o", table)  # another bench: it is made anew
    assert status == 0 and "run 1 of 1" in said
    assert without_seconds(table)["runs"][0]["chamfer"] != again["runs"][1]["chamfer"]


def test_a_bench_that_was_stopped_goes_on(told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("a red mug", "--guidance", "sds", "csd", "--budget", 4, "--seeds", 1)
    assert told(*words, "-o", tmp_path / "whole.json")[0] == 0
    real, calls = bench.text_to_mesh, []

    def stops(*given: Any, **more: Any):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt("stopped at step 1")
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(bench, "text_to_mesh", stops)
        status, _, said = told(*words, "-o", tmp_path / "bench.json")
        assert status == 130 and "give the same command again" in said and not (tmp_path / "bench.json").exists()
    runs = tmp_path / "bench.run" / "runs"
    kept = {path.name: path.read_bytes() for path in runs.iterdir()}
    assert len(kept) == 2  # numbers and mesh of the first run, and nothing of the second
    status, _, said = told(*words, "-o", tmp_path / "bench.json")
    assert status == 0 and "run 1 of 1" in said
    assert all((runs / name).read_bytes() == content for name, content in kept.items())
    assert without_seconds(tmp_path / "bench.json") == without_seconds(tmp_path / "whole.json")


def test_a_run_without_a_mesh_counts_as_the_worst(told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*_: Any, **__: Any):
        raise InputError("the field is empty")

    monkeypatch.setattr(bench, "text_to_mesh", empty)
    words = ("a red chair", "--guidance", "sds", "--budget", 4, "-o", tmp_path / "bench.json")
    status, report, said = told(*words)
    assert status == 0 and "no mesh: the field is empty" in said
    found = report["metrics"]["sds"]
    assert found["failed"] == found["runs"] == 2
    assert [found[name]["mean"] for name in ("chamfer", "views_right", "color_error", "janus")] == [1, 0, 1, 1]
    assert "run 1 of" not in told(*words)[2]  # it is known that nothing comes of it
    assert (read_image(tmp_path / "bench.png")[work.SIDE_SIZE :] == 255).all()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["a red mug", "--guidance", "magic"], "magic"),
        (["a red mug", "--budget", 0], "--budget 0"),
        (["a red mug", "--seeds", 0], "--seeds 0"),
        (["a red mug", "--budget", 3, "--guidance", "csd"], "3 evaluations is not one step of csd, which takes 4"),
        (["a red dragon"], "no truth is known"),
        (["a small red mug"], "no truth is known"),
        ([], "prompt"),
        (["a red mug", "--oracle", "--guidance", "vsd"], "no network for vsd to train"),
        (["a red mug", "--oracle"], "leave --model out"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(words: list[Any], why: str, told, tmp_path: Path) -> None:
    status, report, said = told(*words, "-o", tmp_path / "bench.json")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 2 and not report and len(errors) == 1
    assert why in errors[0]
    assert not (tmp_path / "bench.json").exists() and not list(tmp_path.rglob("*.glb"))


def test_the_run_of_another_command_is_left_alone(told, tmp_path: Path) -> None:
    run = tmp_path / "bench.run"
    run.mkdir()
    (run / "run.json").write_text('{"recipe": {"name": "TextToMeshRecipe"}}')
    status, _, said = told("a red mug", "-o", tmp_path / "bench.json")
    assert status == 2 and "is not a run of BenchGuidanceRecipe" in said and len(list(run.iterdir())) == 1


def test_every_plain_object_is_known() -> None:
    assert class_and_color("an orange teapot") == ("teapot", "orange")
    with pytest.raises(InputError, match="no truth"):
        class_and_color("a orange teapot")


# -- the oracle ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_oracle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few renders of 32 pixels."""
    monkeypatch.setattr(mesh_scores, "ORACLE_SIDES", 8)
    monkeypatch.setattr(mesh_scores, "oracle_of", partial(mesh_scores.oracle_of, size=32))
    yield


@pytest.mark.slow
def test_sds_comes_nearer_to_the_truth_that_an_oracle_knows(
    small_oracle: None, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUALITIES, "draft", replace(QUICK, steps=60))
    output = tmp_path / "bench.json"
    words = ("a red sofa", "--oracle", "--guidance", "sds", "vsd", "--quality", "draft", "--seeds", 1)
    status, report, said = command("bench-guidance", *words, "--device", "cpu", "-o", output)
    assert status == 0, said
    assert list(report["metrics"]) == ["sds"]  # nothing to train for VSD
    found = report["metrics"]["sds"]
    assert found["evaluations"]["mean"] == 120 and found["failed"] == 0
    truth = Truth("sofa", "red", 0, 1)
    start = score(shape_runs.mesh_of(Model(0).eval())[0], load_picture_judge(), truth)
    assert found["chamfer"]["mean"] < 0.8 * start.chamfer
    assert found["color_error"]["mean"] < 0.5 * start.color_error


def test_an_oracle_of_a_truth_draws_it(small_oracle: None) -> None:
    truth = Truth("sofa", "red", SEED, 1)
    oracle = mesh_scores.oracle_of(truth.body())
    assert isinstance(oracle, OracleBackbone) and oracle.image_size == 32
    front = truth.drawn([0.0], 32).rgb
    assert front.shape == (1, 32, 32, 3)
    rows = rows_of_a_step(distilling("sdi"), oracle, truth.prompt, QUICK)
    assert rows == QUICK.views * ROWS["sdi"]
