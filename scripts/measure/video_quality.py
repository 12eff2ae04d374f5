"""The items of `evaluate.py --suite video`: clips from text and pictures, and what lifting must not change.

The prompts are of the reporting seed: 30 of classes and motions that training has shown together, and the ten pairs
that it never has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from itertools import count, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from measure.measure import ROOT, Item, Numbers, Record, say
from measure.prior_quality import largest_difference
from measure.suite import Suite
from measure.zero123_quality import megabytes
from torch import Tensor

from core2d.adapters.lora import fuse
from core2d.adapters.lora_files import read_lora
from core2d.bundled.scores import pictures_of
from core2d.media.pictures import image_grid, save_image, to_uint8
from core2d.media.videos import write_video
from core2d.prior.backbone import Backbone
from core2d.prior.rows import as_clips, as_rows
from core2d.toybox import world
from core2d.toybox.captions import object_phrase
from core2d.toybox.judge import CLIP_FRAMES, SIZE, load_motion_judge, load_picture_judge
from core2d.toybox.scene import WHITE, moment, portrait
from genvideo.animatediff.formats import read_motion
from genvideo.animatediff.motion import MotionBackbone, fresh_motion
from genvideo.animatediff.pipeline import AnimateDiff
from genvideo.animatediff.windows import window_starts
from genvideo.toybox.clip_scores import (
    Asked,
    ClipScores,
    asked,
    asked_unseen,
    flicker,
    frame_difference,
    is_drawn,
    score_clips,
    seam_ratio,
)

STEPS, WINDOW, OVERLAP = 25, 16, 4
TRUE, STILLS, FROM_PICTURES, LONG, LONG_FRAMES = 64, 12, 32, 4, 64
ON_THE_SHEET = ("spinning clockwise", "bouncing", "sliding left", "hopping right", "growing",
                "camera orbiting clockwise", "camera zooming in", "camera panning left")  # fmt: skip
GIFS = {"mug.gif": "a red mug spinning clockwise", "duck.gif": "a yellow duck hopping right"}


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`. The bars of GPU-trained weights are higher."""
    motion, prior, decoder = assets / "toybox-motion", assets / "toybox-sd", assets / "toybox-video-vae"
    needs = (motion, prior, decoder)
    judges = (assets / "toybox-frame-judge", assets / "toybox-judge" / "motion.safetensors")
    judged = (*needs, *judges)
    return [
        Item("clips", "judged motion, class and colour of 40 prompts", partial(clips, assets, seed),
             at_least={"motion": 0.75, "class_and_color": 0.85, "motion_unseen": 0.60}, needs=judged),
        Item("true-clips", "what the judges read in true clips, as they are and through the VAE",
             partial(true, assets, seed), needs=judged),
        Item("stillness", "clips of which no motion is asked, against still ones through the VAE",
             partial(stillness, assets, seed), at_most={"over_vae": 1.5}, needs=needs),
        Item("flicker", "where nothing moves, against true clips through the VAE", partial(flickering, assets, seed),
             at_most={"over_true": 1.5}, needs=needs),
        Item("from-pictures", "clips that begin with a given picture", partial(from_pictures, assets, seed),
             at_least={"motion": 0.70}, at_most={"first_frame_lost_db": 1.0}, needs=judged),
        Item("seams", "64 frames: neighbours across a seam of windows against the others", partial(seams, assets, seed),
             at_most={"seam_over_others": 1.2}, needs=needs),
        Item("lifted", "fresh modules against the 2D prior, largest difference", partial(lifted, assets, seed),
             at_most={"float32": 1e-5, "float64": 1e-12}, needs=(prior,)),
        Item("stock-parity", "largest difference to AnimateDiffPipeline", partial(stock_parity, assets, seed),
             at_most={"max_difference": 1e-4}, needs=needs),
        Item("decoding", "in chunks against the whole clip, largest difference", partial(decoding, assets, seed),
             at_most={"max_difference": 1e-6}, needs=needs),
        Item("megabytes", "of the modules' folder", partial(megabytes, motion), at_most={"own": 4}, needs=(motion,)),
    ]  # fmt: skip


