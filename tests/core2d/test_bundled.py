"""How the bundled models are made: tokenizer, judges, scores, cards, and every stage in miniature."""

import itertools
import json
import re
import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

import gen3d.toybox.bundled
import gen3d.toybox.matting_task
import genvideo.toybox.bundled
import genvideo.toybox.video_vae
from core2d.bundled import (
    clip,
    control_scores,
    inpaint_scores,
    ip_adapter_scores,
    judges,
    nested,
    prior,
    scores,
    stages,
    training,
    vae,
)
from core2d.bundled.cards import ABOUT
from core2d.bundled.control import CONTROL_DEPTH, CONTROL_POSE
from core2d.bundled.inpaint import INPAINT
from core2d.bundled.ip_adapter import IP_ADAPTER
from core2d.bundled.world import picture_rows, training_pictures
from core2d.prior.schedule import NoiseSchedule
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import captions, world
from core2d.toybox import clips as toybox_clips
from core2d.toybox.dataset import Pictures, azimuth_bin, labels_of, mixed_scene
from core2d.toybox.judge import REJECT, MotionJudge, PictureJudge, Verdict, load_picture_judge
from core2d.toybox.scene import moment, still
from core2d.training.loop import TrainingResult
from gen3d.toybox.bundled import MATTING, ZERO123
from genvideo.toybox.bundled import FRAME_JUDGE, MOTION
from genvideo.toybox.video_vae import VIDEO_VAE


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return clip.build_tokenizer()


# -- words ---------------------------------------------------------------------------------------------


def test_each_word_of_the_grammar_is_one_token(tokenizer: CLIPTokenizer) -> None:
    words = {word for text in captions.vocabulary() for word in re.findall(r"\w+|,", text)}
    assert len(words) > 80
    pieces = {word: tokenizer.tokenize(word) for word in sorted(words)}
    assert all(found == [f"{word}</w>"] for word, found in pieces.items()), pieces


def test_captions_fit_and_come_back_from_their_tokens(tokenizer: CLIPTokenizer) -> None:
    found = [mixed_scene(0, index).caption for index in range(600)]
    found += [moment(1000, index, 0, 16, "doll").caption for index in range(200)]
    motion, ground = max(world.MOTIONS, key=lambda m: (len(m.split()), "camera" in m)), captions.GROUND_PHRASES["wood"]
    found += [captions.sentence(captions.doll_phrase("red", "orange", "blue"), motion, "front", ground, "a photo of ")]
    tokens = clip.tokenise(tokenizer, found)
    assert tokens.shape == (len(found), clip.LENGTH) and tokens.dtype == torch.int64
    start, end = (int(str(tokenizer.convert_tokens_to_ids(token))) for token in clip.SPECIAL_TOKENS)
    assert tokens[:, 0].eq(start).all() and tokens[:, -1].eq(end).all()
    for text, row in zip(found, tokens, strict=True):
        inner = row[1 : int(row.eq(end).nonzero()[0])]  # an unknown piece would be an early end
        assert str(tokenizer.decode(inner)).replace(" ,", ",").strip() == text


