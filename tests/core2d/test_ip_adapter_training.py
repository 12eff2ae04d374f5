"""Image prompts are learned, bundled and asked for by commands: the task, the stage in miniature, the options."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.control_training import recipe
from helpers.image_prompt_training import image_prompt_task
from helpers.training_runs import LAUNCH, ROOT, assert_same, finish, read_log
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core2d.__main__ import main
from core2d.adapters.controlnet import fresh_controlnet
from core2d.adapters.controlnet_files import write_controlnet
from core2d.adapters.ip_adapter import IPAdapter
from core2d.adapters.ip_adapter_files import read_ip_adapter, write_ip_adapter
from core2d.app.errors import InputError
from core2d.app.provenance import digest
from core2d.app.registry import assets_folder
from core2d.bundled import ip_adapter, ip_adapter_scores
from core2d.bundled.ip_adapter import IP_ADAPTER
from core2d.bundled.training import TrainingSetup
from core2d.files.loading import save_model
from core2d.media.pictures import read_image_text
from core2d.prior.backbone import Backbone
from core2d.systems.image_prompt.task import EMPTY, IMAGE
from core2d.toybox.scene import WHITE, moment, still
from core2d.toybox.subjects import seen_again
from core2d.training.log import measured
from core2d.training.loop import train

Fold = Callable[..., Path]


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.fixture
def prior(tiny_folder: Fold) -> Backbone:
    return Backbone.load(tiny_folder("sd1"))


# -- the training --------------------------------------------------------------------------------------------------


def test_rows_are_a_function_of_the_step_and_drop_what_they_should(prior: Backbone) -> None:
    task = image_prompt_task(prior, drop_words=0.3, drop_picture=0.2, drop_both=0.1)
    whole, part = task.batch(7, torch.arange(2000), 2000), task.batch(7, torch.arange(50, 60), 2000)
    for name, rows in part.items():
        assert torch.equal(rows, whole[name][50:60]), name
    wordless, blind = whole["asked"] == EMPTY, (whole[IMAGE] == 0).all(1)
    for share, rows in ((0.3, wordless & ~blind), (0.2, blind & ~wordless), (0.1, wordless & blind)):
        assert abs(rows.float().mean() - share) < 0.04
    with pytest.raises(ValueError, match="more than all"):
        image_prompt_task(prior, drop_words=0.9, drop_both=0.2)


def test_before_the_first_step_the_loss_is_that_of_the_prior_alone(prior: Backbone) -> None:
    task = image_prompt_task(prior)
    rows = task.batch(0, torch.arange(8), 8)
    loss, _ = task.loss(task.model, rows)
    alone, _ = task.objective.loss(prior.network(rows["noisy"], rows["timesteps"], task.told(rows["asked"])), rows)
    assert torch.equal(loss.detach(), alone)
    loss.backward()
    values = [layer.get_parameter("to_v_ip.weight").grad for layer in task.model.ip_adapter]
    assert all(grad is not None and grad.abs().max() > 0 for grad in values)  # each layer is heard, and learns


def test_it_learns_and_tells_what_is_carried_and_the_prior_stays(
    prior: Backbone, tmp_path: Path, on_the_cpu: None, capfd: pytest.CaptureFixture[str]
) -> None:
    def measure(model: Any) -> dict[str, float]:
        assert not model.training and prior.with_adapters(IPAdapter(model))  # which freezes what it is given
        return {"carried": float(sum(value.abs().sum() for value in model.ip_adapter.parameters()))}

    task = image_prompt_task(prior, measure=measure)
    before = {name: value.clone() for name, value in prior.denoiser.state_dict().items()}
    rows = task.batch(1000, torch.arange(64), 64)
    first = task.loss(task.model, rows)[0].item()
    train(task, recipe(steps=30, checkpoint_every=15, learning_rate=1e-3), tmp_path)
    assert [line["step"] for line in measured(tmp_path)] == [15, 30]
    assert "step 30: carried" in capfd.readouterr().err
    assert task.loss(task.model, rows)[0].item() < first
    assert_same(dict(prior.denoiser.state_dict()), before)


def test_stopped_and_gone_on_with_it_ends_the_same(prior: Backbone, tmp_path: Path, on_the_cpu: None) -> None:
    def stops(model: Any) -> dict[str, float]:
        raise RuntimeError("the light went out")

    whole, broken, again = image_prompt_task(prior), image_prompt_task(prior, measure=stops), image_prompt_task(prior)
    train(whole, recipe(steps=8, checkpoint_every=4), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="the light went out"):
        train(broken, recipe(steps=8, checkpoint_every=4), tmp_path / "broken")
    train(again, recipe(steps=8, checkpoint_every=4), tmp_path / "broken", resume=True)
    steps = [line["step"] for line in read_log(tmp_path / "broken")]
    assert steps[-4:] == [5, 6, 7, 8] and 4 in steps  # from the checkpoint on, and not from the start
    assert_same(dict(again.model.state_dict()), dict(whole.model.state_dict()))


def start(folder: Path, model: Path, options: dict[str, Any], *more: str, launcher: list[str] | None = None) -> Any:
    program = ROOT / "tests" / "helpers" / "image_prompt_training.py"
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *(launcher or []), str(program), str(folder), str(model), json.dumps(options), *more]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_and_resumed_and_two_processes_end_as_one(tiny_folder: Fold, tmp_path: Path) -> None:
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


# -- the bundled one -----------------------------------------------------------------------------------------------


def test_a_reference_shows_the_same_body_at_rest_elsewhere() -> None:
    for scene in (still(0, 3, "object"), moment(0, 5, 3, 16, "object"), still(0, 8, "doll")):
        again, plain = seen_again(scene, 0, 4), seen_again(scene, 0, 4, plain=True)
        assert again.parts == scene.parts and again.colors == scene.colors and again.view != scene.view
        assert again.offset == (0.0, 0.0, 0.0) and again.yaw == 0.0 and again == seen_again(scene, 0, 4)
        assert plain.ground is None and plain.background == WHITE and plain.view.elevation <= np.radians(60)


def test_heads_are_swapped_where_the_truth_is_drawn() -> None:
    cases = ip_adapter_scores.head_swaps(2000, 3, 64)
    assert cases.pictures.shape == cases.references.shape == (3, 3, 64, 64)
    covered = cases.heads.mean((1, 2, 3))
    assert (covered > 0.005).all() and (covered < 0.2).all()
    true = torch.cat([ip_adapter_scores.pictures_of([scene], 64)[0] for scene in cases.scenes])
    swapped = torch.where(cases.heads > 0, true, cases.pictures)
    assert (swapped - true).abs().max() < 0.06  # nothing of the hair is outside of the mask

    found = ip_adapter_scores.head_swap_scores(lambda _: swapped, 2000, 64, 3)
    assert found["swap_clothes"] > found["swap_clothes_before"] and found["swap_kept"] == 0
    none = ip_adapter_scores.head_swap_scores(lambda cases: cases.pictures, 2000, 64, 3)
    assert none["swap_clothes"] == none["swap_clothes_before"]


def test_the_stage_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_cpu: None) -> None:
    """From nothing, then from what stands; what it writes is small, and found by its name."""
    for name in ("SCORED", "CARRIED"):
        monkeypatch.setattr(ip_adapter_scores, name, 2)
    monkeypatch.setattr(ip_adapter_scores.scores, "STEPS", 1)
    (tmp_path / "assets").mkdir()
    for name in ("toybox-sd", "toybox-clip", "toybox-judge"):
        (tmp_path / "assets" / name).symlink_to(assets_folder() / name)
    changes = (("steps", 2), ("batch_size", 4), ("checkpoint_every", 2))
    setup = TrainingSetup(tmp_path / "assets", tmp_path / "runs", pictures=8, changes=changes)
    for resume in (True, False):
        found = IP_ADAPTER.run(replace(setup, resume=resume))
        assert 0 <= found["carried"] <= 1 and {"carried_by_words", "words_class", "carried_anyhow"} <= found.keys()
    folder = setup.assets / IP_ADAPTER.folder
    read = read_ip_adapter(folder)
    IPAdapter(read.model).check_fit(Backbone.load(setup.assets / "toybox-sd"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 0.7e6 and not read.unexpected
    assert json.loads((folder / "liftkit.json").read_text()) == {"world": "toybox", "image_encoder": "toybox-clip"}
    assert "| ip-adapter | carried |" in (folder / "README.md").read_text()
    seen = np.load(next(setup.data.glob("v1-references-*.npy")))
    assert seen.shape == (16, 128) and np.isfinite(seen).all()
    assert ip_adapter.reference(3, 0).background == WHITE
    with pytest.raises(InputError, match="train the prior and clip stages first"):
        IP_ADAPTER.run(TrainingSetup(tmp_path / "none", tmp_path / "runs"))


# -- commands ------------------------------------------------------------------------------------------------------


def run(*words: object) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


@pytest.fixture
def place(prior: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter of the tiny model with its tower beside it, pictures and a mask."""
    monkeypatch.chdir(tmp_path)
    task = image_prompt_task(prior)
    for layer in task.model.ip_adapter:
        torch.nn.init.normal_(layer.to_v_ip.weight, std=0.7)  # pyright: ignore
    write_ip_adapter(tmp_path / "ip.bin", task.model)
    config = CLIPVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                              image_size=16, patch_size=4, projection_dim=20)  # fmt: skip
    save_model(CLIPVisionModelWithProjection(config), tmp_path / "image_encoder")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("a.png")
    Image.fromarray(255 - pixels).save("b.png")
    Image.new("RGB", (8, 8), (200, 30, 30)).save("red.png")
    Image.new("L", (16, 16), 255).crop((0, 0, 16, 16)).save("all.png")
    Image.new("L", (16, 16), 0).save("none.png")
    return tmp_path


