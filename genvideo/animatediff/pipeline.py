"""AnimateDiff (Guo et al. 2023, 2307.04725): a clip from a sentence, by the prior that draws pictures.

    pipeline = AnimateDiff.from_pretrained("toybox-sd", "toybox-motion")
    clip = pipeline("a red mug spinning clockwise", seed=0).frames[0]  # (16, 3, 64, 64) in [0, 1]

What it samples is what diffusers' `AnimateDiffPipeline` samples from the same weights, scheduler and generators. It
adds one generator for each clip, clips longer than the module's window (`genvideo.animatediff.windows`), frames that
are given, and a clip to start from.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from core2d.adapters.lora import fuse
from core2d.adapters.options import said_of
from core2d.app.errors import InputError
from core2d.prior.backbone import Backbone
from core2d.prior.base import rescale_contrast
from core2d.prior.condition import Adapter, Condition
from core2d.prior.sampling import check_steps, denoise, generators_for
from core2d.prior.schedulers import make_scheduler
from core2d.systems.text_to_image.pipeline import TextToImage
from genvideo.animatediff.formats import ADAPTER, Facts, MotionFile, MotionVersion, read_motion, write_motion
from genvideo.animatediff.motion import MotionBackbone, mixed_noise, read_vae
from genvideo.animatediff.motion_lora import read_motion_lora
from genvideo.animatediff.sparse_control import GIVEN_FRAMES, SparseControl, read_sparse_control
from genvideo.animatediff.windows import blend, window_starts, window_weights

# On which the published modules were trained, whatever their backbone was: what configs of the authors' code say, and
# for the rest the defaults of diffusers' DDIM, which it makes from them (2307.04725; inference-v1, -v2 and -v3.yaml).
# What the network predicts is not among it: that is up to the backbone.
PUBLISHED_SCHEDULE = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.00085,
    "beta_end": 0.012, "trained_betas": None, "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": True,
    "timestep_spacing": "leading", "rescale_betas_zero_snr": False, "thresholding": False,
}  # fmt: skip
FRAMES = 16  # of a clip, and of a window: what modules are trained on

StepCallback = Callable[["AnimateDiff", int, Any, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass(frozen=True)
class AnimateDiffOutput:
    """`frames`: (n, f, 3, H, W) in [0, 1], or latents (n, c, f, h, w)."""

    frames: Tensor


class AnimateDiff:
    """A lifted prior and a scheduler that together draw clips from text.

    Args:
        prior: with its motion modules.
        scheduler: of diffusers, by name or made; by default that of the prior.
        takes_frames: whether the modules were trained with frames that are given without noise.
        shared_noise: the share of the noise that frames have in common; see `genvideo.animatediff.motion.mixed_noise`.
        control: an encoder that tells the modules of given frames (SparseCtrl), where they take none themselves.

    Attributes:
        modules: the file of the modules with its report, where they were read from one.
        loras: files that were added to them, with their strengths.
    """

    def __init__(
        self,
        prior: MotionBackbone,
        scheduler: SchedulerMixin | str | None = None,
        takes_frames: bool = False,
        shared_noise: float = 0.0,
        control: SparseControl | None = None,
    ):
        self.prior, self.takes_frames, self.shared_noise, self.control = prior, takes_frames, shared_noise, control
        if control is not None:
            control.check_fit(prior.unet)
            control.to(prior.device, prior.dtype)
        self.modules: MotionFile | None = None
        self.loras: Mapping[str | Path, float] = {}
        self.scheduler = make_scheduler(prior.scheduler_config, scheduler)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "toybox-sd",
        motion: str | Path = "toybox-motion",
        loras: Mapping[str | Path, float] | None = None,
        control: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        vae: str | Path | None = None,
        motion_version: MotionVersion | None = None,
    ) -> AnimateDiff:
        """Load a 2D model as `Backbone.load` does, and motion modules as `read_motion` does.

        Args:
            loras: files of MotionLoRAs, domain adapters and other LoRAs, and how strongly each is added.
            control: a SparseCtrl encoder; see `read_sparse_control`.
            vae: another autoencoder for the same latents, such as sd-vae-ft-mse: a bundled name, or a folder. By
                default the one that the modules name, else that of the model.
            motion_version: of the modules, where their file cannot tell v1 from v3.

        Raises:
            InputError: one cannot be read, or they do not fit together.
        """
        flat, modules = Backbone.load(model, device, dtype), read_motion(motion, motion_version=motion_version)
        prior = MotionBackbone(flat, modules.motion, modules.facts.norms)
        for file, strength in modules.adapters.items():
            fuse(prior.unet, read_motion_lora(file), strength)
        for file, strength in (loras or {}).items():
            lora = read_motion_lora(file)
            with said_of(file):
                fuse({**flat.family.parts, "unet": prior.unet}, lora, strength)
        if modules.facts.schedule == "published":
            prior.use_schedule(flat.scheduler_config | PUBLISHED_SCHEDULE)
        other = vae or modules.vae
        if other is not None:
            prior.use_vae(read_vae(other, prior.vae.dtype))
        encoder = None if control is None else read_sparse_control(control)
        pipeline = cls(prior, None, modules.facts.takes_frames, modules.facts.shared_noise, encoder)
        pipeline.modules, pipeline.loras = modules, loras or {}
        return pipeline

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the 2D model as an ordinary diffusers folder, with the motion modules in its `motion_adapter/`.

        `AnimateDiff.from_pretrained(folder, folder / "motion_adapter")` opens it again.

        Raises:
            InputError: low-rank files were added on top, which the folder has no place for.
        """
        if self.loras:
            raise InputError("clips with added LoRA files are not saved as a model: keep the files beside it")
        folder = Path(folder)
        TextToImage(self.prior.flat).save_pretrained(folder, dtype)
        facts = Facts(takes_frames=self.takes_frames, shared_noise=self.shared_noise)
        modules = folder / "motion_adapter"
        write_motion(modules, self.prior.motion, facts=self.modules.facts if self.modules else facts, dtype=dtype)
        for file in self.modules.adapters if self.modules else ():
            shutil.copyfile(file, modules / ADAPTER)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        negative_prompt: str = "",
        num_frames: int = FRAMES,
        num_inference_steps: int = 25,
        guidance_scale: float = 5.0,
        guidance_rescale: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        scheduler: SchedulerMixin | str | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: Tensor | None = None,
        telling: Mapping[str, Tensor] | None = None,
        given: Mapping[int, Tensor] | None = None,
        control_scale: float = 1.0,
        video: Tensor | None = None,
        strength: float = 0.6,
        window: int | None = None,
        overlap: int | None = None,
        decode_chunk_size: int = 16,
        output_type: str = "pt",
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> AnimateDiffOutput:
        """Draw a clip for each of n prompts.

        Args:
            negative_prompt: what to steer away from.
            num_frames: of each clip; more than `window` are drawn in overlapping windows.
            guidance_scale: uncond + scale (cond - uncond); 1 and less switch guidance off.
            generator: one for each clip, or a seed: clip i starts from seed + i, whatever else is drawn with it.
            latents: (n, c, f, h, w) standard normal noise to start from.
            telling: what adapters are told, by name (`with_adapters`): (1, ...) for all clips, (n, ...) for each clip,
                or (n f, ...) for each frame, those of one clip side by side. Beside it a prompt may be empty.
            given: pictures (3, H, W) in [0, 1] by the frame that they are to be; -1 is the last.
            control_scale: of what a SparseCtrl encoder adds.
            video: (f, 3, H, W) in [0, 1], to be drawn anew; its frames and size count.
            strength: in (0, 1], how much of `video` is noise at the start.
            window: frames at once, by default 16; `overlap` of them are shared by neighbours, by default a quarter.
            decode_chunk_size: frames decoded at a time; it does not change results.
            output_type: "pt" or "latent".
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": ...}); may return a dict with other
                latents.

        Raises:
            InputError: a prompt that is empty or too long, numbers, sizes or arguments that are not possible.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts or not (telling or all(one.strip() for one in prompts)):
            raise InputError('a prompt is empty: say what to show, such as "a red mug spinning clockwise"')
        check_steps(self.prior, num_inference_steps)
        if video is not None:
            num_frames, (height, width) = len(video), video.shape[-2:]
        if output_type not in ("pt", "latent"):
            raise InputError(f"no output type {output_type!r}: give pt or latent")
        windows = self._windows(num_frames, window, overlap)
        shape = (len(prompts), self.prior.latent_channels, num_frames, *self._latent_size(height, width))
        generators = generators_for(generator, seed, range(len(prompts)), "clips")
        noise = self.initial_noise(shape, generators) if latents is None else latents.to(self.prior.device).float()
        if noise.shape != shape:
            raise InputError(f"latents have shape {tuple(noise.shape)} where {shape} is needed")

        pictures = self._pictures(given or {}, shape)
        known = self._known({} if self.control else pictures, shape)
        prior, condition = self.prior, self.prior.encode_text(prompts)
        if telling:
            condition = self._telling(condition, num_frames, telling)
        if self.control and pictures:
            prior = prior.with_adapters(replace(self.control, scale=control_scale))
            frames = self.control.told(prior, pictures, shape).repeat(len(prompts), 1, 1, 1)  # (n f, c + 1, H, W)
            condition = condition.of_frames(len(prompts), num_frames).telling(**{GIVEN_FRAMES: frames})
        step = make_scheduler(self.prior.scheduler_config, scheduler or self.scheduler)
        step.set_timesteps(num_inference_steps, device=self.prior.device)
        begin, start = 0, noise * getattr(step, "init_noise_sigma", 1.0)
        if video is not None:
            begin, start = self._noisy(video, noise, step, strength)
        unconditional = self.prior.encode_text([negative_prompt]) if guidance_scale > 1 else None
        guide = _Clips(prior, condition, unconditional, guidance_scale, guidance_rescale, windows, known,
                       list(step.timesteps))  # fmt: skip
        on_step = None if callback_on_step_end is None else partial(callback_on_step_end, self)
        drawn = known.put_into(denoise(guide, start, step, generators, on_step, begin))
        frames = drawn if output_type == "latent" else prior.decode_clips(drawn, decode_chunk_size).transpose(1, 2)
        return AnimateDiffOutput(frames) if return_dict else (frames,)  # pyright: ignore[reportReturnType]

    def with_adapters(self, *adapters: Adapter) -> AnimateDiff:
        """The same pipeline with adapters on its prior (`core2d.prior.condition`); this one stays as it is.

        Adapters of the 2D prior see the frames of clips side by side, as pictures.
        """
        other = copy.copy(self)
        other.prior = self.prior.with_adapters(*adapters)
        return other

    def _telling(self, condition: Condition, frames: int, telling: Mapping[str, Tensor]) -> Condition:
        """A condition of n clips that adapters are told more of; a row for each frame, if any is told so."""
        clips, rows = len(condition), {len(part) for part in telling.values()}
        if not rows <= {1, clips, clips * frames}:
            raise InputError(
                f"adapters are told of {max(rows)} rows: give 1, {clips} for clips or {clips * frames} for frames"
            )
        if rows <= {1, clips}:
            return condition.telling(**telling)
        each = {name: part if len(part) != clips else part.repeat_interleave(frames, dim=0)
                for name, part in telling.items()}  # fmt: skip
        return condition.of_frames(clips, frames).telling(**each)

    def initial_noise(self, shape: tuple[int, ...], generators: list[torch.Generator]) -> Tensor:
        """Standard normal noise (n, c, f, h, w) to start from, one generator for each clip."""
        noise = randn_tensor(shape, generators, self.prior.device, torch.float32)
        if not self.shared_noise:  # then it is that of the stock pipeline, number by number
            return noise
        common = randn_tensor((*shape[:2], 1, *shape[3:]), generators, self.prior.device, torch.float32)
        return mixed_noise(noise, common, self.shared_noise)

    def _windows(self, frames: int, window: int | None, overlap: int | None) -> Windows:
        window = min(window or FRAMES, frames)
        alone = frames <= window  # then there is nothing to overlap with
        overlap = window // 4 if overlap is None or alone else overlap
        if frames < 1:
            raise InputError(f"a clip of {frames} frames is not possible: give 1 or more")
        if not 1 <= window <= self.prior.window:
            raise InputError(f"a window of {window} frames is not possible: the motion modules know up to "
                             f"{self.prior.window}; longer clips are drawn in windows by themselves")  # fmt: skip
        if not 0 <= overlap < window:
            raise InputError(f"windows of {window} frames cannot overlap by {overlap}: give 0 to {window - 1}")
        return Windows(frames, window, overlap)

    def _latent_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        factor = self.prior.vae_scale_factor
        sides = [self.prior.image_size if side is None else side for side in (height, width)]
        for side in sides:
            if side < factor or side % factor:
                raise InputError(f"a side of {side} pixels is not possible: give a multiple of {factor}")
        return sides[0] // factor, sides[1] // factor

    def _pictures(self, given: Mapping[int, Tensor], shape: tuple[int, ...]) -> dict[int, Tensor]:
        """The given frames, counted from the first."""
        if given and not (self.takes_frames or self.control):
            raise InputError("these motion modules take no given frames: use toybox-motion, or a SparseCtrl encoder "
                             "beside them")  # fmt: skip
        frames, factor, pictures = shape[2], self.prior.vae_scale_factor, {}
        for index, picture in given.items():
            if not -frames <= index < frames:
                raise InputError(f"frame {index} is given, and the clip has frames 0 to {frames - 1}")
            if picture.shape[-2:] != (shape[3] * factor, shape[4] * factor):
                raise InputError(f"a given frame has {picture.shape[-1]} x {picture.shape[-2]} pixels, the clip "
                                 f"{shape[4] * factor} x {shape[3] * factor}")  # fmt: skip
            if index % frames in pictures:
                raise InputError(f"frame {index} is given twice: the clip has {frames}")
            pictures[index % frames] = picture
        return pictures

    def _known(self, pictures: Mapping[int, Tensor], shape: tuple[int, ...]) -> Known:
        """The latents of given frames, for every clip alike."""
        latents, mask = torch.zeros(shape[1:]), torch.zeros(shape[2], dtype=torch.bool)
        for index, picture in pictures.items():
            latents[:, index] = self.prior.encode_images(picture[None].float())[0].cpu()
            mask[index] = True
        return Known(latents.to(self.prior.device), mask.to(self.prior.device))

    def _noisy(self, video: Tensor, noise: Tensor, scheduler: Any, strength: float) -> tuple[int, Tensor]:
        """The step to begin with, and the latents of a clip, as noisy as there."""
        if not 0 < strength <= 1:
            raise InputError(f"a strength of {strength} is not possible: give more than 0, and up to 1")
        if "PNDM" in type(scheduler).__name__:
            raise InputError("the scheduler pndm cannot begin in the middle: draw a clip anew with ddim, say")
        steps = len(scheduler.timesteps)
        begin = min(round(steps * (1 - strength)), steps - 1)
        clean = self.prior.encode_clips(video.transpose(0, 1)[None].float()).to(noise)  # (1, c, f, h, w)
        first = scheduler.timesteps[begin : begin + 1]
        return begin, scheduler.add_noise(clean.expand_as(noise), noise, first.expand(len(noise)))


@dataclass(frozen=True)
class Windows:
    """How the frames of a clip are divided."""

    frames: int
    window: int
    overlap: int


@dataclass(frozen=True)
class Known:
    """Frames that are given: latents (c, f, h, w), and which they are (f,)."""

    latents: Tensor
    mask: Tensor

    def put_into(self, clips: Tensor) -> Tensor:
        """Clips (b, c, f, h, w) with these frames in place of theirs."""
        return torch.where(self.mask[:, None, None], self.latents.to(clips), clips)


@dataclass(frozen=True)
class _Clips:
    """The guided output for clips (b, c, f, h, w) at t, window by window."""

    prior: MotionBackbone
    condition: Condition
    unconditional: Condition | None
    scale: float
    rescale: float
    windows: Windows
    known: Known
    timesteps: list[Tensor]

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        frames, window = self.windows.frames, self.windows.window
        starts = window_starts(frames, window, self.windows.overlap, self.timesteps.index(t))
        x_t = self.known.put_into(x_t)
        parts = [self._predict(x_t[:, :, start : start + window], t, start) for start in starts]
        return blend(parts, starts, frames, window_weights(window, self.windows.overlap))

    def _predict(self, clips: Tensor, t: Tensor, start: int) -> Tensor:
        """The output for a part of the clips that the modules know the length of."""
        condition = self._of_window(len(clips), start, clips.shape[2])
        if self.unconditional is None:
            return self.prior.network(clips, t, condition)
        guided, with_text = self.prior.network_cfg(clips, t, condition, self.unconditional, self.scale)
        return rescale_contrast(guided, with_text, self.rescale) if self.rescale else guided

    def _of_window(self, clips: int, start: int, frames: int) -> Condition:
        """What is told of some of the frames: those rows, where each frame of the clips has its own."""
        whole = self.windows.frames
        if len(self.condition) != clips * whole:
            return self.condition
        window = slice(start, start + frames)
        return self.condition.map(lambda part: part.unflatten(0, (clips, whole))[:, window].flatten(0, 1))
