"""What the commands of genvideo can be told: torch-free dataclasses whose docstrings are the help."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import check_output
from core2d.app.recipe import (
    Loras,
    OptionalPath,
    Output,
    PromptedRecipe,
    Prompts,
    check_between,
    check_prompt_length,
    files_and_strengths,
    read_prompts,
)
from core2d.app.registry import resolve
from core2d.media.videos import FASTEST_GIF, VIDEO_SUFFIXES, check_video_output
from core2d.systems.control.recipe import Told, controls_said

FASTEST, LONGEST = 240, 10_000  # frames a second, frames


@dataclass(frozen=True, kw_only=True)
class TextToVideoRecipe(PromptedRecipe):
    """Draw clips from text with the diffusion prior and its motion modules (AnimateDiff)."""

    prompts: Prompts = ()
    """What to show, such as "a red mug spinning clockwise"."""
    prompts_file: Annotated[Path | None, tyro.conf.arg(name="prompts", metavar="FILE")] = None
    """More of them, one a line; empty lines and lines that begin with # do not count."""
    output: Output
    """Clip to write: .mp4, .webm, .gif, .apng, or a folder of PNG frames; a strip of its frames lies beside it
    (mug.strip.png). Several prompts, or a file of them, make a folder: a clip each, and contact-sheet.png; what is done
    there already is kept."""
    format: Literal["mp4", "webm", "gif", "apng"] = "mp4"
    """Of the clips of several prompts."""
    model: str = "toybox-sd"
    """A bundled model (see `core2d models`), or the folder of an SD 1.x model."""
    motion: str = "toybox-motion"
    """Motion modules: a bundled name, a folder of diffusers, or a file such as mm_sd_v15_v2.ckpt."""
    motion_version: Literal["v1", "v2", "v3"] | None = None
    """Which version of AnimateDiff the motion modules are of, where their file cannot tell v1 from v3."""
    vae: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Another autoencoder for the same latents, such as sd-vae-ft-mse: a bundled name or a folder; None takes the one
    that belongs to the motion modules, else that of the model."""
    lora: Loras = ()
    """MotionLoRAs, domain adapters and other LoRAs to add, such as v2_lora_ZoomIn.ckpt@0.8; a strength of 1 where none
    is named."""
    control: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND:MAP[@WEIGHT]")] = ()
    """Maps that the clips follow (ControlNet), such as pose:skeletons.mp4@0.8: a picture for all frames, or a clip with
    a map for each; KIND is depth, pose, ... or the path of a ControlNet. See `core2d control`."""
    frames: int = 16
    """Frames of a clip; more than a window are drawn in overlapping windows."""
    fps: str = "8"
    """Frames a second: a number or a fraction, such as 24000/1001."""
    steps: int = 25
    """Denoising steps."""
    cfg: float = 5.0
    """Classifier-free guidance scale: 1 follows the prompt freely, more follows it closely."""
    negative_prompt: str = ""
    """What the clips should not show."""
    scheduler: Literal["ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc"] | None = None
    """How the noise is taken away step by step; None takes the one that belongs to the motion modules."""
    image: OptionalPath = None
    """A picture to begin with: it becomes the first frame."""
    last: OptionalPath = None
    """A picture to end with: it becomes the last frame."""
    keyframes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="INDEX=PATH")] = ()
    """Pictures that become other frames, such as 8=middle.png; the first frame is 0, the last -1."""
    sparse_control: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """A SparseCtrl encoder, which tells published motion modules of the pictures that are given; toybox-motion knows
    them by itself."""
    control_scale: float = 1.0
    """How much that encoder counts."""
    video: OptionalPath = None
    """A clip to draw anew, as far as --strength says; its frames and rate count."""
    strength: float = 0.6
    """How much of --video is forgotten, from 0 to 1."""
    window: int = 16
    """Frames that are drawn together."""
    overlap: int | None = None
    """Frames that neighbouring windows share; None is a quarter of a window."""

    def check(self) -> None:
        super().check()
        for prompt in self.all_prompts():
            self.check_words(prompt, "a red mug spinning clockwise")
        check_prompt_length(self.negative_prompt)
        check_between("--frames", self.frames, 1, LONGEST)
        check_between("--steps", self.steps, 1, 1000)
        check_between("--cfg", self.cfg, 0, 100)
        check_between("--window", self.window, 1, LONGEST)
        if self.overlap is not None:
            check_between("--overlap", self.overlap, 0, self.window - 1)
        if not 0 < self.strength <= 1:
            raise InputError(f"--strength {self.strength}: give a number above 0, and up to 1")
        self.check_rate(self.rate)
        check_between("--control-scale", self.control_scale, 0, 10)
        if self.sparse_control is not None and not self.pictures:
            raise InputError("--sparse-control needs pictures: give --image, --last or --keyframes")
        if self.video is not None and self.pictures:
            raise InputError("--video has its own frames: leave out --image, --last and --keyframes")
        for name, path in (("--image", self.image), ("--last", self.last), ("--video", self.video),
                           ("--sparse-control", self.sparse_control), *(("--keyframes", path)
                           for path in self.pictures.values())):  # fmt: skip
            if path is not None and not Path(path).exists():
                raise InputError(f"{name} {path}: no such file")
        files_and_strengths("--lora", self.lora)
        controls_said("--control", self.control)
        self.check_output()
        for folder in (self.model, self.vae):
            if folder is not None:
                resolve(folder)

    def check_rate(self, rate: Fraction) -> None:
        """Refuse frames a second that no clip, or none of this format, can have."""
        check_between("--fps", float(rate), 0.01, FASTEST)
        suffix = f".{self.format}" if self.makes_a_folder else self.output.suffix.lower()
        if suffix == ".gif" and rate > FASTEST_GIF:
            raise InputError(
                f"a GIF shows up to {FASTEST_GIF} frames a second, not {float(rate):g}: name another format"
            )

    def check_output(self) -> None:
        """Refuse a place where nothing can be written."""
        if not self.output.name:
            raise InputError(f"cannot write {self.output}: name a clip, or a new folder for its frames")
        if not self.makes_a_folder:
            check_video_output(self.output)
            if not self.output.suffix:
                check_output(self.output / "000000.png", (".png",))
            check_output(self.strip, (".png",))
            return
        if self.output.suffix.lower() in VIDEO_SUFFIXES or self.output.is_file():
            raise InputError(f"several prompts make a folder, and {self.output} is the name of a file: name a folder")
        check_output(self.output / "contact-sheet.png", (".png",))

    def all_prompts(self) -> tuple[str, ...]:
        """Those on the command line, then those of the file, each once; InputError where there are none."""
        found = [*self.prompts, *(() if self.prompts_file is None else read_prompts(self.prompts_file))]
        if not found:
            raise InputError('no prompt: give at least one, such as "a red mug spinning clockwise"')
        return tuple(dict.fromkeys(prompt.strip() for prompt in found))

    @property
    def pictures(self) -> dict[int, Path]:
        """The pictures that are given, by the frame that they become; InputError where that is no number."""
        found = {index: path for index, path in ((0, self.image), (-1, self.last)) if path is not None}
        for one in self.keyframes:
            index, _, path = one.partition("=")
            if not (re.fullmatch(r"-?[0-9]{1,6}", index) and path):
                raise InputError(f"--keyframes {one}: give INDEX=PATH, such as 8=middle.png")
            if int(index) in found:
                raise InputError(f"--keyframes {one}: frame {index} is given twice")
            found[int(index)] = Path(path).expanduser()
        return found

    @property
    def loras(self) -> dict[str | Path, float]:
        """The files of --lora and their strengths; InputError where one is not there, or no number."""
        return {**files_and_strengths("--lora", self.lora)}

    @property
    def controls(self) -> list[Told]:
        """The ControlNets of --control, their maps and weights; InputError where something is not there."""
        return controls_said("--control", self.control)

    @property
    def makes_a_folder(self) -> bool:
        """Whether the output is a folder of clips."""
        return self.prompts_file is not None or len(self.prompts) > 1

    @property
    def rate(self) -> Fraction:
        """Frames a second; InputError where it is no number."""
        found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(?:/0*([1-9][0-9]{0,5}))?", self.fps)
        if found is None:
            raise InputError(f"--fps {self.fps}: give a number or a fraction, such as 8 or 24000/1001")
        return Fraction(found[1]) / int(found[2] or 1)

    @property
    def strip(self) -> Path:
        """The picture of all frames beside a clip."""
        return self.output.with_name(f"{self.output.stem}.strip.png")
