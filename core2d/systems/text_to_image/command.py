"""The work behind `core2d text-to-image`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from core2d.adapters.options import lora_files, with_loras
from core2d.app.devices import pick_device, pick_dtype
from core2d.app.errors import InputError
from core2d.app.outputs import plain
from core2d.app.provenance import digests
from core2d.app.recipe import files_and_strengths
from core2d.app.registry import resolve
from core2d.media.sheets import check_singles, save_sheet
from core2d.prior.backbone import Backbone
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.systems.text_to_image.recipe import TextToImageRecipe


def follow(recipe: TextToImageRecipe) -> tuple[list[Path], Mapping[str, Any]]:
    """Follow `core2d text-to-image`.

    One image is the output itself. Of several, the output is a sheet, with a row for each prompt where each
    has several images, and the single images are `000.png`, `001.png`, ... in a folder beside it of the same
    name without suffix.
    """
    recipe.check()
    count = len(recipe.prompts) * recipe.num_images
    if count > 1:
        check_singles(recipe.output)
    prior = Backbone.load(recipe.model, pick_device(recipe.device), pick_dtype(recipe.dtype))
    pipeline = TextToImage(with_loras(prior, files_and_strengths("--lora", recipe.lora)))
    with tqdm(total=count * recipe.steps, unit="step", disable=None, leave=False) as bar:

        def advance(_pipeline: TextToImage, _step: int, _t: Any, tensors: dict[str, Tensor]) -> None:
            bar.update(len(tensors["latents"]))

        images = pipeline(
            list(recipe.prompts),
            negative_prompt=recipe.negative_prompt or None,
            num_inference_steps=recipe.steps,
            guidance_scale=recipe.cfg,
            num_images_per_prompt=recipe.num_images,
            seed=recipe.seed,
            scheduler=recipe.scheduler,
            output_type="pt",
            callback_on_step_end=advance,
        ).images.float()  # (n, 3, H, W)
    if not images.isfinite().all():
        raise InputError(f"the model gave numbers that are not finite in {recipe.dtype}: try --dtype float32")
    outputs = _write(recipe, images.cpu())
    return outputs, {"images": count, "height": images.shape[2], "width": images.shape[3]}


def _write(recipe: TextToImageRecipe, images: Tensor) -> list[Path]:
    """Write the image, or the single ones and their sheet; the output of the command comes first."""
    settings = plain(asdict(recipe))
    for name in ("output", "json", "device"):
        settings.pop(name)
    inputs = digests({"model": resolve(recipe.model), **lora_files(recipe.lora)})
    sheet_text = {"recipe": json.dumps(settings), "inputs": json.dumps(inputs)}
    texts = [
        sheet_text | {"prompt": prompt, "seed": recipe.seed + index}
        for prompt in recipe.prompts
        for index in range(recipe.num_images)
    ]
    is_table = recipe.num_images > 1 and len(recipe.prompts) > 1
    return save_sheet(recipe.output, images, texts, sheet_text, recipe.num_images if is_table else None)
