"""The items of `evaluate.py --suite prior`: how good the bundled 2D models are.

The seeds and prompts are those kept for reporting; recipes are chosen on others.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from measure.measure import ROOT, Item, Numbers, command, say, stock_pipeline
from measure.suite import Suite
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from core2d.bundled import scores
from core2d.files.loading import load_model
from core2d.media.pictures import image_grid, read_image, save_image
from core2d.prior.cameras import Cameras, degrees, orbit
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import captions, world
from core2d.toybox.judge import load_motion_judge, load_picture_judge

PROMPTS = [  # of the comparisons that need no judge: objects, adjectives, grounds, a doll
    "a red mug",
    "a striped blue chair, side view",
    "a yellow duck, on grass",
    "a doll with black hair, a red shirt and blue trousers",
    "a small white house, front view",
    "a photo of a purple robot, on a white background",
    "a checkered green fish, back view, on water",
    "a tall orange cactus, on sand",
]


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`. The bars of GPU-trained weights are higher."""
    sd, clip, judge = assets / "toybox-sd", assets / "toybox-clip", assets / "toybox-judge"
    picture, motion = judge / "picture.safetensors", judge / "motion.safetensors"
    judged = (sd, picture)
    by_gpu = trained_on_gpu(sd, "prior")
    vae_bar = (32, 27) if trained_on_gpu(sd, "vae") else (27, 22)
    sample_bar = (0.99, 0.98, 0.90) if by_gpu else (0.93, 0.92, 0.75)
    judged_as = partial(judged_scores, assets, seed)
    return [
        Item("vae", "PSNR of held-out renders in dB", partial(vae, assets, seed),
             at_least=dict(zip(("psnr", "psnr_inside_mask"), vae_bar, strict=True)), needs=(sd / "vae",)),
        Item("clip", "retrieval among 64 captions that differ in class or colour", partial(retrieval, assets, seed),
             at_least={"image_to_text_top1": 0.85}, needs=(clip,)),
        Item("judge", "the picture judge on held-out renders and rejects", partial(picture_judge, assets, seed),
             at_least={"class": 0.98, "color": 0.98, "view": 0.95, "rejects_rejected": 0.95}, needs=(picture,)),
        Item("motion-judge", "the motion judge on held-out clips", partial(motion_judge, assets, seed),
             at_least={"motion": 0.97}, needs=(motion,)),
        Item("samples", "judged class and colour of all pairs", partial(judged_as, scores.prior_scores),
             at_least=dict(zip(("class", "color", "held_out_both"), sample_bar, strict=True)), needs=judged),
        Item("views", "judged view word", partial(judged_as, scores.view_scores),
             at_least={"view_word": 0.95 if by_gpu else 0.80}, needs=judged),
        Item("camera", "judged azimuth of the camera token", partial(judged_as, scores.camera_scores),
             at_least={"camera_azimuth": 0.85}, needs=judged),
        Item("stock-parity", "largest difference to StableDiffusionPipeline", partial(stock_parity, assets, seed),
             at_most={"max_difference": 1e-5}, needs=(sd,)),
        Item("batch-invariance", "largest difference alone to in a batch of 8", partial(batch_invariance, assets, seed),
             at_most={"max_difference": 1e-4}, needs=(sd,)),
        Item("repeat", "bytes of a picture that differ between two runs", partial(repeat, assets, seed),
             at_most={"different_bytes": 0}, needs=(sd,)),
        Item("assets", "megabytes of the model folders", partial(megabytes, assets),
             at_most={"prior_and_judges": 15, "all": 48}, needs=(sd, clip, judge)),
    ]  # fmt: skip


def trained_on_gpu(folder: Path, stage: str) -> bool:
    """Whether the diary of a model folder says that the weights which were kept last came from a GPU."""
    diary = folder / "training.json"
    lines = json.loads(diary.read_text()) if diary.is_file() else []
    kept = [line for line in lines if line["stage"] == stage and line["kept"]]
    return bool(kept and kept[-1]["machine"].get("accelerator"))


# -- items -----------------------------------------------------------------------------------------------------


def vae(assets: Path, seed: int) -> Numbers:
    model = load_model(AutoencoderKL, assets / "toybox-sd" / "vae", torch.float32)
    return scores.vae_scores(model, seed, model.config["sample_size"])


