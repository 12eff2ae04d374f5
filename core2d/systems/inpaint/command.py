"""The work behind `core2d inpaint` and `core2d outpaint`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core2d.adapters.options import image_prompt_files, lora_files, with_image_prompts, with_loras
from core2d.app.devices import pick_device, pick_dtype
from core2d.app.recipe import files_and_strengths
from core2d.app.registry import resolve
from core2d.media.pictures import read_image
from core2d.media.sheets import check_singles
from core2d.systems.inpaint.canvas import widened
from core2d.systems.inpaint.formats import lender_of, load_inpainter
from core2d.systems.inpaint.masks import read_mask
from core2d.systems.inpaint.pipeline import Inpaint
from core2d.systems.inpaint.recipe import InpaintRecipe, OutpaintRecipe, PaintRecipe
from core2d.systems.text_to_image.drawing import draw, write


def inpaint(recipe: InpaintRecipe) -> tuple[list[Path], Mapping[str, Any]]:
    """Follow `core2d inpaint`: one picture, or a sheet with the single ones in a folder beside it."""
    recipe.check()
    pixels = read_image(recipe.picture.expanduser())
    mask = recipe.mask.expanduser()
    return _paint(recipe, recipe.prompt, pixels, read_mask(mask, *pixels.shape[:2]), {"mask": mask})


def outpaint(recipe: OutpaintRecipe) -> tuple[list[Path], Mapping[str, Any]]:
    """Follow `core2d outpaint`: the same on a wider canvas."""
    recipe.check()
    pixels = read_image(recipe.picture.expanduser())
    canvas, mask = widened(pixels, *recipe.wider(*pixels.shape[:2]))
    return _paint(recipe, recipe.prompt, canvas, mask, {})


def _paint(
    recipe: PaintRecipe, prompt: str, pixels: np.ndarray, mask: np.ndarray, files: Mapping[str, Path]
) -> tuple[list[Path], Mapping[str, Any]]:
    if recipe.num_images > 1:
        check_singles(recipe.output)
    prior = load_inpainter(recipe.model, pick_device(recipe.device), pick_dtype(recipe.dtype))
    plain = Inpaint(with_loras(prior, files_and_strengths("--lora", recipe.lora)))
    pipeline, telling = with_image_prompts(plain, recipe)
    images = draw(
        pipeline, [prompt], recipe, image=pixels, mask=mask, strength=recipe.strength, context=recipe.context,
        feather=recipe.feather, telling=telling,
    )  # fmt: skip
    lender = lender_of(resolve(recipe.model))
    files = {"picture": recipe.picture.expanduser(), **files, **({"prior": lender} if lender else {})}
    files |= lora_files(recipe.lora) | image_prompt_files(recipe)
    outputs = write(recipe.output, images, [prompt], recipe, files)
    height, width = mask.shape
    return outputs, {"images": len(images), "height": height, "width": width, "drawn": float(mask.mean())}