def words(model: Path, *more: object, command: tuple[str, ...] = ("text-to-image", "")) -> list[object]:
    return [*command, "--model", model, "--ip-adapter", "ip.bin", "--steps", 2, "-o", "out.png", *more]


def test_pictures_are_prompts_of_their_own_and_say_so(place: Path, tiny_folder: Fold) -> None:
    model, drawn = tiny_folder("sd1"), {}
    cases: dict[str, tuple[object, ...]] = {
        "none": ("--image-prompt", "a.png@0"), "a": ("--image-prompt", "a.png"), "red": ("--image-prompt", "red.png"),
        "both": ("--image-prompt", "a.png@0.5", "b.png"),
        "all": ("--image-prompt", "a.png", "--image-prompt-mask", "all.png"),
    }  # fmt: skip
    for name, more in cases.items():
        assert run(*words(model, *more)) == 0
        drawn[name] = np.array(Image.open("out.png")).astype(int)
    said = read_image_text("out.png")
    assert json.loads(said["recipe"])["image_prompt"] == ["a.png"]
    assert json.loads(said["inputs"])["image prompt 0"] == digest(Path("a.png"))
    assert {"ip adapter", "image prompt mask 0"} <= json.loads(said["inputs"]).keys()
    differ = [(one, other) for one in drawn for other in drawn
              if one < other and (drawn[one] != drawn[other]).any()]  # fmt: skip
    assert len(differ) == 9 and np.abs(drawn["a"] - drawn["all"]).max() <= 1  # all but these two


