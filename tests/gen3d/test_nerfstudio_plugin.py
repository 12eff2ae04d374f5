"""The method for nerfstudio, against a stand-in for nerfstudio and without it."""

import copy
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
import numpy as np
import pytest
import torch
import tyro
from helpers import nerfstudio_stand_in as stand_in
from helpers.nerf_scenes import BENT, FISHEYE, LENS, Ball, write_blender, write_colmap, write_nerfstudio
from torch import Tensor

from core2d.prior.cameras import orbit
from gen3d.data.lenses import Lens
from gen3d.data.photographs import Photographs
from gen3d.data.placing import place
from gen3d.data.scene import load_scene
from gen3d.nerf.task import OCCUPANCY_EVERY, ssim

PLUGIN = "gen3d.nerf.nerfstudio_plugin"
ROOT = Path(__file__).parents[2]
SMALL = {"levels": 4, "finest": 64, "log2_table": 12, "width": 16, "cells": 16, "samples_across": 32}
INTRINSICS = ("fx", "fy", "cx", "cy", "width", "height")
GREEN = torch.tensor([0.0, 1.0, 0.0])
PERSPECTIVE, FISHEYES, PANORAMA = stand_in.CameraType
KINDS = {"pinhole": PERSPECTIVE, "opencv": PERSPECTIVE, "fisheye": FISHEYES}
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


def small_model(plugin: Any, aabb: Tensor | None = None, background: str = "white", **settings: Any) -> Any:
    torch.manual_seed(0)
    box = stand_in.SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]) if aabb is None else aabb)
    config = plugin.LiftkitModelConfig(**{**SMALL, **settings})
    return config.setup(scene_box=box, num_train_data=4, metadata={"background": background}, device="cpu")


class Parser:
    """A dataparser of nerfstudio for what `load_scene` reads; it would put green behind transparent pictures."""

    def __init__(self, config: stand_in.NerfstudioDataParserConfig) -> None:
        self.scene = load_scene(config.data)

    def get_dataparser_outputs(self, split: Any) -> stand_in.DataparserOutputs:
        views = self.scene.of(split) or self.scene.of("test")
        lenses = [view.lens for view in views]
        poses = torch.from_numpy(np.stack([view.camera_to_world[:3] for view in views])).float()
        columns = {name: torch.tensor([[getattr(lens, name)] for lens in lenses]) for name in INTRINSICS}
        distortion = torch.tensor([distortion_of(lens) for lens in lenses])
        kinds = torch.tensor([[KINDS[lens.model].value] for lens in lenses])
        cameras = stand_in.Cameras(poses, **columns, distortion_params=distortion, camera_type=kinds)
        points = self.scene.points
        metadata = {} if points is None else {"points3D_xyz": torch.from_numpy(points).float()}
        return stand_in.DataparserOutputs([view.path for view in views], cameras, GREEN, metadata=metadata)


def distortion_of(lens: Lens) -> list[float]:
    """In nerfstudio's order: k1, k2, k3, k4, p1, p2."""
    if lens.model == "fisheye":
        return [*lens.distortion, 0.0, 0.0]
    k1, k2, p1, p2, k3, *_ = [*lens.distortion, *[0.0] * 5]
    return [k1, k2, k3, 0.0, p1, p2]


def pipeline_of(plugin: Any, folder: Path, **settings: Any) -> Any:
    """The pipeline of `ns-train liftkit-nerf --data FOLDER`, with other settings of the data manager."""
    config = copy.deepcopy(plugin.liftkit_nerf.config.pipeline)
    config.datamanager.dataparser = stand_in.NerfstudioDataParserConfig(Parser, folder)
    for name, value in settings.items():
        setattr(config.datamanager, name, value)
    for name, value in SMALL.items():
        setattr(config.model, name, value)
    return config.setup(device="cpu")


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
    for name in ("LiftkitModel", "LiftkitModelConfig", "LiftkitDataManager", "LiftkitDataManagerConfig"):
        one = getattr(plugin, name)
        assert getattr(sys.modules[one.__module__], one.__qualname__) is one
    assert plugin.LiftkitModelConfig()._target is plugin.LiftkitModel
    assert plugin.liftkit_nerf.config.pipeline.datamanager._target is plugin.LiftkitDataManager


def test_the_command_line_can_set_the_model(plugin: Any) -> None:
    as_nerfstudio = (tyro.conf.FlagConversionOff,)
    config = tyro.cli(plugin.LiftkitModelConfig, args=["--finest", "256", "--unbounded", "False"], config=as_nerfstudio)
    assert (config.finest, config.unbounded, config.fast().finest, config.enable_collider) == (256, False, 256, False)
    assert tyro.cli(plugin.LiftkitModelConfig, args=[], config=as_nerfstudio).unbounded is None


# -- what the photographs are of -------------------------------------------------------------------------------

SCENES = {
    "cut out": (lambda folder: write_blender(folder, ball=Ball((0.4, -0.2, 0.1))), False),
    "cut out, bent lenses": (lambda folder: write_nerfstudio(folder, [BENT] * 8, alpha=True), False),
    "cut out, fisheyes": (lambda folder: write_nerfstudio(folder, [FISHEYE] * 8, alpha=True), False),
    "a place": (lambda folder: write_nerfstudio(folder, [LENS] * 8), True),
    "a place with points": (lambda folder: write_colmap(folder, [BENT] * 8, ball=Ball((2.0, 0.0, 1.0))), True),
}


