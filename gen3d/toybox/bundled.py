"""toybox-zero123 and toybox-matting: how they are made. Stages of `scripts/train_bundled.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.bundled.clip import WIDTH
from core2d.bundled.prior import scheduler
from core2d.bundled.scores import Scores
from core2d.bundled.stages import judge_in
from core2d.bundled.training import (
    Spent,
    Stage,
    TrainingSetup,
    history_of,
    keep,
    minutes_left,
    prepare,
    processes,
    run_training,
)
from core2d.bundled.world import training_pictures
from core2d.files.loading import load_model, read_json, save_model
from core2d.prior.backbone import Backbone
from core2d.prior.image_tower import load_image_encoder
from core2d.prior.schedule import NoiseSchedule
from core2d.toybox import world
from core2d.toybox.captions import background_phrase, object_phrase
from core2d.training.loop import TrainingRecipe
from gen3d.data.toybox_matting import FOLDER, MattingNet
from gen3d.toybox.matting_task import MattingTask, matting_scores
from gen3d.toybox.view_scores import cases, view_scores
from gen3d.toybox.views import toybox_renders
from gen3d.zero123.camera_projection import PictureReader
from gen3d.zero123.formats import Zero123Parts, read_zero123, write_zero123
from gen3d.zero123.model import Zero123
from gen3d.zero123.pipeline import NovelViews
from gen3d.zero123.task import (
    ReadingTask,
    ViewConditioned,
    ViewPairs,
    ViewPairTask,
    encode_pairs,
    with_picture_channels,
)

SEED = 0  # of `world.GENERATOR_SEEDS`
VIEWS_EACH = 8  # pictures of an object: 56 ordered pairs
MARGIN = 0.16  # of a side: what a Toybox object leaves free, seen from where its cameras stand
BORROWED = {"vae": ["toybox-sd", "vae"], "image_encoder": ["toybox-clip", "."]}
RECIPE = TrainingRecipe(
    steps=10_000, batch_size=64, learning_rate=8e-4, warmup_steps=200, ema_decay=0.999, checkpoint_every=250
)
READER = "zero123-reader"  # its run folder
TOKENS = 10  # of the prior: "a red mug, on a white background", start and end
READING = TrainingRecipe(steps=4000, batch_size=256, learning_rate=2e-3, warmup_steps=100, checkpoint_every=1000)
STEPS = 25  # of DDIM, for the scores
MATTING_RECIPE = TrainingRecipe(
    steps=3000, batch_size=64, learning_rate=3e-3, warmup_steps=100, ema_decay=0.995, checkpoint_every=250
)


def train_zero123(setup: TrainingSetup) -> Scores:
    """The UNet of the prior, told of a picture and a view instead of words."""
    folder, prior = setup.assets / "toybox-zero123", setup.assets / "toybox-sd"
    if not (prior / "unet").is_dir():
        raise InputError(f"toybox-zero123 starts from {prior}: train the prior first")
    fresh = setup.starts_fresh(folder / "unet")
    parts = fresh_parts(setup.assets) if fresh else read_zero123(folder)[0]
    with processes().main_process_first():
        place = setup.data / f"v{world.VERSION}-views-{setup.size}px-{setup.pictures}"
        renders = toybox_renders(place, SEED, setup.pictures // VIEWS_EACH, VIEWS_EACH, setup.size)
    eyes = Zero123(parts).to(setup.place)
    pairs = encode_pairs(renders, parts.vae, eyes.embed)
    eyes.to(torch.device("cpu"))
    recipe = setup.recipe(RECIPE)
    started = time.perf_counter()
    spent = prepare(
        setup, READER, "zero123", lambda: fresh, lambda: learn_to_read(setup, parts, pairs, renders.names, recipe)
    )
    spent = replace(spent, steps=0)  # of another network: only their time counts
    model = ViewConditioned(parts.unet, parts.projection).requires_grad_(True)
    task = ViewPairTask(model, pairs, NoiseSchedule.from_config(scheduler().config), seed=15)
    if setup.place.type == "cpu":  # where the backward of torch's fused attention is half of a whole step
        model.unet.set_attn_processor(AttnProcessor())
    if spent.finished:
        spent += run_training(setup, "zero123", task, minutes_left(recipe, started))
    model.unet.set_attn_processor(AttnProcessor2_0())
    judge = setup.assets / "toybox-judge"
    # the autoencoder that both borrow may be another one than that of the noted score
    before = None if fresh else scores_of(Zero123(read_zero123(folder)[0]), judge, setup.size)
    found = scores_of(Zero123(parts), judge, setup.size)
    return keep(setup, ZERO123, recipe, spent, found, lambda: save(folder, parts), before)


def learn_to_read(
    setup: TrainingSetup, parts: Zero123Parts, pairs: ViewPairs, names: Sequence[str], recipe: TrainingRecipe
) -> Spent:
    """Give the reader the camera token of the prior, and teach it to say what the prior would be told.

    `recipe` is that of the training after it, which this one is never longer than.
    """
    prior = Backbone.load(setup.assets / "toybox-sd")
    assert isinstance(parts.projection, PictureReader) and prior.camera_token is not None
    parts.projection.camera_token.load_state_dict(prior.camera_token.state_dict())
    subjects = [name.split()[:2] for name in names]  # colour and class
    captions = [f"{object_phrase(name, color)}, {background_phrase(None, 'white')}" for color, name in subjects]
    told = {caption: prior.encode_text([caption]).tokens[0, :TOKENS] for caption in set(captions)}
    words = torch.stack([told[caption] for caption in captions])  # (o, tokens, d)
    reading = replace(READING, steps=min(READING.steps, recipe.steps), minutes=recipe.minutes)
    reader = parts.projection.requires_grad_(True)
    reader.camera_token.requires_grad_(False)
    return run_training(setup, READER, ReadingTask(reader, pairs, words, seed=16), reading)


def scores_of(model: Zero123, judge_folder: Path, size: int) -> Scores:
    """On the tuning seed; none if no judge has been trained yet."""
    judge = judge_in(judge_folder)
    if judge is None:
        return {}
    wanted, draw = cases(world.TUNING_SEEDS[0], size), NovelViews(model)
    found = [draw(case.picture, case.views, num_inference_steps=STEPS, seed=0).images for case in wanted]
    return view_scores(found, wanted, judge)


def fresh_parts(assets: Path) -> Zero123Parts:
    """The UNet of the prior, which does not look at pictures yet, and the parts that are borrowed."""
    torch.manual_seed(5)
    clip = assets / "toybox-clip"
    seen = read_json(clip / "preprocessor_config.json")
    unet = load_model(UNet2DConditionModel, assets / "toybox-sd" / "unet", torch.float32)
    return Zero123Parts(
        with_picture_channels(unet),
        load_model(AutoencoderKL, assets / "toybox-sd" / "vae", torch.float32),
        load_image_encoder(clip, torch.float32),
        PictureReader(WIDTH, unet.config["in_channels"], TOKENS),
        world=world.NAME,
        scheduler_config={"_class_name": "DDIMScheduler", **scheduler().config},
        image_mean=tuple(seen["image_mean"]),
        image_std=tuple(seen["image_std"]),
        margin=MARGIN,
    )


def save(folder: Path, parts: Zero123Parts) -> None:
    """Write what is its own: the autoencoder and the image tower are those of toybox-sd and toybox-clip."""
    history = history_of(folder)
    with atomic_path(folder) as temporary:
        write_zero123(temporary, parts, "diffusers", torch.float16, BORROWED)
        if history:
            write_json(temporary / "training.json", history)


def train_matting(setup: TrainingSetup) -> Scores:
    """The net that cuts subjects out; it learns from what the generators learn from."""
    folder = setup.assets / FOLDER
    torch.manual_seed(7)
    model = (
        MattingNet() if setup.starts_fresh(folder / "config.json") else load_model(MattingNet, folder, torch.float32)
    )
    model.requires_grad_(True)
    with processes().main_process_first():
        pictures = training_pictures(setup.data, setup.pictures, setup.size)
    recipe = setup.recipe(MATTING_RECIPE)
    spent = run_training(setup, MATTING.name, MattingTask(model, pictures), recipe)
    found = matting_scores(model, world.TUNING_SEEDS[0], setup.size)

    def save() -> None:
        history = history_of(folder)
        with atomic_path(folder) as temporary:
            save_model(model, temporary, torch.float16)
            write_json(temporary / "training.json", history)

    return keep(setup, MATTING, recipe, spent, found, save)


MATTING = Stage("matting", FOLDER, train_matting, "iou", "cuts the subject of a picture out")
ZERO123 = Stage("zero123", "toybox-zero123", train_zero123, "psnr", "novel views of one picture")
