"""The stages that make the bundled family, in order: each trains one model, scores it, keeps it if it is better.

A stage starts from the weights in the family's folder (unless told to start fresh), runs the one training loop in its
run folder, scores the averaged weights on the tuning seeds, and writes them back with a new line in `training.json`.
How it trains and keeps stands in `core2d.bundled.training`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.bundled import clip, judges, prior, scores, vae
from core2d.bundled.training import Spent, Stage, TrainingSetup, history_of, keep, processes, run_training
from core2d.bundled.world import training_pictures
from core2d.files.loading import load_model, save_model
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import world
from core2d.toybox.judge import MotionJudge, PictureJudge, load_motion_judge, load_picture_judge
from core2d.training.latent_diffusion import PriorNetworks
from core2d.training.loop import Task, TrainingRecipe

Judge = TypeVar("Judge", PictureJudge, MotionJudge)


def train_vae(setup: TrainingSetup) -> scores.Scores:
    """The autoencoder, seen through CLIP's eyes once there is one; under a prior, only its decoder is trained on."""
    folder = setup.assets / "toybox-sd" / "vae"
    torch.manual_seed(1)
    fresh = setup.starts_fresh(folder)
    if setup.fresh and (setup.assets / "toybox-sd" / "unet").is_dir():
        raise InputError(f"a fresh autoencoder does not fit the prior in {setup.assets}: give another --assets folder")
    model = vae.build(setup.size) if fresh else load_model(AutoencoderKL, folder, torch.float32)
    stands = not fresh and (setup.assets / "toybox-sd" / "unet").is_dir()
    model = vae.only_decoder(model) if stands else model.requires_grad_(True)
    with processes().main_process_first():
        pictures = training_pictures(setup.data, setup.pictures, setup.size)
    recipe = setup.recipe(vae.RECIPE)
    eyes = vae.eyes_in(setup.assets / "toybox-clip", setup.place)
    spent = run_training(setup, "vae", vae.task(model, pictures, eyes), recipe)
    if not stands:
        mean, deviation = prior.encode_latents(model, pictures.first(2048))
        second_moment = (mean.float().square() + deviation.float().square()).mean() - mean.float().mean().square()
        model.register_to_config(scaling_factor=round(second_moment.rsqrt().item(), 5))
    judge, seed = setup.assets / "toybox-judge", world.TUNING_SEEDS[0]
    before = None if fresh else _read(load_model(AutoencoderKL, folder, torch.float32), judge, seed, setup.size)
    found = scores.vae_scores(model, seed, setup.size) | _read(model, judge, seed, setup.size)

    def save() -> None:
        with atomic_path(folder) as temporary:
            save_model(model, temporary, torch.float16)

    return keep(setup, STAGES["vae"], recipe, spent, found, save, before)


def _read(model: AutoencoderKL, judge_folder: Path, seed: int, size: int) -> scores.Scores:
    """How its reconstructions are read; nothing if no judge has been trained yet."""
    judge = judge_in(judge_folder)
    return scores.reconstruction_scores(model, judge, seed, size) if judge else {}


def train_clip(setup: TrainingSetup) -> scores.Scores:
    """Both CLIP towers and, at the first time, the tokenizer."""
    folder = setup.assets / "toybox-clip"
    torch.manual_seed(2)
    if setup.starts_fresh(folder):
        tokenizer = clip.build_tokenizer()
        model = clip.build(tokenizer, setup.size)
    else:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        model = load_model(CLIPModel, folder, torch.float32).requires_grad_(True)
    with processes().main_process_first():
        pictures = training_pictures(setup.data, setup.pictures, setup.size)
    recipe = setup.recipe(clip.RECIPE)
    spent = run_training(setup, "clip", clip.task(model, tokenizer, pictures), recipe)
    found = scores.clip_scores(model, tokenizer, world.TUNING_SEEDS[0], setup.size)

    def save() -> None:
        history = history_of(folder)
        with atomic_path(folder) as temporary:
            save_model(model, temporary, torch.float16)
            tokenizer.save_pretrained(temporary)
            write_json(temporary / "preprocessor_config.json", clip.image_processor(setup.size))
            write_json(temporary / "training.json", history)

    return keep(setup, STAGES["clip"], recipe, spent, found, save)


