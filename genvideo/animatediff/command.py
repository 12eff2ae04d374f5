"""The work behind `genvideo text-to-video`: a clip from a sentence, or a folder of clips from many."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from core2d.adapters.controlnet_files import read_controlnet
from core2d.adapters.options import image_prompt_files, with_image_prompts
from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.outputs import plain
from core2d.app.provenance import changed_inputs, changed_settings, digests, in_short
from core2d.app.registry import bundled, resolve
from core2d.app.runs import check_free, locked
from core2d.files.loading import read_json
from core2d.media.pictures import READABLE_SUFFIXES, WHITE, image_grid, read_image, save_image, to_uint8
from core2d.media.sheets import stem_of
from core2d.media.videos import read_video, read_video_text, write_video
from core2d.systems.control.maps import read_map
from core2d.systems.control.pipeline import Control, controlled
from genvideo.animatediff.formats import OURS, settings_in
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
    pipeline, telling = load(recipe)
    clip, rate = draw(pipeline, recipe, prompt, telling)
    outputs = save(recipe, clip, rate)
    facts = {"frames": len(clip), "fps": float(rate), "height": clip.shape[1], "width": clip.shape[2]}
    if pipeline.modules:
        facts |= {"motion_tensors": pipeline.modules.matched, "others_left": len(pipeline.modules.report.unexpected)}
    return outputs, facts


def _run_many(recipe: TextToVideoRecipe) -> Result:
    """A clip for each prompt, but for those that are done already."""
    check_free(recipe.output)
    prompts = recipe.all_prompts()
    ones = [
        replace(recipe, prompts=(prompt,), prompts_file=None,
                output=recipe.output / f"{stem_of(prompt, 'clip')}.{recipe.format}")
        for prompt in prompts
    ]  # fmt: skip
    missing = {one: why for one in ones if (why := undone(one)) is not None}
    for one in missing:
        one.check()  # what is in the way of any of them is said before the first is made
    pipeline, telling = load(recipe) if missing else (None, {})
    if pipeline is not None:
        for one in missing:
            pipeline.prior.encode_text([one.prompts[0]])  # whether the model can read it is said before the first, too
    with locked(recipe.output):
        for number, (one, why) in enumerate(missing.items(), 1):
            sys.stderr.write(f"clip {number} of {len(missing)}: {one.prompts[0]} ({why})\n")
            assert pipeline is not None
            save(one, *draw(pipeline, one, one.prompts[0], telling))
        sheet = save_contact_sheet(recipe, [one.output for one in ones])
    made = {"made": len(missing), "done_before": len(ones) - len(missing)}
    return [*(one.output for one in ones), sheet], made


def load(recipe: TextToVideoRecipe) -> tuple[AnimateDiff, dict[str, Tensor]]:
    """The model of a recipe, and what it is told of maps and pictures.

    What its motion file holds beside motion modules is said.
    """
    pipeline = AnimateDiff.from_pretrained(
        recipe.model, recipe.motion, recipe.loras, recipe.sparse_control,
        pick_device(recipe.device), pick_dtype(recipe.dtype), recipe.vae, recipe.motion_version,
    )  # fmt: skip
    left = pipeline.modules.report.unexpected if pipeline.modules else []
    if left:
        others = f"{len(left)} tensors are of no motion module and were left, such as {left[0]}"
        sys.stderr.write(f"{recipe.motion}: {others}\n")
    side, frames = pipeline.prior.image_size, recipe.frames if recipe.video is None else None  # those of the video
    controls = [Control(read_controlnet(told.network), maps_of(told.map, side, frames), told.weight)
                for told in recipe.controls]  # fmt: skip
    following, telling = controlled(pipeline, controls) if controls else (pipeline, {})
    prompted, shown = with_image_prompts(following, recipe)
    return prompted, telling | shown


def maps_of(path: Path, side: int, frames: int | None) -> Tensor:
    """A map for all frames (1, 3, side, side), or of a clip one for each (f, 3, side, side), scaled where need be."""
    if path.suffix.lower() in READABLE_SUFFIXES:
        return read_map(path, side, side, fit=True)[None]
    maps, _ = read_video(path)
    if frames not in (None, len(maps)):
        raise InputError(f"{path} has {len(maps)} maps, and {frames} frames are drawn: give one for each, or --frames")
    return fitted(maps, side, str(path))


def draw(
    pipeline: AnimateDiff, recipe: TextToVideoRecipe, prompt: str, telling: Mapping[str, Tensor] | None = None
) -> tuple[np.ndarray, Fraction]:
    """The clip of one prompt, uint8 (f, h, w, 3), and its rate; `telling` is of `load`."""
    side, rate = pipeline.prior.image_size, recipe.rate
    given = {
        place: fitted(read_image(path, WHITE)[None], side, str(path))[0] for place, path in recipe.pictures.items()
    }
    video = None
    if recipe.video is not None:
        frames, rate = read_video(recipe.video)
        recipe.check_rate(rate)
        video = fitted(frames, side, str(recipe.video))
    with tqdm(total=recipe.steps, unit="step", disable=None, leave=False) as bar:

        def advance(_pipeline: AnimateDiff, _step: int, _t: Any, _tensors: dict[str, Tensor]) -> None:
            bar.update()

        clip = pipeline(
            prompt,
            negative_prompt=recipe.negative_prompt,
            num_frames=recipe.frames,
            num_inference_steps=recipe.steps,
            guidance_scale=recipe.cfg,
            seed=recipe.seed,
            scheduler=recipe.scheduler,
            telling=telling,
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
    """What a clip depends on, as JSON has it, with hashes of all that it is drawn from."""
    said = {name: value for name, value in plain(asdict(recipe)).items() if name not in NOT_OF_THE_CLIP}
    return said | {"inputs": digests(files_of(recipe))}


def files_of(recipe: TextToVideoRecipe) -> dict[str, Path]:
    """What a clip is drawn from: name -> file or folder."""
    motion = bundled().get(recipe.motion, Path(recipe.motion).expanduser())
    vae = vae_of(motion) if recipe.vae is None else resolve(recipe.vae)
    vae = vae / "vae" if vae is not None and (vae / "vae").is_dir() else vae  # that of a whole model
    found = {"model": resolve(recipe.model), "motion": motion, "vae": vae, "video": recipe.video}
    found["sparse_control"] = None if recipe.sparse_control is None else Path(recipe.sparse_control).expanduser()
    found |= {f"lora {file}": Path(file) for file in recipe.loras}
    for number, told in enumerate(recipe.controls):
        found |= {f"controlnet {number}": told.network, f"map {number}": told.map}
    found |= image_prompt_files(recipe)
    found |= {f"frame {index}": file for index, file in recipe.pictures.items()}
    return {name: file for name, file in found.items() if file is not None}


def vae_of(motion: Path) -> Path | None:
    """The autoencoder that belongs to motion modules; None where it is that of the model."""
    said: Any = {}
    with contextlib.suppress(InputError, OSError, SafetensorError):  # that it cannot be read is said when it is loaded
        said = read_json(motion / OURS) if motion.is_dir() else settings_in(motion).get("facts")
    name = said.get("vae") if isinstance(said, dict) else None
    if not isinstance(name, str):
        return None
    beside = motion.parent / name
    return beside if motion.is_dir() and beside.is_dir() else resolve(name)


def undone(recipe: TextToVideoRecipe) -> str | None:
    """Why the clip of one prompt is to be drawn; None if it is there, drawn from the same, with its strip."""
    if not (recipe.output.is_file() and recipe.strip.is_file()):
        return "not drawn yet"
    try:
        before = read_video_text(recipe.output)
    except (OSError, ValueError):
        before = {}
    now = settings_of(recipe)
    inputs = changed_inputs(before.pop("inputs", None), now.pop("inputs"))
    return in_short(changed_settings(before, now) + inputs) or None


def save_contact_sheet(recipe: TextToVideoRecipe, clips: Sequence[Path]) -> Path:
    """Write a row of frames for each clip; the picture says of itself which prompts they are, in their order."""
    text = {"prompts": json.dumps(list(recipe.all_prompts()))}
    if recipe.prompts_file is not None:
        text["inputs"] = json.dumps(digests({"prompts": recipe.prompts_file}))
    return save_image(recipe.output / CONTACT_SHEET, np.concatenate([row_of_sheet(clip) for clip in clips]), text)


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
