"""toybox-motion: how the bundled motion modules are made. A stage of `scripts/train_bundled.py`."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_motion_model import MotionAdapter

from core2d.backbone import Backbone
from core2d.bundled.scores import Scores
from core2d.bundled.stages import Family, Stage, history_of, judge_in, keep, processes, run_training
from core2d.errors import InputError
from core2d.run import atomic_path, write_json
from core2d.toybox import world
from core2d.toybox.captions import without_motion
from core2d.toybox.clips import draw_clips, words_of
from core2d.toybox.judge import load_motion_judge
from core2d.training import TrainingRecipe
from genvideo.animatediff import AnimateDiff
from genvideo.clip_scores import asked, score_clips
from genvideo.motion import MotionBackbone, deflate, fresh_motion, inflate
from genvideo.motion_formats import read_motion, write_motion
from genvideo.motion_training import EncodedClips, MotionTask, encode_clips, only_motion

SEED = 0  # of `world.GENERATOR_SEEDS`
HEADS = 4
PICTURES_A_CLIP = 16
RECIPE = TrainingRecipe(
    steps=12_000, batch_size=4, learning_rate=1e-3, warmup_steps=200, ema_decay=0.998, checkpoint_every=250
)
SCORED = 32  # clips


def train_motion(family: Family) -> Scores:
    """The temporal layers of the prior, everything else of it frozen."""
    folder, prior = family.assets / "toybox-motion", family.assets / "toybox-sd"
    if not (prior / "unet").is_dir():
        raise InputError(f"toybox-motion starts from {prior}: train the prior first")
    torch.manual_seed(6)
    backbone = Backbone.load(prior)
    unet = backbone.family.denoiser
    fresh = family.starts_fresh(folder / "config.json")
    motion = fresh_motion(unet, heads=HEADS) if fresh else read_motion(folder).motion
    with processes().main_process_first():
        clips = latents_of(family, backbone)
    model = only_motion(inflate(unet, motion))
    task = MotionTask(model, clips, backbone.schedule, seed=17)
    if not torch.accelerator.is_available():  # where the backward of torch's fused attention is half of a whole step
        model.set_attn_processor(AttnProcessor())
    recipe = family.recipe(RECIPE)
    spent = run_training(family, "motion", task, recipe)
    model.set_attn_processor(AttnProcessor2_0())
    before = None if fresh else scores_of(backbone, read_motion(folder).motion, family)
    motion = deflate(model, motion)
    found = scores_of(backbone, motion, family)
    return keep(family, MOTION, recipe, spent, found, lambda: save(folder, motion), before)


def latents_of(family: Family, backbone: Backbone) -> EncodedClips:
    """The clips that it learns from, encoded once."""
    count = family.pictures // PICTURES_A_CLIP
    captions, motions = words_of(SEED, count)
    still = [without_motion(caption, motion) for caption, motion in zip(captions, motions, strict=True)]
    path = family.data / f"v{world.VERSION}-motion-{family.size}px-{count}.npy"
    backbone.to(torch.accelerator.current_accelerator() or torch.device("cpu"))
    clips = encode_clips(backbone, draw_clips(path, SEED, count, family.size), captions, still)
    backbone.to(torch.device("cpu"))
    return clips


def scores_of(backbone: Backbone, motion: MotionAdapter, family: Family) -> Scores:
    """On the tuning seed; none if no judge has been trained yet."""
    folder = family.assets / "toybox-judge"
    judge = judge_in(folder)
    if judge is None or not (folder / "motion.safetensors").is_file():
        return {}
    seed, pipeline = world.TUNING_SEEDS[0], AnimateDiff(MotionBackbone(backbone, motion), takes_frames=True)
    wanted = asked(seed, SCORED)
    clips = [pipeline(one.prompt, seed=seed + index).frames[0] for index, one in enumerate(wanted)]
    found = score_clips(clips, wanted, load_motion_judge(folder), judge)
    motion_right, frames_right = found.motion_right.float().mean().item(), found.frames_right.mean().item()
    return {"motion": motion_right, "class_and_color": frames_right, "both": (motion_right + frames_right) / 2}


def save(folder: Path, motion: MotionAdapter) -> None:
    """Write modules and diary."""
    history = history_of(folder)
    with atomic_path(folder) as temporary:
        write_motion(temporary, motion, "diffusers", takes_frames=True, dtype=torch.float16)
        if history:
            write_json(temporary / "training.json", history)


MOTION = Stage("motion", "toybox-motion", train_motion, "both", "temporal layers of the prior: text to clips")
