"""A part of a picture drawn anew, with a model of either kind.

    pipeline = Inpaint.from_pretrained("toybox-sd")
    image = pipeline("a red mug", Image.open("photo.png"), Image.open("mask.png"), seed=0).images[0]

An ordinary prior draws everything and is given the picture back outside of the mask after each step (`Over`, in
`core2d.prior.sampling`). An inpainting model is told the mask and the picture without what is masked, as more channels
of its input (Rombach et al. 2022, 2112.10752, section 4.5). What is drawn is put into the picture as `seam` says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from PIL import Image
from torch import Tensor

from core2d.app.errors import InputError
from core2d.media.colors import on_color
from core2d.prior.backbone import Backbone
from core2d.prior.condition import Adapter
from core2d.prior.sampling import Over
from core2d.systems.inpaint.canvas import drawn_size, resized, shown, window_around
from core2d.systems.inpaint.formats import load_inpainter
from core2d.systems.inpaint.masks import on_latents
from core2d.systems.inpaint.seam import joined
from core2d.systems.text_to_image.pipeline import TextToImage, TextToImageOutput

GREY = 0.5  # what a masked picture shows where it is masked: 0 of [-1, 1]
CONTEXT = 0.5  # in lengths of what is masked
FEATHER, WIDEST = 1 / 8, 64.0  # of the shorter side of the window, and pixels: how wide a fit is where none is named


class Inpaint:
    """A prior or an inpainting model that draws parts of pictures anew.

    Args:
        backbone: of either kind, see `Backbone.load` and its `inpaints`.
        scheduler: see `TextToImage`.
    """

    def __init__(self, backbone: Backbone, scheduler: SchedulerMixin | str | None = None):
        self.backbone, self.drawing = backbone, TextToImage(backbone, scheduler)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
    ) -> Inpaint:
        """Load a prior, an inpainting model, or one that borrows its prior (`core2d.systems.inpaint.formats`)."""
        return cls(load_inpainter(name_or_folder, device, dtype))

    def with_adapters(self, *adapters: Adapter) -> Inpaint:
        """The same pipeline with adapters on its prior (`core2d.prior.condition`); this one where as it is."""
        return Inpaint(self.backbone.with_adapters(*adapters), self.drawing.scheduler)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write an ordinary diffusers folder, see `TextToImage.save_pretrained`."""
        self.drawing.save_pretrained(folder, dtype)

    def __call__(
        self,
        prompt: str | list[str],
        image: Image.Image | np.ndarray,
        mask: Image.Image | np.ndarray,
        *,
        strength: float = 1.0,
        context: float = CONTEXT,
        feather: float | None = None,
        output_type: Literal["pil", "pt"] = "pil",
        return_dict: bool = True,
        **drawing: Any,
    ) -> TextToImageOutput:
        """Draw n = prompts x `num_images_per_prompt` pictures of the size of `image`, and with its bytes outside of the
        mask.

        Args:
            image: a picture of any size, uint8 (h, w, 3 or 4) or of PIL. The model sees what is transparent on white;
                what is drawn is opaque.
            mask: (h, w) of bool, or of PIL: white where is drawn anew, from half of the brightness on.
            strength: see `Over`; below 1 the drawing begins with the picture.
            context: how much around the mask is shown to the model, in lengths of what is masked.
            feather: pixels over which the fit to what is beside the mask fades (`seam`); an eighth of what the model
                is shown if None, at most 64; 0 fits nothing.
            output_type: images of PIL, or one tensor (n, 3 or 4, h, w) in [0, 1] of 256 values.
            drawing: other arguments of `TextToImage`, but for sizes and latents.

        Returns:
            As `TextToImage`.

        Raises:
            InputError: as `TextToImage`; a mask of another size or that marks nothing, numbers that are out of their
                range, or the model gave numbers that are not finite.
        """
        pixels, marked = _pixels(image), _marked(mask)
        _check(pixels, marked, context, feather)
        prior = self.backbone
        window = window_around(marked, context, prior.image_size)
        size = drawn_size(window, prior.image_size, prior.vae_scale_factor)
        seen, masked = shown(on_color(pixels), marked, window, size)
        picture = torch.from_numpy(seen.copy()).permute(2, 0, 1)[None].float() / 255  # (1, 3, H, W)
        drawn = self.redraw(prompt, picture, torch.from_numpy(masked)[None, None].float(), strength, **drawing)
        part, where = pixels[window.part], marked[window.part]
        width = min(WIDEST, FEATHER * min(part.shape[:2])) if feather is None else feather
        results = []
        for one in (drawn.float().cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy():
            result = pixels.copy()
            result[window.part] = joined(part, resized(one, part.shape[:2]), where, width)
            results.append(result)
        if output_type == "pt":
            images: Any = torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).float() / 255
        else:
            images = [Image.fromarray(result) for result in results]
        return TextToImageOutput(images) if return_dict else (images,)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def redraw(
        self, prompt: str | list[str], pictures: Tensor, masks: Tensor, strength: float = 1.0, **drawing: Any
    ) -> Tensor:
        """(n, 3, H, W) what the model draws, in [0, 1]; outside of the masks too it is the model's, not the picture's.

        Args:
            pictures: (n or 1, 3, H, W) in [0, 1], H and W multiples of the autoencoder's factor.
            masks: (n or 1, 1, H, W) of 1, where is drawn, and 0.
            strength, drawing: see `__call__`.
        """
        if not 0 < strength <= 1:
            raise InputError(f"a strength of {strength} is not possible: give more than 0, up to 1")
        if {"height", "width", "latents", "over", "channels", "output_type"} & drawing.keys():
            raise InputError("size and latents of what is drawn over are those of the picture")
        prior, count = self.backbone, (1 if isinstance(prompt, str) else len(prompt))
        count *= drawing.get("num_images_per_prompt", 1)
        pictures, masks = pictures.to(prior.device), masks.to(prior.device)
        where = on_latents(masks, prior.vae_scale_factor)  # (n or 1, 1, h, w)
        channels = None
        if prior.takes_mask:  # which keeps itself what stays
            channels, where = _rows(told(prior, pictures, masks), count), torch.ones_like(where)
        over = Over(_rows(prior.encode_images(pictures), count), _rows(where, count), strength)
        height, width = pictures.shape[2:]
        drawn: Any = self.drawing(
            prompt, height=height, width=width, over=over, channels=channels, output_type="pt", **drawing
        ).images
        if not drawn.isfinite().all():
            raise InputError("the model gave numbers that are not finite: its weights are damaged, or try "
                             "--dtype float32")  # fmt: skip
        return drawn


