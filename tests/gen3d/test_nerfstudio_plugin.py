"""The method for nerfstudio, against a stand-in for nerfstudio and without it."""

import importlib
import math
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
import tyro
from helpers import nerfstudio_stand_in as stand_in
from helpers.nerf_scenes import Ball
from torch import Tensor

from core2d.prior.cameras import orbit
from gen3d.nerf.task import OCCUPANCY_EVERY, ssim

PLUGIN = "gen3d.nerf.nerfstudio_plugin"
ROOT = Path(__file__).parents[2]
SMALL = {"levels": 4, "finest": 64, "log2_table": 12, "width": 16, "cells": 16, "samples_across": 32}
BEFORE = stand_in.TrainingCallbackLocation.BEFORE_TRAIN_ITERATION


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Steps as small as these are slower on several threads, and fifty times so where others use the processor too."""
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)  # first: numba's threads set the number of torch's as they start
    torch.set_num_threads(1)
    yield
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module as nerfstudio imports it."""
    for name, module in stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    yield imported(monkeypatch)


def imported(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fresh copy of the plugin; afterwards none is left."""
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    module = importlib.import_module(PLUGIN)
    monkeypatch.setitem(sys.modules, PLUGIN, module)
    return module


def small_model(plugin: Any, aabb: Tensor | None = None, **settings: Any) -> Any:
    torch.manual_seed(0)
    box = stand_in.SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]) if aabb is None else aabb)
    return plugin.LiftkitModelConfig(**{**SMALL, **settings}).setup(scene_box=box, num_train_data=4, device="cpu")


def rays_at_ball(side: int = 16) -> tuple[stand_in.RayBundle, Tensor]:
    """Rays (4, side, side) from around a ball of radius 0.5, and the pixels (4, side, side, 4) that belong to them."""
    cameras = orbit(torch.arange(4) * 1.57, 0.4, 2.5, 0.6)
    origins, directions = cameras.rays(side, side)
    ball = Ball()
    start = origins[:, None, None].expand_as(directions)
    along = (start * directions).sum(-1)
    under = along**2 - start.square().sum(-1) + ball.radius**2
    normal = (start + (-along - under.clamp(min=0).sqrt())[..., None] * directions) / ball.radius
    hit = (under > 0)[..., None].float()
    pixels = torch.cat([hit * (normal + 1) / 2, hit], dim=-1)
    return stand_in.RayBundle(start, directions, torch.ones(*start.shape[:-1], 1)), pixels


# -- importing -------------------------------------------------------------------------------------------------


def test_without_nerfstudio_importing_costs_nothing() -> None:
    program = (
        f"import sys, warnings; warnings.simplefilter('error'); import {PLUGIN} as plugin\n"
        "assert plugin.liftkit_nerf is None\n"
        "assert not {'torch', 'numpy', 'gen3d.nerf.task'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60)


def test_a_nerfstudio_that_lacks_something_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = stand_in.modules()
    delattr(modules["nerfstudio.plugins.types"], "MethodSpecification")  # an older one
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert imported(monkeypatch).liftkit_nerf is None


def test_where_a_part_of_ours_is_missing_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "gen3d.nerf.task", None)
    with pytest.warns(UserWarning, match=r"liftkit-nerf cannot be used with this nerfstudio: .*gen3d\.nerf"):
        assert imported(monkeypatch).liftkit_nerf is None


@pytest.mark.usefixtures("plugin")
def test_the_entry_point_gives_a_method() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["nerfstudio.method_configs"].items()
    with warnings.catch_warnings(action="error"):
        method = EntryPoint(name, value, "nerfstudio.method_configs").load()
    assert isinstance(method, stand_in.MethodSpecification) and method.description
    assert method.config.method_name == name == "liftkit-nerf"


def test_classes_can_be_found_by_name(plugin: Any) -> None:
    # nerfstudio writes them so into config.yml
    for one in (plugin.LiftkitModel, plugin.LiftkitModelConfig):
        assert getattr(sys.modules[one.__module__], one.__qualname__) is one
    assert plugin.LiftkitModelConfig()._target is plugin.LiftkitModel


def test_the_command_line_can_set_the_model(plugin: Any) -> None:
    arguments = ["--finest", "256", "--background-color", "random", "--unbounded", "False"]
    config = tyro.cli(plugin.LiftkitModelConfig, args=arguments, config=(tyro.conf.FlagConversionOff,))
    assert (config.finest, config.background_color, config.unbounded) == (256, "random", False)
    assert config.fast().finest == 256 and not config.enable_collider


# -- the model -------------------------------------------------------------------------------------------------


def test_every_parameter_has_an_optimizer(plugin: Any) -> None:
    config = plugin.liftkit_nerf.config
    model = small_model(plugin)
    groups = model.get_param_groups()
    assert groups.keys() == config.optimizers.keys()
    grouped = {id(parameter) for group in groups.values() for parameter in group}
    rest = {name for name, parameter in model.named_parameters() if id(parameter) not in grouped}
    assert rest == {"device_indicator_param"}
    assert isinstance(config.pipeline.model, plugin.LiftkitModelConfig)


@pytest.mark.parametrize(("unbounded", "background"), [(False, "random"), (True, "white")])
def test_it_learns(plugin: Any, unbounded: bool, background: str) -> None:
    model = small_model(plugin, unbounded=unbounded, background_color=background)
    optimizers = plugin.liftkit_nerf.config.optimizers
    steppers = [optimizers[name]["optimizer"].setup(group) for name, group in model.get_param_groups().items()]
    callbacks = model.get_training_callbacks(stand_in.TrainingCallbackAttributes(None, None, None, None))
    bundle, pixels = rays_at_ball()
    losses = []
    model.train()
    for step in range(100):
        for callback in callbacks:
            callback.run_callback_at_location(step, BEFORE)
        chosen = torch.randint(bundle.origins.numel() // 3, (256,))
        origins, directions = (part.reshape(-1, 3)[chosen] for part in (bundle.origins, bundle.directions))
        batch = {"image": pixels.reshape(-1, 4)[chosen]}
        outputs = model(stand_in.RayBundle(origins, directions, torch.ones(256, 1)))
        (loss,) = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch)).values()
        losses.append(loss.item())
        for stepper in steppers:
            stepper.zero_grad()
        loss.backward()
        for stepper in steppers:
            stepper.step()
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])


def test_a_picture_is_measured_and_shown(plugin: Any) -> None:
    model = small_model(plugin, eval_num_rays_per_chunk=100).eval()
    bundle, pixels = rays_at_ball()
    seen = model.get_outputs_for_camera_ray_bundle(
        stand_in.RayBundle(bundle.origins[0], bundle.directions[0], torch.ones(16, 16, 1))
    )
    metrics, pictures = model.get_image_metrics_and_images(seen, {"image": pixels[0]})
    truth = pixels[0, ..., :3] * pixels[0, ..., 3:] + 1 - pixels[0, ..., 3:]
    assert metrics["psnr"] == pytest.approx(-10 * math.log10((seen["rgb"] - truth).square().mean()), abs=1e-4)
    assert metrics["ssim"] == pytest.approx(ssim(seen["rgb"].movedim(-1, 0), truth.movedim(-1, 0)), abs=1e-6)
    assert float(model.get_metrics_dict(seen, {"image": truth})["psnr"]) == pytest.approx(metrics["psnr"])
    assert pictures["img"].shape == (16, 32, 3)
    assert pictures["accumulation"].shape == pictures["depth"].shape == (16, 16, 3)
    assert all(0 <= float(picture.min()) and float(picture.max()) <= 1 for picture in pictures.values())


@pytest.mark.parametrize("unbounded", [False, True])
def test_before_some_steps_the_occupancy_grid_looks_again(
    plugin: Any, unbounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(plugin, unbounded=unbounded)
    occupancy = model.system.occupancy
    (callback,) = model.get_training_callbacks(stand_in.TrainingCallbackAttributes(None, None, None, None))
    field = model.system.field
    monkeypatch.setattr(field.grid if unbounded else field, "density", lambda x: 50.0 * (x.norm(dim=1) < 0.5))
    for step in (1, OCCUPANCY_EVERY - 1):
        callback.run_callback_at_location(step, BEFORE)
    callback.run_callback_at_location(0, stand_in.TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    assert occupancy.share == 1
    callback.run_callback_at_location(OCCUPANCY_EVERY, BEFORE)
    cell = 2 * occupancy.bound / occupancy.resolution
    middle = (torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"), -1) + 0.5) * cell - occupancy.bound
    reach = math.sqrt(3) / 2 * cell
    assert occupancy.mask[middle.norm(dim=-1) < 0.5 - reach].all()
    assert not occupancy.mask[middle.norm(dim=-1) > 0.5 + reach].any()


@pytest.mark.parametrize("unbounded", [False, True])
def test_the_scene_box_only_moves_and_scales(plugin: Any, unbounded: bool) -> None:
    bundle, _ = rays_at_ball(6)
    middle = torch.tensor([3.0, -1.0, 0.5])
    models = [
        small_model(plugin, unbounded=unbounded),
        small_model(plugin, torch.stack([middle - 2, middle + 2]), unbounded=unbounded),
    ]
    models[1].load_state_dict({**models[0].state_dict(), **dict(models[1].named_buffers(recurse=False))})
    moved = stand_in.RayBundle(middle + 2 * bundle.origins, bundle.directions, bundle.pixel_area)
    one, other = (model.eval()(rays) for model, rays in zip(models, (bundle, moved), strict=True))
    shape = (4, 6, 6)
    assert {name: value.shape for name, value in one.items()} == {
        "rgb": (*shape, 3), "accumulation": (*shape, 1), "depth": (*shape, 1), "background": (*shape, 3)
    }  # fmt: skip
    assert (one["accumulation"] != one["accumulation"][0, 0, 0]).any()
    for name in ("rgb", "accumulation", "background"):
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=2e-4)
    torch.testing.assert_close(other["depth"], 2 * one["depth"], rtol=0, atol=5e-4)


def test_a_long_scene_box_lies_in_the_cube(plugin: Any) -> None:
    model = small_model(plugin, torch.tensor([[0.0, -1, 2], [4, 1, 3]]))
    corners = (torch.tensor([[0.0, -1, 2], [4, 1, 3]]) - model.center) * model.scale
    torch.testing.assert_close(corners, torch.tensor([[-1.0, -0.5, -0.25], [1, 0.5, 0.25]]))


def test_alpha_lets_the_drawn_background_through(plugin: Any) -> None:
    model = small_model(plugin, background_color="random").train()
    bundle, _ = rays_at_ball(4)
    outputs = model(bundle)
    nothing = torch.zeros(4, 4, 4, 4)
    torch.testing.assert_close(plugin.target(outputs, {"image": nothing}), outputs["background"])
    solid = torch.cat([torch.rand(4, 4, 4, 3), torch.ones(4, 4, 4, 1)], dim=-1)
    torch.testing.assert_close(plugin.target(outputs, {"image": solid}), solid[..., :3])
    assert torch.equal(plugin.target(outputs, {"image": solid[..., :3]}), solid[..., :3])
    assert not torch.equal(outputs["background"], model(bundle)["background"])
    assert (model.eval()(bundle)["background"] == 1).all()


def test_what_is_seen_repeats_and_training_follows_torchs_seed(plugin: Any) -> None:
    model = small_model(plugin)
    bundle, _ = rays_at_ball(4)
    model.eval()
    assert torch.equal(model(bundle)["rgb"], model(bundle)["rgb"])
    model.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model(bundle)["rgb"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
