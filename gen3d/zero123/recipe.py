"""What `gen3d novel-views` and `gen3d image-to-3d` can be told: dataclasses whose docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, check_output
from core2d.app.recipe import Loras, OptionalPath, Output, Recipe, check_between, files_and_strengths
from core2d.app.registry import resolve

Angles = Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT...")]
ORBIT = 12  # views, where nothing else is asked for
NO_PICTURE = Path()


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
    lora: Loras = ()
    """LoRAs of this model's UNet to add, such as style.safetensors@0.8; a strength of 1 where none is named."""
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
        files_and_strengths("--lora", self.lora)
        check_between("--steps", self.steps, 1, 1000)
        check_between("--cfg", self.cfg, 0, 100)
        check_between("--fps", self.fps, 1, 60)

    @property
    def azimuths(self) -> tuple[float, ...]:
        """Degrees of all views."""
        count = self.orbit or ORBIT
        return self.azimuth or tuple(360.0 * i / count for i in range(count))
