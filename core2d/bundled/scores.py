"""How good the bundled models are: every number of their cards and of `scripts/evaluate.py --suite prior`.

Each function takes the seed of the pictures or samples that it looks at: `world.TUNING_SEEDS` while recipes are
chosen, `world.REPORTING_SEEDS` for what is reported.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from core2d.bundled.clip import normalise, tokenise
from core2d.prior.cameras import degrees, orbit
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import captions, world
from core2d.toybox.dataset import azimuth_bin, labels_of, mixed_scene, to_bytes
from core2d.toybox.judge import CLIP_FRAMES, REJECT, MotionJudge, PictureJudge
from core2d.toybox.rejects import draw_rejects
from core2d.toybox.render import render
from core2d.toybox.scene import Scene, frame, moment, still

Scores = dict[str, float]
ELEVATION = 20.0  # degrees, of samples with a camera
STEPS, GUIDANCE = 25, 5.0


def pictures_of(scenes: Sequence[Scene], size: int) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, h, w) in [0, 1] and masks (n, 1, h, w), rounded to bytes as a file would hold them."""
    renders = render(scenes, size)
    rgb = torch.from_numpy(to_bytes(renders.rgb)).permute(0, 3, 1, 2).float() / 255.0
    return rgb, torch.from_numpy(renders.mask)[:, None]


@torch.no_grad()
def vae_scores(vae: AutoencoderKL, seed: int, size: int, count: int = 512) -> Scores:
    """PSNR in dB of the posterior mean's reconstruction: of the whole picture and inside the body's mask.

    The mean over pictures of each one's PSNR.
    """
    rgb, mask = pictures_of([mixed_scene(seed, i) for i in range(count)], size)
    whole, inside = [], []
    for picture, body in zip(rgb.split(64), mask.split(64), strict=True):
        mean = vae.encode(2 * picture - 1).latent_dist.mean  # pyright: ignore[reportAttributeAccessIssue]
        output = (vae.decode(mean).sample / 2 + 0.5).clamp(0, 1)  # pyright: ignore[reportAttributeAccessIssue]
        error = (output - picture).square().mean(1, keepdim=True)  # (n, 1, h, w)
        whole.append(error.mean((1, 2, 3)))
        inside.append((error * body).sum((1, 2, 3)) / body.sum((1, 2, 3)).clamp(min=1))
    psnr, masked = (-10 * torch.cat(part).clamp(min=1e-10).log10() for part in (whole, inside))
    return {"psnr": psnr.mean().item(), "psnr_inside_mask": masked.mean().item()}


@torch.no_grad()
def reconstruction_scores(vae: AutoencoderKL, judge: PictureJudge, seed: int, size: int, count: int = 1024) -> Scores:
    """How the judge reads reconstructions of stills: what is lost here, a prior on it hardly wins back."""
    scenes = [still(seed, i, kind="object") for i in range(count)]
    rgb, _ = pictures_of(scenes, size)
    means = [vae.encode(2 * part - 1).latent_dist.mean for part in rgb.split(64)]  # pyright: ignore
    output = torch.cat([vae.decode(mean).sample for mean in means])  # pyright: ignore[reportAttributeAccessIssue]
    verdict = judge.judge((output / 2 + 0.5).clamp(0, 1))
    classes, colors = torch.tensor([labels_of(scene)[:2] for scene in scenes]).T
    right = verdict.classes == classes
    return {
        "read": _share(right),
        "read_both": _share(right & (verdict.colors == colors)),
        "read_rejected": _share(verdict.classes == REJECT),
    }


@torch.no_grad()
def clip_scores(model: CLIPModel, tokenizer: CLIPTokenizer, seed: int, size: int, rounds: int = 16) -> Scores:
    """Top-1 retrieval of the caption of each of 64 pictures, and back; the 64 differ in class or colour."""
    to_text, to_image = [], []
    for turn in range(rounds):
        scenes = _distinct_stills(seed, turn, 64)
        rgb, _ = pictures_of(scenes, size)
        tokens = tokenise(tokenizer, [scene.caption for scene in scenes])
        output = model(input_ids=tokens, pixel_values=normalise(rgb))
        similarity = output.logits_per_image  # (64, 64)
        diagonal = torch.arange(64)
        to_text.append((similarity.argmax(1) == diagonal).float().mean().item())
        to_image.append((similarity.argmax(0) == diagonal).float().mean().item())
    return {"image_to_text_top1": float(np.mean(to_text)), "text_to_image_top1": float(np.mean(to_image))}


def _distinct_stills(seed: int, turn: int, count: int) -> list[Scene]:
    chosen: dict[tuple[str, str], Scene] = {}
    index = turn * 100_000
    while len(chosen) < count:
        scene = still(seed, index, kind="object")
        pair = (scene.name, scene.colors[0])
        if not world.is_held_out(*pair):
            chosen.setdefault(pair, scene)
        index += 1
    return list(chosen.values())


def prior_scores(
    pipeline: TextToImage, judge: PictureJudge, seed: int, guidance: float = GUIDANCE, per_pair: int = 1
) -> Scores:
    """Judged class and colour of "a COLOR CLASS" over all pairs, and of the held-out pairs alone.

    Samples of pair i have the seeds 1000 seed + i ...; the held-out pairs are drawn eight times each.
    """
    everything, unseen = list(world.pairs()), list(world.pairs(held_out=True)) * 8
    verdict = judge.judge(draw_samples(pipeline, [_prompt(*pair) for pair in everything * per_pair], seed, guidance))
    wanted = [torch.tensor(column * per_pair) for column in _indices(everything)]
    held_out = judge.judge(draw_samples(pipeline, [_prompt(*pair) for pair in unseen], seed + 1, guidance))
    return {
        "class": _share(verdict.classes == wanted[0]),
        "color": _share(verdict.colors == wanted[1]),
        "both": _share((verdict.classes == wanted[0]) & (verdict.colors == wanted[1])),
        "rejected": _share(verdict.classes == REJECT),
        "held_out_both": _share(held_out.is_right(*zip(*unseen, strict=True))),
    }