def retrieval(assets: Path, seed: int) -> Numbers:
    folder = assets / "toybox-clip"
    model = load_model(CLIPModel, folder, torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    vision: Any = model.config.vision_config
    return scores.clip_scores(model, tokenizer, seed, vision.image_size)


def picture_judge(assets: Path, seed: int) -> Numbers:
    return scores.judge_scores(load_picture_judge(assets / "toybox-judge"), seed)


def motion_judge(assets: Path, seed: int) -> Numbers:
    return scores.motion_judge_scores(load_motion_judge(assets / "toybox-judge"), seed)


def judged_scores(assets: Path, seed: int, score: Callable[..., Numbers]) -> Numbers:
    """One of the `core2d.bundled.scores` that take a pipeline and a judge."""
    return score(pipeline_of(assets), load_picture_judge(assets / "toybox-judge"), seed)


def stock_parity(assets: Path, seed: int) -> Numbers:
    """Ours and diffusers' pictures of the same noise with the folder's own DDIM scheduler."""
    stock = stock_pipeline(assets / "toybox-sd")
    theirs = stock(
        PROMPTS, num_inference_steps=scores.STEPS, guidance_scale=scores.GUIDANCE, output_type="pt",
        generator=generators(seed, len(PROMPTS)),
    ).images  # fmt: skip
    return {"max_difference": largest_difference(draw(assets, PROMPTS, seed), theirs), "pictures": len(PROMPTS)}


def batch_invariance(assets: Path, seed: int) -> Numbers:
    """Each picture drawn alone and among all."""
    together = draw(assets, PROMPTS, seed)
    pairs = zip(PROMPTS, generators(seed, len(PROMPTS)), strict=True)
    alone = torch.cat([draw(assets, [prompt], seed, given=[generator]) for prompt, generator in pairs])
    return {"max_difference": largest_difference(alone, together), "batch": len(PROMPTS)}


def repeat(assets: Path, seed: int) -> Numbers:
    """The command, run twice in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / f"{run}.png" for run in range(2)]
        for output in outputs:
            command("core2d", "text-to-image", PROMPTS[0], "--model", assets / "toybox-sd", "--device", "cpu",
                    "--seed", seed, "-o", output)  # fmt: skip
        first, second = (read_image(output) for output in outputs)
    return {"different_bytes": int(np.sum(first != second)), "bytes": first.size}


def megabytes(assets: Path) -> Numbers:
    """1e6 bytes of each folder of models."""
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        for folder in sorted(assets.iterdir())
        if folder.is_dir()
    }
    own = sum(sizes[name] for name in ("toybox-sd", "toybox-clip", "toybox-judge"))
    return {**sizes, "prior_and_judges": own, "all": sum(sizes.values())}


@cache
def pipeline_of(assets: Path) -> TextToImage:
    return TextToImage.from_pretrained(assets / "toybox-sd")


def draw(
    assets: Path,
    prompts: Sequence[str],
    seed: int,
    camera: Cameras | None = None,
    given: list[torch.Generator] | None = None,
) -> Tensor:
    """(n, 3, h, w) pictures as the judged ones are drawn: sample i starts from the seed 1000 seed + i."""
    output = pipeline_of(assets)(
        list(prompts), num_inference_steps=scores.STEPS, guidance_scale=scores.GUIDANCE, camera=camera,
        generator=given or generators(seed, len(prompts)), output_type="pt",
    )  # fmt: skip
    return output.images


def generators(seed: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def largest_difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        raise ValueError(f"pictures {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    return (a.double() - b.double()).abs().max().item()


# -- pictures --------------------------------------------------------------------------------------------------


def write_pictures(assets: Path, seed: int, folder: Path) -> None:
    """samples.png (a column a class, a row a colour), views.png (a row a view word), camera.png (a row an azimuth)."""
    fronted, colors = world.FRONTED, world.COLOR_NAMES
    # drawn in the order of `prior_scores`, class after class, so that these are the judged samples themselves
    samples = draw(assets, [captions.object_phrase(*pair) for pair in world.pairs()], seed)
    by_color = samples.unflatten(0, (len(world.CLASS_NAMES), len(colors))).transpose(0, 1).flatten(0, 1)
    save_image(folder / "samples.png", image_grid(by_color, len(world.CLASS_NAMES)))

    subjects = [captions.object_phrase(name, seen_color(name, i)) for i, name in enumerate(fronted)]
    asked = [captions.sentence(subject, view=view) for view in world.VIEWS for subject in subjects]
    save_image(folder / "views.png", image_grid(draw(assets, asked, seed), len(fronted)))

    azimuths = [45.0 * step for step in range(8) for _ in fronted]
    camera = orbit(degrees(azimuths), degrees(scores.ELEVATION), sum(world.CAMERA_RADIUS) / 2)
    save_image(folder / "camera.png", image_grid(draw(assets, subjects * 8, seed, camera), len(fronted)))
    for name in ("samples", "views", "camera"):
        say(f"wrote {folder / name}.png")


def seen_color(name: str, turn: int) -> str:
    """A colour that the prior has seen this class in."""
    colors = [color for color in world.COLOR_NAMES if not world.is_held_out(name, color)]
    return colors[turn % len(colors)]


SUITE = Suite(items_of, Path(__file__), (ROOT / "core2d" / "systems" / "text_to_image" / "command.py",))