# -- what is drawn -------------------------------------------------------------------------------------------------


@cache
def pipeline_of(assets: Path) -> AnimateDiff:
    return AnimateDiff.from_pretrained(assets / "toybox-sd", assets / "toybox-motion")


def draw(assets: Path, prompts: Sequence[str], seed: int, **options: Any) -> list[Tensor]:
    """Clips (f, 3, h, w); clip i starts from the seed 1000 seed + i."""
    drawn = []
    for index, prompt in enumerate(prompts):
        made = pipeline_of(assets)(prompt, seed=1000 * seed + index, num_inference_steps=STEPS, **options)
        drawn.append(made.frames[0])
        say(f"  {index + 1} of {len(prompts)}: {prompt}")
    return drawn


@cache
def drawn_clips(assets: Path, seed: int) -> tuple[list[Asked], list[Tensor]]:
    """The 40 prompts and their clips, shared by the items that look at them."""
    wanted = [*asked(seed), *asked_unseen(seed)]
    return wanted, draw(assets, [one.prompt for one in wanted], seed)


# -- items ---------------------------------------------------------------------------------------------------------


def clips(assets: Path, seed: int) -> tuple[Numbers, list[Record]]:
    """What the judges read in the 40, and in each."""
    wanted, drawn = drawn_clips(assets, seed)
    found = judged(assets, drawn, wanted)
    seen = torch.tensor([one.seen for one in wanted])
    right = found.motion_right.float()
    numbers = {
        "motion": right.mean().item(),
        "motion_seen": right[seen].mean().item(),
        "motion_unseen": right[~seen].mean().item(),
        "class_and_color": found.frames_right.mean().item(),
        "class_and_color_unseen": found.frames_right[~seen].mean().item(),
        "clips": len(wanted),
    }
    return numbers, rows_of([one.prompt for one in wanted], found)


def true(assets: Path, seed: int) -> Numbers:
    """No generator can be expected to be read better than what its decoder makes of the truth."""
    chosen = list(islice((clip for clip in true_clips(seed) if is_drawn(clip[0].name, str(clip[0].motion))), TRUE))
    wanted = [Asked(clip[0].name, clip[0].colors[0], str(clip[0].motion)) for clip in chosen]
    prior = pipeline_of(assets).prior
    clear = [pictures_of(clip, SIZE)[0] for clip in chosen]
    found = judged(assets, clear, wanted)
    through_vae = judged(assets, [prior.decode(prior.encode_images(frames)) for frames in clear], wanted)
    return {
        "motion": found.motion_right.float().mean().item(),
        "class_and_color": found.frames_right.mean().item(),
        "motion_through_vae": through_vae.motion_right.float().mean().item(),
        "class_and_color_through_vae": through_vae.frames_right.mean().item(),
        "clips": len(chosen),
    }


def stillness(assets: Path, seed: int) -> Numbers:
    """The frames of a still clip differ by what the VAE's encoder draws anew for each; nothing else moves in it."""
    names = world.CLASS_NAMES[::2][:STILLS]
    colors = [next(color for color in world.COLOR_NAMES[turn % 10:] + world.COLOR_NAMES
                   if not world.is_held_out(name, color)) for turn, name in enumerate(names)]  # fmt: skip
    drawn = draw(assets, [object_phrase(*pair) for pair in zip(names, colors, strict=True)], seed)
    scenes = [portrait(name, color, 30.0, 20.0, seed, turn)
              for turn, (name, color) in enumerate(zip(names, colors, strict=True))]  # fmt: skip
    prior, generator = pipeline_of(assets).prior, torch.Generator().manual_seed(seed)
    differences = []
    for picture in pictures_of(scenes, SIZE)[0]:
        latents = prior.encode_images(picture.expand(CLIP_FRAMES, -1, -1, -1), generator)
        differences.append(frame_difference(prior.decode(latents)))
    ours, through_vae = fmean(map(frame_difference, drawn)), fmean(differences)
    return {"difference": ours, "through_vae": through_vae, "over_vae": ours / through_vae, "clips": len(drawn)}


