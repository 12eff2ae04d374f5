"""What `core2d text-to-image` is told. No torch here."""

from dataclasses import dataclass
from typing import Literal

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, check_output
from core2d.app.recipe import (
    Loras,
    Output,
    Prompts,
    Recipe,
    check_between,
    check_prompt,
    check_prompt_length,
    files_and_strengths,
)
from core2d.app.registry import resolve


@dataclass(frozen=True, kw_only=True)
class TextToImageRecipe(Recipe):
    """Draw images from text with a diffusion prior."""

    prompts: Prompts
    """What to draw. Several images make a sheet; the single ones lie in a folder beside it (out/000.png, ...)."""
    output: Output
    """Image to write: .png, .jpg or .webp."""
    model: str = "toybox-sd"
    """A bundled model (see `core2d models`), a diffusers folder, or a hub id in the local cache."""
    lora: Loras = ()
    """LoRAs to add, such as style.safetensors@0.8; a strength of 1 where none is named."""
    steps: int = 25
    """Denoising steps."""
    cfg: float = 5.0
    """Classifier-free guidance scale: 1 follows the prompt freely, more follows it closely."""
    negative_prompt: str = ""
    """What the images should not show."""
    num_images: int = 1
    """Images for each prompt: those of one prompt stand in one row."""
    scheduler: Literal["ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc"] | None = None
    """How the noise is taken away step by step; None takes the scheduler of the model's folder."""

    def check(self) -> None:
        super().check()
        if not self.prompts:
            raise InputError('no prompt: give at least one, such as "a red mug"')
        for prompt in self.prompts:
            check_prompt(prompt)
        check_prompt_length(self.negative_prompt)
        check_between("--steps", self.steps, 1, 1000)
        check_between("--cfg", self.cfg, 0, 100)
        check_between("--num-images", self.num_images, 1, 1024)
        files_and_strengths("--lora", self.lora)
        check_output(self.output, IMAGE_SUFFIXES)
        resolve(self.model)
