"""The work behind `core2d control`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core2d.adapters.controlnet_files import read_controlnet
from core2d.adapters.options import image_prompt_files, with_image_prompts
from core2d.app.devices import pick_device, pick_dtype
from core2d.media.pictures import save_image
from core2d.media.sheets import check_singles
from core2d.systems.control.maps import read_edges, read_map
from core2d.systems.control.pipeline import Control, controlled
from core2d.systems.control.recipe import ControlRecipe
from core2d.systems.text_to_image.drawing import draw, write
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
    following, telling = controlled(flat, controls)
    pipeline, shown = with_image_prompts(following, recipe)
    images = draw(pipeline, [recipe.prompt], recipe, telling=telling | shown, height=height, width=width)
    files = _files(recipe) | image_prompt_files(recipe)
    outputs = write(recipe.output, images, [recipe.prompt], recipe, files)
    if recipe.from_picture:
        outputs.append(save_image(recipe.map_output, controls[0].map))
    return outputs, {"images": recipe.num_images, "height": height, "width": width}


def _controls(recipe: ControlRecipe, height: int, width: int) -> list[Control]:
    """What the recipe names, read for images of this size."""
    found = []
    for number, told in enumerate(recipe.controls()):
        makes = recipe.from_picture and number == 0
        seen = read_edges(told.map, height, width) if makes else read_map(told.map, height, width, recipe.fit)
        found.append(Control(read_controlnet(told.network), seen, told.weight, recipe.start, recipe.end,
                             recipe.guess))  # fmt: skip
    return found


def _files(recipe: ControlRecipe) -> dict[str, Path]:
    """ControlNets and maps by name."""
    files = {}
    for number, told in enumerate(recipe.controls()):
        files |= {f"controlnet {number}": told.network, f"map {number}": told.map}
    return files
