"""What `core2d toybox` is told. No torch here."""

from dataclasses import dataclass
from typing import Literal

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, check_output
from core2d.app.recipe import Output, Recipe, check_between


@dataclass(frozen=True, kw_only=True)
class ToyboxRecipe(Recipe):
    """What the commands of the Toybox share."""

    output: Output
    """File to write."""
    kind: Literal["object", "doll"] = "object"
    """Objects, or the jointed doll."""
    size: int = 64
    """Height and width of one picture in pixels."""

    def check(self) -> None:
        super().check()
        check_between("--size", self.size, 16, 1024)
        if self.dtype != "float32":
            raise InputError(f"--dtype {self.dtype}: the Toybox renders in float32 only")
        if self.device not in ("auto", "cpu"):
            raise InputError(f"--device {self.device}: the Toybox renders on the CPU only")


@dataclass(frozen=True, kw_only=True)
class ToyboxSampleRecipe(ToyboxRecipe):
    """Draw one sample of the Toybox and print its caption."""

    output: Output
    """Image to write: .png, .jpg or .webp."""
    index: int = 0
    """Which sample of the seed."""

    def check(self) -> None:
        super().check()
        check_between("--index", self.index, 0, 2**31 - 1)
        check_output(self.output, IMAGE_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class ToyboxSheetRecipe(ToyboxRecipe):
    """Draw a sheet of Toybox samples: what the world looks like."""

    output: Output
    """Image to write: .png, .jpg or .webp."""
    rows: int = 8
    """Rows of the sheet."""
    columns: int = 12
    """Samples in a row."""

    def check(self) -> None:
        super().check()
        check_between("--rows", self.rows, 1, 64)
        check_between("--columns", self.columns, 1, 64)
        check_output(self.output, IMAGE_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class ToyboxClipRecipe(ToyboxRecipe):
    """Film one motion of the Toybox and print its caption."""

    output: Output
    """Video to write: .mp4."""
    index: int = 0
    """Which clip of the seed."""
    frames: int = 16
    """Frames of the clip."""
    fps: int = 8
    """Frames a second."""

    def check(self) -> None:
        super().check()
        check_between("--index", self.index, 0, 2**31 - 1)
        check_between("--frames", self.frames, 1, 1000)
        check_between("--fps", self.fps, 1, 120)
        check_output(self.output, (".mp4",))