def flickering(assets: Path, seed: int) -> Numbers:
    """Of the 40 those in which the camera stands; true ones are of objects on white, as the prompts ask for."""
    wanted, drawn = drawn_clips(assets, seed)
    standing = [clip for one, clip in zip(wanted, drawn, strict=True) if one.motion in world.OBJECT_MOTIONS]
    white = (clip for clip in true_clips(seed)
             if clip[0].background == WHITE and clip[0].motion in world.OBJECT_MOTIONS)  # fmt: skip
    prior, true = pipeline_of(assets).prior, []
    for clip in islice(white, len(standing)):
        frames = pictures_of(clip, SIZE)[0]
        true.append(flicker(prior.decode(prior.encode_images(frames))))
    ours, theirs = fmean(map(flicker, standing)), fmean(true)
    return {"flicker": ours, "of_true_clips": theirs, "over_true": ours / theirs, "clips": len(standing)}


def from_pictures(assets: Path, seed: int) -> tuple[Numbers, list[Record]]:
    """The first frames of true clips under their own captions; the objects are new, class and colour are known."""
    chosen = list(islice(
        (clip for clip in true_clips(seed) if is_drawn(clip[0].name, str(clip[0].motion))
         and not world.is_held_out(clip[0].name, clip[0].colors[0])), FROM_PICTURES))  # fmt: skip
    prior, drawn, lost = pipeline_of(assets).prior, [], []
    for index, clip in enumerate(chosen):
        picture = pictures_of(clip[:1], SIZE)[0][0]
        drawn += draw(assets, [clip[0].caption], seed + index, given={0: picture})
        kept = prior.decode(prior.encode_images(picture[None]))[0]
        lost.append(decibels(kept, picture) - decibels(drawn[-1][0], picture))
    wanted = [Asked(clip[0].name, clip[0].colors[0], str(clip[0].motion)) for clip in chosen]
    found = judged(assets, drawn, wanted)
    numbers = {
        "motion": found.motion_right.float().mean().item(),
        "class_and_color": found.frames_right.mean().item(),
        "first_frame_lost_db": max(lost),
        "clips": len(chosen),
    }
    return numbers, rows_of([clip[0].caption for clip in chosen], found)


def seams(assets: Path, seed: int) -> Numbers:
    """The seams of the last step, after which nothing can smooth them; frames far from them see none in it."""
    prompts = [one.prompt for one in asked(seed, 2 * LONG)][::2]
    drawn = draw(assets, prompts, seed, num_frames=LONG_FRAMES)
    starts = window_starts(LONG_FRAMES, WINDOW, OVERLAP, STEPS - 1)
    edges = {*starts, *(start + WINDOW for start in starts)} - {0, LONG_FRAMES}
    ratios = [seam_ratio(clip, sorted(edges)) for clip in drawn]
    return {"seam_over_others": fmean(ratios), "worst": max(ratios), "clips": len(drawn)}


def lifted(assets: Path, seed: int) -> Numbers:
    """The bundled prior with fresh modules, and each frame by itself."""
    numbers: Numbers = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        flat = Backbone.load(assets / "toybox-sd", dtype=torch.float32)
        motion = fresh_motion(flat.family.denoiser, heads=4)
        for module in (flat.family.denoiser, motion):
            module.to(dtype)  # pyright: ignore
        flat.dtype = dtype
        prior = MotionBackbone(flat, motion)
        shape = (CLIP_FRAMES, flat.latent_channels, flat.latent_size, flat.latent_size)
        x_t = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        condition = flat.encode_text(["a red mug spinning clockwise"])
        with torch.no_grad():
            apart = torch.cat([flat.network(frame[None], 500, condition) for frame in x_t])
            together = prior.network(as_clips(x_t, CLIP_FRAMES), 500, condition)
            numbers[name] = largest_difference(as_rows(together), apart)
    return numbers


