"""toybox-video-vae: the autoencoder that decodes clips. A stage of `scripts/train_bundled.py`.

That of the prior learned from 17 stills to 3 frames of clips, in which bodies are smaller. Here its decoder learns on
from frames of clips alone. The encoder stays as it is, and so does what latents mean: one takes the place of the other,
as sd-vae-ft-mse does for Stable Diffusion 1.x. It learns from latents that are a little off, as those of generated
frames are, each in its own way: what stands still in a clip is to stand still in its frames.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.bundled import vae
from core2d.bundled.scores import Scores, pictures_of
from core2d.bundled.stages import judge_in
from core2d.bundled.training import Stage, TrainingSetup, history_of, keep, processes, run_training
from core2d.bundled.world import SEED
from core2d.files.loading import load_model, save_model
from core2d.toybox import world
from core2d.toybox.dataset import draw
from core2d.toybox.judge import PictureJudge
from core2d.toybox.scene import frame

FOLDER = "toybox-video-vae"
LATENT_NOISE = 0.1  # twice what latents of a generated clip that stands still differ by, before scaling
RECIPE = replace(vae.RECIPE, steps=2500, learning_rate=1e-3)
SCORED, CHUNK = 2048, 64


def train_video_vae(setup: TrainingSetup) -> Scores:
    """The decoder of the prior's autoencoder, on frames of clips."""
    folder, first = setup.assets / FOLDER, setup.assets / "toybox-sd" / "vae"
    if not first.is_dir():
        raise InputError(f"{FOLDER} starts from {first}: train the vae stage first")
    torch.manual_seed(7)
    begun = not setup.starts_fresh(folder / "config.json")
    model = vae.only_decoder(load_model(AutoencoderKL, folder if begun else first, torch.float32))
    with processes().main_process_first():
        path = setup.data / f"v{world.VERSION}-frames-{setup.size}px-{setup.pictures}"
        pictures = draw(path, partial(frame, SEED), setup.pictures, setup.size)
    recipe = setup.recipe(RECIPE)
    eyes = vae.eyes_in(setup.assets / "toybox-clip", setup.place)
    spent = run_training(setup, "video-vae", vae.task(model, pictures, eyes, LATENT_NOISE), recipe)
    judge = judge_in(setup.assets / "toybox-frame-judge")

    def scored(which: AutoencoderKL) -> Scores:
        return {} if judge is None else scores_of(which, judge, setup.size)

    found = scored(model)
    of_prior = scored(load_model(AutoencoderKL, first, torch.float32))
    found |= {f"{name}_of_prior": value for name, value in of_prior.items()}
    before = scored(load_model(AutoencoderKL, folder, torch.float32)) if begun else None

    def save() -> None:
        history = history_of(folder)
        with atomic_path(folder) as temporary:
            save_model(model, temporary, torch.float16)
            if history:
                write_json(temporary / "training.json", history)

    return keep(setup, VIDEO_VAE, recipe, spent, found, save, before)


@torch.no_grad()
def scores_of(model: AutoencoderKL, judge: PictureJudge, size: int) -> Scores:
    """Share of reconstructed frames of clips in which the judge reads class and colour rightly; their PSNR in dB."""
    scenes = [frame(world.TUNING_SEEDS[0], index) for index in range(SCORED)]
    right, error = [], []
    for start in range(0, SCORED, CHUNK):
        chunk = scenes[start : start + CHUNK]
        pictures, _ = pictures_of(chunk, size)
        mean = model.encode(2 * pictures - 1).latent_dist.mean  # pyright: ignore[reportAttributeAccessIssue]
        output = (model.decode(mean).sample / 2 + 0.5).clamp(0, 1)  # pyright: ignore[reportAttributeAccessIssue]
        error.append((output - pictures).square().mean((1, 2, 3)))
        names, colors = [scene.name for scene in chunk], [scene.colors[0] for scene in chunk]
        right.append(judge.judge(output).is_right(names, colors))
    return {"read": torch.cat(right).float().mean().item(), "psnr": -10 * torch.cat(error).log10().mean().item()}


VIDEO_VAE = Stage("video-vae", FOLDER, train_video_vae, "read", "decoder of clips, for the latents of the prior")