def test_a_map_and_a_picture_are_followed_together(place: Path, prior: Backbone, tiny_folder: Fold) -> None:
    write_controlnet(Path("net"), fresh_controlnet(prior))
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)).save("map.png")
    control = ("control", "map.png", "", "--kind", "depth", "--controlnet", "net")
    pictures = []
    for scale in (0, 1):
        more = ("--image-prompt", f"a.png@{scale}")
        assert run(*words(tiny_folder("sd1"), *more, command=control)) == 0
        pictures.append(np.array(Image.open("out.png")))
    assert (pictures[0] != pictures[1]).any()


def test_a_part_of_a_picture_is_drawn_anew_by_another_picture(place: Path, tiny_folder: Fold) -> None:
    """As a head is swapped: what is masked follows the reference, all else stays to the byte."""
    picture = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(picture).save("doll.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[2:9, 4:11] = 255
    Image.fromarray(mask).save("head.png")
    pictures = []
    for scale in (0, 1):
        more = ("--image-prompt", f"a.png@{scale}")
        assert run(*words(tiny_folder("sd1"), *more, command=("inpaint", "doll.png", "head.png", ""))) == 0
        pictures.append(np.array(Image.open("out.png")))
        assert np.array_equal(pictures[-1][mask == 0], picture[mask == 0])
    assert (pictures[0] != pictures[1]).any()
    assert {"ip adapter", "image prompt 0", "mask"} <= json.loads(read_image_text("out.png")["inputs"]).keys()


BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "no words": (("--ip-adapter", "toybox-ip-adapter"), "a prompt is empty"),
    "nothing to hear": ((), "--ip-adapter needs a picture"),
    "no picture": (("--image-prompt", "nothing.png"), "nothing.png: no such file"),
    "not a picture": (("--image-prompt", "text.png"), "text.png cannot be read"),
    "scale": (("--image-prompt", "a.png@11"), "give a number from 0 to 10"),
    "no number": (("--image-prompt", "a.png@loud"), "--image-prompt a.png@loud"),
    "masks": (("--image-prompt", "a.png", "b.png", "--image-prompt-mask", "all.png"), "1 masks for 2 image prompts"),
    "black mask": (("--image-prompt", "a.png", "--image-prompt-mask", "none.png"), "none.png is white nowhere"),
    "no mask": (("--image-prompt", "a.png", "--image-prompt-mask", "no.png"), "--image-prompt-mask no.png: no such"),
    "no adapter": (("--image-prompt", "a.png", "--ip-adapter", "no.bin"), "no IP-Adapter at no.bin"),
    "other file": (("--image-prompt", "a.png", "--ip-adapter", "unet.safetensors"), "holds no IP-Adapter"),
    "pickle": (("--image-prompt", "a.png", "--ip-adapter", "evil.bin"), "evil.bin"),
    "nan": (("--image-prompt", "a.png", "--ip-adapter", "nan.safetensors"), "not finite"),
    "other tower": (("--image-prompt", "a.png", "--ip-adapter", "other/ip.bin"), "no image tower reads pictures"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_line_and_leaves_nothing(
    place: Path, tiny_folder: Fold, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    more, line = BAD[case]
    Path("text.png").write_text("no picture")
    Path("evil.bin").write_bytes(b"\x80\x04cposix\nsystem\n(S'touch gone'\ntR.")
    save_file({"conv.weight": torch.zeros(1)}, "unet.safetensors")
    Path("other").mkdir()
    Path("other/ip.bin").write_bytes(Path("ip.bin").read_bytes())
    model = read_ip_adapter("ip.bin").model
    model.ip_adapter[0].to_k_ip.weight.data[0, 0] = torch.inf  # pyright: ignore
    write_ip_adapter(Path("nan.safetensors"), model)
    before = {path.name for path in place.iterdir()}
    given = words(tiny_folder("sd1"), *more)
    if more.count("--ip-adapter"):
        del given[given.index("--ip-adapter") : given.index("--ip-adapter") + 2]
    assert run(*given) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and line in said, said
    assert {path.name for path in place.iterdir()} == before
