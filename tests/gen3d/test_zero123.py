"""Zero-1-to-3: what the UNet is told, what its sampler and its distillation make of it, and how it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_zero123 import WIDTH, tiny_unet, tiny_zero123
from torch.nn import functional as F

from core2d.app.errors import InputError
from core2d.guidance import ScoreDistillationConfig
from core2d.media.pictures import read_image
from core2d.media.videos import read_video
from core2d.prior.camera_token import camera_features
from core2d.prior.cameras import degrees, orbit, relative_view
from core2d.prior.schedule import NoiseSchedule
from core2d.training.loop import TrainingRecipe, train
from gen3d.data.renders import Renders
from gen3d.zero123.camera_projection import CameraProjection, PictureReader, moved, standing
from gen3d.zero123.formats import write_zero123
from gen3d.zero123.guidance import ViewDistillation
from gen3d.zero123.model import Zero123, nothing
from gen3d.zero123.pipeline import NovelViews, orbit_views, view_by
from gen3d.zero123.task import (
    ReadingTask,
    ViewConditioned,
    ViewPairs,
    ViewPairTask,
    encode_pairs,
    view_between,
    with_picture_channels,
)

Told = tuple[int, dict[str, Any], str]


@pytest.fixture
def model() -> Zero123:
    return Zero123(tiny_zero123(sample_size=8))


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand((3, 16, 16), generator=torch.Generator().manual_seed(3))


# -- what the UNet is told -----------------------------------------------------------------------------------------


def test_the_view_is_the_papers():
    """T = [polar, sin, cos, radius]: further up is a smaller polar angle, counter-clockwise a positive azimuth."""
    here = orbit(degrees(10), degrees(20), 1.5)
    up, left, out = (orbit(*numbers) for numbers in (
        (degrees(10), degrees(50), 1.5), (degrees(40), degrees(20), 1.5), (degrees(10), degrees(20), 2.0)))  # fmt: skip
    third = math.radians(30)
    for there, wanted in (
        (up, [-third, 0, 1, 0]),
        (left, [0, math.sin(third), math.cos(third), 0]),
        (out, [0, 0, 1, 0.5]),
    ):
        torch.testing.assert_close(relative_view(here, there), torch.tensor([wanted]), atol=1e-6, rtol=0)
    torch.testing.assert_close(view_by(degrees(0), degrees(30)), relative_view(here, up), atol=1e-6, rtol=0)
    torch.testing.assert_close(view_by(degrees(30), degrees(0)), relative_view(here, left), atol=1e-6, rtol=0)


def test_an_orbit_goes_counter_clockwise_from_the_picture():
    start = orbit(degrees(70), degrees(15), 2.0)
    around = orbit(degrees([70 + 90 * i for i in range(4)]), degrees(15), 2.0)
    torch.testing.assert_close(orbit_views(4), relative_view(start, around), atol=1e-6, rtol=0)


def test_training_and_asking_measure_views_alike():
    source, target = orbit(0.3, 0.2, 1.8), orbit([1.0, 2.0], [0.5, -0.1], [2.0, 1.5])
    sphere = [torch.stack([math.pi / 2 - c.elevation, c.azimuth, c.radius], dim=1) for c in (source, target)]
    torch.testing.assert_close(view_between(sphere[0].expand(2, 3), sphere[1]), relative_view(source, target))


def test_the_projection_starts_as_the_embedding_alone():
    embedding, view, latents = torch.randn(5, WIDTH), torch.randn(5, 4), torch.randn(5, 4, 8, 8)
    assert torch.equal(CameraProjection(WIDTH)(embedding, view, latents), embedding[:, None])


def test_a_reader_turns_the_camera_that_it_sees():
    """Where the first camera stood and the view between them give the features of the second one."""
    source, target = orbit(0.3, 0.2, 1.8), orbit([1.0, 2.0, -3.0], [0.5, -0.1, 0.9], [2.0, 1.5, 1.0])
    sphere = torch.stack([math.pi / 2 - source.elevation, source.azimuth, source.radius], dim=1)
    found = moved(standing(sphere).expand(3, 4), relative_view(source, target))
    torch.testing.assert_close(found, camera_features(target))


def test_a_readers_context_is_that_of_the_prior():
    """The words, then the prior's camera token of the second camera, which asks those words."""
    reader = tiny_zero123(reads=True).projection
    assert isinstance(reader, PictureReader)
    embedding, view, latents = torch.randn(5, WIDTH), torch.randn(5, 4), torch.randn(5, 4, 8, 8)
    words, stand = reader.read(embedding, latents)
    assert words.shape == (5, 3, WIDTH)
    torch.testing.assert_close(stand[:, :2].norm(dim=1), torch.ones(5))
    token = reader.camera_token(moved(stand, view), words)
    assert torch.equal(reader(embedding, view, latents), torch.cat([words, token], dim=1))