def told(prior: Backbone, pictures: Tensor, masks: Tensor) -> Tensor:
    """(n, 1 + c, h, w) what an inpainting model is told: the mask, and the latents of pictures without what is masked.

    Args:
        pictures: (n, 3, H, W) in [0, 1].
        masks: (n, 1, H, W) of 1 and 0.
    """
    latents = prior.encode_images(torch.where(masks > 0, GREY, pictures))  # (n, c, h, w)
    return torch.cat([on_latents(masks, prior.vae_scale_factor).to(latents), latents], dim=1)


def _rows(part: Tensor, count: int) -> Tensor:
    return part.expand(count, *part.shape[1:])


def _pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3 or 4)."""
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or not image.size:
        raise ValueError(f"a picture is (h, w, 3 or 4) of uint8, not {image.shape} of {image.dtype}")
    return image


def _marked(mask: Image.Image | np.ndarray) -> np.ndarray:
    """(h, w) of bool."""
    if isinstance(mask, Image.Image):
        mask = np.array(mask.convert("L")) >= 128
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise ValueError(f"a mask is (h, w) of bool, not {mask.shape} of {mask.dtype}")
    return mask


def _check(pixels: np.ndarray, mask: np.ndarray, context: float, feather: float | None) -> None:
    if mask.shape != pixels.shape[:2]:
        has, wants = (f"{one.shape[1]} x {one.shape[0]}" for one in (mask, pixels))
        raise InputError(f"the mask has {has} pixels and the picture {wants}: give one of that size")
    if not mask.any():
        raise InputError("the mask marks nothing: make white what is to be drawn anew")
    if not context >= 0:
        raise InputError(f"a context of {context} is not possible: give 0 or more")
    if feather is not None and not feather >= 0:
        raise InputError(f"a feather of {feather} is not possible: give pixels, or 0 for none")