def train_prior(setup: TrainingSetup) -> scores.Scores:
    """The UNet with its camera token and its own copy of CLIP's text tower, on the latents of the VAE."""
    folder = setup.assets / "toybox-sd"
    clip_folder = setup.assets / "toybox-clip"
    for needed in (folder / "vae", clip_folder):
        if not needed.is_dir():
            raise InputError(f"the prior needs {needed}: train the vae and clip stages first")
    autoencoder = load_model(AutoencoderKL, folder / "vae", torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder, local_files_only=True)
    torch.manual_seed(3)
    if setup.starts_fresh(folder / "unet"):
        text_encoder = text_tower(load_model(CLIPModel, clip_folder, torch.float32))
        model = prior.build(setup.size // 2 ** (len(vae.CHANNELS) - 1), text_encoder)
    else:
        model = prior.load(folder)
    return train_networks(setup, STAGES["prior"], model, autoencoder, tokenizer, setup.size)


def train_networks(
    setup: TrainingSetup,
    stage: Stage,
    model: PriorNetworks,
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    size: int,
    recipe: TrainingRecipe = prior.RECIPE,
) -> scores.Scores:
    """UNet, camera token and text tower of a prior, on the latents of pictures of `size` pixels."""
    text_encoder = model.text_encoder
    assert text_encoder is not None
    model.requires_grad_(True)
    with processes().main_process_first():
        pictures = training_pictures(setup.data, setup.pictures, size)
    autoencoder.to(setup.place)  # pyright: ignore[reportArgumentType]
    posteriors = prior.encode_latents(autoencoder, pictures)
    autoencoder.cpu()
    tokens, empty = clip.tokenise(tokenizer, pictures.captions), clip.tokenise(tokenizer, [""])[0]
    task = prior.task(model, pictures, posteriors, tokens, empty, autoencoder.config["scaling_factor"])
    recipe = setup.recipe(recipe)
    if setup.place.type == "cpu":  # where the backward of torch's fused attention is half of a whole step
        model.unet.set_attn_processor(AttnProcessor())
        text_encoder.set_attn_implementation("eager")
    spent = run_training(setup, stage.name, task, recipe)
    model.unet.set_attn_processor(AttnProcessor2_0())
    text_encoder.set_attn_implementation("sdpa")
    return keep_prior(setup, stage, model, autoencoder, tokenizer, recipe, spent)


def keep_prior(
    setup: TrainingSetup,
    stage: Stage,
    model: PriorNetworks,
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    recipe: TrainingRecipe,
    spent: Spent,
) -> scores.Scores:
    """Score a trained prior, and its mean with the weights that stood before (model soups, 2203.05482); keep the best.

    Where one was trained from the other, the middle is often better than both ends.
    """
    folder, judge = setup.assets / stage.folder, setup.assets / "toybox-judge"
    seed, main = world.TUNING_SEEDS[0], stage.main_score

    def scored(weights: PriorNetworks) -> tuple[scores.Scores, TextToImage]:
        assert weights.text_encoder is not None
        pipeline = TextToImage(prior.assemble(weights, autoencoder, weights.text_encoder, tokenizer))
        return prior_and_camera_scores(pipeline, seed, judge), pipeline

    found, pipeline = scored(model)
    before, averaged = None, False
    if not setup.starts_fresh(folder / "unet"):
        standing = prior.load(folder)
        before, _ = scored(standing)  # judge and decoder may be others than those that its noted score came from
        mean, middle = scored(prior.mean_of(model, standing))
        if mean.get(main, 0.0) > found.get(main, 0.0):
            found, pipeline, averaged = mean, middle, True

    def save() -> None:
        history = history_of(folder)
        with atomic_path(folder) as temporary:
            pipeline.save_pretrained(temporary, torch.float16)
            write_json(temporary / "training.json", history)

    return keep(setup, stage, recipe, spent, found, save, before, {"averaged": averaged})


def train_judge(setup: TrainingSetup) -> scores.Scores:
    """The picture judge."""

    def task(model: PictureJudge) -> judges.PictureJudgeTask:
        # rejects are of endless kinds, and a judge that knows too few of them learns those by heart
        pictures = judges.judge_pictures(setup.data, 2 * setup.pictures, 64)
        return judges.PictureJudgeTask(model, pictures, judges.reject_pictures(setup.data, 4 * setup.pictures, 64))

    return train_a_judge(
        setup, STAGES["judge"], "picture", PictureJudge, load_picture_judge, task, judges.PICTURE_RECIPE,
        scores.judge_scores,
    )  # fmt: skip


def train_motion_judge(setup: TrainingSetup) -> scores.Scores:
    """The motion judge."""

    def task(model: MotionJudge) -> judges.MotionJudgeTask:
        return judges.MotionJudgeTask(model, *judges.judge_clips(setup.data, setup.pictures // 6, 64))

    return train_a_judge(
        setup, STAGES["motion-judge"], "motion", MotionJudge, load_motion_judge, task, judges.MOTION_RECIPE,
        scores.motion_judge_scores,
    )  # fmt: skip


def train_a_judge(
    setup: TrainingSetup,
    stage: Stage,
    file: str,
    fresh: Callable[[], Judge],
    load: Callable[[Path], Judge],
    task: Callable[[Judge], Task[Judge]],
    recipe: TrainingRecipe,
    score: Callable[[Judge, int], scores.Scores],
) -> scores.Scores:
    """One judge; `task` draws its pictures at the first time."""
    folder = setup.assets / stage.folder
    torch.manual_seed(4)
    model = fresh() if setup.starts_fresh(folder / f"{file}.safetensors") else load(folder)
    model.requires_grad_(True)
    with processes().main_process_first():
        work = task(model)
    recipe = setup.recipe(recipe)
    spent = run_training(setup, stage.name, work, recipe)
    found = score(model.eval(), world.TUNING_SEEDS[0])
    return keep(setup, stage, recipe, spent, found, lambda: judges.save(model, folder, file))


STAGES = {
    stage.name: stage
    for stage in (
        Stage("vae", "toybox-sd", train_vae, "read", "autoencoder of the prior"),
        Stage("clip", "toybox-clip", train_clip, "image_to_text_top1", "text and image towers"),
        Stage("judge", "toybox-judge", train_judge, "balanced", "reads class, colour and view of a picture"),
        Stage("prior", "toybox-sd", train_prior, "both", "text-to-image UNet with its camera token"),
        Stage("motion-judge", "toybox-judge", train_motion_judge, "motion", "reads the motion of a clip"),
    )
}


def text_tower(model: CLIPModel) -> CLIPTextModel:
    """The text tower of a CLIP model as a model of its own."""
    tower = CLIPTextModel(model.config.text_config)  # pyright: ignore[reportArgumentType]
    weights = {name.removeprefix("text_model."): value for name, value in model.text_model.state_dict().items()}
    own = {name.removeprefix("text_model."): name for name in tower.state_dict()}
    tower.load_state_dict({own[name]: value for name, value in weights.items() if name in own})
    return tower.eval()


def prior_and_camera_scores(pipeline: TextToImage, seed: int, judge_folder: Path) -> scores.Scores:
    """All judged scores of a prior; none if no judge has been trained yet."""
    judge = judge_in(judge_folder)
    if judge is None:
        return {}
    parts = (scores.prior_scores, scores.view_scores, scores.camera_scores)
    return {name: value for part in parts for name, value in part(pipeline, judge, seed).items()}


def judge_in(folder: Path) -> PictureJudge | None:
    """The picture judge in a folder, if one has been trained yet."""
    return load_picture_judge(folder) if (folder / "picture.safetensors").is_file() else None
