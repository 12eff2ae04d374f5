"""`--lora` where the prior is lifted into space: text-to-mesh and novel views."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core2d.adapters.lora import UNET, Lora, LowRank
from core2d.adapters.lora_files import write_lora
from core2d.adapters.lora_learning import fresh_lora
from core2d.app.provenance import digest
from core2d.media.pictures import read_image_text
from core2d.prior.backbone import Backbone
from gen3d.dreamfusion import pipeline as text_to_mesh
from gen3d.dreamfusion.recipe import QUALITIES, DreamFusionConfig
from gen3d.mesh import build_mesh
from gen3d.shaping import runs as shape_runs
from gen3d.zero123.model import Zero123

Told = tuple[int, dict[str, Any], str]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps on small pictures, and a coarse mesh."""
    config = DreamFusionConfig(steps=2, views=2, coarse_size=16, refine_at=1.0)
    monkeypatch.setattr(text_to_mesh, "QUALITIES", dict.fromkeys(QUALITIES, config))
    monkeypatch.setattr(shape_runs, "build_mesh", partial(build_mesh, resolution=24, face_budget=1000))


def lora_for(unet: nn.Module, path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    layers = {name: LowRank(one.down, 0.3 * torch.randn(one.up.shape, generator=generator))
              for name, one in fresh_lora(unet, 2).unet.items()}  # fmt: skip
    write_lora(path, Lora({UNET: layers}))
    return path


def test_a_mesh_is_made_with_a_lora_and_one_of_another_model_is_told(
    quick: None, command: Callable[..., Told], tiny_models: Any, zero123_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(tiny_models, "MAX_TOKENS", 77)
    model = tiny_models.save_tiny_model("sd1", tmp_path / "prior", camera=True)
    file = lora_for(Backbone.load(model).denoiser, tmp_path / "a.safetensors")
    made = {}
    for name, more in (("plain", ()), ("none", ("--lora", f"{file}@0")), ("half", ("--lora", f"{file}@0.5"))):
        words = ("text-to-mesh", "a red mug", "--model", model, "--device", "cpu", "-o", tmp_path / name / "mug.glb")
        assert command(*words, *more)[0] == 0
        made[name] = (tmp_path / name / "mug.glb").read_bytes()
    assert made["none"] == made["plain"] != made["half"]
    result = json.loads((tmp_path / "half" / "mug.run" / "result.json").read_text())
    assert result["recipe"]["lora"] == [f"{file}@0.5"] and result["inputs"][f"lora {file}"] == digest(file)
    (tmp_path / "half" / "mug.glb").unlink()
    assert command("text-to-mesh", "--resume", tmp_path / "half" / "mug.run")[0] == 0
    assert (tmp_path / "half" / "mug.glb").read_bytes() == made["half"]
    write_lora(file, Lora({UNET: {"down_blocks.9.to_q": LowRank(torch.ones(1, 8), torch.ones(8, 1))}}))
    status, _, said = command("text-to-mesh", "--resume", tmp_path / "half" / "mug.run")
    assert status == 2 and f"lora {file} has changed" in said
    status, _, said = command("text-to-mesh", "a mug", "--model", model, "--lora", file, "-o", tmp_path / "b.glb")
    assert status == 2 and "a.safetensors: this LoRA is of another model: it changes unet.down_blocks.9.to_q" in said
    assert not list(tmp_path.glob("b.*"))


def test_views_are_drawn_with_a_lora_of_their_unet(
    command: Callable[..., Told], zero123_folder: Path, cut_out: Path, tmp_path: Path
):
    model = Zero123.load(zero123_folder)
    file = lora_for(model.denoiser, tmp_path / "a.safetensors")
    views = {}
    for name, more in (("plain", ()), ("none", ("--lora", f"{file}@0")), ("half", ("--lora", f"{file}@0.5"))):
        words = ("novel-views", cut_out, "--model", zero123_folder, "--steps", 2, "--azimuth", 30)
        assert command(*words, "-o", tmp_path / f"{name}.png", *more)[0] == 0
        views[name] = (tmp_path / f"{name}.png").read_bytes()[-200:]
    told = read_image_text(tmp_path / "half.png")
    assert json.loads(told["inputs"])[f"lora {file}"] == digest(file)
    assert views["none"] == views["plain"] != views["half"]
    words = Lora({"text_encoder": {"encoder.layers.0.self_attn.q_proj": LowRank(torch.ones(1, 8), torch.ones(8, 1))}})
    write_lora(file, words)
    status, _, said = command("novel-views", cut_out, "--model", zero123_folder, "--lora", file, "-o", "x.png")
    assert status == 2 and "a.safetensors: this LoRA changes the text_encoder too, which is not there" in said
