"""What `gen3d novel-views` and `gen3d image-to-3d` can be told: dataclasses whose docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.errors import InputError
from core2d.models import resolve
from core2d.recipes import Output, Recipe, check_between
from core2d.run import IMAGE_SUFFIXES, check_output
from gen3d.recipes import MESH_SUFFIXES, OptionalOutput, OptionalPath, ShapingConfig

Angles = Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT...")]
ORBIT = 12  # views, where nothing else is asked for
NO_PICTURE = Path()
ANEW = ("resume", "device", "json", "turntable", "preview")  # what may be said again when a run is gone on with


@dataclass(frozen=True, kw_only=True)
class PictureRecipe(Recipe):
    """What the commands that start from one picture share."""

    picture: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """Picture of one object: cut out (a PNG with alpha), or on a plain background."""
    output: Output
    model: str = "toybox-zero123"
    """The bundled model, a folder in a diffusers layout, or a .ckpt or .safetensors file in the original one, such as
    zero123-xl.ckpt."""
    mask: OptionalPath = None
    """Picture of the same size that is white where the object is."""
    foreground: Literal["auto", "alpha", "mask", "plain", "rembg"] = "auto"
    """How the object is found: by what the file has, a plain background, or rembg (liftkit[matting])."""
    recentre: bool = True
    """Move and scale the object as the model knows it; --no-recentre takes the picture as it is."""
    picture_elevation: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Degrees above the ground that the picture was taken from. Else the bundled model estimates it, and for others 20
    are assumed. For novel views only Stable Zero123 is told it."""

    def check(self) -> None:
        super().check()
        self._check_picture()
        if self.picture_elevation is not None:
            check_between("--picture-elevation", self.picture_elevation, -90, 90)

    def _check_picture(self) -> None:
        if not Path(self.model).is_file():
            resolve(self.model)
        if not self.picture.is_file():
            raise InputError(f"no picture at {self.picture}")
        if self.mask is not None and not self.mask.is_file():
            raise InputError(f"no mask at {self.mask}")


@dataclass(frozen=True, kw_only=True)
class NovelViewsRecipe(PictureRecipe):
    """Draw the object of one picture from other views, by Zero-1-to-3."""

    output: Output
    """Sheet of the views to write: .png, .jpg or .webp; the single ones lie in a folder beside it. Or a film: .mp4."""
    azimuth: Angles = ()
    """Degrees that the camera moves around the object, counter-clockwise as seen from above."""
    elevation: Angles = (0.0,)
    """Degrees that it moves up: one for all, or one for each azimuth."""
    orbit: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """That many views at equal steps around, instead of --azimuth; 12 where neither is given."""
    steps: int = 25
    """Denoising steps."""
    cfg: float = 3.0
    """Classifier-free guidance scale: 1 follows the picture freely, more follows it closely."""
    scheduler: Literal["ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc"] | None = None
    """How the noise is taken away step by step; None takes the scheduler of the model."""
    fps: int = 8
    """Views a second of a film."""

    def check(self) -> None:
        super().check()
        check_output(self.output, (*IMAGE_SUFFIXES, ".mp4"))
        if self.orbit is not None and self.azimuth:
            raise InputError("--orbit and --azimuth both say from where to look: give one of them")
        if self.orbit is not None:
            check_between("--orbit", self.orbit, 1, 360)
        if len(self.azimuth) > 360:
            raise InputError(f"--azimuth names {len(self.azimuth)} views: give at most 360")
        for angle in self.azimuth:
            check_between("--azimuth", angle, -360, 360)
        for angle in self.elevation:
            check_between("--elevation", angle, -90, 90)
        if len(self.elevation) not in (1, len(self.azimuths)):
            counts = f"{len(self.elevation)} angles for {len(self.azimuths)} views"
            raise InputError(f"--elevation has {counts}: give one, or one for each")
        check_between("--steps", self.steps, 1, 1000)
        check_between("--cfg", self.cfg, 0, 100)
        check_between("--fps", self.fps, 1, 60)

    @property
    def azimuths(self) -> tuple[float, ...]:
        """Degrees of all views."""
        count = self.orbit or ORBIT
        return self.azimuth or tuple(360.0 * i / count for i in range(count))


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
