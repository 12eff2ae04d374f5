"""DreamBooth and LoRA of a subject: the training, its commands, and what they are told by people."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from helpers.training_runs import ROOT, assert_same, read_log
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core2d.__main__ import main
from core2d.adapters.lora import lora_of
from core2d.adapters.lora_files import read_lora
from core2d.adapters.lora_learning import NAME, low_rank
from core2d.adapters.options import with_loras
from core2d.app.errors import InputError
from core2d.bundled import subject_scores
from core2d.bundled.subject_scores import PICTURES, learn_and_score, subject_kept
from core2d.prior.backbone import Backbone
from core2d.systems.dreambooth.pictures import read_subject
from core2d.systems.dreambooth.recipe import LoraTrainRecipe
from core2d.systems.dreambooth.task import DreamBoothTask, drawn, encoded, whole_copy
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import world
from core2d.toybox.judge import PictureJudge
from core2d.toybox.scene import still
from core2d.toybox.subjects import COUNT, RARE, others, subject
from core2d.training.loop import TrainingRecipe, train

Fold = Callable[..., Path]
CPU = torch.device("cpu")
PROMPTS = ["a sks mug", "a mug", "a mug", "a red mug", "a chair"]  # of a subject, and of what is kept


def task_of(prior: Backbone, whole: bool = False, kept: int = 4, **options: Any) -> DreamBoothTask:
    """Three pictures of a subject and some that are kept, half of its kind and half of others, all random."""
    generator = torch.Generator().manual_seed(5)
    shape = (prior.latent_channels, prior.latent_size, prior.latent_size)
    subject_latents, kept_latents = (torch.randn(count, *shape, generator=generator) for count in (3, kept))
    tuned, layers = whole_copy(prior) if whole else low_rank(prior, 2)
    told = prior.encode_text([*PROMPTS[:1], *PROMPTS[1:] * (kept // 4)])
    return DreamBoothTask(layers, tuned, subject_latents, kept_latents, told, **options)


def short(steps: int = 8, **changes: Any) -> TrainingRecipe:
    settings: dict[str, Any] = {"batch_size": 4, "warmup_steps": 2, "checkpoint_every": 2, "log_every": 1,
                                "precision": "no", "learning_rate": 1e-2, "ema_decay": 0.0}  # fmt: skip
    return TrainingRecipe(steps, **{**settings, **changes})


@pytest.fixture
def prior(tiny_folder: Fold) -> Backbone:
    return Backbone.load(tiny_folder("sd1"))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


# -- the training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("whole", [False, True])
def test_it_begins_as_the_prior_and_leaves_that_as_it_is(tiny_folder: Fold, tmp_path: Path, family: str, whole: bool):
    prior = Backbone.load(tiny_folder(family))
    before, x_t, words = tensors_of(prior.denoiser), torch.randn(2, 4, 8, 8), prior.encode_text(["a sks mug"])

    @torch.no_grad()
    def said_by(one: Backbone) -> Tensor:
        return one.predict(x_t, 500, words).eps

    task, plain = task_of(prior, whole), said_by(prior)
    if whole:
        assert_same(tensors_of(task.model), before)
        torch.testing.assert_close(said_by(task.prior), plain, atol=1e-6, rtol=0)  # a copy may lie otherwise in memory
    else:
        assert torch.equal(said_by(task.prior), plain)
    train(task, short(), tmp_path, device=CPU)
    assert (said_by(task.prior) - plain).abs().max() > 1e-3
    assert_same(tensors_of(prior.denoiser), before)
    assert torch.equal(said_by(prior), plain)
    assert all(p.grad is None and not p.requires_grad for p in prior.denoiser.parameters())


def test_the_rows_are_a_function_of_the_step_and_half_of_them_of_what_is_kept(prior: Backbone):
    task = task_of(prior, preservation=0.25)
    rows = task.batch(3, torch.arange(8), 8)
    assert not rows["told"][::2].any() and rows["told"][1::2].all()
    assert {row for step in range(20) for row in task.batch(step, torch.arange(8), 8)["told"].tolist()} == set(range(5))
    again = [task.batch(3, positions, 8) for positions in torch.arange(8).split(4)]
    assert all(torch.equal(torch.cat([half[name] for half in again]), value) for name, value in rows.items())
    assert not torch.equal(task.batch(4, torch.arange(8), 8)["noisy"], rows["noisy"])
    plain = task.objective.schedule.min_snr_weight(rows["timesteps"], floor=task.snr_floor)
    torch.testing.assert_close(rows["weight"], plain * torch.tensor([1.0, 0.25] * 4))
    alone = task_of(prior, kept=0).batch(3, torch.arange(8), 8)
    assert not alone["told"].any()
    # The latents under the noise are those of the subject, and those drawn of what is told; their noise is the target.
    found = prior.schedule.prediction(rows["target"], rows["noisy"], rows["timesteps"]).x0
    for row, told in zip(found, rows["told"], strict=True):
        pool = task.kept[told - 1][None] if told else task.subject
        assert (pool - row).abs().flatten(1).amax(1).min() < 1e-2


def test_the_loss_is_equation_2(prior: Backbone):
    """Mean over pairs of the subject's error under its name and, weighted, of another under the name of that."""
    task = task_of(prior, preservation=0.5)
    rows = task.batch(0, torch.arange(6), 6)
    loss, _ = task.loss(task.model, rows)
    errors = []
    for row in range(6):
        name, t = PROMPTS[rows["told"][row]], rows["timesteps"][row : row + 1]
        output = prior.network(rows["noisy"][row : row + 1], t, prior.encode_text([name]))
        weight = prior.schedule.min_snr_weight(t, floor=0.3)
        errors.append((1.0, 0.5)[row % 2] * weight * (output - rows["target"][row : row + 1]).square().mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean(), atol=1e-5, rtol=1e-5)
    halves = [task.loss(task.model, task.batch(0, positions, 6))[0] for positions in torch.arange(6).split(3)]
    torch.testing.assert_close(torch.stack(halves).mean(), loss, atol=1e-6, rtol=1e-6)  # so 2 processes equal 1


