"""The work behind `genvideo text-to-video`: a clip from a sentence, or a folder of clips from many."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.outputs import plain
from core2d.media.pictures import image_grid, read_image, save_image, to_uint8
from core2d.media.sheets import stem_of
from core2d.media.videos import read_video, read_video_text, write_video
from genvideo.animatediff.pipeline import AnimateDiff
from genvideo.animatediff.recipe import TextToVideoRecipe

Result = tuple[list[Path], Mapping[str, Any]]

CONTACT_SHEET, SHEET_COLUMNS = "contact-sheet.png", 8
NOT_OF_THE_CLIP = ("output", "json", "device", "prompts_file", "format")


def follow(recipe: TextToVideoRecipe) -> Result:
    """Follow `genvideo text-to-video`."""
    recipe.check()
    if recipe.makes_a_folder:
        return _run_many(recipe)
    (prompt,) = recipe.all_prompts()
    pipeline = load(recipe)
    clip, rate = draw(pipeline, recipe, prompt)
    outputs = save(recipe, clip, rate)
    facts = {"frames": len(clip), "fps": float(rate), "height": clip.shape[1], "width": clip.shape[2]}
    if pipeline.modules:
        facts |= {"motion_tensors": pipeline.modules.matched, "others_left": len(pipeline.modules.report.unexpected)}
    return outputs, facts


def _run_many(recipe: TextToVideoRecipe) -> Result:
    """A clip for each prompt, but for those that are done already."""
    prompts = recipe.all_prompts()
    ones = [
        replace(recipe, prompts=(prompt,), prompts_file=None,
                output=recipe.output / f"{stem_of(prompt, 'clip')}.{recipe.format}")
        for prompt in prompts
    ]  # fmt: skip
    missing = [one for one in ones if not is_done(one)]
    for one in missing:
        one.check()  # what is in the way of any of them is said before the first is made
    if missing:
        pipeline = load(recipe)
        for one in missing:
            pipeline.prior.encode_text([one.prompts[0]])  # whether the model can read it is said before the first, too
        for number, one in enumerate(missing, 1):
            sys.stderr.write(f"clip {number} of {len(missing)}: {one.prompts[0]}\n")
            save(one, *draw(pipeline, one, one.prompts[0]))
    rows = np.concatenate([row_of_sheet(one.output) for one in ones])
    sheet = save_image(recipe.output / CONTACT_SHEET, rows, {"prompts": json.dumps(list(prompts))})
    made = {"made": len(missing), "done_before": len(ones) - len(missing)}
    return [*(one.output for one in ones), sheet], made


def load(recipe: TextToVideoRecipe) -> AnimateDiff:
    """The model of a recipe; what its motion file holds beside motion modules is said."""
    pipeline = AnimateDiff.from_pretrained(
        recipe.model, recipe.motion, recipe.loras, recipe.sparse_control,
        pick_device(recipe.device), pick_dtype(recipe.dtype), recipe.vae,
    )  # fmt: skip
    left = pipeline.modules.report.unexpected if pipeline.modules else []
    if left:
        others = f"{len(left)} tensors are of no motion module and were left, such as {left[0]}"
        sys.stderr.write(f"{recipe.motion}: {others}\n")
    return pipeline


def draw(pipeline: AnimateDiff, recipe: TextToVideoRecipe, prompt: str) -> tuple[np.ndarray, Fraction]:
    """The clip of one prompt, uint8 (f, h, w, 3), and its rate."""
    side, rate = pipeline.prior.image_size, recipe.rate
    given = {
        place: fitted(read_image(path)[None, ..., :3], side, str(path))[0] for place, path in recipe.pictures.items()
    }
    video = None
    if recipe.video is not None:
        frames, rate = read_video(recipe.video)
        recipe.check_rate(rate)
        video = fitted(frames, side, str(recipe.video))
    with tqdm(total=recipe.steps, unit="step", disable=None, leave=False) as bar:

        def advance(_step: int, _t: Any, _tensors: dict[str, Tensor]) -> None:
            bar.update()

        clip = pipeline(
            prompt,
            negative_prompt=recipe.negative_prompt,
            num_frames=recipe.frames,
            num_inference_steps=recipe.steps,
            guidance_scale=recipe.cfg,
            seed=recipe.seed,
            scheduler=recipe.scheduler,
            given=given,
            control_scale=recipe.control_scale,
            video=video,
            strength=recipe.strength,
            window=recipe.window,
            overlap=recipe.overlap,
            callback_on_step_end=advance,
        ).frames[0]
    if not clip.isfinite().all():
        raise InputError(f"the model gave numbers that are not finite in {recipe.dtype}: try --dtype float32")
    return to_uint8(clip), rate


def save(recipe: TextToVideoRecipe, clip: np.ndarray, rate: Fraction) -> list[Path]:
    """Write a clip, which says how it was made, and the strip of its frames beside it."""
    text = settings_of(recipe)
    written = write_video(recipe.output, clip, rate, text)
    return [written, save_image(recipe.strip, image_grid(clip, min(len(clip), 16)), {"recipe": json.dumps(text)})]


def settings_of(recipe: TextToVideoRecipe) -> dict[str, Any]:
    """What a clip depends on, as JSON has it, the content of its files included."""
    said = {name: value for name, value in plain(asdict(recipe)).items() if name not in NOT_OF_THE_CLIP}
    files = [*recipe.pictures.values(), *recipe.loras, *([recipe.video] if recipe.video else [])]
    return said | {"sha256": {str(file): digest_of(Path(file)) for file in files}}


def digest_of(path: Path) -> str:
    """The first 16 digits of the SHA-256 of a file; of a folder of frames, that of its files one after the other."""
    found = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with file.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()[:16]


def is_done(recipe: TextToVideoRecipe) -> bool:
    """Whether the clip of one prompt is there, made with the same settings, and its strip."""
    if not (recipe.output.is_file() and recipe.strip.is_file()):
        return False
    try:
        return read_video_text(recipe.output) == settings_of(recipe)
    except (OSError, ValueError):
        return False


def row_of_sheet(clip: Path) -> np.ndarray:
    """One row of the contact sheet: some frames of a clip, evenly spread, (h, w, 3)."""
    frames, _ = read_video(clip)
    chosen = np.linspace(0, len(frames) - 1, SHEET_COLUMNS).round().astype(int)
    return np.concatenate(list(frames[chosen]), axis=1)


def fitted(frames: np.ndarray, side: int, name: str) -> Tensor:
    """Frames (f, h, w, 3) of uint8 as a model of square pictures sees them: the middle, (f, 3, side, side)."""
    height, width = frames.shape[1:3]
    if (height, width) != (side, side):
        sys.stderr.write(f"{name} is {width} x {height} pixels: its middle is used, at {side} x {side}\n")
    cut = min(height, width)
    top, left = (height - cut) // 2, (width - cut) // 2
    middle = frames[:, top : top + cut, left : left + cut]
    if cut != side:
        pictures = [Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS) for frame in middle]
        middle = np.stack([np.array(picture) for picture in pictures])
    return torch.from_numpy(np.ascontiguousarray(middle)).permute(0, 3, 1, 2).float() / 255
