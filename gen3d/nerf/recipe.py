"""What `gen3d nerf` and `gen3d eval` can be told: torch-free dataclasses whose docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core2d.app.errors import InputError
from core2d.app.recipe import OptionalOutput, Recipe, check_between

OF_THE_RUN = (
    "data", "output", "system", "steps", "minutes", "background", "downscale", "skip_missing", "refine_poses", "seed",
    "dtype",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FastConfig:
    """A hash grid with small networks, rendered through an occupancy grid (Instant-NGP, 2201.05989)."""

    steps: int = 20_000
    """Optimisation steps, where neither steps nor minutes are asked for."""
    levels: int = 12
    """Grids of growing resolution."""
    coarsest: int = 16
    """Vertices along a side of the first grid."""
    finest: int = 512
    """Vertices along a side of the last grid."""
    log2_table: int = 17
    """A grid has at most 2^log2_table entries."""
    width: int = 64
    """Units of a hidden layer: one for density, two for colour."""
    cells: int = 64
    """Of the occupancy grid, along a side."""
    samples_across: int = 128
    """Samples of a ray along the side of the cube [-1, 1]^3; four times as many where the scene has no bounds."""
    samples: int = 40_000
    """Samples that a step aims at: rays are adapted to it."""
    most_rays: int = 8192
    """Rays of a step, at most."""
    learning_rate: float = 1e-2
    """Of Adam, for the grid and the networks; it ends at a fiftieth of that."""


@dataclass(frozen=True, kw_only=True)
class VanillaConfig:
    """Two networks on positional encodings, the second where the first one found something (NeRF, 2003.08934)."""

    steps: int = 200_000
    """Optimisation steps, where neither steps nor minutes are asked for."""
    rays: int = 1024
    """Rays of a step."""
    coarse: int = 64
    """Samples of a ray for the first network, one in each of as many equal intervals."""
    fine: int = 128
    """Samples more for the second one, drawn where the first one saw something."""
    width: int = 256
    """Units of a hidden layer."""
    depth: int = 8
    """Hidden layers."""
    learning_rate: float = 5e-4
    """Of Adam; it ends at a fiftieth of that."""


# On a CPU a step of the paper takes ten seconds; this one sees a sixteenth of its samples.
VANILLA_ON_A_CPU = VanillaConfig(steps=20_000, rays=256, coarse=32, fine=32)


@dataclass(frozen=True, kw_only=True)
class NerfRecipe(Recipe):
    """Make a radiance field from photographs whose cameras are known (NeRF)."""

    data: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA", help_behavior_hint="")] = None
    """Folder of a scene: Blender (transforms_train.json), nerfstudio (transforms.json), COLMAP (sparse/ with text or
    binary files) or LLFF (poses_bounds.npy). With --resume, that of the run."""
    output: OptionalOutput = None
    """Run folder to make: checkpoints, log, previews and metrics.json."""
    system: Literal["fast", "vanilla"] = "fast"
    """A hash grid with an occupancy grid, or the networks of the first paper."""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """How long to train, loading included; the last look at the held-out views comes on top."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """How many steps to train, instead of minutes: such a run repeats to the bit on a CPU."""
    background: Literal["white", "black", "random"] = "white"
    """What transparent pictures stand on. Random: another colour for each ray in training, white in measuring."""
    skip_missing: bool = False
    """Leave out images that are missing or broken, instead of stopping."""
    downscale: int = 1
    """Make pictures smaller by this factor."""
    refine_poses: bool = False
    """Let the cameras move a little, where their poses are not exact."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder to go on with: data and settings are those of the run."""

    def check(self) -> None:
        super().check()
        if self.dtype != "float32":
            raise InputError(f"--dtype {self.dtype}: radiance fields are trained in float32 only")
        if self.resume is not None:
            for name in OF_THE_RUN:
                if getattr(self, name) != getattr(NerfRecipe, name):
                    raise InputError(f"--resume goes on with the {name} of the run: leave yours out")
            return
        if self.data is None:
            raise InputError("no scene: name a folder with photographs and their cameras")
        if not self.data.is_dir():
            raise InputError(f"no folder at {self.data}: name one with photographs and their cameras")
        if self.output is None:
            raise InputError("no output: name the run folder to make, such as -o chair.run")
        if self.output.is_file():
            raise InputError(f"cannot make the run {self.output}: it is a file; name a folder")
        if self.minutes is not None and self.steps is not None:
            raise InputError("--minutes and --steps both say when to stop: give one of them")
        if self.minutes is not None:
            check_between("--minutes", self.minutes, 0.05, 100_000)
        if self.steps is not None:
            check_between("--steps", self.steps, 1, 10_000_000)
        check_between("--downscale", self.downscale, 1, 64)


@dataclass(frozen=True, kw_only=True)
class EvalRecipe(Recipe):
    """Measure a run of `gen3d nerf` on views that it did not learn from."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder of `gen3d nerf`; its newest checkpoint is used."""
    split: Literal["test", "val", "train"] = "test"
    """Which views."""

    def check(self) -> None:
        super().check()
        if not self.source.exists():
            raise InputError(f"no run at {self.source}")
        if self.dtype != "float32":
            raise InputError(f"--dtype {self.dtype}: radiance fields are rendered in float32 only")