def test_the_picture_is_joined_unscaled(model: Zero123, picture: torch.Tensor):
    """The mode of the posterior as the encoder gives it, while targets carry the scaling factor."""
    images = F.interpolate(picture[None], (16, 16))
    seen = model.see(images)
    mode = model.parts.vae.encode(2 * images - 1).latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(seen.latents, mode, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode_images(images), mode * model.parts.vae.config["scaling_factor"])
    asked: list[torch.Tensor] = []
    hook = model.parts.unet.register_forward_pre_hook(lambda _module, inputs: asked.append(inputs[0]))
    noise = torch.randn(2, 4, 8, 8)
    model.network(noise, 3, model.condition(seen, orbit_views(2)))
    hook.remove()
    assert torch.equal(asked[0], torch.cat([noise, seen.latents.expand(2, 4, 8, 8)], dim=1))


def test_the_embedding_is_not_normalised(model: Zero123, picture: torch.Tensor):
    seen = model.see(picture[None])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.parts.image_mean, model.parts.image_std))
    pixels = (F.interpolate(picture[None], (16, 16), mode="bicubic", align_corners=True) - mean) / std
    expected = model.parts.image_encoder(pixels).image_embeds
    torch.testing.assert_close(seen.embedding, expected)
    assert abs(seen.embedding.norm().item() - 1) > 0.05


def test_guidance_takes_zeros_for_both(model: Zero123, picture: torch.Tensor):
    """Not the projection of zeros, which has a bias, and not the latent of a white picture."""
    condition = model.condition(model.see(picture[None]), orbit_views(3))
    without = nothing(condition)
    assert without.channels is not None and not without.channels.any() and not without.tokens.any()
    x_t, t = torch.randn(3, 4, 8, 8), torch.tensor([5, 500, 900])
    zeros = torch.zeros_like(x_t)
    unet = model.parts.unet
    plain = unet(torch.cat([x_t, zeros], 1), t, encoder_hidden_states=torch.zeros_like(condition.tokens)).sample
    with_picture = model.network(x_t, t, condition)
    guided, _ = model.network_cfg(x_t, t, condition, without, 3.0)
    torch.testing.assert_close(guided, plain + 3 * (with_picture - plain), atol=1e-4, rtol=1e-4)


def test_stable_zero123_is_told_its_own_polar_angle(picture: torch.Tensor):
    parts = tiny_zero123(sample_size=8)
    stable = Zero123(replace(parts, absolute_elevation=True))
    seen = stable.see(picture[None], elevation=math.radians(20))
    views = view_by(degrees([0, 90]), degrees([0, 0]), radius=0.7)
    expected = torch.cat([views[:, :3], torch.full((2, 1), math.radians(70))], dim=1)
    tokens = parts.projection(seen.embedding.expand(2, -1), expected, seen.latents)
    torch.testing.assert_close(stable.condition(seen, views).tokens, tokens)


