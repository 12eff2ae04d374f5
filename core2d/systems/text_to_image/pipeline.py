"""Images from text with a diffusion prior and classifier-free guidance.

It samples what `StableDiffusionPipeline` samples from the same folder with the same generators, and adds
views (the camera token), one generator for each sample, and batches that fit into memory.

    pipeline = TextToImage.from_pretrained("toybox-sd")
    image = pipeline("a red mug", seed=0).images[0]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.files.loading import save_model
from core2d.prior.backbone import OURS, Backbone
from core2d.prior.base import Camera, Prior
from core2d.prior.camera_token import camera_features
from core2d.prior.condition import Adapter
from core2d.prior.sampling import Guided, check_steps, denoise, generators_for
from core2d.prior.schedulers import make_scheduler

LARGEST_BATCH = 64
POSITIONS_AT_ONCE = 32_768  # latent positions in one call of the denoiser: 8 images of SD 1.5
POSITIONS_DECODED = 8_192  # the decoder works at full resolution, on fewer images

OutputType = Literal["pil", "pt", "np", "latent"]
StepCallback = Callable[["TextToImage", int, Any, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass(frozen=True)
class TextToImageOutput:
    """`images`: PIL images, or all in one array: (n, 3, H, W) torch or (n, H, W, 3) NumPy in [0, 1], or
    latents.
    """

    images: Any


class TextToImage:
    """A prior and a scheduler that together draw images from text.

    Args:
        backbone: a `Backbone`, or an oracle.
        scheduler: a diffusers scheduler, the name of one (see `core2d.prior.schedulers`), or None for the one
            of the model's folder.
    """

    def __init__(self, backbone: Prior, scheduler: SchedulerMixin | str | None = None):
        self.backbone = backbone
        settings = backbone.family.scheduler_settings if isinstance(backbone, Backbone) else {}
        self.scheduler_config = backbone.scheduler_config | settings
        self.scheduler = make_scheduler(self.scheduler_config, scheduler)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
    ) -> "TextToImage":
        """Load a model as `Backbone.load` does, with the scheduler of its folder."""
        return cls(Backbone.load(name_or_folder, device, dtype))

    def with_adapters(self, *adapters: Adapter) -> "TextToImage":
        """The same pipeline with adapters on its prior (`core2d.prior.condition`); this one stays as it is."""
        return TextToImage(self.backbone.with_adapters(*adapters), self.scheduler)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write an ordinary diffusers folder, which stock pipelines open too; weights in `dtype` if one is
        given.

        A model that is in the folder already is replaced, anything else there is refused.
        """
        backbone, folder = self.backbone, Path(folder)
        if not isinstance(backbone, Backbone):
            raise InputError("an oracle has no weights that could be saved")
        if folder.exists() and not (folder / "model_index.json").exists() and any(folder.iterdir()):
            raise InputError(f"{folder} holds something that is not a model: name another folder")
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            family, index = backbone.family, model_index(backbone, self.scheduler)
            for name in family.tokenizers:
                family.parts[name].save_pretrained(temporary / name)
            for name, module in backbone.named_models().items():
                save_model(module, temporary / name, dtype)
            self.scheduler.save_pretrained(temporary / "scheduler")
            write_json(temporary / "model_index.json", index)
            if backbone.world:
                write_json(temporary / OURS, {"world": backbone.world})

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        negative_prompt: str | list[str] | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 5.0,
        guidance_rescale: float = 0.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        camera: Camera | None = None,
        telling: Mapping[str, Tensor] | None = None,
        telling_without_words: Mapping[str, Tensor] | None = None,
        scheduler: SchedulerMixin | str | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> TextToImageOutput:
        """Draw n = prompts x `num_images_per_prompt` images, those of one prompt side by side.

        Args:
            negative_prompt: what to steer away from: one, or one for each prompt.
            guidance_scale: uncond + scale (cond - uncond); 1 and less switch guidance off, as in diffusers.
            guidance_rescale: in [0, 1], against over-saturation (2305.08891 s3.4).
            generator: one for each sample, in the order of the images; a single one for a single image.
            seed: instead of generators: image i of every prompt starts from seed + i, whatever else is drawn
                with it.
            camera: one view, or n (`core2d.prior.cameras.Cameras` or (n, 5) features), where the model has a camera
                token.
            telling: what adapters are told, by name: (n, ...), or (1, ...) for all alike (`with_adapters`).
            telling_without_words: what the row without words is told instead, by the same names.
            scheduler: another one for this call, by name or made.
            height, width: in pixels, multiples of the autoencoder's factor; those of training by default.
            latents: (n, c, h, w) standard normal noise to start from.
            batch_size: samples at once; by default as many as reasonably fit, at most 64. It does not change
                results.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": ...}) in each step of each
                batch; may return a dict with other latents.

        Raises:
            InputError: an empty or too long prompt, a size or a number of steps that is not possible,
                arguments that this model cannot honour.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(prompts) * num_images_per_prompt
        _check(prompts, num_images_per_prompt, guidance_scale, negative_prompt, guidance_rescale)
        check_steps(self.backbone, num_inference_steps)
        if batch_size is not None and batch_size < 1:
            raise InputError(f"a batch size of {batch_size} is not possible: give 1 or more")
        if output_type not in ("pil", "pt", "np", "latent"):
            raise InputError(f"output type {output_type!r} is none of pil, pt, np, latent")
        shape = (count, *self._latent_shape(height, width))
        offsets = list(range(num_images_per_prompt)) * len(prompts)
        generators = generators_for(generator, seed, offsets, "images")
        noise = randn_tensor(shape, generators, self.backbone.device) if latents is None else latents  # (n, c, h, w)
        if noise.shape != shape:
            raise InputError(f"latents have shape {tuple(noise.shape)} where {shape} is needed")
        condition = self.backbone.encode_text(prompts).repeat_interleave(num_images_per_prompt)  # n rows
        unconditional = None
        if guidance_scale > 1:
            negatives = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""] * len(prompts)
            unconditional = self.backbone.encode_text(negatives).repeat_interleave(num_images_per_prompt)  # n rows
        if camera is not None:
            view = camera_features(camera)  # (n or 1, 5)
            if len(view) not in (1, count):
                raise InputError(f"{len(view)} cameras for {count} images: give one, or one for each")
            condition = condition.seen_from(view)

        if telling:
            condition = condition.telling(**telling)
            if len(condition) != count:
                raise InputError(f"adapters are told of {len(condition)} images where {count} are drawn")
        if telling_without_words and unconditional is not None:
            unconditional = unconditional.telling(**telling_without_words)

        positions = shape[2] * shape[3]
        at_once = batch_size or max(1, min(LARGEST_BATCH, POSITIONS_AT_ONCE // positions))
        done = []
        for rows in (slice(start, start + at_once) for start in range(0, count, at_once)):
            step = make_scheduler(self.scheduler_config, scheduler or self.scheduler)
            step.set_timesteps(num_inference_steps, device=self.backbone.device)
            guide = Guided(
                self.backbone,
                condition[rows],
                None if unconditional is None else unconditional[rows],
                guidance_scale,
                guidance_rescale,
            )
            start = noise[rows].to(self.backbone.device) * getattr(step, "init_noise_sigma", 1.0)
            on_step = None if callback_on_step_end is None else partial(callback_on_step_end, self)
            done.append(denoise(guide, start, step, generators[rows], on_step))
        images = self._finish(torch.cat(done), output_type, max(1, POSITIONS_DECODED // positions))
        return TextToImageOutput(images) if return_dict else (images,)  # pyright: ignore[reportReturnType]

    def _finish(self, latents: Tensor, output_type: OutputType, at_once: int) -> Any:
        if output_type == "latent":
            return latents
        images = torch.cat([self.backbone.decode(part) for part in latents.split(at_once)])  # (n, 3, H, W)
        if output_type == "pt":
            return images
        arrays = images.permute(0, 2, 3, 1).float().cpu().numpy()  # (n, H, W, 3)
        if output_type == "np":
            return arrays
        return [Image.fromarray(array) for array in (arrays * 255).round().astype(np.uint8)]

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        factor = self.backbone.vae_scale_factor
        sides = [self.backbone.image_size if side is None else side for side in (height, width)]
        for side in sides:
            if side < factor or side % factor:
                raise InputError(f"an image side of {side} pixels is not possible: give a multiple of {factor}")
        return self.backbone.latent_channels, sides[0] // factor, sides[1] // factor


def model_index(backbone: Backbone, scheduler: Any) -> dict[str, Any]:
    """The content of `model_index.json`: library and class of each component, and the pipeline's own
    settings.
    """
    family = backbone.family
    settings = {name: value for name, value in family.index.items() if not isinstance(value, list)}
    index = {"_class_name": family.pipeline_name, **settings, "_diffusers_version": diffusers.__version__}
    components = {name: family.parts[name] for name in (*family.models, *family.tokenizers)}
    components |= {"vae": backbone.vae, "scheduler": scheduler}
    if backbone.image_encoder is not None:
        components["image_encoder"] = backbone.image_encoder
    index |= {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in components.items()}
    absent = family.optional_components - components.keys()
    return index | {name: [None, None] for name in sorted(absent)}


def _check(
    prompts: list[str],
    images: int,
    scale: float,
    negative_prompt: str | list[str] | None,
    rescale: float,
) -> None:
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise InputError('a prompt is empty: say what to draw, such as "a red mug"')
    if images < 1:
        raise InputError(f"{images} images for each prompt are not possible: give 1 or more")
    if isinstance(negative_prompt, list) and len(negative_prompt) != len(prompts):
        raise InputError(f"{len(negative_prompt)} negative prompts for {len(prompts)} prompts: give one for each")
    if not 0 <= rescale <= 1:
        raise InputError(f"a guidance rescale of {rescale} is not possible: give 0 to 1")
    if scale <= 1 and (negative_prompt or rescale):
        raise InputError(f"a guidance scale of {scale} switches guidance off: no negative prompt or rescale then")
