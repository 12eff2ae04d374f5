"""Which autoencoder should the prior stand on? Layouts compared at equal steps, by the judge and by a short denoiser.

    python scripts/measure/autoencoder_trials.py f16c16 f16c8 f8c16 --steps 1200 --denoiser-steps 400

Each trial starts from the shipped weights where layers fit (levels and channels are added outside), or with `--go-on`
from those of assets/toybox-sd-128. It trains the autoencoder, says what the judge of 64 pixels reads in reconstructions
(pictures of other sizes area-averaged), then trains the shipped UNet anew on its latents (only the first and the last
layer are fresh) and judges samples. Killed, it goes on where it was. The table: benchmarks/trials/autoencoders.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTokenizer

from core2d.app.outputs import write_json
from core2d.app.program import main_guard
from core2d.app.registry import assets_folder
from core2d.bundled import clip, prior, scores, vae
from core2d.bundled.autoencoder_layouts import LAYOUTS, Layout, begin_with
from core2d.bundled.nested import nested_in
from core2d.bundled.world import training_pictures
from core2d.files.loading import load_model, save_model
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import captions, world
from core2d.toybox.dataset import labels_of, mixed_scene
from core2d.toybox.judge import PictureJudge, as_seen, load_picture_judge
from core2d.toybox.scene import Scene, still
from core2d.training.latent_diffusion import PriorNetworks
from core2d.training.loop import train

TABLE = Path(__file__).resolve().parents[2] / "benchmarks" / "trials" / "autoencoders.json"
CPU = torch.device("cpu")


@torch.no_grad()
def through(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    """What is left of pictures (n, 3, h, w) in [0, 1] after the mean of their posterior was decoded."""
    networks: Any = model
    parts = [networks.decode(networks.encode(2 * part - 1).latent_dist.mean).sample for part in pictures.split(32)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def drawn(scenes: list[Scene], size: int) -> Tensor:
    return scores.pictures_of(scenes, size)[0]


def score(model: AutoencoderKL, judge: PictureJudge, size: int, seed: int, count: int = 512) -> dict[str, float]:
    """Quality of reconstructions, and what the judge makes of them."""
    mixed = drawn([mixed_scene(seed, index) for index in range(count)], size)
    error = (as_seen(through(model, mixed)) - as_seen(mixed)).square().mean((1, 2, 3))
    numbers = scores.vae_scores(model, seed, size)
    numbers["psnr_as_seen"] = (-10 * error.clamp(min=1e-10).log10()).mean().item()
    scenes = [still(seed, index, kind="object") for index in range(count)]
    classes, colors = torch.tensor([labels_of(scene)[:2] for scene in scenes]).T
    pictures = drawn(scenes, size)
    for name, shown in (("true", pictures), ("read", through(model, pictures))):
        verdict = judge.judge(shown)
        right = verdict.classes == classes
        numbers[f"{name}_class"] = right.float().mean().item()
        numbers[f"{name}_both"] = (right & (verdict.colors == colors)).float().mean().item()
    return numbers


def train_autoencoder(name: str, layout: Layout, given: argparse.Namespace) -> tuple[AutoencoderKL, dict[str, float]]:
    """The autoencoder of a layout, saved in its run folder, and its numbers."""
    folder, assets = given.runs / name, assets_folder()
    torch.manual_seed(1)
    model = layout.build()
    if given.go_on:
        model.load_state_dict(load_model(AutoencoderKL, assets / "toybox-sd-128" / "vae", torch.float32).state_dict())
    else:
        begin_with(model, load_model(AutoencoderKL, assets / "toybox-sd" / "vae", torch.float32))
    model.requires_grad_(True)
    pictures = training_pictures(given.runs / "data", given.pictures, layout.size)
    task = vae.task(model, pictures, vae.eyes_in(assets / "toybox-clip", CPU), layout.latent_noise)
    if layout.nested:
        task = nested_in(load_model(AutoencoderKL, assets / "toybox-sd" / "vae", torch.float32), task)
    recipe = replace(vae.RECIPE, steps=given.steps, batch_size=16, checkpoint_every=100, learning_rate=1.2e-3)
    if given.minutes:
        recipe = replace(recipe, minutes=given.minutes, anneal="minutes")
    result = train(task, recipe, folder / "autoencoder", resume=True)
    model.load_state_dict(result.ema)
    mean, deviation = prior.encode_latents(model.eval(), pictures.first(2048))
    variance = (mean.float().square() + deviation.float().square()).mean() - mean.float().mean().square()
    model.register_to_config(scaling_factor=round(variance.rsqrt().item(), 5))
    save_model(model, folder / "vae", torch.float16)
    judge = load_picture_judge(assets / "toybox-judge")
    spent = {"steps": result.step, "seconds": round(result.seconds, 1)}
    return model, spent | score(model, judge, layout.size, world.TUNING_SEEDS[0])


def train_denoiser(name: str, layout: Layout, model: AutoencoderKL, given: argparse.Namespace) -> dict[str, float]:
    """How samples of the shipped UNet are read after a short training on the latents of `model`."""
    assets = assets_folder()
    networks = prior.load(assets / "toybox-sd")
    channels = {"in_channels": layout.latent_channels, "out_channels": layout.latent_channels}
    torch.manual_seed(2)
    unet: Any = UNet2DConditionModel.from_config({**networks.unet.config, **channels})
    known = networks.unet.state_dict()
    unet.load_state_dict({key: value for key, value in known.items() if not key.startswith(("conv_in", "conv_out"))},
                         strict=False)  # fmt: skip
    text_encoder: Any = networks.text_encoder
    networks = PriorNetworks(unet, networks.camera_token, text_encoder).requires_grad_(True)
    pictures = training_pictures(given.runs / "data", given.pictures, layout.size)
    tokenizer = CLIPTokenizer.from_pretrained(assets / "toybox-clip", local_files_only=True)
    tokens, empty = clip.tokenise(tokenizer, pictures.captions), clip.tokenise(tokenizer, [""])[0]
    posteriors = prior.encode_latents(model, pictures)
    task = prior.task(networks, pictures, posteriors, tokens, empty, model.config["scaling_factor"])
    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")
    recipe = replace(prior.RECIPE, steps=given.denoiser_steps, ema_decay=0.99, checkpoint_every=100)
    result = train(task, recipe, given.runs / name / "denoiser", resume=True)
    networks.load_state_dict(result.ema)
    unet.set_attn_processor(AttnProcessor2_0())
    text_encoder.set_attn_implementation("sdpa")
    pipeline = TextToImage(prior.assemble(networks.eval(), model, text_encoder, tokenizer))
    names, colors = zip(*world.pairs(), strict=True)
    prompts = [captions.object_phrase(*pair) for pair in zip(names, colors, strict=True)]
    samples = scores.draw_samples(pipeline, prompts, world.TUNING_SEEDS[0], scores.GUIDANCE)
    verdict = load_picture_judge(assets / "toybox-judge").judge(samples)
    classes = torch.tensor([world.CLASS_NAMES.index(one) for one in names])
    return {
        "denoiser_steps": result.step,
        "denoiser_seconds": round(result.seconds, 1),
        "sample_class": (verdict.classes == classes).float().mean().item(),
        "sample_both": verdict.is_right(names, colors).float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="+", choices=LAYOUTS)
    parser.add_argument("--runs", type=Path, default=Path("runs/autoencoder-trials"))
    parser.add_argument("--pictures", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--denoiser-steps", type=int, default=400, help="0 leaves the denoiser out")
    parser.add_argument("--minutes", type=float, help="of training the autoencoder; its rate falls by them")
    parser.add_argument("--go-on", action="store_true", help="begin with the weights of assets/toybox-sd-128")
    given = parser.parse_args()
    for name in given.layouts:
        model, numbers = train_autoencoder(name, LAYOUTS[name], given)
        if given.denoiser_steps:
            numbers |= train_denoiser(name, LAYOUTS[name], model, given)
        rows = json.loads(TABLE.read_text()) if TABLE.is_file() else {}
        write_json(TABLE, rows | {name: {key: round(value, 4) for key, value in numbers.items()}})
        print(json.dumps({name: numbers}), flush=True)


if __name__ == "__main__":
    with main_guard():
        main()
