"""The work behind `core2d text-to-image`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core2d.adapters.options import image_prompt_files, lora_files, with_image_prompts, with_loras
from core2d.app.devices import pick_device, pick_dtype
from core2d.app.recipe import files_and_strengths
from core2d.media.sheets import check_singles
from core2d.prior.backbone import Backbone
from core2d.systems.text_to_image.drawing import draw, write
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.systems.text_to_image.recipe import TextToImageRecipe


def follow(recipe: TextToImageRecipe) -> tuple[list[Path], Mapping[str, Any]]:
    """Follow `core2d text-to-image`.

    One image is the output itself. Of several, the output is a sheet, with a row for each prompt where each
    has several images, and the single images are `000.png`, `001.png`, ... in a folder beside it of the same
    name without suffix.
    """
    recipe.check()
    if len(recipe.prompts) * recipe.num_images > 1:
        check_singles(recipe.output)
    prior = Backbone.load(recipe.model, pick_device(recipe.device), pick_dtype(recipe.dtype))
    flat = TextToImage(with_loras(prior, files_and_strengths("--lora", recipe.lora)))
    pipeline, telling = with_image_prompts(flat, recipe)
    images = draw(pipeline, recipe.prompts, recipe, telling=telling)
    files = lora_files(recipe.lora) | image_prompt_files(recipe)
    outputs = write(recipe.output, images, recipe.prompts, recipe, files)
    return outputs, {"images": len(images), "height": images.shape[2], "width": images.shape[3]}
