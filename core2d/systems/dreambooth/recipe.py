"""What `core2d lora train`, `core2d dreambooth` and `core2d lora fuse` are told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import check_output
from core2d.app.recipe import (
    OptionalOutput,
    Output,
    Recipe,
    check_between,
    check_prompt,
    files_and_strengths,
)
from core2d.app.registry import resolve
from core2d.toybox import world
from core2d.toybox.scene import still
from core2d.training.recipe import TrainingRecipe

LayersOrNone = Literal["words", "attention", "all"] | None
NO_FOLDER = Path()
ANEW = ("resume", "device", "json", "minutes")  # what a run that is gone on with may be told
KEPT, KEPT_SEED = 64, world.GENERATOR_SEEDS[0]  # captions of Toybox that its models keep to
ARTICLES = ("a", "an", "the")


@dataclass(frozen=True, kw_only=True)
class SubjectRecipe(Recipe):
    """What both trainings on a subject are told."""

    example: ClassVar[str]  # of an output
    rates: ClassVar[dict[str | None, float]]  # by the world of the model: those of Toybox are a hundred times smaller

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = NO_FOLDER
    """Pictures of the subject, four to six of them or more: PNG, JPEG, WebP. Cut-outs are laid on white, by their
    transparency or by a mask beside them (mug.png has mug.mask.png, white where the subject is)."""
    subject: str = ""
    """What it will be called: a rare word and what it is one of, such as "a sks mug"."""
    kind: str | None = None
    """What it is one of, such as "a mug"; None takes the subject without its rare word, the first after the article."""
    output: OptionalOutput = None
    model: str = "toybox-sd"
    """A bundled model (see `core2d models`), a diffusers folder, or a hub id in the local cache."""
    steps: int = 400
    """Training steps."""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Stop after this long, however many steps were taken; the learning rate falls with the time."""
    batch_size: int = 8
    """Pictures of one step; half of them are of the kind, where the prior is preserved."""
    learning_rate: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    preservation: float = 1.0
    """How much it counts that others of the kind stay as they are (prior preservation); 0 does without."""
    kind_pictures: int = 64
    """Pictures of the kind that the model draws before it learns, to stay with."""
    preserve: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PROMPT...")] = ()
    """Prompts beside the kind that are to be drawn as before, such as "a photo of a cat"; one picture is drawn of each.
    None: for models of Toybox 64 captions of all kinds, for others none."""
    flip: bool = False
    """Learn from mirror images too: for subjects without writing, whose left and right are alike."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder to go on with: pictures, output and settings are those of the run."""

    def check(self) -> None:
        super().check()
        if self.minutes is not None and not 0 < self.minutes <= 100_000:
            raise InputError(f"--minutes {self.minutes}: give a number above 0")
        if self.resume is not None:
            for field in fields(self):
                if field.name not in ANEW and getattr(self, field.name) != field.default:
                    raise InputError(f"--resume goes on with the {field.name} of the run: leave yours out")
            return
        if self.folder == NO_FOLDER:
            raise InputError("no pictures: name a folder of them")
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is no folder: name a folder of pictures of the subject")
        if self.output is None:
            raise InputError(f"no output: name what to write, such as {self.example}")
        self.check_work()

    def check_work(self) -> None:
        """What is checked of a run that is gone on with, too."""
        if not self.subject.strip():
            raise InputError('no --subject: say what it will be called, such as "a sks mug"')
        check_prompt(self.subject, "a sks mug")
        if self.preservation:
            check_prompt(self.called_kind)
            for prompt in self.preserve:
                check_prompt(prompt)
        elif self.preserve:
            raise InputError("--preserve with --preservation 0 would keep nothing: leave one of them out")
        check_between("--steps", self.steps, 1, 1_000_000)
        check_between("--batch-size", self.batch_size, 1, 4096)
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise InputError(f"--learning-rate {self.learning_rate}: give a number above 0, such as 0.0001")
        check_between("--preservation", self.preservation, 0, 100)
        check_between("--kind-pictures", self.kind_pictures, 1, 100_000)
        if self.preservation and self.batch_size % 2:
            raise InputError(f"--batch-size {self.batch_size}: half of it is of the kind, so give an even number")
        if self.dtype == "float16":
            raise InputError("--dtype float16 loses small gradients: train in float32 or bfloat16")
        self.check_output()
        resolve(self.model)

    def check_output(self) -> None:
        """Refuse a place where nothing can be written."""
        raise NotImplementedError

    def training(self, of_world: str | None) -> TrainingRecipe:
        """What the training loop is told, for a model of this world (`Prior.world`)."""
        return TrainingRecipe(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate or self.rates.get(of_world, self.rates[None]),
            warmup_steps=min(20, self.steps - 1),
            ema_decay=0.0,  # a few hundred steps whose rate falls to nothing need no average
            precision="bf16" if self.dtype == "bfloat16" else "no",
            seed=self.seed,
            minutes=self.minutes,
            anneal="steps" if self.minutes is None else "minutes",
            checkpoint_every=100,
            log_every=10,
        )

    def kept(self, of_world: str | None) -> list[str]:
        """What a model of this world (`Prior.world`) is to draw as before: the kind, again and again, and others."""
        if not self.preservation:
            return []
        others = self.preserve
        if not others and of_world == world.NAME:
            others = tuple(still(KEPT_SEED, number).caption for number in range(KEPT))
        return [*[self.called_kind] * self.kind_pictures, *others]

    @property
    def called_kind(self) -> str:
        """The subject without its rare word: the class noun of "a [identifier] [class noun]" (section 3.2).

        Raises:
            InputError: nothing is left of it.
        """
        if self.kind is not None:
            return self.kind
        words = self.subject.split()
        rare = 1 if words[0].lower() in ARTICLES else 0
        left = words[:rare] + words[rare + 1 :]
        if len(left) <= rare:
            raise InputError(f'the subject "{self.subject}" does not say what it is one of: call it such as "a sks '
                             'mug", or give --kind, or --preservation 0')  # fmt: skip
        return " ".join(left)


