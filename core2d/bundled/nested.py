"""toybox-sd-128: the prior's second version, whose 128-pixel pictures are 8x8 latents of 16 channels.

Its first four latent channels are those of toybox-sd (`AutoencoderTask.coarse`), the others hold what those lose. So
the UNet begins as that of toybox-sd with more channels, costs the same a step, and what was trained on the old latents
goes on from where it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path
from core2d.bundled import prior, scores, vae
from core2d.bundled.autoencoder_layouts import LAYOUTS, begin_with, even_out
from core2d.bundled.stages import judge_in, train_networks
from core2d.bundled.training import Stage, TrainingSetup, keep, processes, run_training
from core2d.bundled.world import training_pictures
from core2d.files.loading import load_model, save_model
from core2d.toybox import world
from core2d.toybox.judge import as_seen
from core2d.training.autoencoder import AutoencoderTask
from core2d.training.loop import TrainingRecipe

FOLDER = "toybox-sd-128"
LAYOUT = LAYOUTS["f16c16-nested"]
RECIPE = TrainingRecipe(
    steps=5000, batch_size=16, learning_rate=1.2e-3, warmup_steps=100, ema_decay=0.995, checkpoint_every=100,
    anneal="minutes", minutes=90,
)  # fmt: skip
PRIOR_RECIPE = replace(prior.RECIPE, steps=30_000, learning_rate=8e-4, anneal="minutes", minutes=90)


def train_vae(setup: TrainingSetup) -> scores.Scores:
    """The autoencoder, with all of it; once a prior stands on it, with its decoder alone."""
    folder, old = setup.assets / FOLDER / "vae", _old_autoencoder(setup)
    torch.manual_seed(1)
    fresh = setup.starts_fresh(folder)
    model = LAYOUT.build() if fresh else load_model(AutoencoderKL, folder, torch.float32)
    if fresh:
        begin_with(model, old)
    stands = not fresh and (setup.assets / FOLDER / "unet").is_dir()
    model = vae.only_decoder(model) if stands else model.requires_grad_(True)
    with processes().main_process_first():
        pictures = training_pictures(setup.data, setup.pictures, LAYOUT.size)
    task = vae.task(model, pictures, vae.eyes_in(setup.assets / "toybox-clip", setup.place))
    recipe = setup.recipe(RECIPE)
    spent = run_training(setup, VAE.name, task if stands else nested_in(old.to(setup.place), task), recipe)  # pyright: ignore
    if not stands:
        fit_scaling(model, old.config, *prior.encode_latents(model, pictures.first(2048)))
    before = None if fresh else _scores(setup, load_model(AutoencoderKL, folder, torch.float32))

    def save() -> None:
        with atomic_path(folder) as temporary:
            save_model(model, temporary, torch.float16)

    return keep(setup, VAE, recipe, spent, _scores(setup, model), save, before)


def nested_in(old: AutoencoderKL, task: AutoencoderTask) -> AutoencoderTask:
    """The task of an autoencoder whose first latent channels are to be those of `old`, which sees smaller pictures."""
    encode: Any = old.encode
    return replace(task, coarse=lambda shown: encode(as_seen(shown)).latent_dist.mean)


def fit_scaling(model: AutoencoderKL, old: Any, mean: Tensor, deviation: Tensor) -> None:
    """Give `model` the scaling factor of the autoencoder with config `old`, and its new channels their scale."""
    even_out(model, mean, deviation, old["latent_channels"], old["scaling_factor"])
    model.register_to_config(scaling_factor=old["scaling_factor"])


def train_prior(setup: TrainingSetup) -> scores.Scores:
    """The UNet, begun as that of toybox-sd with more channels, with its camera token and text tower."""
    folder, first = setup.assets / FOLDER, setup.assets / "toybox-sd"
    if not (folder / "vae").is_dir():
        raise InputError(f"the prior needs {folder / 'vae'}: train the {VAE.name} stage first")
    autoencoder = load_model(AutoencoderKL, folder / "vae", torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(setup.assets / "toybox-clip", local_files_only=True)
    torch.manual_seed(3)
    fresh = setup.starts_fresh(folder / "unet")
    model = prior.widened(prior.load(first), LAYOUT.latent_channels) if fresh else prior.load(folder)
    return train_networks(setup, PRIOR, model, autoencoder, tokenizer, LAYOUT.size, PRIOR_RECIPE)


def _old_autoencoder(setup: TrainingSetup) -> AutoencoderKL:
    folder = setup.assets / "toybox-sd" / "vae"
    if not folder.is_dir():
        raise InputError(f"{VAE.name} needs {folder}: train the vae stage first")
    return load_model(AutoencoderKL, folder, torch.float32)


def _scores(setup: TrainingSetup, model: AutoencoderKL) -> scores.Scores:
    seed, judge = world.TUNING_SEEDS[0], judge_in(setup.assets / "toybox-judge")
    numbers = scores.vae_scores(model, seed, LAYOUT.size)
    return numbers | (scores.reconstruction_scores(model, judge, seed, LAYOUT.size) if judge else {})


VAE = Stage("vae-128", FOLDER, train_vae, "read", "autoencoder of the 128-pixel prior")
PRIOR = Stage("prior-128", FOLDER, train_prior, "both", "text-to-image UNet for 128 pixels")
