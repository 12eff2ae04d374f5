"""Image to 3D with Zero-1-to-3 (2303.11328, section 3.3): a field that looks like the picture from where that was
taken, and from everywhere else like what the model draws there.

    step:  cameras around the object -> pictures of the field -> score distillation under Zero-1-to-3
           + the picture itself and its silhouette, from its own camera
           + opacity and entropy losses

What differs from the paper, and why:
- there is no light: where it stood when the picture was taken is not known, so colours hold it, as in the picture;
- a bundled model is asked without guidance, and the difference is taken between pictures, as in
  `gen3d.dreamfusion.task`: picture and view leave little open.

    mesh, build = image_to_3d(subject.rgba, Zero123.load("toybox-zero123"), Path("mug.run"))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from core2d.app.outputs import write_json
from core2d.guidance import ScoreDistillationConfig, TimeRange
from core2d.prior.cameras import Cameras, orbit
from core2d.toybox import world
from core2d.training.loop import step_generator, step_seed
from gen3d.data.single_picture import on_background
from gen3d.mesh import Build, TexturedMesh
from gen3d.mesh.pictures import RADIUS
from gen3d.shaping.model import (
    BOUND,
    TIMES,
    Model,
    around,
    as_pictures,
    latent_numbers,
    look,
    picture_size,
    regularisation,
    training_recipe,
)
from gen3d.shaping.runs import FINEST_SHAPE, LEVEL, mesh_of, optimise
from gen3d.zero123.camera_projection import PictureReader
from gen3d.zero123.guidance import ViewDistillation
from gen3d.zero123.image_to_3d.recipe import IMAGE_QUALITIES, ImageTo3DConfig
from gen3d.zero123.model import USUAL_ELEVATION, Reference, Zero123

WHITE = torch.ones(3)
OUTLINE = 64  # pixels of a side of outlines that are compared
DEPTHS = 96  # points along each of their rays
LEVELS = 40.0 * 0.85 ** torch.arange(26)  # 1 / metre, from opaque to nearly clear: where a surface is looked for


@dataclass
class ImageTo3DTask:
    """One optimisation step after the other, each a function of (seed, step).

    Attributes:
        model: field and occupancy; azimuth 0 is where the picture was taken.
        zero123: who judges the other views.
        subject: (4, s, s) the picture's object, cut out, in [0, 1].
        elevation: of the picture's camera, in radians.
        config: see there.
    """

    model: Model
    zero123: Zero123
    subject: Tensor
    elevation: float
    config: ImageTo3DConfig
    seed: int = 0

    def __post_init__(self) -> None:
        self.picture = on_background(self.subject)[None]  # (1, 3, s, s)
        seen = self.zero123.see(self.picture, self.elevation)
        small_world = self.zero123.world == world.NAME
        scale = self.config.guidance_scale
        settings = ScoreDistillationConfig(
            guidance_scale=(1.0 if small_world else 3.0) if scale is None else scale,
            space="image" if small_world else "latent",
            form="x0",
            times=TimeRange(*TIMES, self.config.steps),
        )
        source = orbit(torch.tensor(0.0, device=self.zero123.device), self.elevation, RADIUS)
        self.guidance = ViewDistillation(self.zero123, seen, source, settings, self.seed)

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Cameras (n,), evenly spread from a random start."""
        draws = torch.rand(1 + 2 * batch_size, generator=step_generator(self.seed, step))
        rows = around(draws[0], draws[1:]) | {"step": torch.full((batch_size,), step)}
        return {name: value[positions] for name, value in rows.items()}

    def loss(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Score distillation elsewhere, the picture where it was taken, and the regularisers."""
        step = int(batch["step"][0])
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, 2))
        model.follow(step, generator)
        cameras = orbit(batch["azimuth"], batch["elevation"], batch["radius"])
        size = picture_size(self.config, step, self.zero123.image_size)
        elsewhere = look(model, cameras, size, WHITE, False, generator)
        distillation, info = self.guidance(as_pictures(elsewhere.color, size), "", cameras, step)
        there = look(model, self.guidance.source, size, WHITE, False, generator)
        color = (as_pictures(there.color, size) - self._shown(self.picture, size)).square().mean()
        mask = (as_pictures(there.opacity[:, None], size) - self._shown(self.subject[None, 3:], size)).square().mean()
        regular, parts = regularisation(elsewhere, self.config, step)
        means = regular + self.config.picture_weight * color + self.config.mask_weight * mask
        parts |= {"sds": distillation, "t": info["t"].float().mean(), "picture": color, "mask": mask}
        return distillation + latent_numbers(self.zero123) * means, parts

    def _shown(self, picture: Tensor, size: int) -> Tensor:
        """(1, c, size, size) of (1, c, s, s), where the field is."""
        return F.interpolate(picture, (size, size), mode="area").to(self.zero123.device)


def image_to_3d(
    subject: Tensor,
    zero123: Zero123,
    run: Path,
    config: ImageTo3DConfig | None = None,
    elevation: float | None = None,
    seed: int = 0,
    resume: bool = False,
) -> tuple[TexturedMesh, Build]:
    """Optimise a field for a picture and make a mesh of it; its front is where the picture was taken from.

    Args:
        subject: (4, s, s) in [0, 1], cut out and centred, see `gen3d.data.single_picture.read_subject`.
        zero123: bundled or published.
        run: folder of checkpoints and log; with `resume` the newest checkpoint there is gone on with.
        config: how; `IMAGE_QUALITIES` has three.
        elevation: of the picture's camera in radians; estimated if None, see `elevation_of`.
        seed: decides everything that is random.

    Raises:
        InputError: the field stayed empty or diverged.
    """
    config = config or IMAGE_QUALITIES["normal"]
    if elevation is None:
        elevation, _ = elevation_of(zero123, zero123.see(on_background(subject)[None]))
    task = ImageTo3DTask(Model(seed), zero123, subject, elevation, config, seed)
    model = optimise(task, training_recipe(config, seed), run, resume, device=zero123.device)
    level = outlined_level(model, subject, task.guidance.source)
    write_json(run / LEVEL, level)
    return mesh_of(model, level)


@torch.no_grad()
def outlined_level(model: Model, subject: Tensor, source: Cameras) -> float | None:
    """The density at which the surface of a field, seen from the picture's camera, has the outline of its object.

    A field looks as wide as the picture through what is half clear at its edge; its mesh, cut where the field is
    opaque, would be a pixel thinner all around.

    Args:
        subject: (4, s, s), see `image_to_3d`.
        source: one camera.

    Returns:
        In 1 / metre; None if no surface has half of that outline: then the picture is no guide.
    """
    mask = F.interpolate(subject[None, 3:], (OUTLINE, OUTLINE), mode="area").flatten() > 0.5
    origins, directions = source.rays(OUTLINE, OUTLINE)
    depths = torch.linspace(RADIUS - BOUND, RADIUS + BOUND, DEPTHS, device=origins.device)
    densest = []
    for rays in directions.flatten(0, 2).split(OUTLINE * 4):
        points = origins + depths[:, None, None] * rays  # (DEPTHS, rays, 3)
        density = model.field.smooth_density(points.flatten(0, 1), FINEST_SHAPE)
        densest.append(density.unflatten(0, points.shape[:2]).amax(0))
    covered = torch.cat(densest).cpu()[None] > LEVELS[:, None]  # (levels, OUTLINE ** 2)
    overlap = (covered & mask).sum(1) / (covered | mask).sum(1).clamp(min=1)
    return float(LEVELS[overlap.argmax()]) if overlap.max() > 0.5 else None


def elevation_of(zero123: Zero123, seen: Reference) -> tuple[float, str]:
    """From how high a picture was taken, in radians, and how that is known.

    A model with a picture reader sees it. The published ones have no such estimate: 20 degrees are assumed.
    """
    reader = zero123.parts.projection
    if not isinstance(reader, PictureReader):
        return USUAL_ELEVATION, "assumed"
    with torch.no_grad():
        _, stand = reader.read(seen.embedding.to(zero123.dtype), seen.latents.to(zero123.dtype))
    return float(stand[0, 2].clamp(-math.pi / 2, math.pi / 2)), "estimated"