@dataclass(frozen=True, kw_only=True)
class LoraTrainRecipe(SubjectRecipe):
    """Learn a subject from a few pictures, as a LoRA (DreamBooth with low-rank layers)."""

    output: OptionalOutput = None
    """LoRA to write: .safetensors; for the style of peft, a folder. The run lies beside it (mug.run/)."""
    learning_rate: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """None takes 0.0001, and 0.001 for the small models of Toybox."""
    rank: int = 8
    """Of the low-rank layers."""
    layers: Annotated[LayersOrNone, tyro.conf.arg(metavar="{words,attention,all}")] = None
    """Which layers they stand beside: what attention reads in words (as Custom Diffusion has it, 2212.04488), all
    projections of attention, or feed-forward and convolutions too. None takes attention, and words for the small models
    of Toybox, which share the rest among all that they draw."""
    style: Literal["diffusers", "peft", "kohya"] = "diffusers"
    """How the file names its layers."""

    example: ClassVar[str] = "-o subject.safetensors"
    rates: ClassVar[dict[str | None, float]] = {None: 1e-4, world.NAME: 1e-3}

    def layers_of(self, of_world: str | None) -> Literal["words", "attention", "all"]:
        """Those that were asked for, or else those for a model of this world (`Prior.world`)."""
        return self.layers or ("words" if of_world == world.NAME else "attention")

    def check_work(self) -> None:
        super().check_work()
        check_between("--rank", self.rank, 1, 1024)

    def check_output(self) -> None:
        assert self.output is not None
        if self.style != "peft":
            check_output(self.output, (".safetensors",))
            return
        if self.output.suffix:
            raise InputError(f"cannot write {self.output}: the style of peft is a folder; name one without a suffix")
        check_folder(self.output, "adapter_config.json", "a LoRA")


@dataclass(frozen=True, kw_only=True)
class DreamBoothRecipe(SubjectRecipe):
    """Learn a subject from a few pictures, by a copy of the whole model (DreamBooth)."""

    output: OptionalOutput = None
    """Model to write: a diffusers folder. The run lies beside it (mug has mug.run/)."""
    learning_rate: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """None takes 0.000005, and 0.0001 for the small models of Toybox."""

    example: ClassVar[str] = "-o subject"
    rates: ClassVar[dict[str | None, float]] = {None: 5e-6, world.NAME: 1e-4}

    def check_output(self) -> None:
        assert self.output is not None
        check_folder(self.output, "model_index.json", "a model")


@dataclass(frozen=True, kw_only=True)
class LoraFuseRecipe(Recipe):
    """Write a model with LoRAs fused into it, as an ordinary diffusers folder."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """A bundled model (see `core2d models`), a diffusers folder, or a hub id in the local cache."""
    lora: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE[@STRENGTH]...")]
    """LoRAs to fuse, such as style.safetensors@0.8; a strength of 1 where none is named."""
    output: Output
    """Folder to write."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the files; sums are made in float32 and rounded once."""

    def check(self) -> None:
        super().check()
        if not self.lora:
            raise InputError("no LoRA to fuse: name at least one, such as style.safetensors")
        files_and_strengths("LoRA", self.lora)
        base = resolve(self.model)
        if self.output.resolve() == base.resolve():
            raise InputError(f"cannot write {self.output}: it is the model itself; name another folder")
        check_folder(self.output, "model_index.json", "a model")


def check_folder(folder: Path, holding: str, what: str) -> None:
    """Refuse to replace what is not of this kind, or a place where nothing can be written."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot write {folder}: it is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / holding).is_file():
        raise InputError(f"{folder} holds something that is not {what}: name another folder")
    check_output(folder / holding, (".json",))
