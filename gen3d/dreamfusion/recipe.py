"""What the commands of gen3d can be told: torch-free dataclasses whose docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES, MESH_SUFFIXES, check_output
from core2d.app.recipe import (
    Loras,
    OptionalOutput,
    OptionalPath,
    PromptedRecipe,
    Prompts,
    check_between,
    files_and_strengths,
    read_prompts,
)
from core2d.app.registry import resolve
from core2d.systems.control.recipe import KINDS, Told, controls_said
from gen3d.shaping.config import ShapingConfig

CONTACT_SHEET = "contact-sheet.png"
OF_THE_RUN = (
    "prompts", "prompts_file", "output", "model", "lora", "control", "image_prompt", "image_prompt_mask", "ip_adapter",
    "quality", "steps", "views", "seed", "dtype",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DreamFusionConfig(ShapingConfig):
    """How DreamFusion optimises a field (2209.14988; what differs from the paper is said in
    `gen3d.dreamfusion.task`).
    """

    shaded: float = 1.0
    """Fraction of steps, after the first fifth, that are lit by normals; the others show albedo in even light."""


QUALITIES = {
    "draft": DreamFusionConfig(steps=160),
    "normal": DreamFusionConfig(steps=500),
    "high": DreamFusionConfig(steps=1500, views=4),
}


@dataclass(frozen=True, kw_only=True)
class TextToMeshRecipe(PromptedRecipe):
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
    lora: Loras = ()
    """LoRAs to add, such as style.safetensors@0.8; a strength of 1 where none is named."""
    control: Annotated[tuple[str, ...], tyro.conf.arg(metavar="depth:MESH[@WEIGHT]")] = ()
    """Coarse meshes whose shape is followed, such as depth:proxy.glb@0.8: their depth, drawn from every view, is told
    to the ControlNet; in place of depth the path of another ControlNet of depth will do."""
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
            self.check_words(prompt)
        if self.steps is not None:
            check_between("--steps", self.steps, 1, 1_000_000)
        files_and_strengths("--lora", self.lora)
        self.controls()
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

    def controls(self) -> list[Told]:
        """The ControlNets of --control, their meshes and weights.

        Raises:
            InputError: something is not there, another kind than depth, or no mesh.
        """
        for one in self.control:
            kind, _, file = one.partition(":")
            if kind in KINDS and kind != "depth":
                raise InputError(f"--control {one}: of a mesh only depth is drawn for every view, not {kind}: give "
                                 "depth:proxy.glb")  # fmt: skip
            name = file.rpartition("@")[0] or file
            if file and not any(said.lower().endswith(MESH_SUFFIXES) for said in (file, name)):
                raise InputError(f"--control {one}: a picture is a map of one view, and a mesh is seen from all sides: "
                                 f"give a coarse mesh ({', '.join(MESH_SUFFIXES)})")  # fmt: skip
        return controls_said("--control", self.control)

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
