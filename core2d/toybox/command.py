"""The work behind `core2d toybox`: draw a sample, a sheet, a clip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core2d.media.pictures import image_grid, save_image
from core2d.media.videos import write_video
from core2d.toybox.dataset import to_bytes
from core2d.toybox.render import render
from core2d.toybox.sample import clip as clip_samples
from core2d.toybox.sample import sample as one_sample
from core2d.toybox.scene import still

if TYPE_CHECKING:
    from core2d.toybox.recipe import ToyboxClipRecipe, ToyboxSampleRecipe, ToyboxSheetRecipe

Result = tuple[list[Path], dict[str, object]]


def sample(recipe: ToyboxSampleRecipe) -> Result:
    """One picture and its caption."""
    picture = one_sample(recipe.seed, recipe.index, recipe.kind, recipe.size)
    save_image(recipe.output, to_bytes(picture.rgb), {"caption": picture.caption})
    return [Path(recipe.output)], {"caption": picture.caption}


def sheet(recipe: ToyboxSheetRecipe) -> Result:
    """Many pictures side by side."""
    count = recipe.rows * recipe.columns
    scenes = [still(recipe.seed, index, recipe.kind) for index in range(count)]
    pictures = to_bytes(render(scenes, recipe.size).rgb)
    save_image(recipe.output, image_grid(pictures, recipe.columns))
    return [Path(recipe.output)], {"pictures": count}


def clip(recipe: ToyboxClipRecipe) -> Result:
    """One film and its caption."""
    film = clip_samples(recipe.seed, recipe.index, recipe.frames, recipe.kind, recipe.size, recipe.fps)
    write_video(recipe.output, np.stack([to_bytes(frame.rgb) for frame in film]), recipe.fps)
    return [Path(recipe.output)], {"caption": film[0].caption, "frames": len(film), "fps": recipe.fps}