def test_what_it_cannot_be_told_is_refused(model: Zero123, picture: torch.Tensor):
    condition = model.condition(model.see(picture[None]), orbit_views(1))
    with pytest.raises(InputError, match="by a picture"):
        model.encode_text(["a mug"])
    with pytest.raises(InputError, match="no camera token"):
        model.network(torch.zeros(1, 4, 8, 8), 1, condition.seen_from(torch.zeros(1, 5)))
    with pytest.raises(ValueError, match="channels"):
        model.network(torch.zeros(1, 4, 8, 8), 1, replace(condition, channels=None))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        model.condition(model.see(picture[None]), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(3, 16, 16\)"):
        model.see(picture)


# -- pictures and distillation -------------------------------------------------------------------------------------


def test_a_view_does_not_depend_on_those_beside_it(model: Zero123, picture: torch.Tensor):
    pipeline, views = NovelViews(model), orbit_views(5)

    def draw(*given: Any, **settings: Any) -> torch.Tensor:
        return pipeline(*given, **settings).images

    together = draw(picture, views, num_inference_steps=3, seed=7)
    apart = draw(picture, views, num_inference_steps=3, seed=7, batch_size=2)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    generator = [torch.Generator().manual_seed(7 + 3)]
    torch.testing.assert_close(
        draw(picture, views[3:4], num_inference_steps=3, generator=generator), together[3:4], atol=1e-5, rtol=1e-5
    )
    assert torch.equal(together, draw(picture, views, num_inference_steps=3, seed=7))
    assert together.shape == (5, 3, 16, 16) and together.min() >= 0 and together.max() <= 1


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_distillation_is_the_formula(model: Zero123, picture: torch.Tensor, scale: float):
    """gradient = w(t) (eps_cfg - eps), through the encoder, with the view of each camera against the picture's."""
    source, cameras = orbit(0.4, 0.2, 1.8), orbit([1.0, 3.0], [0.1, 0.6], [1.8, 2.0])
    guidance = ViewDistillation(model, model.see(picture[None]), source, ScoreDistillationConfig(guidance_scale=scale))
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    loss, info = guidance(images, "", cameras, 11)
    (found,) = torch.autograd.grad(loss, images)
    latents = model.encode_images(images)
    t, noise = guidance.draw(latents, 11)
    x_t = model.add_noise(latents.detach(), noise, t)
    condition = model.condition(model.see(picture[None]), relative_view(source, cameras))
    zeros = nothing(condition)
    without, told = (model.network(x_t, t, one) for one in (zeros, condition))
    eps = told if scale == 1 else without + scale * (told - without)
    weight = model.schedule.alpha_sigma(t, x_t)[1] ** 2
    (expected,) = torch.autograd.grad((latents * (weight * (eps - noise)).detach()).sum() / 2, images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert torch.equal(info["t"], t)


# -- training ------------------------------------------------------------------------------------------------------


def test_a_wider_unet_starts_as_the_old_one():
    torch.manual_seed(0)
    narrow = tiny_unet(in_channels=4)
    wide = with_picture_channels(narrow)
    x_t, tokens, picture = torch.randn(2, 4, 8, 8), torch.randn(2, 1, WIDTH), torch.randn(2, 4, 8, 8)
    before = narrow(x_t, 10, encoder_hidden_states=tokens).sample
    after = wide(torch.cat([x_t, picture], 1), 10, encoder_hidden_states=tokens).sample
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


def small_pairs(model: Zero123, objects: int = 3, views: int = 4) -> tuple[Renders, ViewPairs]:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randint(256, (objects, views, 3, 16, 16), generator=generator, dtype=torch.uint8)
    cameras = orbit(torch.rand(objects * views, generator=generator) * 6, 0.3, 1.9)
    position = cameras.position.unflatten(0, (objects, views))
    renders = Renders(rgb, torch.full_like(rgb[:, :, 0], 255), position, ("a", "b", "c"))
    return renders, encode_pairs(renders, model.parts.vae, model.embed)


def test_pairs_hold_what_the_model_would_see(model: Zero123):
    renders, pairs = small_pairs(model)
    seen = model.see(renders.rgb[1, 2][None].float() / 255)
    torch.testing.assert_close(pairs.mean[1, 2].float(), seen.latents[0], atol=0.05, rtol=0.05)  # halves of bfloat16
    torch.testing.assert_close(pairs.embedding[1, 2].float(), seen.embedding[0], atol=0.05, rtol=0.05)
    assert pairs.sphere.shape == (3, 4, 3)
    torch.testing.assert_close(pairs.sphere[..., 0], torch.full((3, 4), math.pi / 2 - 0.3), atol=1e-5, rtol=0)


def pairs_and_schedule(model: Zero123) -> tuple[ViewPairs, NoiseSchedule]:
    return small_pairs(model)[1], model.schedule


def task_of(model: Zero123) -> ViewPairTask:
    parts = tiny_zero123(seed=1, sample_size=8)
    trained = ViewConditioned(parts.unet, parts.projection).requires_grad_(True)
    return ViewPairTask(trained, *pairs_and_schedule(model), seed=5)


def test_a_row_is_two_views_of_one_object(model: Zero123):
    """Targets are scaled and pictures are not; positions of a batch may be drawn apart."""
    task = task_of(model)
    pairs = replace(task.pairs, deviation=torch.zeros_like(task.pairs.deviation))  # so that means can be told apart
    task = replace(task, pairs=pairs)
    rows = task.batch(3, torch.arange(400), 400)
    assert torch.equal(task.batch(3, torch.tensor([7, 2]), 400)["picture"], rows["picture"][[7, 2]])
    alpha, sigma = task.schedule.alpha_sigma(rows["timesteps"], rows["noisy"])
    clean = (rows["noisy"] - sigma * rows["target"]) / alpha  # the network predicts the noise
    flat = pairs.mean.flatten(0, 1).float()
    sources = torch.cdist(rows["picture"].flatten(1), flat.flatten(1)).argmin(1)
    low = rows["timesteps"] < 300  # where the sum above keeps its digits
    targets = torch.cdist((clean / pairs.scaling_factor).flatten(1), flat.flatten(1)).argmin(1)
    assert torch.equal(sources[low] // 4, targets[low] // 4)
    assert set((4 * (sources % 4) + targets % 4)[low].tolist()) == set(range(16))  # any view of any, itself too
    sphere = pairs.sphere.flatten(0, 1)
    torch.testing.assert_close(rows["view"][low], view_between(sphere[sources], sphere[targets])[low])


def test_conditions_are_dropped_as_in_the_paper(model: Zero123):
    """A twentieth without the tokens, a twentieth without the picture, a twentieth without both."""
    rows = task_of(model).batch(0, torch.arange(20_000), 20_000)
    kinds = (2 * rows["with_tokens"] + rows["with_picture"]).long()  # 0 neither, 1 picture, 2 tokens, 3 both
    shares = torch.bincount(kinds, minlength=4) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.05, 0.05, 0.05, 0.85]), atol=0.006, rtol=0)