def test_other_words_fall_into_known_pieces_and_the_tokenizer_can_be_kept(
    tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    for text in ("a zebra", "Übergrößen 42%", "红 杯子", "A RED MUG"):
        assert clip.SPECIAL_TOKENS[1] not in tokenizer.tokenize(text)
    assert tokenizer.tokenize("A RED MUG") == tokenizer.tokenize("a red mug")
    again = clip.build_tokenizer()  # ids may differ, see there
    assert all(again.tokenize(text) == tokenizer.tokenize(text) for text in captions.vocabulary())
    tokenizer.save_pretrained(tmp_path)
    kept = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    texts = ["a red mug on grass", "a zebra", ""]
    assert torch.equal(clip.tokenise(kept, texts), clip.tokenise(tokenizer, texts))
    assert kept.model_max_length == clip.LENGTH


# -- architectures -------------------------------------------------------------------------------------


def test_the_family_has_the_promised_shapes_and_size(tokenizer: CLIPTokenizer) -> None:
    torch.manual_seed(0)
    towers, autoencoder, denoiser = clip.build(tokenizer, 64), vae.build(64), prior.build(8)
    tokens = clip.tokenise(tokenizer, ["a red mug", "a blue dog on grass"])
    with torch.no_grad():
        tower = stages.text_tower(towers.eval())
        context = tower(input_ids=tokens).last_hidden_state
        assert torch.equal(context, towers.text_model(input_ids=tokens).last_hidden_state)
        assert context.shape == (2, 32, 128)
        latents = autoencoder.encode(torch.zeros(2, 3, 64, 64)).latent_dist.mean  # pyright: ignore
        assert latents.shape == (2, 4, 8, 8)
        assert denoiser.camera_token is not None
        view = denoiser.camera_token(torch.zeros(2, 5), context)
        output = denoiser.unet(latents, 7, encoder_hidden_states=torch.cat([context, view], 1)).sample
        assert output.shape == latents.shape
    parts = (towers, autoencoder, denoiser, tower, PictureJudge(), MotionJudge())
    assert 2 * sum(p.numel() for part in parts for p in part.parameters()) <= 15e6  # bytes in half precision
    schedule = prior.scheduler()
    assert (schedule.config["steps_offset"], schedule.config["clip_sample"], schedule.config["set_alpha_to_one"]) == (
        1, False, False)  # fmt: skip
    ours = NoiseSchedule.from_config(schedule.config)
    assert ours.prediction_type == "epsilon" and ours.alphas_cumprod is not None
    torch.testing.assert_close(ours.alphas_cumprod.float(), schedule.alphas_cumprod)
    mean, deviation = (clip.image_processor(64)[name] for name in ("image_mean", "image_std"))
    pixels = torch.rand(1, 3, 2, 2)
    expected = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    torch.testing.assert_close(clip.normalise(pixels), expected)


# -- judges --------------------------------------------------------------------------------------------


def labelled_pictures(count: int = 24) -> Pictures:
    """Picture i is of brightness i and says so in its labels."""
    rgb = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 1).repeat(64, 2).repeat(64, 3)
    labels = np.stack([np.arange(count) % n for n in (24, 10, 4, 8)], 1).astype(np.int16)
    empty = np.zeros((count, 0))
    return Pictures(rgb, empty, empty, empty, labels, [""] * count)


def picture_judge_task() -> judges.PictureJudgeTask:
    torch.manual_seed(0)
    rejects = np.full((5, 3, 64, 64), 255, np.uint8)
    return judges.PictureJudgeTask(PictureJudge((4, 4, 4, 4)), labelled_pictures(), rejects)


def test_a_third_of_what_the_picture_judge_sees_is_to_be_rejected() -> None:
    task = picture_judge_task()
    batch = task.batch(3, torch.arange(16), 16)
    torch.manual_seed(9)
    halves = [task.batch(3, positions, 16) for positions in torch.arange(16).split(8)]
    for name in ("pictures", "labels"):
        assert torch.equal(torch.cat([half[name] for half in halves]), batch[name])
    rejected = batch["labels"][:, 0] == REJECT
    assert rejected.sum() == 5 and (batch["labels"][rejected, 1:] == -1).all()
    assert batch["pictures"][rejected].mean() > 0.8 and batch["pictures"][~rejected].mean() < 0.2
    assert (batch["labels"][~rejected] >= 0).all()
    loss, parts = task.loss(task.model, batch)
    loss.backward()
    assert torch.isfinite(loss) and 0 <= parts["right"] <= 1
    assert all(p.grad is not None for p in task.model.parameters())


def test_the_picture_judges_loss_does_not_depend_on_the_number_of_processes() -> None:
    task = picture_judge_task()
    task.model.eval()  # batch normalisation apart
    with torch.no_grad():
        whole = task.loss(task.model, task.batch(0, torch.arange(16), 16))[0]
        shares = [task.loss(task.model, task.batch(0, rows, 16))[0] for rows in torch.arange(16).split(4)]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)


