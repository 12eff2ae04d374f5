"""What the commands of gen3d can be told: torch-free dataclasses whose docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.errors import InputError
from core2d.models import resolve
from core2d.recipes import Prompts, Recipe, check_between, check_prompt, read_prompts
from core2d.run import IMAGE_SUFFIXES, check_output

MESH_SUFFIXES = (".glb", ".obj", ".ply", ".stl")
CONTACT_SHEET = "contact-sheet.png"
OF_THE_RUN = ("prompts", "prompts_file", "output", "model", "quality", "steps", "views", "seed", "dtype")

OptionalOutput = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True, kw_only=True)
class ShapingConfig:
    """How a field is optimised, whoever judges its pictures."""

    steps: int = 500
    """Optimisation steps."""
    views: int = 2
    """Cameras a step, spread evenly around the object."""
    coarse_size: int = 32
    """Pixels of a side until `refine_at`; after that it is the model's own size, or 64 if that is larger."""
    refine_at: float = 0.3
    """Fraction of the steps after which pictures have full size."""
    guidance_scale: float | None = None
    """Classifier-free guidance, instead of the prior's own."""
    learning_rate: float = 0.03
    """Of Adam, for the grid and the networks."""
    opacity_weight: float = 0.008
    """Keeps empty space empty (mean opacity of rays, against the mean over a latent of the distillation)."""
    entropy_weight: float = 0.02
    """Makes rays decide between empty and opaque, growing over the steps."""
    orientation_weight: float = 0.008
    """Against surfaces that face away from the camera that sees them, in pictures that are lit."""


@dataclass(frozen=True, kw_only=True)
class DreamFusionConfig(ShapingConfig):
    """How DreamFusion optimises a field (2209.14988; what differs from the paper is said in `gen3d.dreamfusion`)."""

    shaded: float = 1.0
    """Fraction of steps, after the first fifth, that are lit by normals; the others show albedo in even light."""


QUALITIES = {
    "draft": DreamFusionConfig(steps=160),
    "normal": DreamFusionConfig(steps=500),
    "high": DreamFusionConfig(steps=1500, views=4),
}


@dataclass(frozen=True, kw_only=True)
class TextToMeshRecipe(Recipe):
    """Make textured meshes from sentences, by DreamFusion."""

    prompts: Prompts = ()
    """What to make: one object each, such as "a red mug". With --resume, what the run was for."""
    prompts_file: Annotated[Path | None, tyro.conf.arg(name="prompts", metavar="FILE")] = None
    """More of them, one a line; empty lines and lines that begin with # do not count."""
    output: OptionalOutput = None
    """Mesh to write: .glb, .obj, .ply or .stl. The run lies beside it (mug.glb has mug.run/). Several prompts, or a
    file of them, make a folder: a GLB and a run each, and contact-sheet.png; what is done there already is kept."""
    model: str = "toybox-sd"
    """A bundled model (see `core2d models`), a diffusers folder, or a hub id in the local cache."""
    quality: Literal["draft", "normal", "high"] = "normal"
    """How long it takes, and how good it gets."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Optimisation steps, instead of those of the quality."""
    views: Literal["auto", "words"] = "auto"
    """How the prior is told the view: by its camera token where it has one, or by words."""
    turntable: OptionalPath = None
    """Video of the mesh turning to write: .mp4."""
    preview: OptionalPath = None
    """Picture of the mesh from eight sides to write: .png, .jpg or .webp."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder to go on with: prompt, output and settings are those of the run."""

    def check(self) -> None:
        super().check()
        for path, suffixes in ((self.turntable, (".mp4",)), (self.preview, IMAGE_SUFFIXES)):
            if path is not None:
                check_output(path, suffixes)
        if self.resume is not None:
            self._check_resume()
            return
        prompts = self.all_prompts()
        if not prompts:
            raise InputError('no prompt: say what to make, such as "a red mug"')
        for prompt in prompts:
            check_prompt(prompt)
        if self.steps is not None:
            check_between("--steps", self.steps, 1, 1_000_000)
        self._check_output()
        resolve(self.model)

    @property
    def makes_a_folder(self) -> bool:
        """Whether the output is a folder of meshes."""
        return self.prompts_file is not None or len(self.prompts) > 1

    def all_prompts(self) -> list[str]:
        """Those of the command line and those of the file, each once.

        Raises:
            InputError: the file cannot be read, or holds no prompt.
        """
        found = [*self.prompts, *(() if self.prompts_file is None else read_prompts(self.prompts_file))]
        return list(dict.fromkeys(prompt.strip() for prompt in found))

    def _check_resume(self) -> None:
        for name in OF_THE_RUN:
            if getattr(self, name) != getattr(TextToMeshRecipe, name):
                raise InputError(f"--resume goes on with the {name.partition('_')[0]} of the run: leave yours out")

    def _check_output(self) -> None:
        if self.output is None:
            raise InputError("no output: name the mesh to write, such as -o mug.glb")
        if not self.makes_a_folder:
            check_output(self.output, MESH_SUFFIXES)
            return
        if self.output.suffix:
            raise InputError(f"cannot write {self.output}: several prompts make a folder; name one without a suffix")
        if self.output.is_file():
            raise InputError(f"cannot write into {self.output}: it is a file; name a folder")
        for name, path in (("--turntable", self.turntable), ("--preview", self.preview)):
            if path is not None:
                raise InputError(f"{name} is of a single mesh: several have {CONTACT_SHEET} (see gen3d render)")
        check_output(self.output / CONTACT_SHEET, IMAGE_SUFFIXES)


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
