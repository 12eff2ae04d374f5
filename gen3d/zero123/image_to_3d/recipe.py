"""What `gen3d image-to-3d` is told, and its qualities. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, MESH_SUFFIXES, check_output
from core2d.app.recipe import OptionalOutput, OptionalPath, check_between
from gen3d.shaping.config import ShapingConfig
from gen3d.zero123.recipe import NO_PICTURE, PictureRecipe

ANEW = ("resume", "device", "json", "turntable", "preview")  # what may be said again when a run is gone on with


@dataclass(frozen=True, kw_only=True)
class ImageTo3DConfig(ShapingConfig):
    """How a field is optimised for a picture: elsewhere as Zero-1-to-3 says, and by what the picture itself shows."""

    picture_weight: float = 30.0
    """Of the mean squared error of the colours, from where the picture was taken."""
    mask_weight: float = 10.0
    """Of the mean squared error of the silhouette."""


IMAGE_QUALITIES = {
    "draft": ImageTo3DConfig(steps=160),
    "normal": ImageTo3DConfig(steps=500),
    "high": ImageTo3DConfig(steps=1500, views=4),
}


@dataclass(frozen=True, kw_only=True)
class ImageTo3DRecipe(PictureRecipe):
    """Make a textured mesh from one picture, by Zero-1-to-3. Its front is where the picture was taken from."""

    picture: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")] = NO_PICTURE
    """Picture of one object: cut out (a PNG with alpha), or on a plain background. With --resume, that of the run."""
    output: OptionalOutput = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Mesh to write: .glb, .obj, .ply or .stl. The run lies beside it (mug.glb has mug.run/)."""
    system: Literal["zero123"] = "zero123"
    """Who says what the other sides look like."""
    quality: Literal["draft", "normal", "high"] = "normal"
    """How long it takes, and how good it gets."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Optimisation steps, instead of those of the quality."""
    turntable: OptionalPath = None
    """Video of the mesh turning to write: .mp4."""
    preview: OptionalPath = None
    """Picture of the mesh from eight sides to write: .png, .jpg or .webp."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder to go on with: picture, output and settings are those of the run."""

    def check(self) -> None:
        if self.resume is None and self.picture == NO_PICTURE:
            raise InputError("no picture: name one of the object, such as mug.png")
        super().check()
        if self.resume is not None:
            self._check_resume()
        elif self.output is None:
            raise InputError("no output: name the mesh to write, such as -o mug.glb")
        self.check_work()

    def check_work(self) -> None:
        """What is checked of a run that is gone on with, too: its object is there, whatever became of the picture."""
        if self.quality not in IMAGE_QUALITIES:
            raise InputError(f"there is no quality {self.quality!r}")
        if self.steps is not None:
            check_between("--steps", self.steps, 1, 1_000_000)
        wanted = ((self.output, MESH_SUFFIXES), (self.turntable, (".mp4",)), (self.preview, IMAGE_SUFFIXES))
        for path, suffixes in wanted:
            if path is not None:
                check_output(path, suffixes)

    def _check_picture(self) -> None:
        if self.resume is None:  # a run has its object, and names its model
            super()._check_picture()

    def _check_resume(self) -> None:
        for field in fields(self):
            if field.name not in ANEW and getattr(self, field.name) != field.default:
                raise InputError(f"--resume goes on with the {field.name} of the run: leave yours out")
