"""What `gen3d export`, `gen3d render` and `gen3d mesh check` are told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, MESH_SUFFIXES, check_output
from core2d.app.recipe import OptionalOutput, OptionalPath, Recipe, check_between


@dataclass(frozen=True, kw_only=True)
class MeshRecipe(Recipe):
    """What the commands that convert or show a mesh share."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MESH")]
    """Run folder of text-to-mesh or nerf, whose newest checkpoint is used; or a mesh: .glb, .gltf, .obj, .ply, .stl."""

    def check(self) -> None:
        super().check()
        if not self.source.exists():
            raise InputError(f"no run and no mesh at {self.source}")
        if self.dtype != "float32":
            raise InputError(f"--dtype {self.dtype}: meshes are made and drawn in float32 only")


@dataclass(frozen=True, kw_only=True)
class ExportRecipe(MeshRecipe):
    """Write the mesh of a run, or of a file, in another format."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Mesh to write: .glb, .obj, .ply or .stl. Points make a .ply, transforms a folder."""
    kind: Annotated[Literal["mesh", "points", "transforms"], tyro.conf.arg(name="as")] = "mesh"
    """Of a run of nerf: its surface, points on it, or its photographs and cameras as transforms.json with images."""
    colors: Literal["texture", "vertices"] = "texture"
    """Where the mesh of a run of nerf has its colours."""
    box: Annotated[tuple[float, float, float, float, float, float] | None, tyro.conf.arg(metavar="X Y Z X Y Z")] = None
    """Low and high corner of what is kept of a run of nerf, in the scene's own units."""

    def check(self) -> None:
        super().check()
        if self.kind != "transforms":
            check_output(self.output, MESH_SUFFIXES if self.kind == "mesh" else (".ply",))
        elif self.output.is_file():
            raise InputError(f"cannot write into {self.output}: it is a file; name a folder")
        if self.box is not None and not all(low < high for low, high in zip(self.box[:3], self.box[3:], strict=True)):
            raise InputError(f"--box {' '.join(map(str, self.box))}: give the low corner, then the high one")

    @property
    def is_of_a_scene(self) -> bool:
        """Whether something is asked for that only a run of nerf has."""
        return self.kind != "mesh" or self.colors != "texture" or self.box is not None


@dataclass(frozen=True, kw_only=True)
class RenderRecipe(MeshRecipe):
    """Draw a mesh from sides that are named, or film it turning."""

    output: OptionalOutput = None
    """Picture to write, with the views side by side: .png, .jpg or .webp. With --path, a film: .mp4."""
    path: Annotated[str | None, tyro.conf.arg(metavar="orbit|FILE")] = None
    """Of a run of nerf: film it from around, or along the cameras in a file (transforms.json, or a camera path of
    nerfstudio)."""
    turntable: OptionalPath = None
    """Video of the mesh turning to write: .mp4."""
    azimuth: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT...")] = (0, 45, 90, 135, 180, 225, 270, 315)
    """Sides to draw, in degrees counter-clockwise from the front as seen from above."""
    elevation: float = 20.0
    """Degrees above the ground that the camera looks from."""
    size: int = 256
    """Height and width of one view in pixels."""

    def check(self) -> None:
        super().check()
        if self.output is None and self.turntable is None:
            raise InputError("nothing to write: name a picture, such as -o views.png, or a --turntable mug.mp4")
        pictures = (".mp4",) if self.path is not None else IMAGE_SUFFIXES
        for path, suffixes in ((self.output, pictures), (self.turntable, (".mp4",))):
            if path is not None:
                check_output(path, suffixes)
        if not 1 <= len(self.azimuth) <= 360:
            raise InputError(f"--azimuth names {len(self.azimuth)} sides: give 1 to 360, such as --azimuth 0 90")
        for angle in self.azimuth:
            check_between("--azimuth", angle, -360, 360)
        check_between("--elevation", self.elevation, -90, 90)
        check_between("--size", self.size, 16, 1024)


@dataclass(frozen=True, kw_only=True)
class MeshCheckRecipe:
    """Say what is right and wrong with a mesh; exit status 1 if something is wrong."""

    mesh: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Mesh to read: .glb, .gltf, .obj, .ply or .stl."""
    json: bool = False
    """Print exactly one JSON object on stdout instead of text."""

    def check(self) -> None:
        """What can be wrong is seen when the file is read."""
