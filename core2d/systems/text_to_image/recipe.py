"""What `core2d text-to-image` is told. No torch here."""

from dataclasses import dataclass

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, check_output
from core2d.app.recipe import DrawingRecipe, Loras, Output, Prompts, files_and_strengths
from core2d.app.registry import resolve


@dataclass(frozen=True, kw_only=True)
class TextToImageRecipe(DrawingRecipe):
    """Draw images from text with a diffusion prior."""

    prompts: Prompts
    """What to draw. Several images make a sheet; the single ones lie in a folder beside it (out/000.png, ...)."""
    output: Output
    """Image to write: .png, .jpg or .webp."""
    lora: Loras = ()
    """LoRAs to add, such as style.safetensors@0.8; a strength of 1 where none is named."""

    def check(self) -> None:
        super().check()
        if not self.prompts:
            raise InputError('no prompt: give at least one, such as "a red mug"')
        for prompt in self.prompts:
            self.check_words(prompt)
        files_and_strengths("--lora", self.lora)
        check_output(self.output, IMAGE_SUFFIXES)
        resolve(self.model)