def view_scores(pipeline: TextToImage, judge: PictureJudge, seed: int, guidance: float = GUIDANCE) -> Scores:
    """How often the judge reads the view word that was asked for, classes with a front only."""
    asked = [
        (name, color, view)
        for i, name in enumerate(world.FRONTED)
        for j, view in enumerate(world.VIEWS)
        for color in _seen_colors(name, i + j, 4)
    ]
    prompts = [f"{_prompt(name, color)}, {view} view" for name, color, view in asked]
    verdict = judge.judge(draw_samples(pipeline, prompts, seed, guidance))
    right = verdict.views == torch.tensor([world.VIEWS.index(view) for _, _, view in asked])
    each = {f"view_{view}": _share(right[[i for i, row in enumerate(asked) if row[2] == view]]) for view in world.VIEWS}
    return {"view_word": _share(right), **each}


def camera_scores(pipeline: TextToImage, judge: PictureJudge, seed: int, guidance: float = GUIDANCE) -> Scores:
    """How often the judge reads the azimuth bin of the camera token, and class and colour along with it."""
    asked = [
        (name, color, 45.0 * step)
        for i, name in enumerate(world.FRONTED)
        for step in range(8)
        for color in _seen_colors(name, i + step, 2)
    ]
    azimuths = [azimuth for _, _, azimuth in asked]
    camera = orbit(degrees(azimuths), degrees(ELEVATION), sum(world.CAMERA_RADIUS) / 2)
    prompts = [_prompt(name, color) for name, color, _ in asked]
    verdict = judge.judge(draw_samples(pipeline, prompts, seed, guidance, camera=camera))
    right = verdict.azimuths == torch.tensor([azimuth_bin(azimuth) for azimuth in azimuths])
    names, colors, _ = zip(*asked, strict=True)
    return {"camera_azimuth": _share(right), "camera_both": _share(verdict.is_right(names, colors))}


def judge_scores(
    judge: PictureJudge, seed: int, size: int = 64, count: int = 4096, rejects: int = 1024, in_clips: bool = False
) -> Scores:
    """Accuracy on honest renders that no model was trained on, and how many rejects are rejected.

    Args:
        in_clips: frames of clips, and rejects that stand as in those, instead of stills.
    """
    scenes = [frame(seed, i) if in_clips else still(seed, i, kind="object") for i in range(count)]
    chunks = [scenes[start : start + 512] for start in range(0, count, 512)]
    verdict = judge.judge(torch.cat([pictures_of(chunk, size)[0] for chunk in chunks]))
    labels = torch.tensor([labels_of(scene) for scene in scenes])
    fronted = labels[:, 3] >= 0
    viewed = labels[:, 2] >= 0
    false = judge.judge(torch.from_numpy(draw_rejects(seed, range(rejects), size, in_clips)).permute(0, 3, 1, 2))
    rejected = false.classes == REJECT
    kinds = ("blob", "chimera", "two-coloured", "noisy")
    right = _share(verdict.classes == labels[:, 0])
    return {
        "balanced": (right + _share(rejected)) / 2,  # of two answers, each of which is easily better alone
        "class": right,
        "color": _share(verdict.colors == labels[:, 1]),
        "view": _share((verdict.views == labels[:, 2])[viewed]),
        "azimuth": _share((verdict.azimuths == labels[:, 3])[fronted]),
        "rejects_rejected": _share(rejected),
        **{f"rejected_{kind}": _share(rejected[i::4]) for i, kind in enumerate(kinds)},
    }


def motion_judge_scores(judge: MotionJudge, seed: int, size: int = 64, count: int = 512) -> Scores:
    """Share of held-out clips whose motion, direction included, is read rightly."""
    right = []
    for start in range(0, count, 32):
        scenes = [[moment(seed, i, f, CLIP_FRAMES) for f in range(CLIP_FRAMES)] for i in range(start, start + 32)]
        rgb, _ = pictures_of([scene for clip in scenes for scene in clip], size)
        read = judge.judge(rgb.unflatten(0, (len(scenes), CLIP_FRAMES)).transpose(1, 2))
        right += [word == clip[0].motion for word, clip in zip(read, scenes, strict=True)]
    return {"motion": float(np.mean(right))}


def _prompt(name: str, color: str) -> str:
    return captions.object_phrase(name, color)


def _seen_colors(name: str, start: int, count: int) -> list[str]:
    """`count` colours that the generators have seen this class in."""
    colors = [color for color in world.COLOR_NAMES if not world.is_held_out(name, color)]
    return [colors[(start + 4 * i) % len(colors)] for i in range(count)]


def _indices(pairs: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
    return [world.CLASS_NAMES.index(n) for n, _ in pairs], [world.COLOR_NAMES.index(c) for _, c in pairs]


def draw_samples(pipeline: TextToImage, prompts: list[str], seed: int, guidance: float, camera=None) -> Tensor:
    """(n, 3, h, w) pictures; sample i has the seed 1000 seed + i, whatever its neighbours."""
    generators = [torch.Generator().manual_seed(1000 * seed + i) for i in range(len(prompts))]
    output = pipeline(
        prompts, num_inference_steps=STEPS, guidance_scale=guidance, generator=generators, camera=camera,
        output_type="pt",
    )  # fmt: skip
    return output.images  # pyright: ignore[reportAttributeAccessIssue]


def _share(right: Tensor) -> float:
    return right.float().mean().item()
