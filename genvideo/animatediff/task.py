"""Training what moves: motion modules, MotionLoRA and domain adapter of AnimateDiff (2307.04725, section 4).

The three differ in which weights learn and from what; the task is one:

    unet = only_motion(inflate(backbone.family.denoiser, fresh_motion(backbone.family.denoiser)))  # section 4.2
    unet = motion_lora(unet, rank=8)          # section 4.3: one kind of motion, such as zooming in
    unet = domain_adapter(unet, rank=8)       # section 4.1: the look of the clips, from single frames
    train(MotionTask(unet, clips, backbone.schedule), recipe, run)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from peft import LoraConfig
from torch import Tensor

from core2d.app.devices import half_where_fast
from core2d.prior.backbone import Backbone
from core2d.prior.schedule import NoiseSchedule
from core2d.training.latent_diffusion import LatentDiffusion
from core2d.training.loop import step_generator
from genvideo.animatediff.motion import IN_MOTION, mixed_noise, temporal_parameters
from genvideo.animatediff.norms import tell_frames

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of an attention


@dataclass(frozen=True)
class EncodedClips:
    """n clips as the UNet meets them.

    Attributes:
        latents: (n, c, f, h, w) float16, scaled; the mode of each frame.
        words: (n, tokens, d) float16, what the text tower makes of the captions.
        empty: (1, tokens, d) of the empty caption.
        still_words: (n, tokens, d) of captions that ask for no motion, or None: then none are shown without one.
    """

    latents: Tensor
    words: Tensor
    empty: Tensor
    still_words: Tensor | None = None

    def those(self, wanted: Tensor) -> EncodedClips:
        """The clips of a (n,) bool mask, or at (m,) places."""
        still_words = None if self.still_words is None else self.still_words[wanted]
        return EncodedClips(self.latents[wanted], self.words[wanted], self.empty, still_words)

    def frame(self, index: int) -> EncodedClips:
        """Clips of one frame each."""
        return EncodedClips(self.latents[:, :, index : index + 1], self.words, self.empty, self.still_words)


@dataclass
class MotionTask:
    """Denoises clips; some frames of some of them are given, without noise, and the others are to go on from there.

    A module so trained draws a clip from its first frame, or between two, without further layers: to the frozen 2D
    layers a clean frame is one they would leave as it is, and the temporal layers pass on what it shows.

    Attributes:
        model: its parameters with gradients are trained.
        clips: what it learns from.
        schedule: of the noise.
        drop: share of captions that are dropped.
        still: share of clips that stop at one of their frames, under a caption that asks for no motion: without them
            whatever is shown would move, asked or not.
        given: share of clips of which the first frame is given, of which the last, and of which both.
        blind: share of clips that noise hides, fully or in part, at one of the last tenth of the steps. Sampling begins
            with noise alone, training at the last step of a Stable Diffusion schedule does not: a clip shines through
            so clearly (2305.08891 section 3.1; 2312.07537 section 3 for video) that nobody has to listen to the words
            to see where it goes, and sampling then goes anywhere.
        undecided: share of clips that show in each frame, fully or in part, their middle frame in place of their own,
            at one of the last six tenths of the steps. So a clip looks in sampling before it has decided where to go:
            what it shows is known, which way it turns is not, and only the words say that.
        hiding: how much of a blind or undecided clip shows is this power of a number drawn from [0, 1): 2 shows a third
            on average, 8 next to nothing of most.
        shared_noise: see `genvideo.animatediff.motion.mixed_noise`; the published modules have none.
        snr_floor: see `core2d.training.latent_diffusion.LatentDiffusion`.
    """

    model: UNetMotionModel
    clips: EncodedClips
    schedule: NoiseSchedule
    drop: float = 0.1
    still: float = 0.1
    given: tuple[float, float, float] = (0.25, 0.05, 0.1)
    blind: float = 0.0
    undecided: float = 0.0
    hiding: float = 2.0
    shared_noise: float = 0.0
    snr_floor: float = 0.3
    seed: int = 0

    @property
    def objective(self) -> LatentDiffusion:
        """What is minimised."""
        return LatentDiffusion(self.schedule, self.snr_floor)

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Noisy clips, their noise and time, their words, and which frames are given."""
        generator = step_generator(self.seed, step)
        chosen = torch.randint(len(self.clips.latents), (batch_size,), generator=generator)
        lots = torch.rand(5, batch_size, generator=generator)
        latents, words = self._shown(chosen, lots[0] < self.still, generator)
        words = torch.where((lots[1] < self.drop)[:, None, None], self.clips.empty.float(), words)
        given = given_frames(lots[2], latents.shape[2], self.given)  # (n, f)
        timesteps, visible = self._hidden(latents, lots[3], lots[4], generator)
        own = torch.randn(latents.shape, generator=generator)
        noise = mixed_noise(own, torch.randn(latents[:, :, :1].shape, generator=generator), self.shared_noise)
        batch = self.objective.noisy(latents, noise, timesteps, visible) | {"words": words, "given": given}
        batch["noisy"] = torch.where(given[:, None, :, None, None], latents, batch["noisy"])
        return {name: value[positions] for name, value in batch.items()}

    def _hidden(self, latents: Tensor, kind: Tensor, lot: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps (n,), and what of the clips (n, c, f, h, w) their noise is laid over: all, where nothing is hidden.

        Args:
            kind: (n,) in [0, 1): which clips are blind and which undecided.
            lot: (n,) in [0, 1): how much of these shows.
        """
        steps = self.schedule.num_train_timesteps
        timesteps = self.objective.timesteps(len(kind), generator)
        blind, undecided = kind < self.blind, (kind >= self.blind) & (kind < self.blind + self.undecided)
        late = torch.where(blind, timesteps // 10, timesteps * 6 // 10)
        timesteps = torch.where(blind | undecided, steps - 1 - late, timesteps)
        own = torch.where(blind | undecided, lot**self.hiding, 1.0)[:, None, None, None, None]
        middle = latents[:, :, latents.shape[2] // 2, None] * undecided[:, None, None, None, None]
        return timesteps, own * latents + (1 - own) * middle

    def _shown(self, chosen: Tensor, stops: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The chosen clips (n, c, f, h, w) and words (n, tokens, d), of which some stop."""
        latents, words = self.clips.latents[chosen].float(), self.clips.words[chosen].float()
        at = torch.randint(latents.shape[2], (len(chosen),), generator=generator)
        if self.clips.still_words is None:
            return latents, words
        stopped = latents[torch.arange(len(chosen)), :, at].unsqueeze(2).expand_as(latents)
        unmoved = self.clips.still_words[chosen].float()
        return torch.where(stops[:, None, None, None, None], stopped, latents), torch.where(
            stops[:, None, None], unmoved, words
        )

    def loss(self, model: UNetMotionModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """min-SNR weighted mean squared error of the frames that are not given."""
        frames = batch["noisy"].shape[2]
        words = batch["words"].repeat_interleave(frames, dim=0)  # (n f, tokens, d)
        tell_frames(model, frames)
        predicted = model(batch["noisy"], batch["timesteps"], encoder_hidden_states=words).sample
        return self.objective.loss(predicted, batch, asked=~batch["given"])


def given_frames(lot: Tensor, frames: int, shares: tuple[float, float, float]) -> Tensor:
    """(n, f) bool: which frames are given, by a number in [0, 1) for each clip; clips of one frame have none."""
    first_until, last_until, both_until = torch.tensor(shares).cumsum(0)
    both = (lot >= last_until) & (lot < both_until)
    given = torch.zeros(len(lot), frames, dtype=torch.bool)
    if frames > 1:
        given[:, 0] = (lot < first_until) | both
        given[:, -1] = ((lot >= first_until) & (lot < last_until)) | both
    return given


# -- which weights learn -------------------------------------------------------------------------------------------


def only_motion(unet: UNetMotionModel) -> UNetMotionModel:
    """Let the motion modules learn and nothing else; the same UNet."""
    unet.requires_grad_(False)
    for parameter in temporal_parameters(unet).values():
        parameter.requires_grad_(True)
    return unet


def motion_lora(unet: UNetMotionModel, rank: int = 8) -> UNetMotionModel:
    """Add low-rank layers to the attention over time, which learn and nothing else; the same UNet."""
    return _with_lora(unet, "motion_lora", rank, in_motion=True)


def domain_adapter(unet: UNetMotionModel, rank: int = 8) -> UNetMotionModel:
    """Add low-rank layers to the attention within frames, which learn and nothing else; the same UNet."""
    return _with_lora(unet, "domain_adapter", rank, in_motion=False)


def _with_lora(unet: UNetMotionModel, name: str, rank: int, in_motion: bool) -> UNetMotionModel:
    targets = [
        layer for layer, _ in unet.named_modules() if layer.endswith(PROJECTIONS) and (IN_MOTION in layer) == in_motion
    ]
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), adapter_name=name)
    for parameter_name, parameter in unet.named_parameters():
        parameter.requires_grad_(f".{name}." in parameter_name)
    return unet


