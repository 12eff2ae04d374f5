"""AnimateDiff: clips from text, equal to those of diffusers' pipeline, and what it adds."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from core2d.adapters.lora import Lora, LowRank
from core2d.adapters.lora_files import write_lora
from core2d.app.errors import InputError
from core2d.app.outputs import write_json
from core2d.prior.backbone import Backbone
from genvideo.animatediff.formats import ADAPTER, Facts, write_motion
from genvideo.animatediff.motion import MotionBackbone, inflate
from genvideo.animatediff.pipeline import PUBLISHED_SCHEDULE, AnimateDiff


@pytest.fixture
def pipeline(flat: Backbone, motion: MotionAdapter) -> AnimateDiff:
    return AnimateDiff(MotionBackbone(flat, motion), takes_frames=True)


def stock(flat: Backbone, motion: MotionAdapter) -> Any:
    parts: Any = flat.family.parts
    scheduler: Any = DDIMScheduler.from_config(flat.scheduler_config)
    made = AnimateDiffPipeline(
        vae=flat.vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"], unet=parts["unet"],
        motion_adapter=motion, scheduler=scheduler,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_clips_are_those_of_the_stock_pipeline(flat: Backbone, motion: MotionAdapter, scale: float):
    prompts = ["a red mug", "a blue car"]
    settings: Any = {"num_frames": 6, "num_inference_steps": 4, "guidance_scale": scale}
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    expected = stock(flat, motion)(prompts, generator=generators, output_type="pt", **settings).frames
    found = AnimateDiff(MotionBackbone(flat, motion))(prompts, seed=7, **settings).frames
    assert found.shape == (2, 6, 3, 16, 16)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_contrast_is_rescaled_over_a_whole_clip(pipeline: AnimateDiff, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def note(guided: torch.Tensor, with_text: torch.Tensor, share: float) -> torch.Tensor:
        seen.append((tuple(guided.shape), tuple(with_text.shape), share))
        return with_text

    monkeypatch.setattr("genvideo.animatediff.pipeline.rescale_contrast", note)
    settings: Any = {"seed": 1, "num_frames": 5, "num_inference_steps": 2, "output_type": "latent"}
    found = pipeline(["a red mug", "a car"], guidance_rescale=0.7, **settings).frames
    assert seen == [((2, 4, 5, *found.shape[-2:]), (2, 4, 5, *found.shape[-2:]), 0.7)] * 2
    torch.testing.assert_close(found, pipeline(["a red mug", "a car"], guidance_scale=1, **settings).frames)


def test_a_callback_gets_the_pipeline_and_may_stop_it(pipeline: AnimateDiff):
    def fail(of: AnimateDiff, step: int, _t: Any, tensors: dict[str, torch.Tensor]) -> None:
        assert of is pipeline and step == 0 and tensors["latents"].shape[:3] == (1, 4, 4)
        raise KeyboardInterrupt

    before = dict(vars(pipeline.prior))
    with pytest.raises(KeyboardInterrupt):
        pipeline("a red mug", num_frames=4, num_inference_steps=2, callback_on_step_end=fail)
    assert vars(pipeline.prior) == before  # nothing is left on it


def test_a_clip_does_not_depend_on_those_beside_it(pipeline: AnimateDiff):
    both = pipeline(["a red mug", "a blue car"], seed=3, num_frames=4, num_inference_steps=3).frames
    alone = pipeline("a blue car", seed=4, num_frames=4, num_inference_steps=3).frames
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)


def test_one_window_that_suffices_is_the_whole_clip(pipeline: AnimateDiff):
    settings: Any = {"seed": 1, "num_frames": 12, "num_inference_steps": 3}
    whole = pipeline("a red mug", window=32, **settings).frames
    assert torch.equal(pipeline("a red mug", window=12, overlap=5, **settings).frames, whole)
    apart = pipeline("a red mug", window=8, **settings).frames
    assert apart.shape == whole.shape and (apart - whole).abs().max() > 1e-4


def test_given_frames_are_there(pipeline: AnimateDiff):
    pictures = {0: torch.rand(3, 16, 16), -1: torch.rand(3, 16, 16)}
    for frames in (5, 20):
        clip = pipeline("a red mug", seed=1, num_frames=frames, num_inference_steps=3, given=pictures).frames[0]
        plain = pipeline("a red mug", seed=1, num_frames=frames, num_inference_steps=3).frames[0]
        for index, picture in pictures.items():
            expected = pipeline.prior.decode(pipeline.prior.encode_images(picture[None]))[0]
            torch.testing.assert_close(clip[index], expected, atol=1e-5, rtol=0)
        assert (clip[2] - plain[2]).abs().max() > 1e-4  # and the others know of them


def test_given_frames_are_seen_without_noise_in_every_step(pipeline: AnimateDiff, monkeypatch: pytest.MonkeyPatch):
    picture, seen = torch.rand(3, 16, 16), []
    inner = pipeline.prior.unet.forward

    def forward(sample, *arguments, **options):
        seen.append(sample[:, :, 2].clone())
        return inner(sample, *arguments, **options)

    monkeypatch.setattr(pipeline.prior.unet, "forward", forward)
    pipeline("a red mug", seed=1, num_frames=5, num_inference_steps=3, given={2: picture})
    expected = pipeline.prior.encode_images(picture[None])
    assert len(seen) == 3 and all(torch.equal(one, expected.expand(2, -1, -1, -1)) for one in seen)


def test_a_clip_drawn_anew_keeps_what_is_not_forgotten(pipeline: AnimateDiff):
    video = torch.rand(5, 3, 16, 16)
    kept = pipeline.prior.decode_clips(pipeline.prior.encode_clips(video.transpose(0, 1)[None]))[0].transpose(0, 1)
    distances = []
    settings: Any = {"seed": 2, "num_inference_steps": 10, "guidance_scale": 1.0, "video": video}
    for strength in (0.1, 0.5, 1.0):
        clip = pipeline("a red mug", strength=strength, **settings).frames[0]
        assert clip.shape == video.shape
        distances.append((clip - kept).abs().mean().item())
    assert distances == sorted(distances)


def test_how_noisy_a_clip_begins(pipeline: AnimateDiff, monkeypatch: pytest.MonkeyPatch):
    """What is denoised at the first step is the clip at that step's noise, whatever the solver."""
    video, seen, inputs = torch.rand(4, 3, 16, 16), [], []
    clean = pipeline.prior.encode_clips(video.transpose(0, 1)[None])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))

    def note(_pipeline: AnimateDiff, step: int, t: torch.Tensor, tensors: dict) -> None:
        seen.append((step, int(t)))

    whole = pipeline.prior.network

    def network(x_t: torch.Tensor, t: Any, *others: Any) -> torch.Tensor:
        inputs.append((x_t[:1].clone(), int(torch.as_tensor(t).flatten()[0])))
        return whole(x_t, t, *others)

    monkeypatch.setattr(pipeline.prior, "network", network)
    for solver in ("ddim", "dpm++", "euler"):
        seen.clear()
        inputs.clear()
        pipeline("a red mug", latents=noise, num_inference_steps=10, video=video, strength=0.3, scheduler=solver,
                 callback_on_step_end=note)  # fmt: skip
        assert [step for step, _ in seen] == [7, 8, 9], solver
        found, t = inputs[0]
        expected = pipeline.prior.add_noise(clean, noise, t)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_modules_bring_the_noise_and_the_adapter_that_they_learned_with(
    tiny_folder: Callable[..., Path], motion: MotionAdapter, tmp_path: Path
):
    write_motion(tmp_path / "motion", motion, facts=Facts(takes_frames=True, shared_noise=0.75))
    layer = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
    width = motion.config["block_out_channels"][0]
    change = LowRank(torch.ones(1, width), torch.full((width, 1), 0.5))
    write_lora(tmp_path / "motion" / ADAPTER, Lora({"unet": {layer: change}}))
    plain = Backbone.load(tiny_folder("sd1"))
    pipeline = AnimateDiff.from_pretrained(tiny_folder("sd1"), tmp_path / "motion")
    unets = pipeline.prior.unet, inflate(plain.family.denoiser, motion)
    found, before = (unet.state_dict()[f"{layer}.weight"] for unet in unets)
    grown = found - before
    torch.testing.assert_close(grown, torch.full_like(grown, 0.5))
    noise = pipeline.initial_noise((2, 4, 16, 32, 32), [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    seen = noise.flatten(3)  # (n, c, f, p)
    alike = (seen[:, :, :-1] * seen[:, :, 1:]).mean()
    assert abs(seen.std().item() - 1) < 0.02 and abs(alike.item() - 0.75) < 0.03
    assert (seen[0] * seen[1]).mean().abs() < 0.02  # clips have nothing in common


def test_published_modules_bring_their_own_schedule(
    tiny_folder: Callable[..., Path], motion: MotionAdapter, tmp_path: Path
):
    write_motion(tmp_path / "ours", motion)
    motion.save_pretrained(tmp_path / "theirs")
    shutil.copytree(tiny_folder("sd1"), tmp_path / "odd")
    odd = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "set_alpha_to_one": False,
           "timestep_spacing": "trailing", "rescale_betas_zero_snr": True,
           "prediction_type": "v_prediction"}  # fmt: skip
    write_json(tmp_path / "odd" / "scheduler" / "scheduler_config.json", odd)
    ours = AnimateDiff.from_pretrained(tmp_path / "odd", tmp_path / "ours")
    theirs = AnimateDiff.from_pretrained(tmp_path / "odd", tmp_path / "theirs")
    assert ours.scheduler.config["beta_schedule"] == "scaled_linear"
    settings = {name: value for name, value in PUBLISHED_SCHEDULE.items() if name != "_class_name"}
    assert type(theirs.scheduler).__name__ == PUBLISHED_SCHEDULE["_class_name"]
    assert {name: theirs.scheduler.config[name] for name in settings} == settings
    of_authors: Any = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "steps_offset": 1,
                       "clip_sample": False}  # fmt: skip
    made: Any = DDIMScheduler(**of_authors)  # as their code makes it, whatever the backbone's config says
    expected = dict(made.config) | {"prediction_type": "v_prediction"}  # but for what the backbone itself predicts
    assert all(theirs.scheduler.config[name] == value for name, value in expected.items() if name[0] != "_")
    assert theirs.scheduler.final_alpha_cumprod == 1 != ours.scheduler.final_alpha_cumprod  # pyright: ignore
    assert theirs.prior.schedule.alphas_cumprod is not None
    betas = 1 - theirs.prior.schedule.alphas_cumprod[0]
    torch.testing.assert_close(betas, torch.tensor(0.00085, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": " "}, "a prompt is empty"),
        ({"num_frames": 0}, "a clip of 0 frames"),
        ({"window": 40, "num_frames": 40}, "a window of 40 frames is not possible: the motion modules know up to 32"),
        ({"window": 8, "overlap": 8}, "cannot overlap by 8"),
        ({"num_inference_steps": 0}, "0 denoising steps"),
        ({"height": 17}, "a side of 17 pixels"),
        ({"given": {9: torch.zeros(3, 16, 16)}, "num_frames": 9}, "frame 9 is given"),
        ({"given": {0: torch.zeros(3, 32, 16)}}, "16 x 32 pixels, the clip 16 x 16"),
        ({"video": torch.zeros(3, 3, 16, 16), "strength": 0.0}, "a strength of 0.0"),
        ({"seed": 1, "generator": [torch.Generator()]}, "not both"),
        ({"output_type": "pil"}, "no output type 'pil'"),
        ({"video": torch.zeros(3, 3, 16, 16), "scheduler": "pndm"}, "pndm cannot begin in the middle"),
        ({"latents": torch.zeros(1, 4, 3, 8, 8)}, "latents have shape"),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_one_clear_error(pipeline: AnimateDiff, options: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        pipeline(options.get("prompt", "a red mug"), **{k: v for k, v in options.items() if k != "prompt"})


def test_modules_that_take_no_frames_say_so(flat: Backbone, motion: MotionAdapter):
    with pytest.raises(InputError, match="take no given frames"):
        AnimateDiff(MotionBackbone(flat, motion))("a red mug", given={0: torch.zeros(3, 16, 16)})