@pytest.mark.parametrize("scale", [1.0, 0.5], ids=["whole", "smaller"])
@pytest.mark.parametrize("scene", SCENES)
def test_photographs_are_placed_as_gen3d_nerf_places_them(
    plugin: Any, tmp_path: Path, scene: str, scale: float
) -> None:
    write, unbounded = SCENES[scene]
    write(tmp_path)
    captured = load_scene(tmp_path)
    expected = place(captured, Photographs(captured.of("train")))
    pipeline = pipeline_of(plugin, tmp_path, camera_res_scale_factor=scale)
    found, model = pipeline.datamanager.train_dataset.metadata["placement"], pipeline.model
    assert found.unbounded is expected.unbounded is model.system.unbounded is unbounded
    assert found.scale == pytest.approx(expected.scale, rel=1e-4)
    assert found.center == pytest.approx(expected.center, abs=1e-4)
    assert float(model.scale) == pytest.approx(found.scale)
    assert model.center.tolist() == pytest.approx(found.center)


@pytest.mark.parametrize("background", ["white", "black", "random"])
def test_transparent_pictures_stand_on_the_background_of_the_model(
    plugin: Any, tmp_path: Path, background: str
) -> None:
    write_blender(tmp_path)
    pipeline = pipeline_of(plugin, tmp_path, background_color=background)
    learned, held_out = (
        dataset.get_image_float32(0)
        for dataset in (pipeline.datamanager.train_dataset, pipeline.datamanager.eval_dataset)
    )
    shown = 0.0 if background == "black" else 1.0
    seen = pipeline.model.eval()(rays_at_ball(4)[0])["background"]
    assert held_out.shape == (32, 32, 3) and (held_out[0, 0] == shown).all() and (seen == shown).all()
    drawn = pipeline.model.train()(rays_at_ball(4)[0])["background"]
    if background == "random":
        assert learned.shape == (32, 32, 4) and learned[0, 0, 3] == 0
        assert drawn.std() > 0.1
    else:
        assert learned.shape == (32, 32, 3) and (learned[0, 0] == shown).all()
        assert (drawn == shown).all()


def test_as_many_rays_are_drawn_as_gen3d_nerf_draws(plugin: Any, tmp_path: Path) -> None:
    write_blender(tmp_path)
    pipeline = pipeline_of(plugin, tmp_path)
    attributes = stand_in.TrainingCallbackAttributes(None, None, pipeline, None)
    sampler = pipeline.datamanager.train_pixel_sampler
    (callback,) = pipeline.datamanager.get_training_callbacks(attributes)
    for step, samples in ((0, 100.0), (1, 5.0), (2, 20.0)):
        pipeline.model.system.samples_a_ray.fill_(samples)
        callback.run_callback_at_location(step, BEFORE)
        assert sampler.num_rays_per_batch == min(40_000 / samples, 8192)
    fixed = pipeline_of(plugin, tmp_path, adapt_rays=False, train_num_rays_per_batch=77).datamanager
    assert not fixed.get_training_callbacks(attributes) and fixed.train_pixel_sampler.num_rays_per_batch == 77


def test_the_command_line_may_say_otherwise(plugin: Any, tmp_path: Path) -> None:
    write_blender(tmp_path)
    metadata = pipeline_of(plugin, tmp_path).datamanager.train_dataset.metadata
    config = plugin.LiftkitModelConfig(**SMALL, unbounded=True)
    model = config.setup(scene_box=None, num_train_data=6, metadata=metadata, device="cpu")
    assert model.system.unbounded and model.center.tolist() == pytest.approx(metadata["placement"].center)


def test_of_panoramas_only_the_scene_box_is_known(plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_blender(tmp_path)
    monkeypatch.setitem(KINDS, "pinhole", PANORAMA)
    model = pipeline_of(plugin, tmp_path).model
    assert (model.center == 0).all() and model.scale == 1 and model.system.unbounded


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
    model = small_model(plugin, unbounded=unbounded, background=background)
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
    model = small_model(plugin, background="random").train()
    bundle, _ = rays_at_ball(4)
    outputs = model(bundle)
    nothing = torch.zeros(4, 4, 4, 4)
    torch.testing.assert_close(plugin.target(outputs, {"image": nothing}), outputs["background"])
    solid = torch.cat([torch.rand(4, 4, 4, 3), torch.ones(4, 4, 4, 1)], dim=-1)
    torch.testing.assert_close(plugin.target(outputs, {"image": solid}), solid[..., :3])
    assert torch.equal(plugin.target(outputs, {"image": solid[..., :3]}), solid[..., :3])
    assert not torch.equal(outputs["background"], model(bundle)["background"])
    assert (model.eval()(bundle)["background"] == 1).all()


def test_colours_without_background_lie_over_it_again(plugin: Any) -> None:
    model = small_model(plugin, background="black").eval()
    bundle, _ = rays_at_ball(8)
    outputs = model(bundle)
    color, opacity = model.get_rgba_image(outputs).split((3, 1), dim=-1)
    assert torch.equal(opacity, outputs["accumulation"]) and (opacity > 0.1).any()
    white = model.system.see(bundle.origins.reshape(-1, 3), bundle.directions.reshape(-1, 3), torch.ones(3)).color
    torch.testing.assert_close(color * opacity + 1 - opacity, white.view_as(color), rtol=0, atol=1e-4)
    assert torch.isfinite(color).all()


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
