"""What commands that draw single pictures from words share: drawing with a progress bar, and writing what was drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from core2d.app.errors import InputError
from core2d.app.outputs import plain
from core2d.app.provenance import digests
from core2d.app.recipe import DrawingRecipe
from core2d.app.registry import resolve
from core2d.media.sheets import save_sheet


def draw(pipeline: Callable[..., Any], prompts: Sequence[str], recipe: DrawingRecipe, **more: Any) -> Tensor:
    """(n, 3, H, W) images on the CPU, those of one prompt side by side.

    Args:
        pipeline: `TextToImage`, or one that is called alike.
        more: arguments of the pipeline that are none of the recipe's.

    Raises:
        InputError: the model gave numbers that are not finite.
    """
    count = len(prompts) * recipe.num_images
    with tqdm(total=count * recipe.steps, unit="step", disable=None, leave=False) as bar:

        def advance(_pipeline: Any, _step: int, _t: Any, tensors: dict[str, Tensor]) -> None:
            bar.update(len(tensors["latents"]))

        images = pipeline(
            list(prompts),
            negative_prompt=recipe.negative_prompt or None,
            num_inference_steps=recipe.steps,
            guidance_scale=recipe.cfg,
            num_images_per_prompt=recipe.num_images,
            seed=recipe.seed,
            scheduler=recipe.scheduler,
            output_type="pt",
            callback_on_step_end=advance,
            **more,
        ).images.float()
    if not images.isfinite().all():
        raise InputError(f"the model gave numbers that are not finite in {recipe.dtype}: try --dtype float32")
    return images.cpu()


def write(
    output: Path, images: Tensor, prompts: Sequence[str], recipe: DrawingRecipe, files: Mapping[str, Path]
) -> list[Path]:
    """Write the image, or the single ones and their sheet, with what made them; the output of the command comes first.

    Args:
        files: what the images depend on beside the model, by name.
    """
    settings = plain(asdict(recipe))
    for name in ("output", "json", "device"):
        settings.pop(name)
    inputs = digests({"model": resolve(recipe.model), **files})
    sheet_text = {"recipe": json.dumps(settings), "inputs": json.dumps(inputs)}
    texts = [
        sheet_text | {"prompt": prompt, "seed": recipe.seed + index}
        for prompt in prompts
        for index in range(recipe.num_images)
    ]
    is_table = recipe.num_images > 1 and len(prompts) > 1
    return save_sheet(output, images, texts, sheet_text, recipe.num_images if is_table else None)
