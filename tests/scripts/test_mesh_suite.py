"""The suite of meshes: its prompts, its resuming, its numbers, and the stock step that ours is timed against."""

import importlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core2d.app.errors import InputError
from core2d.guidance import ScoreDistillation, ScoreDistillationConfig
from core2d.prior.backbone import Backbone
from core2d.prior.cameras import degrees, orbit
from core2d.toybox import world
from core2d.toybox.judge import PictureJudge
from gen3d.dreamfusion.recipe import DreamFusionConfig
from gen3d.dreamfusion.task import DreamFusionTask
from gen3d.fields.config import FieldConfig
from gen3d.fields.hash_grid_field import HashGridField
from gen3d.mesh import TexturedMesh, save_mesh
from gen3d.shaping.model import Model, look

ROOT = Path(__file__).resolve().parents[2]
CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3  # of a tetrahedron
FACES = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


@pytest.fixture
def suite(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The suite, in which meshes cost nothing: `suite.made` lists the prompts that one was made for."""
    suite = load("measure.mesh_quality")
    made: list[str] = []

    def make_one(_batch: object, _prior: object, prompt: str, _seed: int, path: Path) -> dict[str, Any]:
        made.append(prompt)
        save_mesh(path, TexturedMesh(CORNERS, FACES, colors=np.full((4, 3), 128, np.uint8)))
        return {"seconds": 2.0, "peak_memory_gb": 1.0, "dropped_share": 0.01, "failed": None}

    monkeypatch.setattr(suite, "make_one_in_earnest", suite.make_one, raising=False)
    monkeypatch.setattr(suite, "make_one", make_one)
    monkeypatch.setattr(suite, "made", made, raising=False)
    monkeypatch.setattr(suite, "load_picture_judge", lambda _: PictureJudge().eval())  # of random weights
    monkeypatch.setattr(suite.Backbone, "load", lambda *_: None)
    monkeypatch.setattr(suite.scores, "distance_to_class", lambda *_: 0.05)
    return suite


@pytest.fixture
def batch(suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three prompts; `suite.SUITE` gives a source that a test may change."""
    source = {"code": "abc"}
    monkeypatch.setattr(suite, "SUITE", type("Fixed", (), {"source": lambda _, seed: {"seed": seed, **source}})())
    monkeypatch.setattr(suite, "source_of_test", source, raising=False)
    (tmp_path / "toybox-sd").mkdir()
    (tmp_path / "toybox-sd" / "unet.safetensors").write_bytes(b"one")
    colors = {"chair": "purple", "mug": "green", "dog": "black"}
    return suite.Batch(colors, "draft", "auto", tmp_path, 7, tmp_path / "work")


def test_the_reported_prompts_are_one_of_each_class_and_none_of_those_for_tuning(suite: ModuleType) -> None:
    reported, tuning = suite.REPORTED, suite.FOR_TUNING
    assert list(reported) == list(world.CLASS_NAMES) and set(reported.values()) == set(world.COLOR_NAMES)
    assert sum(world.is_held_out(*pair) for pair in reported.items()) == 6
    assert len(tuning) == 6 and set(tuning.values()) <= set(world.COLOR_NAMES) and set(tuning) <= set(reported)
    assert not set(tuning.items()) & set(reported.items())


def test_what_was_made_is_not_made_again(suite: ModuleType, batch: Any) -> None:
    first = suite.make(batch)
    assert suite.made == ["a purple chair", "a green mug", "a black dog"]
    assert sorted(path.name for path in batch.folder.glob("*.glb")) == [
        "00-purple-chair.glb", "01-green-mug.glb", "02-black-dog.glb"]  # fmt: skip
    assert suite.make(batch) == first and len(suite.made) == 3
    batch.path("mug").unlink()
    suite.make(batch)
    assert suite.made[3:] == ["a green mug"]


def test_a_killed_evaluation_goes_on_with_the_mesh_it_was_at(
    suite: ModuleType, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = suite.make_one

    def killed(*arguments: Any) -> dict[str, Any]:
        if suite.made:
            arguments[-1].write_bytes(b"half of a mesh")
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(suite, "make_one", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.make(batch)
    monkeypatch.setattr(suite, "make_one", whole)
    suite.make(batch)
    assert suite.made == ["a purple chair", "a green mug", "a black dog"]
    assert batch.path("mug").read_bytes() != b"half of a mesh"


def test_meshes_of_another_source_are_made_anew(suite: ModuleType, batch: Any) -> None:
    suite.make(batch)
    suite.source_of_test["code"] = "abd"
    suite.make(batch)
    assert len(suite.made) == 6
    (batch.prior / "unet.safetensors").write_bytes(b"two")
    suite.make(batch)
    suite.make(replace(batch, seed=8))
    assert len(suite.made) == 12


def test_a_prompt_without_a_mesh_is_wrong_and_is_not_tried_again(
    suite: ModuleType, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def text_to_mesh(prompt: str, *_: object) -> None:
        tried.append(prompt)
        raise InputError("the field is empty")

    monkeypatch.setattr(suite, "text_to_mesh", text_to_mesh)
    monkeypatch.setattr(suite, "make_one", suite.make_one_in_earnest)
    for _ in range(2):
        numbers, samples = suite.meshes(batch)
    assert len(tried) == 3 and {row["failed"] for row in samples} == {"the field is empty"}
    assert (numbers["failed"], numbers["right"], numbers["watertight_one_body"]) == (3, 0, 0)
    assert numbers["texture_coverage"] == 0 and math.isnan(numbers["dropped_share"])
    assert [path.suffix for path in batch.folder.iterdir()] == [".json"] * 3  # no mesh, no run


def test_every_bar_has_its_number(suite: ModuleType, batch: Any) -> None:
    numbers, samples = suite.meshes(batch)
    assert [row["prompt"] for row in samples] == ["a purple chair", "a green mug", "a black dog"]
    assert not any(row["right"] for row in samples)
    assert (numbers["right"], numbers["watertight_one_body"], numbers["meshes"], numbers["failed"]) == (0, 3, 3, 0)
    assert (numbers["dropped_share"], numbers["seconds_mean"], numbers["peak_memory_gb"]) == (0.01, 2.0, 1.0)
    assert numbers.get("gltf_errors", 0) == 0  # no number where there is no validator
    for item in suite.items_of(batch.assets, 7)[:3]:
        assert {*item.at_least, *item.at_most} <= {*numbers, "gltf_errors"}
    json.dumps(samples)


def test_items_and_their_folders(suite: ModuleType, tmp_path: Path) -> None:
    items = suite.items_of(tmp_path, 3000)
    assert [item.name for item in items] == ["meshes-normal", "meshes-draft", "meshes-words-normal", "oracle", "killed"]
    assert items[-1].at_least == {"identical": 20}
    assert [item.at_least["right"] for item in items[:3]] == [20, 14, 14]
    assert [item.keeps.name for item in items[:3]] == ["normal-auto", "draft-auto", "normal-words"]
    for_tuning = suite.tuning_items(tmp_path, 2000)
    assert [item.name for item in for_tuning] == [item.name for item in items[:3]]
    assert not any(item.at_least or item.at_most for item in for_tuning)
    assert not {item.keeps for item in for_tuning} & {item.keeps for item in items}


def test_a_missing_validator_is_no_zero(suite: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    helper = importlib.import_module("helpers.gltf_validator")
    monkeypatch.setattr(helper, "validate", lambda _: helper._give_up("node is not installed"))
    assert suite.gltf_errors([Path("mug.glb")]) == {}
    assert "gltf_errors is not measured: " in capsys.readouterr().err


def test_tuning_stays_out_of_the_results(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = load("evaluate")
    followed: list[tuple[Any, Any, Path]] = []
    monkeypatch.setattr(evaluate, "follow", lambda *arguments: followed.append(arguments) or 0)

    def call(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["evaluate.py", *words])
        evaluate.main()

    call("--suite", "mesh", "--tuning")
    given, suite, output = followed[0]
    assert given.seed in world.TUNING_SEEDS and suite is evaluate.mesh.TUNING and output.parent == evaluate.mesh.WORK
    call("--suite", "mesh")
    assert followed[1][2] == ROOT / "benchmarks" / "quality-mesh.json"
    for words in (["--tuning"], ["--suite", "mesh", "--tuning", "--seed", "3000"]):
        with pytest.raises(InputError):
            call(*words)
    assert len(followed) == 2


def test_code_that_makes_meshes_counts_for_meshes_alone(load: Callable[[str], Any], tmp_path: Path) -> None:
    files_of = load("measure.measure").imported_files
    for kind in ("quality", "speed"):
        mesh, prior = (load(f"measure.{name}_{kind}").SUITE for name in ("mesh", "prior"))
        code = [{path.relative_to(ROOT).as_posix() for path in files_of(suite.script, *suite.code)}
                for suite in (mesh, prior)]  # fmt: skip
        assert "gen3d/dreamfusion/task.py" in code[0] and "gen3d/nerf/task.py" not in code[0]
        assert not any(path.startswith("gen3d/") for path in code[1]) and mesh.script != prior.script
    more = tmp_path / "command.py"
    more.write_text("x = 1")
    suite = load("measure.suite").Suite(lambda *_: [], Path(__file__), (more,))
    before = suite.source(1)["code"]
    more.write_text("x = 2")
    assert suite.source(1)["code"] != before


def test_a_gif_turns_for_ever(suite: ModuleType, tmp_path: Path) -> None:
    frames = np.zeros((6, 8, 16, 3), np.uint8)
    for turn, frame in enumerate(frames):
        frame[:, 2 * turn : 2 * turn + 4] = (200, 40 * turn, 0)
    suite.save_gif(tmp_path / "turn.gif", frames)
    with Image.open(tmp_path / "turn.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (6, (16, 8), 0)  # pyright: ignore
        gif.seek(3)
        found = np.asarray(gif.convert("RGB")).astype(int)
    assert np.abs(found - frames[3]).max() <= 8


# -- the stock step --------------------------------------------------------------------------------------------


class StockParts:
    """As much of a pipeline as pictures need."""

    class scheduler:
        class config:
            prediction_type = "epsilon"

    unet, vae = torch.nn.Identity(), torch.nn.Identity()

    @staticmethod
    def encode_prompt(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)


def uneven_field() -> HashGridField:
    """A ball with bumps and colours."""
    field = Model(0).field
    with torch.no_grad():
        field.table.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(0))
    return field


@pytest.mark.parametrize("shaded", [False, True])
def test_the_stock_step_sees_what_ours_sees(load: Callable[[str], Any], tiny_folder, shaded: bool) -> None:
    field, white = uneven_field(), torch.ones(3)
    views = orbit(degrees([20.0, 200.0]), degrees(20.0), 1.95)
    stock = load("measure.stock_sds").StockStep(field, StockParts, "a red mug", DreamFusionConfig())
    task = DreamFusionTask(Model(0), Backbone.load(tiny_folder("sd1")), "a red mug", DreamFusionConfig())
    task.model.field.load_state_dict(field.state_dict())
    torch.manual_seed(0)
    with torch.no_grad():
        color, opacity, turned = stock.render(views, 24, white, shaded)
        ours = look(task.model, views, 24, white, shaded)
    assert -10 * math.log10(float((color - ours.color).square().mean())) > 30
    assert float((opacity - ours.opacity).abs().mean()) < 0.02
    assert (float(turned) > 0) == shaded


def test_the_stock_step_asks_what_ours_asks(load: Callable[[str], Any], tiny_folder) -> None:
    """The same pictures, times and noise give the same loss and the same gradient."""
    folder = tiny_folder("sd1")
    prior = Backbone.load(folder)
    config = DreamFusionConfig()
    stock = load("measure.stock_sds").StockStep(
        uneven_field(), load("measure.measure").stock_pipeline(folder), "a red mug", config
    )
    side = prior.image_size
    pictures = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ours = ScoreDistillation(prior, ScoreDistillationConfig(guidance_scale=1, form="x0", space="image"))
    loss, _ = ours(pictures, "a red mug", None, 3)
    t, noise = ours.draw(prior.encode_images(pictures.detach()), 3)
    theirs = stock.distil(pictures, t, noise)
    torch.testing.assert_close(theirs, loss, rtol=1e-4, atol=0)
    gradients = [torch.autograd.grad(value, pictures)[0] for value in (theirs, loss)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_whole_stock_step_moves_the_field(load: Callable[[str], Any], tiny_folder, bfloat16: bool) -> None:
    folder, field = tiny_folder("sd1"), uneven_field()
    stock = load("measure.stock_sds").StockStep(
        field, load("measure.measure").stock_pipeline(folder), "a red mug", DreamFusionConfig(), bfloat16
    )
    before = field.table.detach().clone()
    size = Backbone.load(folder).image_size
    assert math.isfinite(stock(orbit(0.0, 0.3, 1.95), size, torch.ones(3), True, 0.5))
    assert not torch.equal(field.table, before) and field.table.isfinite().all()


def test_the_stock_step_refuses_what_it_does_not_know(load: Callable[[str], Any]) -> None:
    field = HashGridField(FieldConfig(view_dependent=True))
    with pytest.raises(ValueError, match="albedo"):
        load("measure.stock_sds").StockStep(field, StockParts, "a red mug", DreamFusionConfig())
