"""Training what moves: the right weights, the right frames, and the same weights after a kill."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel

from core2d.prior.backbone import Backbone
from core2d.training.loop import TrainingRecipe, train
from genvideo.animatediff.motion import IN_MOTION, fresh_motion, inflate
from genvideo.animatediff.motion_words import begin_with, discriminants
from genvideo.animatediff.task import (
    EncodedClips,
    MotionTask,
    domain_adapter,
    encode_clips,
    given_frames,
    motion_lora,
    only_motion,
)


@pytest.fixture
def clips(flat: Backbone) -> EncodedClips:
    pictures = torch.randint(0, 256, (6, 5, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return encode_clips(flat, pictures, ["a red mug", "a blue car"] * 3, at_once=4)


def task_of(flat: Backbone, clips: EncodedClips, **options) -> MotionTask:
    torch.manual_seed(1)
    unet = only_motion(inflate(flat.family.denoiser, fresh_motion(flat.family.denoiser, heads=2)))
    return MotionTask(unet, clips, flat.schedule, **options)


def clips_that_targets_lead_to(task: MotionTask, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """(n, c, f, h, w) latents of the task's clips, which the rows' targets are near to."""
    found = task.schedule.prediction(rows["target"], rows["noisy"], rows["timesteps"])
    known = task.clips.latents.float()
    away = torch.cdist(found.x0.flatten(1), known.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert away.amin(1).max() < 0.01
    return known[away.argmin(1)]


def test_clips_are_what_the_prior_would_see(flat: Backbone, clips: EncodedClips):
    pictures = torch.randint(0, 256, (6, 5, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    seen = flat.encode_images(pictures[4].float() / 255)  # (f, c, h, w)
    torch.testing.assert_close(clips.latents[4].transpose(0, 1).float(), seen, atol=0.05, rtol=0.05)  # bfloat16
    torch.testing.assert_close(clips.words[3].float(), flat.encode_text(["a blue car"]).tokens[0], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(clips.empty.float(), flat.encode_text([""]).tokens, atol=1e-2, rtol=1e-2)


def test_some_clips_stop_under_a_caption_without_motion(flat: Backbone):
    pictures = torch.randint(0, 256, (6, 5, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    clips = encode_clips(flat, pictures, ["a red mug bouncing"] * 6, ["a red mug"] * 6)
    assert clips.still_words is not None
    task = task_of(flat, clips, still=0.3, drop=0.0, given=(1.0, 0.0, 0.0))
    rows = task.batch(0, torch.arange(500), 500)
    unmoved = (rows["words"] == clips.still_words[0].float()).flatten(1).all(1)
    assert 0.25 < unmoved.float().mean() < 0.35
    assert torch.equal(rows["words"][~unmoved][0], clips.words[0].float())
    # the target says what the frames are: with the noise taken out, all frames of a clip that stops are one of the clip
    noise = [replace(task, still=0.0).batch(0, torch.arange(500), 500)["noisy"], rows["noisy"]]
    changed = (noise[0] - noise[1]).abs().amax((1, 2, 3, 4)) > 0
    assert torch.equal(changed, unmoved)
    first = rows["noisy"][unmoved][:, :, 0]  # given, so without noise
    known = clips.latents.float().transpose(1, 2).flatten(0, 1)
    exact = "donot_use_mm_for_euclid_dist"
    nearest = torch.cdist(first.flatten(1), known.flatten(1), compute_mode=exact)
    assert nearest.amin(1).max() == 0 and len(nearest.argmin(1).remainder(5).unique()) == 5


def test_given_frames_have_no_noise_and_no_loss(flat: Backbone, clips: EncodedClips):
    task = task_of(flat, clips, given=(0.3, 0.2, 0.1))
    rows = task.batch(0, torch.arange(500), 500)
    given = rows["given"]
    shares = [(given[:, 0] & ~given[:, -1]), (~given[:, 0] & given[:, -1]), (given[:, 0] & given[:, -1])]
    assert [round(share.float().mean().item(), 1) for share in shares] == [0.3, 0.2, 0.1]
    assert not given[:, 1:-1].any()
    known = clips.latents.float().transpose(1, 2).flatten(0, 1)  # (n f, c, h, w)
    noisy = rows["noisy"].transpose(1, 2)[given]
    exact = "donot_use_mm_for_euclid_dist"
    assert torch.cdist(noisy.flatten(1), known.flatten(1), compute_mode=exact).amin(1).max() == 0
    one = {name: value[:8] for name, value in rows.items()}
    loss = task.loss(task.model, one)[0]
    mask = one["given"][:, None, :, None, None].expand_as(one["target"])
    other = one | {"target": torch.where(mask, torch.full_like(one["target"], 9.0), one["target"])}
    torch.testing.assert_close(task.loss(task.model, other)[0], loss)


def test_the_loss_of_the_frames_that_are_asked_for(flat: Backbone, clips: EncodedClips):
    task = task_of(flat, clips)
    rows = task.batch(3, torch.arange(4), 4)
    rows["given"] = torch.tensor([[True, False, False, False, False]] * 4)
    words = rows["words"].repeat_interleave(5, dim=0)
    predicted = task.model(rows["noisy"], rows["timesteps"], encoder_hidden_states=words).sample
    error = (predicted - rows["target"])[:, :, 1:].square().mean((1, 2, 3, 4))
    torch.testing.assert_close(task.loss(task.model, rows)[0], (error * rows["weight"]).mean())


def test_noise_that_frames_share(flat: Backbone, clips: EncodedClips):
    alike = []
    for share in (0.0, 0.5):
        task = task_of(flat, clips, shared_noise=share, given=(0.0, 0.0, 0.0))
        noise = task.batch(0, torch.arange(400), 400)["target"]  # of an epsilon prior
        assert abs(noise.std().item() - 1) < 0.02
        alike.append((noise[:, :, 0] * noise[:, :, 3]).mean().item())
    assert abs(alike[0]) < 0.02 and abs(alike[1] - 0.5) < 0.03


def test_noise_hides_blind_clips(flat: Backbone, clips: EncodedClips):
    """Some fully, some in part, late in the schedule; the target leads to the clip from whatever is seen of it."""
    task = task_of(flat, clips, blind=0.4, drop=0.0, given=(0.0, 0.0, 0.0))
    rows = task.batch(0, torch.arange(500), 500)
    steps, x0 = rows["timesteps"], clips_that_targets_lead_to(task, rows)
    alone = task_of(flat, clips, blind=0.0, drop=0.0, given=(0.0, 0.0, 0.0)).batch(0, torch.arange(500), 500)
    blind = (rows["noisy"] != alone["noisy"]).flatten(1).any(1)
    assert 0.35 < blind.float().mean() < 0.45
    assert steps[blind].min() >= 900 and steps[~blind].min() < 100
    drawn = alone["target"]  # the noise, of an epsilon prior
    alpha, sigma = task.schedule.alpha_sigma(steps, drawn)
    share = ((rows["noisy"] - sigma * drawn) * x0).sum((1, 2, 3, 4)) / (
        alpha[:, 0, 0, 0, 0] * x0.square().sum((1, 2, 3, 4))
    )
    torch.testing.assert_close(share[~blind], torch.ones_like(share[~blind]), atol=1e-2, rtol=0)
    assert share[blind].min() > -0.01 and share[blind].max() < 1.01
    assert abs(share[blind].mean().item() - 1 / 3) < 0.06  # squares of uniform numbers


@pytest.mark.parametrize("hiding", [2.0, 8.0])
def test_undecided_clips_show_their_middle_frame(flat: Backbone, clips: EncodedClips, hiding: float):
    """Fully or in part, in the later steps; the target leads to the clip from whatever is seen of it."""
    task = task_of(flat, clips, undecided=0.4, hiding=hiding, drop=0.0, given=(0.0, 0.0, 0.0))
    rows = task.batch(0, torch.arange(500), 500)
    steps, x0 = rows["timesteps"], clips_that_targets_lead_to(task, rows)
    alone = task_of(flat, clips, drop=0.0, given=(0.0, 0.0, 0.0)).batch(0, torch.arange(500), 500)
    undecided = (rows["noisy"] != alone["noisy"]).flatten(1).any(1)
    assert 0.35 < undecided.float().mean() < 0.45
    last = task.schedule.num_train_timesteps - 1
    assert steps[undecided].min() >= last - last * 6 // 10
    alpha, sigma = task.schedule.alpha_sigma(steps, x0)
    shown, middle = (rows["noisy"] - sigma * alone["target"]) / alpha, x0[:, :, 2:3]  # the noise, of an epsilon prior
    torch.testing.assert_close(shown[:, :, 2:3], middle, atol=0.02, rtol=0)
    own = ((shown - middle) * (x0 - middle)).sum((1, 2, 3, 4)) / (x0 - middle).square().sum((1, 2, 3, 4))
    torch.testing.assert_close(own[~undecided], torch.ones_like(own[~undecided]), atol=1e-2, rtol=0)
    mixed = own[:, None, None, None, None] * (x0 - middle) + middle
    torch.testing.assert_close(shown, mixed, atol=0.05, rtol=0)
    assert own[undecided].min() > -0.01 and own[undecided].max() < 1.01
    assert abs(own[undecided].mean().item() - 1 / (1 + hiding)) < 0.06  # powers of uniform numbers


def test_those_clips_alone(flat: Backbone, clips: EncodedClips):
    wanted = torch.tensor([True, False, False, True, False, False])
    some = replace(clips, still_words=clips.words + 1).those(wanted)
    assert torch.equal(some.latents, clips.latents[[0, 3]]) and torch.equal(some.words, clips.words[[0, 3]])
    assert some.still_words is not None and torch.equal(some.still_words, clips.words[[0, 3]] + 1)
    assert clips.those(wanted).still_words is None and torch.equal(some.empty, clips.empty)


def test_a_single_frame_is_never_given():
    assert not given_frames(torch.zeros(3), 1, (1.0, 0.0, 0.0)).any()


def test_positions_may_be_drawn_apart(flat: Backbone, clips: EncodedClips):
    task = task_of(flat, clips)
    rows, some = task.batch(2, torch.arange(8), 8), task.batch(2, torch.tensor([5, 1]), 8)
    assert all(torch.equal(value, rows[name][[5, 1]]) for name, value in some.items())


def test_what_learns(flat: Backbone, motion: MotionAdapter):
    """Motion modules; or low-rank layers over time, or within frames, which change nothing at first."""
    latents, words = torch.randn(1, 4, 3, 8, 8), flat.encode_text(["a red mug"]).repeat_interleave(3).tokens
    plain = inflate(flat.family.denoiser, motion)
    before = plain(latents, torch.tensor([9]), encoder_hidden_states=words).sample
    learned = {name for name, value in only_motion(plain).named_parameters() if value.requires_grad}
    assert learned == {name for name, _ in plain.named_parameters() if IN_MOTION in name}
    for make, in_motion in ((motion_lora, True), (domain_adapter, False)):
        unet = make(inflate(flat.family.denoiser, motion), rank=2)
        learned = {name: value for name, value in unet.named_parameters() if value.requires_grad}
        assert learned and all((IN_MOTION in name) == in_motion and "lora_" in name for name in learned)
        assert all(2 in value.shape for value in learned.values())
        torch.testing.assert_close(unet(latents, torch.tensor([9]), encoder_hidden_states=words).sample, before)


@pytest.mark.parametrize("make", [only_motion, motion_lora, domain_adapter])
def test_the_loss_falls_and_the_rest_stays(
    flat: Backbone, motion: MotionAdapter, clips: EncodedClips, make: Callable[..., UNetMotionModel], tmp_path: Path
):
    unet = make(inflate(flat.family.denoiser, motion))
    frozen = {name: value.clone() for name, value in unet.named_parameters() if not value.requires_grad}
    frames = clips.frame(0) if make is domain_adapter else clips
    task = MotionTask(unet, frames, flat.schedule, drop=0.0)
    rows = task.batch(999, torch.arange(64), 64)
    before = task.loss(unet, rows)[0].item()
    recipe = TrainingRecipe(steps=80, batch_size=8, learning_rate=3e-2, warmup_steps=5, precision="no", ema_decay=0.9)
    train(task, recipe, tmp_path)
    assert task.loss(unet, rows)[0].item() < 0.95 * before
    assert all(torch.equal(value, frozen[name]) for name, value in unet.named_parameters() if name in frozen)


def test_training_killed_and_resumed_is_the_unbroken_one(flat: Backbone, clips: EncodedClips, tmp_path: Path):
    recipe = TrainingRecipe(steps=6, batch_size=4, warmup_steps=1, checkpoint_every=2, precision="no", log_every=1)
    whole = train(task_of(flat, clips), recipe, tmp_path / "whole")

    def stop(line: dict[str, float]) -> None:
        if line["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(task_of(flat, clips), seed=0), recipe, tmp_path / "parts", on_log=stop)
    resumed = train(task_of(flat, clips), recipe, tmp_path / "parts", resume=True)
    assert resumed.step == 6 and whole.ema.keys() == resumed.ema.keys()
    assert all(torch.equal(value, resumed.ema[name]) for name, value in whole.ema.items())


def test_what_tells_motions_apart_is_found_among_larger_differences():
    generator = torch.Generator().manual_seed(0)
    content, sign = torch.randn(300, 1, 12, generator=generator), torch.arange(300) % 2 * 2.0 - 1
    words = 5.0 + 3.0 * content.expand(-1, 20, -1).clone()
    # nothing but the motion is told here, and little of it
    words[:, :, 0] = 0.05 * sign[:, None] + 0.005 * torch.randn(300, 20, generator=generator)
    labels = ["left" if one < 0 else "right" for one in sign]
    (direction,) = discriminants(words, labels, 1)
    code = words[:, -1] @ direction
    assert abs(code.std().item() - 1) < 0.1 and abs(code.mean().item()) < 0.05
    left, right = code[sign < 0], code[sign > 0]
    apart = (left.max() < right.min()) or (right.max() < left.min())
    assert apart and (left.mean() - right.mean()).abs() > 1.8


def test_an_adapter_begins_with_what_tells_motions_apart_and_adds_nothing(flat: Backbone):
    unet = flat.family.denoiser
    plain = inflate(unet, fresh_motion(unet, heads=2)).eval()
    adapted = domain_adapter(inflate(unet, fresh_motion(unet, heads=2)), rank=5).eval()
    directions = torch.randn(3, unet.config["cross_attention_dim"])
    begin_with(adapted, "domain_adapter", directions)
    clip, words = torch.randn(1, 4, 3, 8, 8), torch.randn(3, 7, unet.config["cross_attention_dim"])
    with torch.no_grad():
        found, expected = (model(clip, 400, encoder_hidden_states=words).sample for model in (adapted, plain))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    layers = [layer for name, layer in adapted.named_modules() if name.endswith((".attn2.to_k", ".attn2.to_v"))]
    looking = [layer for layer in layers if hasattr(layer, "lora_A")]
    assert looking and all(torch.equal(layer.lora_A["domain_adapter"].weight[2:], directions) for layer in looking)
