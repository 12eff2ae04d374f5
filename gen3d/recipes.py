"""What the commands of gen3d can be told: torch-free dataclasses whose docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.errors import InputError
from core2d.models import resolve
from core2d.recipes import LONGEST_PROMPT, Recipe
from core2d.run import IMAGE_SUFFIXES, check_output

MESH_SUFFIXES = (".glb", ".obj", ".ply", ".stl")


@dataclass(frozen=True, kw_only=True)
class DreamFusionConfig:
    """How DreamFusion optimises a field (2209.14988; what differs from the paper is said in `gen3d.dreamfusion`)."""

    steps: int = 500
    """Optimisation steps."""
    views: int = 2
    """Cameras a step, spread evenly around the object."""
    coarse_size: int = 32
    """Pixels of a side until `refine_at`; after that it is the model's own size, or 64 if that is larger."""
    refine_at: float = 0.3
    """Fraction of the steps after which pictures have full size."""
    guidance_scale: float = 10.0
    """Classifier-free guidance."""
    guidance_rescale: float = 0.7
    """How much of the guided contrast is pulled back, in [0, 1]."""
    learning_rate: float = 0.01
    """Of Adam, for the grid and the networks."""
    shaded: float = 0.5
    """Fraction of steps, after the first fifth, that are lit by normals; the others show albedo in even light."""
    opacity_weight: float = 0.02
    """Keeps empty space empty (sum of the opacity of rays)."""
    entropy_weight: float = 0.05
    """Makes rays decide between empty and opaque, growing over the steps."""
    orientation_weight: float = 0.02
    """Against surfaces that face away from the camera that sees them."""


QUALITIES = {
    "draft": DreamFusionConfig(steps=160),
    "normal": DreamFusionConfig(steps=500),
    "high": DreamFusionConfig(steps=1500, views=4),
}


@dataclass(frozen=True, kw_only=True)
class TextToMeshRecipe(Recipe):
    """Make a textured mesh from a sentence, by DreamFusion."""

    prompt: Annotated[str, tyro.conf.Positional] = ""
    """What to make: one object, such as "a red mug". With --resume, what the run was for."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Mesh to write: .glb, .obj, .ply or .stl. The run lies beside it (mug.glb has mug.run/)."""
    model: str = "toybox-sd"
    """A bundled model (see `core2d models`), a diffusers folder, or a hub id in the local cache."""
    quality: Literal["draft", "normal", "high"] = "normal"
    """How long it takes, and how good it gets."""
    views: Literal["auto", "words"] = "auto"
    """How the prior is told the view: by its camera token where it has one, or by words."""
    turntable: Path | None = None
    """Video of the mesh turning to write: .mp4."""
    preview: Path | None = None
    """Picture of the mesh from eight sides to write: .png, .jpg or .webp."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder to go on with: prompt, output and settings are those of the run."""

    def check(self) -> None:
        super().check()
        if self.resume is not None:
            return
        if not self.prompt.strip():
            raise InputError('the prompt is empty: say what to make, such as "a red mug"')
        if len(self.prompt) > LONGEST_PROMPT:
            raise InputError(f"the prompt has {len(self.prompt)} characters: the limit is {LONGEST_PROMPT}")
        if self.output is None:
            raise InputError("no output: name the mesh to write, such as -o mug.glb")
        check_output(self.output, MESH_SUFFIXES)
        for path, suffixes in ((self.turntable, (".mp4",)), (self.preview, IMAGE_SUFFIXES)):
            if path is not None:
                check_output(path, suffixes)
        resolve(self.model)