@pytest.mark.parametrize("whole", [False, True])
def test_stopped_and_resumed_it_ends_with_the_same_bits(prior: Backbone, tmp_path: Path, whole: bool):
    unbroken = task_of(prior, whole)
    train(unbroken, short(), tmp_path / "whole", device=CPU)
    stopped = task_of(prior, whole)
    rows = stopped.batch

    def stop(step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        if step == 5:
            raise KeyboardInterrupt
        return rows(step, positions, batch_size)

    stopped.batch = stop  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KeyboardInterrupt):
        train(stopped, short(), tmp_path / "broken", device=CPU)
    resumed = task_of(prior, whole)
    train(resumed, short(), tmp_path / "broken", resume=True, device=CPU)
    assert [line["step"] for line in read_log(tmp_path / "broken")] == list(range(1, 9))
    assert_same(tensors_of(resumed.model), tensors_of(unbroken.model))


def test_a_checkpoint_of_a_lora_holds_what_learns_and_no_more(prior: Backbone, tmp_path: Path):
    task = task_of(prior)
    train(task, short(2), tmp_path, device=CPU)
    saved = load_file(tmp_path / "checkpoints" / "step-000002" / "model.safetensors")
    lora = lora_of(task.prior.denoiser, NAME)
    assert len(saved) == 2 * len(lora.unet) and all(name.endswith(("down.weight", "up.weight")) for name in saved)
    assert {layer.scale for layer in lora.unet.values()} == {1.0} and lora.rank == 2
    assert all(layer.up.any() for layer in lora.unet.values())


def test_only_a_unet_learns_low_rank_layers(tiny_folder: Fold):
    with pytest.raises(InputError, match="only a UNet"):
        low_rank(Backbone.load(tiny_folder("pixart")))


