"""`--control depth:MESH` of text-to-mesh: maps as the ControlNet's training has them, and what they change."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core2d.adapters.controlnet import fresh_controlnet
from core2d.adapters.controlnet_files import write_controlnet
from core2d.app.errors import InputError
from core2d.app.provenance import digest
from core2d.bundled import control as bundled_control
from core2d.guidance import ScoreDistillation, ScoreDistillationConfig
from core2d.prior.backbone import Backbone
from core2d.prior.cameras import FIELD_OF_VIEW, Cameras, orbit
from core2d.systems.control.recipe import Told as Control
from core2d.toybox import world
from core2d.toybox.render import camera_to_world
from core2d.toybox.sample import mesh_of
from core2d.toybox.scene import Scene, still
from gen3d.dreamfusion import pipeline as text_to_mesh
from gen3d.dreamfusion.control import depth_maps, following
from gen3d.dreamfusion.recipe import QUALITIES, DreamFusionConfig, TextToMeshRecipe
from gen3d.mesh import TexturedMesh, build_mesh, save_mesh
from gen3d.shaping import runs as shape_runs

Told = tuple[int, dict[str, Any], str]


def body_of(scene: Scene) -> TexturedMesh:
    body = mesh_of(scene)
    return TexturedMesh(np.asarray(body.vertices, np.float32), np.asarray(body.faces, np.int32))


@pytest.fixture
def network(tiny_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A ControlNet of the tiny prior that says something."""
    model, generator = fresh_controlnet(Backbone.load(tiny_folder("sd1"))), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    write_controlnet(tmp_path / "network", model)
    return tmp_path / "network"


@pytest.fixture
def proxy(tmp_path: Path) -> Path:
    return save_mesh(tmp_path / "proxy.glb", body_of(still(world.TUNING_SEEDS[0], 3, "object")))[0]


def test_maps_of_a_mesh_are_those_of_the_training():
    scenes = [still(world.TUNING_SEEDS[0], index, "object") for index in range(8)]
    theirs = bundled_control.depth_maps(scenes, 64)  # (n, 3, 64, 64)
    for scene, map_of_training in zip(scenes, theirs, strict=True):
        cameras = Cameras(torch.from_numpy(camera_to_world([scene])), torch.tensor([FIELD_OF_VIEW]))
        (ours,) = depth_maps(body_of(scene), cameras, 64, 64)
        assert ours.max() == 1 and 0.02 < (ours > 0).float().mean() < 0.9
        assert (ours - map_of_training).abs().mean() <= 1 / 255


def test_a_map_of_another_aspect_shows_the_same(proxy: Path):
    cameras = orbit(torch.tensor([0.3]), torch.tensor([0.2]), torch.tensor([2.0]))
    mesh = body_of(still(world.TUNING_SEEDS[0], 3, "object"))
    square, wide = (depth_maps(mesh, cameras, 32, width)[0] for width in (32, 64))
    assert torch.equal(wide[:, :, 16:48] > 0, square > 0) and not wide[:, :, :8].any()


def gradient(prior: Backbone, tell: Any) -> Tensor:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    cameras = orbit(torch.tensor([0.0, 2.0]), torch.tensor([0.3, 0.1]), torch.tensor([2.0, 1.9]))
    settings = ScoreDistillationConfig(guidance_scale=5.0, views="words")
    loss, _ = ScoreDistillation(prior, settings, seed=1, tell=tell)(images, "a red mug", cameras, 3)
    return torch.autograd.grad(loss, images)[0]


def test_the_gradient_follows_it_and_does_not_at_weight_0(
    tiny_folder: Callable[..., Path], network: Path, proxy: Path, tmp_path: Path
):
    prior = Backbone.load(tiny_folder("sd1"))
    plain = gradient(prior, None)
    followed = {weight: gradient(*following(prior, [Control(network, proxy, weight)])) for weight in (0.0, 0.5, 1.0)}
    assert torch.equal(followed[0.0], plain)
    assert followed[0.5].isfinite().all() and not torch.allclose(followed[0.5], plain)
    other = save_mesh(tmp_path / "other.ply", body_of(still(world.TUNING_SEEDS[0], 5, "object")))[0]
    assert not torch.allclose(gradient(*following(prior, [Control(network, other, 1.0)])), followed[1.0])
    assert torch.equal(gradient(prior, None), plain)  # the prior is as it was


def test_the_command_and_its_resume(
    command: Callable[..., Told], tiny_models: Any, network: Path, proxy: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    config = DreamFusionConfig(steps=2, views=2, coarse_size=16, refine_at=1.0)
    monkeypatch.setattr(text_to_mesh, "QUALITIES", dict.fromkeys(QUALITIES, config))
    monkeypatch.setattr(shape_runs, "build_mesh", partial(build_mesh, resolution=24, face_budget=1000))
    monkeypatch.setattr(tiny_models, "MAX_TOKENS", 77)
    model = tiny_models.save_tiny_model("sd1", tmp_path / "prior", camera=True)
    made = {}
    for name, more in (("plain", ()), ("none", ("--control", f"{network}:{proxy}@0")),
                       ("full", ("--control", f"{network}:{proxy}"))):  # fmt: skip
        words = ("text-to-mesh", "a red mug", "--model", model, "--device", "cpu", "-o", tmp_path / name / "mug.glb")
        assert command(*words, *more)[0] == 0
        made[name] = (tmp_path / name / "mug.glb").read_bytes()
    assert made["none"] == made["plain"] != made["full"]
    result = json.loads((tmp_path / "full" / "mug.run" / "result.json").read_text())
    assert result["recipe"]["control"] == [f"{network}:{proxy}"] and result["inputs"]["shape 0"] == digest(proxy)
    (tmp_path / "full" / "mug.glb").unlink()
    assert command("text-to-mesh", "--resume", tmp_path / "full" / "mug.run")[0] == 0
    assert (tmp_path / "full" / "mug.glb").read_bytes() == made["full"]


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("pose:proxy.glb", "of a mesh only depth is drawn"),
        ("depth:map.png", "a picture is a map of one view"),
        ("depth:map.png@0.5", "a picture is a map of one view"),
    ],
)
def test_what_cannot_be_followed(said: str, complaint: str, tmp_path: Path):
    with pytest.raises(InputError, match=complaint):
        TextToMeshRecipe(prompts=("a mug",), output=tmp_path / "a.glb", control=(said,)).check()