def test_a_reader_learns_words_and_camera(model: Zero123, tmp_path: Path):
    """Its loss is the squared errors of both; twelve pictures are learned by heart, and the camera token stays."""
    reader = tiny_zero123(seed=1, reads=True).projection
    assert isinstance(reader, PictureReader)
    before = {name: value.clone() for name, value in reader.camera_token.state_dict().items()}
    pairs, _ = pairs_and_schedule(model)
    words = torch.randn(3, 3, WIDTH, generator=torch.Generator().manual_seed(2))
    reader.requires_grad_(True).camera_token.requires_grad_(False)
    task = ReadingTask(reader, pairs, words)
    rows = task.batch(0, torch.arange(200), 200)
    said, stand = reader.read(rows["embedding"], rows["picture"])
    loss, _ = task.loss(reader, rows)
    expected = (said - rows["words"]).square().mean() + (stand - rows["stand"]).square().sum(1).mean()
    torch.testing.assert_close(loss, expected)
    train(task, TrainingRecipe(steps=400, batch_size=32, learning_rate=1e-2, precision="no"), tmp_path)
    assert task.loss(reader, rows)[0] < 0.05 * loss
    assert all(torch.equal(value, before[name]) for name, value in reader.camera_token.state_dict().items())


def test_dropped_conditions_are_those_of_guidance(model: Zero123):
    """With everything dropped the loss is that of the row which guidance calls unconditional."""
    task = task_of(model)
    batch = task.batch(1, torch.arange(6), 6)
    batch |= {"with_tokens": torch.zeros(6), "with_picture": torch.zeros(6)}
    loss, _ = task.loss(task.model, batch)
    joined = torch.cat([batch["noisy"], torch.zeros_like(batch["picture"])], 1)
    unet, tokens = task.model.unet, torch.zeros(6, 1, WIDTH)
    predicted = unet(joined, batch["timesteps"], encoder_hidden_states=tokens).sample
    error = (predicted - batch["target"]).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, (error * batch["weight"]).mean())


def test_a_reader_keeps_reading_while_the_unet_learns(model: Zero123):
    """Its own error of the camera is part of the loss, of the picture that is seen and not of the one to draw."""
    parts = tiny_zero123(seed=1, reads=True, sample_size=8)
    assert isinstance(parts.projection, PictureReader)
    task = ViewPairTask(ViewConditioned(parts.unet, parts.projection), *pairs_and_schedule(model), seed=5)
    rows = task.batch(0, torch.arange(8), 8)
    stand = parts.projection.read(rows["embedding"], rows["picture"])[1]
    stood = (stand - rows["stand"]).square().sum(1).mean()
    right = task.loss(task.model, rows | {"stand": stand.detach()})[0]
    torch.testing.assert_close(task.loss(task.model, rows)[0] - right, stood)