# -- pictures ----------------------------------------------------------------------------------------------------------


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Four pictures of a red block on grey, of several shapes, one of them a JPEG."""
    generator = np.random.default_rng(1)
    for index, (height, width) in enumerate([(40, 40), (30, 60), (64, 32), (20, 20)]):
        pixels = generator.integers(90, 110, (height, width, 3), dtype=np.uint8)
        pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = (200, 30, 30)
        save(tmp_path / "mug" / f"{index}.{'jpg' if index == 1 else 'png'}", pixels)
    return tmp_path / "mug"


def test_photographs_are_cut_to_their_middle_and_cut_outs_lie_on_white(tmp_path: Path):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = (255, 0, 0)
    wide[8, 20] = (0, 0, 255)
    save(tmp_path / "a.png", wide)
    cut_out = np.zeros((16, 8, 4), np.uint8)
    cut_out[4:12] = (0, 255, 0, 255)
    save(tmp_path / "b.png", cut_out)
    save(tmp_path / "c.png", cut_out[..., :3].repeat(2, 1))
    save(tmp_path / "c.mask.png", cut_out[..., 3].repeat(2, 1))
    (tmp_path / "notes.txt").write_text("mine")
    found = read_subject(tmp_path, 16)
    assert found.shape == (3, 3, 16, 16)
    assert found[0, :, 0, 0].tolist() == [1, 0, 0] and found[0, 2, 8, 4] == 1
    assert found[1, :, 8, 8].tolist() == [0, 1, 0] and found[1, :, 8, 0].tolist() == [1, 1, 1]  # whole, on a square
    assert found[2, :, 8, 8].tolist() == [0, 1, 0] and found[2, :, 0, 8].tolist() == [1, 1, 1]
    mirrored = read_subject(tmp_path, 16, flip=True)
    assert torch.equal(mirrored[3:], found.flip(-1)) and torch.equal(mirrored[:3], found)


def test_latents_are_those_of_the_prior(prior: Backbone):
    pictures = torch.rand(9, 3, 16, 16)
    torch.testing.assert_close(encoded(prior, pictures), prior.encode_images(pictures), atol=1e-5, rtol=1e-5)
    expected = TextToImage(prior)("a mug", num_images_per_prompt=2, seed=4, output_type="latent").images
    seen: list[int] = []
    assert torch.equal(drawn(prior, ["a mug"] * 2, seed=4, on_step=seen.append), expected) and sum(seen) == 50


# -- the commands ------------------------------------------------------------------------------------------------------

Told = tuple[int, dict[str, Any], str]


@pytest.fixture
def follow(capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Follow `core2d WORDS --json`: exit status, report, and what stderr says."""

    def run(*words: object) -> Told:
        status: Any = 0
        try:
            main([*map(str, words), "--json"])
        except SystemExit as leaving:
            status = leaving.code
        said = capfd.readouterr()
        return status, json.loads(said.out) if said.out else {}, said.err

    return run


def options(model: Path, steps: int = 6) -> list[object]:
    return ["--subject", "a sks mug", "--model", model, "--steps", steps, "--batch-size", 4, "--kind-pictures", 3,
            "--learning-rate", "0.01", "--device", "cpu"]  # fmt: skip


def test_a_lora_is_learned_from_a_folder(
    follow: Callable[..., Told], tiny_folder: Fold, photographs: Path, tmp_path: Path
):
    model, file = tiny_folder("sd1"), tmp_path / "out" / "mug.safetensors"
    status, told, _ = follow("lora", "train", photographs, *options(model), "-o", file)
    assert status == 0 and told["outputs"] == [str(file)]
    assert told["metrics"] | {"seconds_of_training": 0} == {
        "pictures": 4, "kept": 3, "steps": 6, "seconds_of_training": 0}  # fmt: skip
    assert sorted(path.name for path in file.parent.iterdir()) == ["mug.run", "mug.safetensors"]
    run = tmp_path / "out" / "mug.run"
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["recipe"]["subject"] == "a sks mug" and len(manifest["inputs"]) == 5
    with Image.open(run / "previews" / "step-000006.png") as preview:
        assert preview.size == (4 * 16, 2 * 16) and preview.info["prompts"] == "a sks mug | a mug"
    prior = Backbone.load(model)
    tuned = with_loras(prior, {file: 1.0})
    noise, words = torch.randn(1, 4, 8, 8), prior.encode_text(["a sks mug"])
    assert (tuned.predict(noise, 500, words).eps - prior.predict(noise, 500, words).eps).abs().max() > 1e-3
    for style, name in (("kohya", "kohya.safetensors"), ("peft", "peft")):
        assert follow("lora", "train", photographs, *options(model), "-o", tmp_path / name, "--style", style)[0] == 0
        found, expected = read_lora(tmp_path / name).unet, read_lora(file).unet
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[layer].delta(), expected[layer].delta()) for layer in found)  # the same training


