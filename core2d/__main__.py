"""The command `core2d`."""

from collections.abc import Sequence

from core2d.app.program import Command, run_program

COMMANDS = {
    "text-to-image": Command("core2d.systems.text_to_image", "TextToImageRecipe"),
    "inpaint": Command("core2d.systems.inpaint", "InpaintRecipe", "inpaint"),
    "outpaint": Command("core2d.systems.inpaint", "OutpaintRecipe", "outpaint"),
    "control": Command("core2d.systems.control", "ControlRecipe"),
    "lora train": Command("core2d.systems.dreambooth", "LoraTrainRecipe", "train_lora"),
    "lora fuse": Command("core2d.systems.dreambooth", "LoraFuseRecipe", "fuse_loras"),
    "dreambooth": Command("core2d.systems.dreambooth", "DreamBoothRecipe", "dreambooth"),
    "verify": Command("core2d.systems.verify", "VerifyRecipe"),
    "models get": Command("core2d.files", "ModelsGetRecipe", "get_model"),
    "models": Command("core2d.files", "ModelsRecipe", "models"),
    "toybox sheet": Command("core2d.toybox", "ToyboxSheetRecipe", "sheet"),
    "toybox sample": Command("core2d.toybox", "ToyboxSampleRecipe", "sample"),
    "toybox clip": Command("core2d.toybox", "ToyboxClipRecipe", "clip"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `core2d` with `arguments` (those of the process by default)."""
    about = "A 2D latent diffusion prior, and the small world that it learned from."
    run_program("core2d", about, COMMANDS, arguments)


if __name__ == "__main__":
    main()