# -- what they learn from ------------------------------------------------------------------------------------------


@torch.no_grad()
def encode_clips(
    backbone: Backbone, clips, captions: list[str], still_captions: list[str] | None = None, at_once: int = 8
) -> EncodedClips:
    """What the frozen parts of a prior make of clips, once.

    Args:
        backbone: on the device that does the work.
        clips: (n, f, 3, H, W) uint8, an array or a memory map.
        captions: n.
        still_captions: n that ask for no motion; see `EncodedClips`.
        at_once: clips encoded together.
    """
    parts = []
    for start in range(0, len(clips), at_once):
        frames = torch.as_tensor(clips[start : start + at_once]).to(backbone.device)  # (b, f, 3, H, W)
        with half_where_fast(backbone.device):
            rows = backbone.encode_images(frames.flatten(0, 1).float() / 255)
        parts.append(rows.unflatten(0, frames.shape[:2]).transpose(1, 2).half().cpu())
    still_words = None if still_captions is None else encode_words(backbone, still_captions)
    empty = encode_words(backbone, [""])
    return EncodedClips(torch.cat(parts), encode_words(backbone, captions), empty, still_words)


@torch.no_grad()
def encode_words(backbone: Backbone, captions: list[str]) -> Tensor:
    """(n, tokens, d) float16: what the text tower makes of captions, each of which it reads once."""
    said = {caption: backbone.encode_text([caption]).tokens.half().cpu() for caption in dict.fromkeys(captions)}
    return torch.cat([said[caption] for caption in captions])
