"""What `gen3d bench-guidance` is told: a torch-free dataclass whose docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import check_output
from core2d.app.recipe import Output, Prompts, Recipe, check_between
from core2d.app.registry import resolve
from core2d.toybox import captions, world
from gen3d.dreamfusion.recipe import QUALITIES

GuidanceName = Literal["sds", "vsd", "csd", "ism", "sdi"]


@dataclass(frozen=True, kw_only=True)
class BenchGuidanceRecipe(Recipe):
    """Compare guidances at equal compute, from the same starts, against the true objects of Toybox.

    Beside the table OUT.json stands OUT.png: the truth in its first row, below it a row for each guidance, four sides
    of each prompt. What is made lies in OUT.run; the same command again makes what is missing there and keeps the rest.
    """

    prompts: Prompts
    """Plain objects of Toybox, such as "a red mug": of these the truth is known."""
    output: Output
    """Table to write: .json."""
    guidance: tuple[GuidanceName, ...] = ("sds", "vsd", "csd", "ism", "sdi")
    """Which are compared."""
    seeds: int = 2
    """Runs for each guidance and prompt: from --seed on, each with a start, cameras and noise of its own, which all
    guidances share."""
    quality: Literal["draft", "normal", "high"] = "normal"
    """Cameras a step, and the budget: what plain SDS takes at this quality of text-to-mesh."""
    budget: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Denoiser evaluations a run (pictures that the network sees, those for training VSD's layers too), instead of
    those of the quality: a guidance that takes more of them for a step gets fewer steps."""
    oracle: bool = False
    """Ask the exact scores of the true object instead of a model: what then is wrong is the fault of the guidance. VSD
    is left out: nothing can learn to know a single object better than exactly, and then it is SDS."""
    model: str = "toybox-sd"
    """A bundled model (see `core2d models`), a diffusers folder, or a hub id in the local cache."""

    def check(self) -> None:
        super().check()
        if not self.prompts:
            raise InputError('no prompt: say what to make, such as "a red mug"')
        for prompt in self.prompts:
            class_and_color(prompt)
        if not self.compared:
            why = "the oracle has no network for vsd to train" if self.guidance else "--guidance names none"
            raise InputError(f"nothing to compare: {why}; name others, such as --guidance sds csd")
        check_between("--seeds", self.seeds, 1, 1000)
        if self.budget is not None:
            check_between("--budget", self.budget, 1, 100_000_000)
        check_output(self.output, (".json",))
        if not self.oracle:
            resolve(self.model)
        elif self.model != BenchGuidanceRecipe.model:
            raise InputError("--oracle stands in for the model: leave --model out")
        elif self.dtype != "float32":
            raise InputError(f"--dtype {self.dtype}: the oracle is exact, leave it out")

    @property
    def compared(self) -> tuple[GuidanceName, ...]:
        """The guidances that are run, each once."""
        return tuple(dict.fromkeys(name for name in self.guidance if not (self.oracle and name == "vsd")))

    @property
    def evaluations(self) -> int:
        """The budget of a run."""
        config = QUALITIES[self.quality]
        return config.steps * config.views if self.budget is None else self.budget


def class_and_color(prompt: str) -> tuple[str, str]:
    """What a prompt asks for, as words of Toybox.

    Raises:
        InputError: anything but a class and a colour, so that there is no truth to hold it against.
    """
    for name in world.CLASS_NAMES:
        for color in world.COLOR_NAMES:
            if prompt == captions.object_phrase(name, color):
                return name, color
    raise InputError(f"of {prompt!r} no truth is known: give a colour and a class of Toybox, such as \"a red mug\" "
                     f"({', '.join(world.COLOR_NAMES)}; {', '.join(world.CLASS_NAMES)})")  # fmt: skip
