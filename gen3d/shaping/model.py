"""What every optimisation of a field has in common, whoever judges its pictures: DreamFusion, image to 3D.

A `Model` is drawn by `look` from cameras spread `around` it; `regularisation` keeps it a solid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core2d.prior.base import Prior
from core2d.prior.cameras import Cameras
from core2d.toybox import world
from core2d.toybox.light import lit
from core2d.training.loop import TrainingRecipe
from gen3d.fields.config import FieldConfig
from gen3d.fields.hash_grid_field import HashGridField
from gen3d.render.images import camera_rays
from gen3d.render.occupancy import OccupancyGrid
from gen3d.render.volume import Points, Rendered, render_rays
from gen3d.shaping.config import ShapingConfig

BOUND = 0.62  # half the side of the cube that holds the object, in metres: Toybox bodies are at most 1.05 m long
ELEVATIONS = (-10.0, 55.0)  # degrees
SAMPLES_ACROSS = 96  # steps of a ray through the cube's side
OCCUPANCY_EVERY = 8  # steps between looks at all cells
TIMES = ((0.7, 0.98), (0.1, 0.3))  # noise levels of the first and of the last step, as fractions of the schedule


class Model(nn.Module):
    """What is optimised, and the occupancy grid that follows it; beside them what a guidance learns for itself."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        # exp sharpens a surface within hundreds of steps, where softplus stays soft
        shape = FieldConfig(bound=BOUND, density="exp", gain=3.0, blob=5.0, blob_radius=0.45)
        self.field = HashGridField(shape, torch.Generator().manual_seed(seed))
        self.occupancy = OccupancyGrid(48, BOUND)
        self.learners = nn.ModuleList()  # of a guidance with state

    @property
    def step(self) -> float:
        """Metres between samples."""
        return 2 * BOUND / SAMPLES_ACROSS

    def follow(self, step: int, generator: torch.Generator) -> None:
        """Let the occupancy grid look at the field, now and then."""
        if step % OCCUPANCY_EVERY == 0:
            self.occupancy.update(self.field.density, self.step, generator)


def around(start: Tensor, draws: Tensor) -> dict[str, Tensor]:
    """n cameras evenly spread around the object: azimuth, elevation and radius (n,), in radians and metres.

    Args:
        start: () in [0, 1), where the first one stands.
        draws: (2n,) in [0, 1).
    """
    count = len(draws) // 2
    azimuth = 2 * math.pi * (start + torch.arange(count) / count)
    low, high = (math.radians(angle) for angle in ELEVATIONS)
    elevation = low + (high - low) * draws[:count]
    near, far = world.CAMERA_RADIUS
    radius = near + (far - near) * draws[count:]
    return {"azimuth": azimuth, "elevation": elevation, "radius": radius}


def look(
    model: Model,
    cameras: Cameras,
    size: int,
    background: Tensor,
    shaded: bool,
    generator: torch.Generator | None = None,
) -> Rendered:
    """Rays of all pixels of n cameras, camera after camera; plain albedo, or lit by normals."""
    shade = _lit if shaded else None
    origins, directions = camera_rays(cameras, size, size)
    return render_rays(
        model.field,
        background,
        origins,
        directions,
        model.occupancy,
        model.step,
        generator=generator,
        normals=shaded,
        normals_from=0.001,
        shade=shade,
    )


def as_pictures(rays: Tensor, size: int) -> Tensor:
    """(n, c, size, size) of what `look` gives for each ray, (r, c)."""
    return rays.unflatten(0, (-1, size, size)).movedim(-1, 1)


def picture_size(config: ShapingConfig, step: int, image_size: int) -> int:
    """Pixels of a side at a step, for a model that sees so many."""
    fine = max(64, min(image_size, 128))
    return config.coarse_size if step < config.refine_at * config.steps else fine


def regularisation(seen: Rendered, config: ShapingConfig, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
    """Opacity, entropy and, of lit pictures, orientation, weighted (DreamFusion, 2209.14988 A.2); and what to log."""
    progress = step / config.steps
    opacity = (seen.opacity.square() + 0.01).sqrt().mean()
    entropy = binary_entropy(seen.opacity).mean()
    regular = config.opacity_weight * opacity + config.entropy_weight * progress * entropy
    if seen.points.normal is not None:
        regular = regular + config.orientation_weight * orientation(seen)
    return regular, {"opacity": seen.opacity.mean(), "entropy": entropy}


def latent_numbers(prior: Prior) -> int:
    """Numbers of a latent: distillation is a sum over them, the regularisers are means."""
    return prior.latent_channels * prior.latent_size**2


def training_recipe(config: ShapingConfig, seed: int) -> TrainingRecipe:
    """The loop's settings for a run."""
    return TrainingRecipe(
        steps=config.steps, batch_size=config.views, learning_rate=config.learning_rate, warmup_steps=10,
        final_learning_rate_fraction=0.1, weight_decay=0.0, epsilon=1e-15, gradient_clip=0.0, ema_decay=0.95,
        precision="no", seed=seed, checkpoint_every=50, log_every=10,
    )  # fmt: skip


def binary_entropy(opacity: Tensor) -> Tensor:
    """(r,) bits: 0 for empty and opaque rays, 1 halfway."""
    p = opacity.clamp(1e-4, 1 - 1e-4)
    return -(p * p.log2() + (1 - p) * (1 - p).log2())


def orientation(seen: Rendered) -> Tensor:
    """Weight of normals that point away from the camera, squared, a ray (Ref-NeRF, 2112.03907 eq. 11)."""
    assert seen.points.normal is not None
    away = (seen.points.normal * seen.points.direction).sum(1).clamp(min=0)  # (n,)
    return (seen.weights.detach() * away.square()).sum() / len(seen.opacity)


def _lit(albedo: Tensor, points: Points) -> Tensor:
    assert points.normal is not None
    return albedo * lit(points.normal)
