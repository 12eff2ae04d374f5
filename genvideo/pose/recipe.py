"""What `genvideo pose` is told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import check_output
from core2d.app.recipe import OptionalPath, Output, check_between

LARGEST_SIDE = 16384  # pixels


@dataclass(frozen=True, kw_only=True)
class PoseRecipe:
    """Read the poses of a person from a film, a drawn skeleton or JSON (OpenPose, COCO), and draw them as skeletons."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILM")]
    """A film of a person (needs the extra `photos` and `core2d models get pose`), a film of drawn skeletons, which is
    noticed, or poses: a JSON file of OpenPose or COCO, or a folder with a JSON file a frame."""
    output: Output
    """The poses, as JSON."""
    drawn: OptionalPath = None
    """Also draw them as DWPose does: a film (.mp4, .webm, .gif, .apng)."""
    drawn_skeleton: bool = False
    """FILM shows drawn skeletons, even if it does not look so."""
    person: int | None = None
    """Which of several people, from 1 in the order in which they are found first; None takes the largest."""
    height: int | None = None
    """Pixels of the picture, for JSON that does not tell them."""
    width: int | None = None
    """Pixels of the picture, for JSON that does not tell them."""
    fps: float = 30.0
    """Frames a second of the drawing, for JSON that does not tell them."""
    json: bool = False
    """Print exactly one JSON object on stdout instead of text."""

    def check(self) -> None:
        """Raise `InputError` for the first value that cannot be used."""
        if not self.source.expanduser().exists():
            raise InputError(f"no film and no poses at {self.source}")
        check_output(self.output, (".json",))
        if self.output.resolve() == self.source.expanduser().resolve():
            raise InputError(f"cannot write {self.output}: it is what is read; name another file")
        if self.drawn is not None:
            check_output(self.drawn, (".mp4", ".webm", ".gif", ".apng"))
        if self.person is not None:
            check_between("--person", self.person, 1, 1000)
        if (self.height is None) != (self.width is None):
            raise InputError("--height and --width belong together: give both")
        for name, side in (("--height", self.height), ("--width", self.width)):
            if side is not None:
                check_between(name, side, 1, LARGEST_SIDE)
        check_between("--fps", self.fps, 0.01, 1000)
