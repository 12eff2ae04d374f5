"""What `core2d control` is told, and what other commands are told of controls. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, check_output
from core2d.app.recipe import DrawingRecipe, Output, check_between, file_and_strength
from core2d.app.registry import bundled, resolve

Kind = Literal["depth", "normal", "edges", "segmentation", "pose"]
KINDS: tuple[str, ...] = get_args(Kind)
STRONGEST = 10.0  # that a ControlNet counts, as `core2d.adapters.controlnet` has it
NEEDED = {  # what makes a map of a picture, where that is more than arithmetic
    "depth": "a model that reads depth", "normal": "a model that reads normals", "pose": "a model that reads poses",
    "segmentation": "a model that reads what is where",
}  # fmt: skip


class Told(NamedTuple):
    """One control: where its ControlNet lies, its map, and how much it counts."""

    network: Path
    map: Path
    weight: float


@dataclass(frozen=True, kw_only=True)
class ControlRecipe(DrawingRecipe):
    """Draw images from text whose layout follows a map (ControlNet)."""

    map: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MAP")]
    """A picture that shows where things are: depth, normals, edges, classes or a skeleton."""
    prompt: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")]
    """What to draw."""
    kind: Kind
    """What MAP shows."""
    output: Output
    """Image to write: .png, .jpg or .webp; of several a sheet, and a folder of the single ones beside it."""
    from_picture: bool = False
    """MAP is a picture, of which the map is made (edges only); it is written beside the image (out.map.png)."""
    fit: bool = False
    """Use the middle of a map that has another size than the image."""
    controlnet: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """The folder or file of a ControlNet; None takes the bundled one of this kind."""
    control_weight: float = 1.0
    """How much the map counts; 0 does not follow it."""
    start: float = 0.0
    """Share of the denoising at which the map begins to count."""
    end: float = 1.0
    """Share of the denoising at which it ends to count."""
    guess: bool = False
    """Let the map say what is drawn, more than the words (guess mode of the authors); --cfg 3 to 5 is right."""
    also: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND:MAP[@WEIGHT]")] = ()
    """More maps to follow, such as pose:skeleton.png@0.8; in place of KIND the path of a ControlNet will do."""
    height: int | None = None
    """Pixels; None takes what the model was trained on."""
    width: int | None = None
    """Pixels; None takes what the model was trained on."""

    def check(self) -> None:
        super().check()
        self.check_words(self.prompt)
        if self.from_picture and self.kind in NEEDED:
            raise InputError(f"--from-picture --kind {self.kind} needs {NEEDED[self.kind]}, and none comes with this: "
                             "make the map with another program, and give it without --from-picture")  # fmt: skip
        if not 0 <= self.start < self.end <= 1:
            raise InputError(f"--start {self.start} --end {self.end}: give shares of the denoising, such as 0 and 0.8")
        check_between("--control-weight", self.control_weight, 0, STRONGEST)
        for name, side in (("--height", self.height), ("--width", self.width)):
            if side is not None:
                check_between(name, side, 1, 16384)
        check_output(self.output, IMAGE_SUFFIXES)
        if self.from_picture:
            check_output(self.map_output, IMAGE_SUFFIXES)
        resolve(self.model)
        if not self.map.expanduser().is_file():
            raise InputError(f"no map at {self.map}: give a picture")
        self.controls()

    def controls(self) -> list[Told]:
        """The first control, and those of --also; InputError where something is not there."""
        first = Told(network_of(self.controlnet or self.kind), self.map.expanduser(), self.control_weight)
        return [first, *controls_said("--also", self.also)]

    @property
    def map_output(self) -> Path:
        """Where the map that was made of a picture is written."""
        return self.output.with_suffix(".map.png")


def controls_said(option: str, said: Iterable[str]) -> list[Told]:
    """What KIND:MAP or KIND:MAP@WEIGHT say; a weight of 1 where none is named.

    Raises:
        InputError: another form, no such ControlNet, no such map, or a weight that is out of range.
    """
    found = []
    for one in said:
        network, colon, rest = one.partition(":")
        if not (network and colon and rest):
            raise InputError(f"{option} {one}: give KIND:MAP, such as depth:map.png, or depth:map.png@0.8")
        map_file, weight = file_and_strength(f"{option} {network}:", rest)
        check_between(f"{option} {one}, its weight", weight, 0, STRONGEST)
        found.append(Told(network_of(network), map_file, weight))
    return found


def network_of(said: str) -> Path:
    """The folder or file of a ControlNet: that of the bundled one, where a kind is named.

    Raises:
        InputError: there is none.
    """
    if said in KINDS:
        name = f"toybox-control-{said}"
        if name not in bundled():
            others = ", ".join(kind for kind in KINDS if f"toybox-control-{kind}" in bundled()) or "none yet"
            raise InputError(f"no ControlNet for {said} comes with this (bundled: {others}): name one by --controlnet")
        return bundled()[name]
    path = Path(said).expanduser()
    if not path.exists():
        raise InputError(f"no ControlNet at {said}: give a folder or a file, or one of {', '.join(KINDS)}")
    return path
