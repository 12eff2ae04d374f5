"""The work behind `core2d control`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from core2d.adapters.controlnet_files import read_controlnet
from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.outputs import plain
from core2d.app.provenance import digests
from core2d.app.registry import resolve
from core2d.media.pictures import save_image
from core2d.media.sheets import check_singles, save_sheet
from core2d.systems.control.maps import read_edges, read_map
from core2d.systems.control.pipeline import Control, controlled
from core2d.systems.control.recipe import ControlRecipe
from core2d.systems.text_to_image.pipeline import TextToImage


def follow(recipe: ControlRecipe) -> tuple[list[Path], Mapping[str, Any]]:
    """Follow `core2d control`: one image, or a sheet with the single ones in a folder beside it."""
    recipe.check()
    if recipe.num_images > 1:
        check_singles(recipe.output)
    flat = TextToImage.from_pretrained(recipe.model, pick_device(recipe.device), pick_dtype(recipe.dtype))
    side = flat.backbone.image_size
    height, width = recipe.height or side, recipe.width or side
    controls = _controls(recipe, height, width)
    pipeline, telling = controlled(flat, controls)
    with tqdm(total=recipe.num_images * recipe.steps, unit="step", disable=None, leave=False) as bar:

        def advance(_pipeline: TextToImage, _step: int, _t: Any, tensors: dict[str, Tensor]) -> None:
            bar.update(len(tensors["latents"]))

        images = pipeline(
            recipe.prompt,
            negative_prompt=recipe.negative_prompt or None,
            num_inference_steps=recipe.steps,
            guidance_scale=recipe.cfg,
            num_images_per_prompt=recipe.num_images,
            seed=recipe.seed,
            telling=telling,
            scheduler=recipe.scheduler,
            height=height,
            width=width,
            output_type="pt",
            callback_on_step_end=advance,
        ).images.float()  # (n, 3, H, W)
    if not images.isfinite().all():
        raise InputError(f"the model gave numbers that are not finite in {recipe.dtype}: try --dtype float32")
    outputs = _write(recipe, images.cpu())
    if recipe.from_picture:
        outputs.append(save_image(recipe.map_output, controls[0].map))
    return outputs, {"images": recipe.num_images, "height": height, "width": width}


def _controls(recipe: ControlRecipe, height: int, width: int) -> list[Control]:
    """What the recipe names, read for images of this size."""
    found = []
    for number, told in enumerate(recipe.controls()):
        makes = recipe.from_picture and number == 0
        seen = read_edges(told.map, height, width) if makes else read_map(told.map, height, width, recipe.fit)
        found.append(Control(read_controlnet(told.network), seen, told.weight, recipe.start, recipe.end))
    return found


def _write(recipe: ControlRecipe, images: Tensor) -> list[Path]:
    """Write the image, or the single ones and their sheet; the output of the command comes first."""
    settings = plain(asdict(recipe))
    for name in ("output", "json", "device"):
        settings.pop(name)
    files = {"model": resolve(recipe.model)}
    for number, told in enumerate(recipe.controls()):
        files |= {f"controlnet {number}": told.network, f"map {number}": told.map}
    sheet_text = {"recipe": json.dumps(settings), "inputs": json.dumps(digests(files))}
    texts = [sheet_text | {"prompt": recipe.prompt, "seed": recipe.seed + index} for index in range(recipe.num_images)]
    return save_sheet(recipe.output, images, texts, sheet_text)