def test_wear_is_a_function_of_its_generator_and_leaves_a_picture_a_picture() -> None:
    pictures = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    worn, again = (judges.wear(pictures, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(worn, again) and worn.min() >= 0 and worn.max() <= 1
    assert 0.01 < (worn - pictures).abs().mean() < 0.15
    film = torch.zeros(2, 6, 8, 8) + 0.5
    assert judges.wear(film, torch.Generator().manual_seed(1)).shape == film.shape


def test_clips_come_with_their_motion_and_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, motions = judges.judge_clips(tmp_path / "data", 3, size=16)
    assert clips.shape == (3, 16, 3, 16, 16) and clips.dtype == np.uint8
    expected = [moment(world.JUDGE_SEEDS[0], index, 0, 16).motion for index in range(3)]
    assert [world.MOTIONS[motion] for motion in motions] == expected
    assert all(np.ptp(film.astype(int), axis=0).max() > 10 for film, word in zip(clips, expected, strict=True)
               if word not in ("still", "standing"))  # fmt: skip
    task = judges.MotionJudgeTask(MotionJudge((4, 4, 4, 4)), clips, motions)
    batch = task.batch(0, torch.arange(4), 4)
    assert batch["clips"].shape == (4, 3, 16, 16, 16)
    monkeypatch.setattr(toybox_clips, "render", None)
    again, _ = judges.judge_clips(tmp_path / "data", 3, size=16)
    assert np.array_equal(again, clips)


def test_rejects_and_pictures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = training_pictures(tmp_path, 6, 16)
    assert pictures.captions == [mixed_scene(0, index).caption for index in range(6)]
    rgb, mask = picture_rows(pictures, torch.tensor([4, 1]))
    assert rgb.dtype == torch.uint8 and np.array_equal(rgb.numpy(), pictures.rgb[[4, 1]])
    assert np.array_equal(mask.numpy(), pictures.mask[[4, 1]])
    honest = judges.judge_pictures(tmp_path, 5, 16)
    expected = [labels_of(still(world.JUDGE_SEEDS[0], index, "object")) for index in range(5)]
    assert honest.labels.tolist() == expected
    rejects = judges.reject_pictures(tmp_path, 5, 16)
    assert rejects.shape == (5, 3, 16, 16) and rejects.dtype == np.uint8
    monkeypatch.setattr(judges, "draw_rejects", None)
    assert np.array_equal(judges.reject_pictures(tmp_path, 5, 16), rejects)


def test_a_judge_reads_any_size_and_is_kept_with_its_version(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = PictureJudge().eval()
    judges.save(judge, tmp_path, "picture")
    kept = load_picture_judge(tmp_path)
    assert not kept.training and not any(p.requires_grad for p in kept.parameters())
    pictures = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(kept(pictures)[0], judge(pictures)[0].detach(), atol=0.02, rtol=0)  # half precision
    verdict = kept.judge(pictures.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert [len(part) for part in (verdict.classes, verdict.colors, verdict.views, verdict.azimuths)] == [3] * 4
    films = MotionJudge().eval().judge(torch.rand(2, 3, 16, 32, 32))
    assert len(films) == 2 and set(films) <= set(world.MOTIONS)
    (tmp_path / "config.json").write_text(json.dumps({"toybox_version": world.VERSION + 1}))
    with pytest.raises(ValueError, match=f"judges Toybox v{world.VERSION + 1}, this is v{world.VERSION}"):
        load_picture_judge(tmp_path)


def test_a_rejected_picture_is_never_right() -> None:
    classes = torch.tensor([world.CLASS_NAMES.index("mug"), REJECT, world.CLASS_NAMES.index("mug")])
    colors = torch.tensor([0, 0, 1])
    verdict = Verdict(classes, colors, torch.zeros(3), torch.zeros(3))
    assert verdict.is_right(["mug"] * 3, ["red"] * 3).tolist() == [True, False, False]


# -- scores --------------------------------------------------------------------------------------------


class Painter:
    """A pipeline that draws what was asked as four numbers, and notes what was asked."""

    def __init__(self, wrong: int = 0) -> None:
        self.prompts: list[str] = []
        self.seeds: list[int] = []
        self.wrong = wrong  # so many first samples show class 24, "reject"

    def __call__(self, prompts: list[str], *, generator: list[torch.Generator], camera: Any, **_: Any) -> Any:
        self.prompts += prompts
        self.seeds += [one.initial_seed() for one in generator]
        rows = []
        for i, prompt in enumerate(prompts):
            said = re.fullmatch(r"an? (\w+) (\w+)(?:, (\w+) view)?", prompt)
            assert said, prompt
            view = world.VIEWS.index(said[3]) if said[3] else -1
            azimuth = -1 if camera is None else azimuth_bin(float(camera.azimuth[i].rad2deg()))
            shown = REJECT if i < self.wrong else world.CLASS_NAMES.index(said[2])
            rows.append([shown, world.COLOR_NAMES.index(said[1]), view, azimuth])
        return SimpleNamespace(images=torch.tensor(rows))


class Reader:
    def judge(self, pictures: Tensor) -> Verdict:
        return Verdict(*pictures.T)


def test_scores_ask_the_right_questions() -> None:
    painter, judge = Painter(), Reader()
    perfect: Any = painter
    found = scores.prior_scores(perfect, judge, seed=2000)  # pyright: ignore[reportArgumentType]
    assert found == {"class": 1, "color": 1, "both": 1, "rejected": 0, "held_out_both": 1}
    assert len(painter.prompts) == 240 + 8 * len(world.HELD_OUT_PAIRS) and len(set(painter.prompts)) == 240
    assert len(set(painter.seeds)) == len(painter.seeds)  # each sample its own noise
    some: Any = Painter(wrong=24)
    found = scores.prior_scores(some, judge, seed=2000)  # pyright: ignore[reportArgumentType]
    assert found == pytest.approx(
        {"class": 0.9, "color": 1, "both": 0.9, "rejected": 0.1, "held_out_both": 1 - 24 / 96}, abs=1e-6
    )
    painter.prompts.clear()
    found = scores.view_scores(perfect, judge, seed=2000)  # pyright: ignore[reportArgumentType]
    assert set(found.values()) == {1.0} and len(found) == 5
    assert len(painter.prompts) == 16 * len(world.FRONTED)
    found = scores.camera_scores(perfect, judge, seed=2000)  # pyright: ignore[reportArgumentType]
    assert found == {"camera_azimuth": 1, "camera_both": 1}
    asked = {tuple(prompt.split(",")[0].split()[1:]) for prompt in painter.prompts}
    assert not {(name, color) for color, name in asked} & world.HELD_OUT_PAIRS  # views are not about composition


def test_views_are_asked_in_distinct_colours() -> None:
    for name, start in itertools.product(world.FRONTED, range(20)):
        colors = scores._seen_colors(name, start, 4)
        assert len(set(colors)) == 4 and not {(name, color) for color in colors} & world.HELD_OUT_PAIRS


def test_retrieval_is_among_distinct_pairs_that_clip_has_seen() -> None:
    for turn in (0, 1):
        pairs = [(scene.name, scene.colors[0]) for scene in scores._distinct_stills(2000, turn, 64)]
        assert len(set(pairs)) == 64 and not set(pairs) & world.HELD_OUT_PAIRS


# -- stages --------------------------------------------------------------------------------------------


class FakeTraining:
    """Replaces training and scoring of the picture judge: each call ends with the next score of a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: list[float], steps: list[int]) -> None:
        self.found, self.steps, self.calls = found, steps, 0
        monkeypatch.setattr(training, "train", self.train)
        monkeypatch.setattr(scores, "judge_scores", self.score)

    def train(self, task: Any, recipe: Any, folder: Path, resume: bool, device: Any) -> TrainingResult:
        step = self.steps[self.calls]
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "model.safetensors").touch()
        facts = {"step": step, "seconds": 36.0 * step, "recipe": {}, "files": {"model.safetensors": 0}}
        (checkpoint / "state.json").write_text(json.dumps(facts))
        next(task.model.parameters()).data.fill_(self.calls)
        return TrainingResult(task.model.state_dict(), step, True, 36.0 * step)

    def score(self, judge: PictureJudge, seed: int) -> scores.Scores:
        assert seed in world.TUNING_SEEDS and not judge.training
        self.calls += 1
        return {"balanced": self.found[self.calls - 1], "rejected_blob": 0.125}


EVERY = (*stages.STAGES.values(), nested.VAE, nested.PRIOR, ZERO123, MATTING, FRAME_JUDGE, VIDEO_VAE, MOTION,
         CONTROL_DEPTH, CONTROL_POSE, INPAINT, IP_ADAPTER)  # fmt: skip


def judge_family(folder: Path, **changes: Any) -> training.TrainingSetup:
    return training.TrainingSetup(folder / "assets", folder / "runs", pictures=4, **changes)


def kept_weight(setup: training.TrainingSetup) -> float:
    weights = load_file(setup.assets / "toybox-judge" / "picture.safetensors")
    return float(weights["body.0.0.weight"].flatten()[0])


def test_only_better_weights_are_kept_and_the_card_tells_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTraining(monkeypatch, found=[0.5, 0.25, 0.75, 0.1], steps=[5, 6, 7, 8])
    setup, stage = judge_family(tmp_path), stages.STAGES["judge"]
    card = setup.assets / "toybox-judge" / "README.md"
    assert training.state_of(setup, stage)["state"] == "not trained"
    for weight, score in ((0, 0.5), (0, 0.5), (2, 0.75)):  # the second training was worse
        stage.run(setup)
        assert kept_weight(setup) == weight and training.state_of(setup, stage)["balanced"] == score
        assert f"| judge | balanced | {score} |" in card.read_text()
    lines = json.loads((card.parent / "training.json").read_text())
    assert [line["kept"] for line in lines] == [True, False, True]
    assert all(line["toybox_version"] == world.VERSION for line in lines)
    text = card.read_text()
    assert text.startswith(f"# {ABOUT['toybox-judge'][0]}\n") and "| judge | rejected_blob | 0.125 |" in text
    assert [text.count(f"| judge | {word} | 4 | 64 |") for word in ("yes", "no")] == [2, 1]
    stage.run(judge_family(tmp_path, fresh=True))  # starts over, whatever was there
    assert kept_weight(setup) == 3 and training.state_of(setup, stage)["balanced"] == 0.1
    assert len(json.loads((card.parent / "training.json").read_text())) == 1


def test_a_resumed_training_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTraining(monkeypatch, found=[0.5, 0.75], steps=[40, 100])  # the loop counts steps and seconds over all calls
    setup, stage = judge_family(tmp_path), stages.STAGES["judge"]
    stage.run(setup)
    stage.run(setup)
    state = training.state_of(setup, stage)
    assert state["steps"] == 100 and state["hours"] == pytest.approx(1.0)


def test_a_training_that_was_stopped_before_its_diary_counts_in_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTraining(monkeypatch, found=[0.5, 0.75], steps=[40, 100])
    setup, stage = judge_family(tmp_path), stages.STAGES["judge"]

    def killed(judge: PictureJudge, seed: int) -> scores.Scores:
        fake.score(judge, seed)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scores, "judge_scores", killed)
        with pytest.raises(KeyboardInterrupt):
            stage.run(setup)
    stage.run(setup)
    assert training.state_of(setup, stage)["steps"] == 100


def test_every_stage_writes_to_a_folder_that_has_a_card() -> None:
    assert {stage.folder for stage in EVERY} == set(ABOUT)
    assert list(stages.STAGES) == ["vae", "clip", "judge", "prior", "motion-judge"]  # each finds what it needs


@pytest.mark.slow
def test_all_stages_in_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rising(name: str, **small: int) -> None:
        """Fewer pictures to score, and a main score that each call betters, so that all is kept."""
        real, main = partial(getattr(scores, name), **small), mains[name]
        calls = itertools.count(1)
        monkeypatch.setattr(scores, name, lambda *args: real(*args) | {main: float(next(calls))})

    def few_samples(pipeline: TextToImage, prompts: list[str], seed: int, guidance: float, camera: Any = None) -> Any:
        view = None if camera is None else type(camera)(camera.camera_to_world[:2], camera.fov_y[:2])
        return real_samples(pipeline, prompts[:2], seed, guidance, view)[torch.arange(len(prompts)) % 2]

    mains = {"reconstruction_scores": "read", "clip_scores": "image_to_text_top1", "judge_scores": "balanced"}
    mains |= {"motion_judge_scores": "motion", "prior_scores": "both"}
    real_samples = scores.draw_samples
    monkeypatch.setattr(scores, "draw_samples", few_samples)
    monkeypatch.setattr(scores, "STEPS", 2)
    rising("reconstruction_scores", count=16)
    monkeypatch.setattr(scores, "vae_scores", partial(scores.vae_scores, count=16))
    rising("clip_scores", rounds=1)
    monkeypatch.setattr(genvideo.toybox.bundled, "judge_scores", partial(scores.judge_scores, count=16, rejects=8))
    rising("judge_scores", count=16, rejects=8)
    rising("motion_judge_scores", count=32, size=16)
    rising("prior_scores")
    monkeypatch.setattr(gen3d.toybox.bundled, "STEPS", 2)
    monkeypatch.setattr(gen3d.toybox.matting_task, "SCORED", 8)
    monkeypatch.setattr(genvideo.toybox.bundled, "SCORED", 2)
    monkeypatch.setattr(genvideo.toybox.video_vae, "SCORED", 8)
    monkeypatch.setattr(control_scores, "SCORED", 2)
    monkeypatch.setattr(control_scores, "FOLLOWED", 1)
    monkeypatch.setattr(inpaint_scores, "SCORED", 8)
    monkeypatch.setattr(inpaint_scores, "FOLLOWED", 1)
    monkeypatch.setattr(ip_adapter_scores, "SCORED", 2)
    monkeypatch.setattr(ip_adapter_scores, "CARRIED", 1)
    monkeypatch.setattr(gen3d.toybox.bundled, "cases", partial(gen3d.toybox.bundled.cases, count=2, held_out=1))
    assets, runs = tmp_path / "assets", tmp_path / "runs"
    main = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "train_bundled.py"))["main"]

    def call(*arguments: str) -> list[dict]:
        options = f"--assets {assets} --runs {runs} --pictures 64 --steps 3 --batch-size 8"
        monkeypatch.setattr(sys, "argv", ["train_bundled.py", *options.split(), *arguments])
        main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert [line["state"] for line in call("--list")] == ["not trained"] * len(EVERY)
    assert not assets.exists()
    first = call(*(stage.name for stage in EVERY))
    assert [line["stage"] for line in first] == [stage.name for stage in EVERY]
    for stage, found in zip(EVERY, first, strict=True):
        assert stage.main_score in found or stage.name == "vae"  # which had no judge yet
        card = (assets / stage.folder / "README.md").read_text()
        for name, value in found.items():
            assert name == "stage" or f"| {stage.name} | {name} | {round(value, 4):.4g} |" in card
    assert {"view_word", "camera_azimuth", "held_out_both"} <= first[3].keys()
    steps = [6 if stage is MOTION else 3 for stage in EVERY]  # that begins with a drill
    assert [(line["state"], line["steps"]) for line in call("--list")] == [("trained", count) for count in steps]

    folder = assets / "toybox-sd"
    generator = torch.Generator().manual_seed(0)
    stock = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    theirs = stock("a red mug", num_inference_steps=2, generator=generator, output_type="np").images  # pyright: ignore
    ours = TextToImage.from_pretrained(folder)("a red mug", num_inference_steps=2, guidance_scale=7.5, seed=0,
                                               output_type="np").images  # fmt: skip
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)

    def weights(name: str) -> dict[str, Tensor]:
        mapped = load_file(folder / name / "diffusion_pytorch_model.safetensors")
        return {key: tensor.clone() for key, tensor in mapped.items()}  # a copy: the file will be written again

    before = {name: weights(name) for name in ("vae", "unet", "camera_token")}
    scaling = json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"]
    call("vae", "prior", "zero123")  # from what ships: a prior stands on these latents, so only the decoder may change
    for name, tensor in weights("vae").items():
        frozen = name.startswith(("encoder.", "quant_conv."))
        assert not frozen or torch.equal(tensor, before["vae"][name]), name
    assert not torch.equal(weights("vae")["decoder.conv_out.weight"], before["vae"]["decoder.conv_out.weight"])
    assert json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"] == scaling
    for name in ("unet", "camera_token"):
        after = weights(name)
        assert any(not torch.equal(tensor, before[name][key]) for key, tensor in after.items()), name
    again = {"vae", "prior", "zero123", "motion"}
    assert [line["steps"] for line in call("--list")] == [6 if stage.name in again else 3 for stage in EVERY]
