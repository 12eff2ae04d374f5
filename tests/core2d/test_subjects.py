"""A subject from a few pictures: `core2d lora train`, `core2d dreambooth`, `core2d lora fuse` and `--lora`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file

from core2d.__main__ import main
from core2d.adapters.options import with_loras
from core2d.prior.backbone import Backbone
from core2d.systems.dreambooth.task import DreamBoothTask, low_rank, whole_copy
from core2d.systems.text_to_image.pipeline import TextToImage


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "mug"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(random.integers(0, 256, (24, 20, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


def learn(model: Path, pictures: Path, output: Path, *more: str, command: str = "lora train") -> None:
    main([*command.split(), str(pictures), "--subject", "a sks mug", "--model", str(model), "-o", str(output),
          "--steps", "4", "--batch-size", "2", "--kind-pictures", "2", *more])  # fmt: skip


def drawn(prior: Backbone) -> torch.Tensor:
    return TextToImage(prior)("a sks mug", seed=1, num_inference_steps=3, output_type="pt").images


def stock(model: Path, lora: Path | None = None, fused: bool = False) -> torch.Tensor:
    """By diffusers; a folder of peft is loaded by peft."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None and lora.is_dir():
        adapted: Any = PeftModel.from_pretrained(pipeline.unet, lora)
        pipeline.unet = adapted.merge_and_unload() if fused else adapted.base_model.model
    elif lora is not None:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name, local_files_only=True)
        if fused:
            pipeline.fuse_lora()
    output = pipeline("a sks mug", num_inference_steps=3, guidance_scale=5.0, output_type="np",
                      generator=torch.Generator().manual_seed(1))  # fmt: skip
    return torch.from_numpy(output.images).permute(0, 3, 1, 2)


def test_what_learns_begins_as_the_prior(tiny_folder: Any) -> None:
    prior = Backbone.load(tiny_folder("sd1"))
    expected = drawn(prior)
    for tuned, learning in (low_rank(prior, rank=3), whole_copy(prior)):
        assert torch.equal(drawn(tuned), expected)
        assert all(parameter.requires_grad for parameter in learning.parameters())
        with torch.no_grad():
            for parameter in learning.parameters():
                parameter.add_(0.05)
        assert not torch.equal(drawn(tuned), expected)
        assert torch.equal(drawn(prior), expected)  # which stays as it is


@pytest.mark.parametrize("style", ["diffusers", "peft", "kohya"])
def test_a_lora_of_every_style_is_heard_by_stock_diffusers_as_here(
    style: str, tiny_folder: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = tiny_folder("sd1"), tmp_path / ("subject" if style == "peft" else "subject.safetensors")
    learn(model, pictures, file, "--style", style, "--learning-rate", "0.05", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["outputs"] == [str(file)] and report["metrics"]["pictures"] == 2
    prior = Backbone.load(model)
    ours = drawn(with_loras(prior, {file: 1.0}))
    assert (ours - drawn(prior)).abs().max() > 1e-3
    torch.testing.assert_close(ours, stock(model, file), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, stock(model, file, fused=True), atol=1e-5, rtol=0)
    assert torch.equal(drawn(with_loras(prior, {file: 0.0})), drawn(prior))

    folder = tmp_path / "fused"
    main(["lora", "fuse", str(model), f"{file}@1", "-o", str(folder)])
    torch.testing.assert_close(stock(folder), ours, atol=1e-5, rtol=0)


def test_a_command_draws_with_loras_of_two_strengths(tiny_folder: Any, pictures: Path, tmp_path: Path) -> None:
    model, file = tiny_folder("sd1"), tmp_path / "subject.safetensors"
    learn(model, pictures, file, "--learning-rate", "0.05")

    def draw(name: str, *loras: str) -> np.ndarray:
        told = [word for lora in loras for word in ("--lora", lora)]
        main(["text-to-image", "a sks mug", "--model", str(model), "--steps", "3", "-o", str(tmp_path / name), *told])
        return np.array(Image.open(tmp_path / name)).astype(int)

    plain, weak, strong = draw("a.png"), draw("b.png", f"{file}@0.5"), draw("c.png", str(file))
    assert (plain == draw("d.png", f"{file}@0")).all()
    assert abs(strong - plain).sum() > abs(weak - plain).sum() > 0


def test_a_stopped_training_ends_with_the_same_weights(
    tiny_folder: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, whole, parts = tiny_folder("sd1"), tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    learn(model, pictures, whole)
    batch = DreamBoothTask.batch

    def interrupting(self: DreamBoothTask, step: int, *rest: Any) -> Any:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return batch(self, step, *rest)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(DreamBoothTask, "batch", interrupting)
        learn(model, pictures, parts)
    assert ended.value.code == 130 and not parts.exists()
    main(["lora", "train", "--resume", str(tmp_path / "parts.run")])
    expected, found = load_file(whole), load_file(parts)
    assert expected.keys() == found.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_dreambooth_writes_a_folder_that_stock_diffusers_draws_with(
    tiny_folder: Any, pictures: Path, tmp_path: Path
) -> None:
    model, folder = tiny_folder("sd1"), tmp_path / "tuned"
    learn(model, pictures, folder, "--learning-rate", "0.01", command="dreambooth")
    ours = drawn(Backbone.load(folder))
    assert not torch.equal(ours, drawn(Backbone.load(model)))
    torch.testing.assert_close(ours, stock(folder), atol=1e-5, rtol=0)


def test_bad_pictures_and_files_are_one_line(
    tiny_folder: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = tiny_folder("sd1"), tmp_path / "subject.safetensors"

    def refused(said: str, call: Any) -> None:
        with pytest.raises(SystemExit) as ended:
            call()
        error = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 2 and said in error[-1], error
        assert not output.exists()

    empty = tmp_path / "empty"
    empty.mkdir()
    refused("holds no pictures", lambda: learn(model, empty, output))
    refused("is no folder", lambda: learn(model, tmp_path / "none", output))
    for name, size in (("one", (24, 24)), ("dot", (1, 1))):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", size, "red").save(folder / "a.png")
        refused(
            "one colour" if name == "one" else "give a larger one", lambda folder=folder: learn(model, folder, output)
        )
    (pictures / "2.png").write_text("no picture")
    refused("2.png", lambda: learn(model, pictures, output))

    def draw(file: Path) -> Any:
        return lambda: main(["text-to-image", "a", "--model", str(model), "--lora", str(file), "-o", str(output)])

    odd = tmp_path / "odd.safetensors"
    down, up = torch.zeros(2, 7), torch.zeros(7, 2)
    place = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora"
    save_file({f"{place}.down.weight": down, f"{place}.up.weight": up}, odd)
    output = tmp_path / "x.png"
    refused("odd.safetensors", draw(odd))
    nan = tmp_path / "nan.safetensors"
    save_file({f"{place}.down.weight": down * torch.nan, f"{place}.up.weight": up}, nan)
    refused("nan.safetensors", draw(nan))
    (tmp_path / "bad.pt").write_bytes(b"\x80\x04K\x01.")
    refused("bad.pt", draw(tmp_path / "bad.pt"))