def test_a_run_goes_on_without_its_pictures_and_ends_as_it_did(
    follow: Callable[..., Told], tiny_folder: Fold, photographs: Path, tmp_path: Path
):
    file = tmp_path / "mug.safetensors"
    follow("lora", "train", photographs, *options(tiny_folder("sd1")), "-o", file)
    before = file.rename(tmp_path / "before.safetensors")
    for picture in photographs.iterdir():
        picture.unlink()
    status, told, said = follow("lora", "train", "--resume", tmp_path / "mug.run")
    assert status == 0 and told["metrics"]["steps"] == 6, said
    assert_same(load_file(file), load_file(before))
    wrong = {("--steps", 9): "goes on with the steps of the run", ("--subject", "x"): "the subject of the run"}
    for words, message in wrong.items():
        status, _, said = follow("lora", "train", "--resume", tmp_path / "mug.run", *words)
        assert status == 2 and message in said
    status, _, said = follow("dreambooth", "--resume", tmp_path / "mug.run")
    assert status == 2 and "is not a run of DreamBoothRecipe" in said
    (tmp_path / "mug.run" / "latents.safetensors").write_bytes(b"x")
    status, _, said = follow("lora", "train", "--resume", tmp_path / "mug.run")
    assert status == 2 and "latents.safetensors is missing or damaged: start the run anew" in said