def test_training_killed_and_resumed_is_the_unbroken_one(model: Zero123, tmp_path: Path):
    recipe = TrainingRecipe(steps=6, batch_size=4, warmup_steps=1, checkpoint_every=2, precision="no")
    whole = train(task_of(model), recipe, tmp_path / "whole")
    task = task_of(model)
    with pytest.raises(KeyboardInterrupt):
        train(replace(task, seed=5), replace(recipe, log_every=1), tmp_path / "parts", on_log=stop_at(4))
    resumed = train(task_of(model), recipe, tmp_path / "parts", resume=True)
    assert resumed.step == 6 and whole.ema.keys() == resumed.ema.keys()
    assert all(torch.equal(value, resumed.ema[name]) for name, value in whole.ema.items())


def stop_at(step: int) -> Callable[[dict[str, float]], None]:
    def follow(line: dict[str, float]) -> None:
        if line["step"] == step:
            raise KeyboardInterrupt

    return follow


# -- the command ---------------------------------------------------------------------------------------------------


def test_views_of_a_picture(command: Callable[..., Told], zero123_folder: Path, cut_out: Path, tmp_path: Path):
    words = ("novel-views", cut_out, "--model", zero123_folder, "--steps", 2, "--azimuth", 30, 60, 90)
    status, told, said = command(*words, "-o", tmp_path / "views.png")
    assert status == 0 and told["metrics"] == {"views": 3, "size": 16, "foreground_by": "alpha"}
    assert "found by alpha" in said
    assert [Path(name).name for name in told["outputs"]] == ["views.png", "000.png", "001.png", "002.png"]
    single = tmp_path / "one.png"
    assert command(*words[:6], "--azimuth", 30, "-o", single)[0] == 0
    assert np.array_equal(read_image(single), read_image(tmp_path / "views" / "000.png"))


def test_numbers_that_are_not_finite_are_one_clear_error(command: Callable[..., Told], cut_out: Path, tmp_path: Path):
    parts = tiny_zero123(sample_size=8)
    parts.unet.conv_out.bias[:] = float("nan")  # pyright: ignore[reportOptionalSubscript]
    write_zero123(tmp_path / "broken", parts, "diffusers")
    status, _, said = command(
        "novel-views", cut_out, "--model", tmp_path / "broken", "--steps", 1, "-o", tmp_path / "a.png"
    )
    assert status == 2 and "not finite" in said and not (tmp_path / "a.png").exists()


def test_an_odd_checkpoint_is_said(command: Callable[..., Told], cut_out: Path, tmp_path: Path):
    """Such as the noise schedule that a converter of diffusers writes by mistake."""
    parts = tiny_zero123(sample_size=8)
    parts.scheduler_config |= {"beta_start": 0.02, "beta_end": 0.085}
    write_zero123(tmp_path / "odd", parts, "diffusers")
    words = ("novel-views", cut_out, "--model", tmp_path / "odd", "--steps", 1, "--orbit", 1, "-o", tmp_path / "a.png")
    status, _, said = command(*words)
    assert status == 0 and "not the published one" in said


def test_a_film_around_a_picture(command: Callable[..., Told], zero123_folder: Path, cut_out: Path, tmp_path: Path):
    words = ("novel-views", cut_out, "--model", zero123_folder, "--steps", 1, "--orbit", 4, "--fps", 5)
    assert command(*words, "-o", tmp_path / "views.mp4")[0] == 0
    frames, rate = read_video(tmp_path / "views.mp4")
    assert frames.shape[:3] == (4, 16, 16) and rate == 5


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--azimuth", 10, "--orbit", 3), "give one of them"),
        (("--azimuth", 10, 20, "--elevation", 1, 2, 3), "3 angles for 2 views"),
        (("--orbit", 0), "--orbit"),
        (("--elevation", 95), "--elevation"),
        (("--steps", 0), "--steps"),
        (("--model", "no-such-model"), "no model"),
        (("--mask", "no-such-mask.png"), "no mask"),
    ],
)
def test_bad_words_are_one_clear_error(
    command: Callable[..., Told],
    zero123_folder: Path,
    cut_out: Path,
    tmp_path: Path,
    words: tuple[object, ...],
    why: str,
):
    model = () if "--model" in words else ("--model", zero123_folder)
    status, told, said = command("novel-views", cut_out, *words, *model, "-o", tmp_path / "views.png")
    assert status == 2 and not told and why in said and said.count("\n") == 1
    assert not (tmp_path / "views.png").exists()