def stock_parity(assets: Path, seed: int) -> Numbers:
    """The same weights, scheduler and generators; frames in [0, 1]."""
    ours = pipeline_of(assets)
    prompts = [one.prompt for one in asked(seed, 2)]
    noise = ours.initial_noise(
        (len(prompts), ours.prior.latent_channels, CLIP_FRAMES, ours.prior.latent_size, ours.prior.latent_size),
        [torch.Generator().manual_seed(1000 * seed + index) for index in range(len(prompts))],
    )
    settings: Any = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "pt", "latents": noise}
    theirs = stock_pipeline(assets)(prompts, num_frames=CLIP_FRAMES, **settings).frames
    mine = ours(prompts, **settings).frames
    return {"max_difference": largest_difference(mine, theirs), "clips": len(prompts)}


def stock_pipeline(assets: Path) -> Any:
    """diffusers' AnimateDiffPipeline of the same weights, without a progress bar."""
    flat, modules = Backbone.load(assets / "toybox-sd"), read_motion(assets / "toybox-motion")
    for adapter, strength in modules.adapters.items():
        fuse(flat.family.denoiser, read_lora(adapter), strength)
    parts: Any = flat.family.parts
    scheduler: Any = DDIMScheduler.from_config(flat.scheduler_config)
    made = AnimateDiffPipeline(
        vae=pipeline_of(assets).prior.vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        unet=parts["unet"], motion_adapter=modules.motion, scheduler=scheduler,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def decoding(assets: Path, seed: int) -> Numbers:
    prior = pipeline_of(assets).prior
    latents = prior.encode_clips(pictures_of(next(true_clips(seed)), SIZE)[0].transpose(0, 1)[None])
    whole = prior.decode_clips(latents, CLIP_FRAMES)
    differences = [largest_difference(prior.decode_clips(latents, at_once), whole) for at_once in (1, 3, 8)]
    return {"max_difference": max(differences)}


# -- shared by them ------------------------------------------------------------------------------------------------


def true_clips(seed: int):
    """The moments of each clip of an object, one clip after the other, without end."""
    for index in count():
        yield [moment(seed, index, frame, CLIP_FRAMES, kind="object") for frame in range(CLIP_FRAMES)]


def judged(assets: Path, drawn: Sequence[Tensor], wanted: Sequence[Asked]) -> ClipScores:
    motion_judge = load_motion_judge(assets / "toybox-judge")
    return score_clips(drawn, wanted, motion_judge, load_picture_judge(assets / "toybox-frame-judge"))


def rows_of(prompts: Sequence[str], found: ClipScores) -> list[Record]:
    read = zip(prompts, found.motions, found.motion_right.tolist(), found.frames_right.tolist(), strict=True)
    return [{"prompt": prompt, "motion": motion, "right": right, "class_and_color": frames}
            for prompt, motion, right, frames in read]  # fmt: skip


def decibels(found: Tensor, truth: Tensor) -> float:
    """PSNR of pictures in [0, 1]."""
    return -10 * (found - truth).square().mean().clamp(min=1e-10).log10().item()


# -- pictures ------------------------------------------------------------------------------------------------------


def write_pictures(assets: Path, seed: int, folder: Path) -> None:
    """video.png (a row a motion, every other frame) and two GIFs."""
    wanted = {one.motion: one for one in reversed(asked(seed)) if one.motion in ON_THE_SHEET}
    drawn = draw(assets, [wanted[motion].prompt for motion in ON_THE_SHEET], seed)
    save_image(folder / "video.png", image_grid(torch.cat([clip[::2] for clip in drawn]), CLIP_FRAMES // 2))
    for name, prompt in GIFS.items():
        (clip,) = draw(assets, [prompt], seed)
        large = clip.repeat_interleave(3, 2).repeat_interleave(3, 3)
        write_video(folder / name, to_uint8(large), 8, {"prompt": prompt})
    say(f"wrote video.png and {', '.join(GIFS)} into {folder}")


SUITE = Suite(items_of, Path(__file__), (ROOT / "genvideo" / "animatediff" / "command.py",))