def test_a_run_stopped_early_does_not_go_on_with_what_an_earlier_one_learned_from(
    follow: Callable[..., Told], tiny_folder: Fold, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ("lora", "train", photographs, *options(tiny_folder("sd1")), "-o", tmp_path / "mug.safetensors")
    assert follow(*words)[0] == 0

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("core2d.systems.dreambooth.command.encoded", stopped)
        assert follow(*words)[0] == 130
    status, _, said = follow("lora", "train", "--resume", tmp_path / "mug.run")
    assert status == 2 and "latents.safetensors is missing or damaged: start the run anew" in said


@pytest.mark.slow
def test_killed_and_resumed_the_file_is_the_same(tiny_folder: Fold, photographs: Path, tmp_path: Path):
    """A checkpoint is written every hundred steps; the process is killed in the middle of the second hundred."""
    words = ["lora", "train", str(photographs), *map(str, options(tiny_folder("sd1"), 210))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def start(*more: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "core2d", *more]
        return subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    process = start(*words, "-o", str(tmp_path / "whole.safetensors"))
    assert process.wait(timeout=300) == 0, process.stderr.read() if process.stderr else ""
    process = start(*words, "-o", str(tmp_path / "broken.safetensors"))
    run = tmp_path / "broken.run"
    while not any(line["step"] >= 120 for line in read_log(run)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "broken.safetensors").exists()
    process = start("lora", "train", "--resume", str(run))
    assert process.wait(timeout=300) == 0, process.stderr.read() if process.stderr else ""
    assert_same(*(load_file(tmp_path / f"{name}.safetensors") for name in ("broken", "whole")))


def test_the_whole_model_is_a_folder_that_stock_opens(
    follow: Callable[..., Told], tiny_folder: Fold, photographs: Path, tmp_path: Path
):
    model, folder = tiny_folder("sd1", camera=True), tmp_path / "subject"
    status, told, said = follow("dreambooth", photographs, *options(model), "-o", folder, "--preservation", 0)
    assert status == 0 and told["metrics"]["kept"] == 0, said
    stock: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    expected = stock("a sks mug", num_inference_steps=3, guidance_scale=5.0, generator=noise, output_type="pt").images
    ours = TextToImage.from_pretrained(folder)
    drawn_here = ours("a sks mug", num_inference_steps=3, seed=0, output_type="pt").images
    torch.testing.assert_close(drawn_here, expected, atol=1e-5, rtol=0)
    before = TextToImage.from_pretrained(model)("a sks mug", num_inference_steps=3, seed=0, output_type="pt").images
    assert (drawn_here - before).abs().max() > 1e-3
    assert isinstance(ours.backbone, Backbone) and ours.backbone.has_camera_token and ours.backbone.world == "toybox"


def test_fused_into_a_folder_it_draws_as_with_the_files(
    follow: Callable[..., Told], tiny_folder: Fold, photographs: Path, tmp_path: Path
):
    model, file = tiny_folder("sd1"), tmp_path / "mug.safetensors"
    follow("lora", "train", photographs, *options(model), "-o", file)
    status, told, _ = follow("lora", "fuse", model, f"{file}@0.5", "-o", tmp_path / "fused")
    assert status == 0 and told["outputs"] == [str(tmp_path / "fused")]
    settings: dict[str, Any] = {"num_inference_steps": 3, "seed": 0, "output_type": "pt"}
    with_files = TextToImage(with_loras(Backbone.load(model), {file: 0.5}))("a sks mug", **settings).images
    assert torch.equal(TextToImage.from_pretrained(tmp_path / "fused")("a sks mug", **settings).images, with_files)
    status, _, said = follow("lora", "fuse", model, file, "-o", model)
    assert status == 2 and "it is the model itself" in said
    status, _, said = follow("lora", "fuse", model, file, "-o", photographs)
    assert status == 2 and "holds something that is not a model" in said and len(list(photographs.iterdir())) == 4
    half = follow("lora", "fuse", model, file, "-o", tmp_path / "half", "--dtype", "float16")
    weights = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert half[0] == 0 and {value.dtype for value in weights.values()} == {torch.float16}


GOOD = ["--subject", "a sks mug"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mug"], "no --subject: say what it will be called"),
        (["mug", "--subject", " "], "no --subject"),
        (["mug", "--subject", "sks"], "does not say what it is one of"),
        (["mug", "--subject", "a sks"], "does not say what it is one of"),
        (["mug", "--subject", "a sks mug " + "very " * 40 + "red"], "tokens and the model reads 24"),
        (GOOD, "no pictures: name a folder"),
        (["none", *GOOD], "none is no folder"),
        (["mug/0.png", *GOOD], "0.png is no folder"),
        (["empty", *GOOD], "empty holds no pictures"),
        (["text", *GOOD], "a.png cannot be read"),
        (["plain", *GOOD], "a.png is of one colour"),
        (["pixel", *GOOD], "a.png has 1 x 1 pixels, and the model draws 16 x 16"),
        (["masked", *GOOD], "make it as large"),
        (["mug", *GOOD, "--steps", "0"], "--steps 0"),
        (["mug", *GOOD, "--batch-size", "3"], "give an even number"),
        (["mug", *GOOD, "--minutes", "0"], "--minutes 0"),
        (["mug", *GOOD, "--minutes", "nan"], "--minutes nan"),
        (["mug", *GOOD, "--learning-rate", "0"], "--learning-rate 0"),
        (["mug", *GOOD, "--preservation", "-1"], "--preservation -1"),
        (["mug", *GOOD, "--kind-pictures", "0"], "--kind-pictures 0"),
        (["mug", *GOOD, "--preserve", "a cat", "--preservation", "0"], "--preserve with --preservation 0"),
        (["mug", *GOOD, "--preserve", " "], "prompt"),
        (["mug", *GOOD, "--rank", "0"], "--rank 0"),
        (["mug", *GOOD, "--dtype", "float16"], "loses small gradients"),
        (["mug", *GOOD, "--style", "peft"], "the style of peft is a folder"),
        (["mug", *GOOD, "--model", "pixart"], "only a UNet learns low-rank layers"),
        (["mug", *GOOD, "--model", "nan"], "numbers that are not finite"),
        (["mug", *GOOD, "--model", "nan", "--preservation", "0"], "the training diverged: loss is nan"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_from_is_one_line_and_leaves_nothing(
    follow: Callable[..., Told], tiny_folder: Fold, photographs: Path, tmp_path: Path, words: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("no picture")
    save(tmp_path / "plain" / "a.png", np.full((32, 32, 3), 9, np.uint8))
    save(tmp_path / "pixel" / "a.png", np.zeros((1, 1, 3), np.uint8))
    save(tmp_path / "masked" / "a.png", np.zeros((32, 32, 3), np.uint8))
    save(tmp_path / "masked" / "a.mask.png", np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "pixart").symlink_to(tiny_folder("pixart"))
    if "nan" in words:
        pipeline = TextToImage.from_pretrained(tiny_folder("sd1"))
        pipeline.save_pretrained(tmp_path / "nan")
        file = tmp_path / "nan" / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({name: torch.full_like(value, torch.nan) for name, value in load_file(file).items()}, file)
    model = [] if "--model" in words else ["--model", str(tiny_folder("sd1"))]
    status, told, said = follow("lora", "train", *words, *model, "-o", "out/mug.safetensors", "--device", "cpu")
    lines = said.strip().splitlines()
    assert status == 2 and told == {} and lines[-1].startswith("error: ") and message in lines[-1], said
    assert "Traceback" not in said and not (tmp_path / "out").exists()


def test_the_kind_is_the_subject_without_its_rare_word():
    cases = {"a sks mug": "a mug", "sks mug": "mug", "A SKS coffee mug": "A coffee mug", "the zwx dog": "the dog"}
    assert {said: LoraTrainRecipe(subject=said).called_kind for said in cases} == cases
    assert LoraTrainRecipe(subject="sks", kind="a mug").called_kind == "a mug"


def test_what_is_kept_is_the_kind_and_other_prompts():
    recipe = LoraTrainRecipe(subject="a sks mug", kind_pictures=2)
    assert recipe.kept(None) == ["a mug"] * 2
    of_toybox = recipe.kept("toybox")
    assert of_toybox[:2] == ["a mug"] * 2 and len(of_toybox) == 2 + 64 and len(set(of_toybox)) > 60
    named = LoraTrainRecipe(subject="a sks mug", kind_pictures=2, preserve=("a cat", "a dog"))
    assert named.kept("toybox") == named.kept(None) == ["a mug", "a mug", "a cat", "a dog"]
    assert LoraTrainRecipe(subject="a sks mug", preservation=0).kept("toybox") == []


# -- subjects of Toybox, and how well they are learned -----------------------------------------------------------------


def test_a_subject_is_one_object_from_many_sides_that_no_generator_saw():
    seed = world.TUNING_SEEDS[0]
    for number in range(COUNT):
        found, more = subject(seed, number, 2), subject(seed, number, 5)
        assert more.body == found.body and more.scenes[:2] == found.scenes
        assert (found.body.name, found.body.colors[0]) in world.HELD_OUT_PAIRS and found.body.pattern
        assert all(scene.parts is found.body.parts and scene.main == found.body.main for scene in found.scenes)
        assert len({scene.view for scene in more.scenes}) == 5
    assert len({subject(seed, number, 1).described for number in range(COUNT)}) == COUNT
    assert subject(world.REPORTING_SEEDS[0], 0, 1).body != subject(seed, 0, 1).body
    assert (found.called, found.kind) == (f"a {RARE} {found.body.name}", f"a {found.body.name}")
    assert not any(RARE in still(0, index).caption for index in range(200))
    assert {scene.colors[0] for scene in others(seed, "mug", 20)} == set(world.COLOR_NAMES)


def test_a_subject_is_kept_by_the_share_of_the_way_from_its_class():
    generator = torch.Generator().manual_seed(0)
    of_class, of_subject = (torch.randn(50, 8, generator=generator) + shift for shift in (0.0, 4.0))
    assert subject_kept(of_subject, of_subject, of_class) == pytest.approx(1)
    assert subject_kept(of_class, of_subject, of_class) == pytest.approx(0, abs=1e-6)
    assert subject_kept(torch.cat([of_class, of_subject]), of_subject, of_class) == pytest.approx(0.5)


def test_a_subject_is_learned_and_scored(prior: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, count in (("TRUTH", 4), ("DRAWN", 2), ("OTHERS", 4)):
        monkeypatch.setattr(subject_scores, name, count)
    monkeypatch.setattr("core2d.bundled.scores.STEPS", 2)
    torch.manual_seed(0)
    judge = PictureJudge().eval()
    recipe = LoraTrainRecipe(steps=2, batch_size=2, kind_pictures=2, learning_rate=0.01)
    found = learn_and_score(prior, judge, recipe, world.TUNING_SEEDS[0], 6, tmp_path)
    names = {"kept", "kept_before", "kept_by_words", "kind_drift", "drift", "minutes"}
    assert found.keys() == names and all(np.isfinite(value) for value in found.values())
    assert found["kept"] != found["kept_before"]
    assert recipe.training("toybox").learning_rate == 0.01
    rates = [LoraTrainRecipe().training(of).learning_rate for of in (None, "toybox")]
    assert rates == [1e-4, 1e-3] and PICTURES == 5
