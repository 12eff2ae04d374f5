"""toybox-motion and the judge of its frames: how they are made. Stages of `scripts/train_bundled.py`."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_motion_model import MotionAdapter
from torch import Tensor

from core2d.adapters.lora import Lora, fuse, go_on_from, lora_of
from core2d.adapters.lora_files import read_lora, write_lora
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.bundled import judges
from core2d.bundled.scores import Scores, judge_scores
from core2d.bundled.stages import judge_in, train_a_judge
from core2d.bundled.training import (
    NOTHING,
    Spent,
    Stage,
    TrainingSetup,
    history_of,
    keep,
    minutes_left,
    prepare,
    processes,
    run_training,
    seed_of,
)
from core2d.prior.backbone import Backbone
from core2d.toybox import world
from core2d.toybox.captions import without_motion
from core2d.toybox.clips import draw_clips, words_of
from core2d.toybox.judge import PictureJudge, load_motion_judge, load_picture_judge
from core2d.training.loop import TrainingRecipe
from genvideo.animatediff.formats import ADAPTER, Facts, read_motion, write_motion
from genvideo.animatediff.motion import MotionBackbone, deflate, fresh_motion, inflate, read_vae, temporal_parameters
from genvideo.animatediff.motion_words import begin_with, discriminants
from genvideo.animatediff.pipeline import AnimateDiff
from genvideo.animatediff.task import EncodedClips, MotionTask, domain_adapter, encode_clips, encode_words
from genvideo.toybox.clip_scores import asked, score_clips
from genvideo.toybox.video_vae import VIDEO_VAE

SEED = 0  # of `world.GENERATOR_SEEDS`
HEADS = 4
RANK, DIRECTIONS = 38, 22  # of the adapter, and how many of that begin with what tells motions apart
BLIND, UNDECIDED, STILL = 0.3, 0.25, 0.15  # see `MotionTask`
SHARED_NOISE = 0.5  # in training: where more is, what differs between frames shows through, and is learned from
SAMPLED_SHARE = 0.95  # in sampling: frames that make less of their own noise agree
PICTURES_A_CLIP = 16
RECIPE = TrainingRecipe(
    steps=12_000, batch_size=4, learning_rate=1e-3, warmup_steps=200, ema_decay=0.998, checkpoint_every=250
)
DRILL_RECIPE = replace(RECIPE, steps=1200, warmup_steps=30, final_learning_rate_fraction=1.0, ema_decay=0.99)
HIDING, DRILL_HIDING = 4.0, 8.0  # see `MotionTask`: what shows, little as it is, tells more than words
OPPOSITE = {"left": "right", "right": "left", "growing": "shrinking", "shrinking": "growing", "in": "out", "out": "in"}
RUN, DRILL = "motion", "motion-drill"  # run folders of the training and of the drill before it
DRILLS = {
    "sideways": ("sliding left", "sliding right", "hopping left", "hopping right"),
    "sizes": ("growing", "shrinking"),
    "zooms": ("camera zooming in", "camera zooming out"),
    "pans": ("camera panning left", "camera panning right"),
}
HEARD = 0.05  # a word is, if its opposite makes the error of undecided clips so much larger
SCORED, DRILLED = 48, 64  # clips


def train_motion(setup: TrainingSetup) -> Scores:
    """Motion modules and a domain adapter for the prior, which stays as it is.

    They learn together, on noise that frames share half of. The paper trains the adapter first and leaves it out later;
    but this prior has seen little of what clips show, and the words for motions reach the modules through its layers.
    It was taught with pictures, and to it "left" and "right" are nearly one: an adapter that is new looks for what
    tells motions apart from its first step on (`genvideo.animatediff.motion_words`), and what it does not hear is
    drilled.
    """
    folder, prior = setup.assets / "toybox-motion", setup.assets / "toybox-sd"
    if not (prior / "unet").is_dir():
        raise InputError(f"toybox-motion starts from {prior}: train the prior first")
    torch.manual_seed(6)
    backbone = Backbone.load(prior)
    unet = backbone.family.denoiser
    fresh = setup.starts_fresh(folder / "config.json")
    motion = fresh_motion(unet, heads=HEADS) if fresh else read_motion(folder).motion
    with processes().main_process_first():
        clips, opposite, motions = latents_of(setup, backbone)
    model = domain_adapter(inflate(unet, motion), RANK)
    begun = read_lora(folder / ADAPTER) if not fresh and (folder / ADAPTER).is_file() else None
    shipped = None if begun is None else scores_of(backbone, motion, begun, setup)
    if begun is not None:
        go_on_from(model, begun, "domain_adapter")
    for parameter in temporal_parameters(model).values():
        parameter.requires_grad_(True)
    task = MotionTask(
        model,
        clips,
        backbone.schedule,
        still=STILL,
        blind=BLIND,
        undecided=UNDECIDED,
        hiding=HIDING,
        shared_noise=SHARED_NOISE,
        seed=seed_of(setup, RUN, len(history_of(folder))),
    )
    if setup.place.type == "cpu":  # where the backward of torch's fused attention is half of a whole step
        model.set_attn_processor(AttnProcessor())
    recipe = setup.recipe(RECIPE)
    if begun is None or begun.rank < RANK:
        begin_with(model, "domain_adapter", discriminants(clips.words, motions, DIRECTIONS))
    started = time.perf_counter()
    spent = drill(setup, task, opposite, motions)
    if spent.finished:
        spent += run_training(setup, RUN, task, minutes_left(recipe, started))
    motion, adapter = deflate(model, motion), lora_of(model, "domain_adapter")
    found = scores_of(backbone, motion, adapter, setup)
    return keep(setup, MOTION, recipe, spent, found, lambda: save(folder, motion, adapter), shipped)


def drill(setup: TrainingSetup, task: MotionTask, opposite: Tensor, motions: list[str]) -> Spent:
    """Teach the words of DRILLS from clips where nothing but the words tells them; unless all are heard already.

    Among all motions and all noise levels, thousands of steps do not teach that: the error does not fall until
    direction, time and place come together, and too few clips are about it. Here each group has an equal share of the
    clips, also those that are heard: they are forgotten where others are drilled alone.

    Args:
        opposite: (n, tokens, d) words that ask each clip for the opposite of its motion.
        motions: n.
    """
    places = {
        name: [place for place, motion in enumerate(motions) if motion in group] for name, group in DRILLS.items()
    }
    places = {name: torch.tensor(found) for name, found in places.items() if found}
    if not places:
        return NOTHING
    hidden = replace(task, blind=0.0, undecided=1.0, hiding=DRILL_HIDING, given=(0.0, 0.0, 0.0), still=0.0, drop=0.0)

    def least_heard(when: str) -> float:
        """How well the group is heard that is heard least; all are said."""
        shares = [told_apart(replace(hidden, clips=task.clips.those(rows)), opposite[rows]) for rows in places.values()]
        said = ", ".join(f"{name} {share:.1%}" for name, share in zip(places, shares, strict=True))
        sys.stderr.write(f"{when} the drill opposite words make the error larger by: {said}\n")
        return min(shares)

    def train() -> Spent:
        most = max(len(rows) for rows in places.values())
        alike = torch.cat([rows.repeat(-(-most // len(rows)))[:most] for rows in places.values()])
        recipe = setup.recipe(DRILL_RECIPE)
        recipe = replace(recipe, steps=min(recipe.steps, DRILL_RECIPE.steps))
        spent = run_training(setup, DRILL, replace(hidden, clips=task.clips.those(alike)), recipe)
        least_heard("after")
        return spent

    return prepare(setup, DRILL, RUN, lambda: least_heard("before") <= HEARD, train)


@torch.no_grad()
def told_apart(task: MotionTask, opposite: Tensor) -> float:
    """By which share the error grows if the words of the clips (n, tokens, d) are the opposite ones."""
    rows = torch.arange(min(DRILLED, len(opposite)))
    errors = []
    for words in (task.clips.words, opposite):
        shown = replace(task, clips=replace(task.clips, words=words))
        batch = shown.batch(0, rows, len(rows))
        device = next(task.model.parameters()).device
        errors.append(float(task.loss(task.model, {key: value.to(device) for key, value in batch.items()})[0]))
    return errors[1] / errors[0] - 1


def latents_of(setup: TrainingSetup, backbone: Backbone) -> tuple[EncodedClips, Tensor, list[str]]:
    """The clips that it learns from, encoded once; the words (n, tokens, d) for the opposite motions; their motions."""
    count = setup.pictures // PICTURES_A_CLIP
    captions, motions = words_of(SEED, count)
    still = [without_motion(caption, motion) for caption, motion in zip(captions, motions, strict=True)]
    opposite = [turned_round(caption, motion) for caption, motion in zip(captions, motions, strict=True)]
    path = setup.data / f"v{world.VERSION}-motion-{setup.size}px-{count}.npy"
    backbone.to(setup.place)
    clips = encode_clips(backbone, draw_clips(path, SEED, count, setup.size), captions, still)
    words = encode_words(backbone, opposite)
    backbone.to(torch.device("cpu"))
    return clips, words, motions


def turned_round(caption: str, motion: str) -> str:
    """A caption that asks for the opposite motion: "sliding right" for "sliding left"."""
    return caption.replace(motion, " ".join(OPPOSITE.get(word, word) for word in motion.split()))


def scores_of(backbone: Backbone, motion: MotionAdapter, adapter: Lora, setup: TrainingSetup) -> Scores:
    """On the tuning seed; none if the judges have not been trained yet."""
    judge, motion_judge = judge_in(setup.assets / FRAME_JUDGE.folder), setup.assets / "toybox-judge"
    if judge is None or not (motion_judge / "motion.safetensors").is_file():
        return {}
    prior, seed = MotionBackbone(backbone, motion), world.TUNING_SEEDS[0]
    fuse(prior.unet, adapter)
    if (setup.assets / VIDEO_VAE.folder / "config.json").is_file():
        prior.use_vae(read_vae(setup.assets / VIDEO_VAE.folder))
    pipeline = AnimateDiff(prior, takes_frames=True, shared_noise=SAMPLED_SHARE)
    wanted = asked(seed, SCORED)
    clips = [pipeline(one.prompt, seed=seed + index).frames[0] for index, one in enumerate(wanted)]
    found = score_clips(clips, wanted, load_motion_judge(motion_judge), judge)
    motion_right, frames_right = found.motion_right.float().mean().item(), found.frames_right.mean().item()
    return {"motion": motion_right, "class_and_color": frames_right, "both": (motion_right + frames_right) / 2}


def train_frame_judge(setup: TrainingSetup) -> Scores:
    """The picture judge, trained on with frames of clips."""

    def fresh() -> PictureJudge:
        return judge_in(setup.assets / "toybox-judge") or PictureJudge()

    def task(model: PictureJudge) -> judges.PictureJudgeTask:
        pictures = judges.judge_frames(setup.data, setup.pictures)
        rejects = judges.reject_pictures(setup.data, setup.pictures, in_clips=True)
        return judges.PictureJudgeTask(model, pictures, rejects)

    score = partial(judge_scores, in_clips=True)
    return train_a_judge(setup, FRAME_JUDGE, "picture", fresh, load_picture_judge, task, judges.FRAME_RECIPE, score)


def save(folder: Path, motion: MotionAdapter, adapter: Lora) -> None:
    """Write modules, adapter and diary."""
    history, half = history_of(folder), torch.float16
    vae = VIDEO_VAE.folder if (folder.parent / VIDEO_VAE.folder / "config.json").is_file() else None
    facts = Facts(takes_frames=True, shared_noise=SAMPLED_SHARE, vae=vae)
    with atomic_path(folder) as temporary:
        write_motion(temporary, motion, facts=facts, dtype=half)
        write_lora(temporary / ADAPTER, adapter, dtype=half)
        if history:
            write_json(temporary / "training.json", history)


FRAME_JUDGE = Stage(
    "frame-judge", "toybox-frame-judge", train_frame_judge, "balanced", "reads class and colour of a frame of a clip"
)
MOTION = Stage("motion", "toybox-motion", train_motion, "both", "temporal layers of the prior: text to clips")
