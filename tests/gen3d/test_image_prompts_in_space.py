"""`--image-prompt` where the prior is lifted into space: text-to-mesh, also without words, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import ImageProjection
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core2d.adapters.ip_adapter import IPAdapterModel, cross_attentions
from core2d.adapters.ip_adapter_files import write_ip_adapter
from core2d.app.provenance import digest
from core2d.files.loading import save_model
from core2d.guidance import ViewPrompts
from core2d.prior.backbone import Backbone
from gen3d.dreamfusion import pipeline as text_to_mesh
from gen3d.dreamfusion.recipe import QUALITIES, DreamFusionConfig
from gen3d.mesh import build_mesh
from gen3d.shaping import runs as shape_runs

Told = tuple[int, dict[str, Any], str]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps on small pictures, and a coarse mesh."""
    config = DreamFusionConfig(steps=2, views=2, coarse_size=16, refine_at=1.0)
    monkeypatch.setattr(text_to_mesh, "QUALITIES", dict.fromkeys(QUALITIES, config))
    monkeypatch.setattr(shape_runs, "build_mesh", partial(build_mesh, resolution=24, face_budget=1000))


def test_a_view_of_nothing_named_begins_with_the_view() -> None:
    assert ViewPrompts().prompts("")[0] == "front view" and ViewPrompts().prompts("a mug")[0] == "a mug, front view"


def test_a_mesh_is_made_of_a_picture_without_words(
    quick: None, command: Callable[..., Told], tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiny_models, "MAX_TOKENS", 77)
    model = tiny_models.save_tiny_model("sd1", tmp_path / "prior", camera=True)
    unet, generator = Backbone.load(model).denoiser, torch.Generator().manual_seed(2)
    context: Any = unet.config["cross_attention_dim"]  # pyright: ignore
    adapter = IPAdapterModel(ImageProjection(20, context, 4), [p.inner_dim for p in cross_attentions(unet)], context)
    with torch.no_grad():
        for value in adapter.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=generator))
    write_ip_adapter(tmp_path / "ip.safetensors", adapter)
    config = CLIPVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                              image_size=16, patch_size=4, projection_dim=20)  # fmt: skip
    save_model(CLIPVisionModelWithProjection(config), tmp_path / "image_encoder")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    heard = ("--ip-adapter", tmp_path / "ip.safetensors", "--image-prompt")
    made = {}
    for name, scale in (("none", 0), ("one", 1)):
        words = ("text-to-mesh", "", "--model", model, "--device", "cpu", "-o", tmp_path / name / "thing.glb")
        status, _, said = command(*words, *heard, f"{tmp_path / 'a.png'}@{scale}")
        assert status == 0, said
        made[name] = (tmp_path / name / "thing.glb").read_bytes()
    assert made["none"] != made["one"]
    result = json.loads((tmp_path / "one" / "thing.run" / "result.json").read_text())
    assert result["inputs"]["image prompt 0"] == digest(tmp_path / "a.png")
    (tmp_path / "one" / "thing.glb").unlink()
    assert command("text-to-mesh", "--resume", tmp_path / "one" / "thing.run")[0] == 0
    assert (tmp_path / "one" / "thing.glb").read_bytes() == made["one"]
    status, _, said = command("text-to-mesh", "", "--model", model, "-o", tmp_path / "b.glb")
    assert status == 2 and "a prompt is empty" in said
