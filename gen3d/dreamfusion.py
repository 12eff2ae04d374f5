"""DreamFusion (Poole et al. 2022, 2209.14988): a field whose every picture the prior takes for the prompt.

    step:  cameras around the object (3.2.1) -> pictures of the field, lit or in albedo (3.1)
           -> gradient of score distillation (eq. 3) + opacity, entropy and orientation losses (3.2.2, A.2)

What differs from the paper, and why:
- the field is a hash grid with small networks, and a step sees several cameras spread around the object, not one;
- with a camera token the prior is told the view exactly; the cameras are then those that it was trained on;
- plain backgrounds of the prior's world are named in the prompt ("..., on a pink background") and drawn, instead of a
  learned environment: the object cannot hide in a background that changes every step;
- the light is that of Toybox, fixed to the world, since that is the light the bundled prior knows;
- a prior of Toybox is asked without guidance, and the difference is taken between pictures (HiFA, 2305.18766): its
  words and its camera leave so little open that guidance only leads out of what its autoencoder knows.

`DreamFusionTask` runs in the one training loop, so a killed run goes on to the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from core2d.backbone import Denoiser
from core2d.cameras import Cameras, orbit
from core2d.guidance import (
    Guidance,
    PerpNegDistillation,
    ScoreDistillation,
    ScoreDistillationConfig,
    TimeRange,
    ViewPrompts,
)
from core2d.toybox import world
from core2d.toybox.captions import background_phrase
from core2d.toybox.light import lit
from core2d.toybox.scene import plain
from core2d.training import TrainingRecipe, step_generator, step_seed
from gen3d.fields.config import FieldConfig
from gen3d.fields.hash_grid_field import HashGridField
from gen3d.recipes import DreamFusionConfig
from gen3d.render.images import camera_rays
from gen3d.render.occupancy import OccupancyGrid
from gen3d.render.volume import Points, Rendered, render_rays

BOUND = 0.62  # half the side of the cube that holds the object, in metres: Toybox bodies are at most 1.05 m long
ELEVATIONS = (-10.0, 55.0)  # degrees
SAMPLES_ACROSS = 96  # steps of a ray through the cube's side
OCCUPANCY_EVERY = 8  # steps between looks at all cells
ALBEDO_FIRST = 0.2  # fraction of the steps without shading, while there is no surface yet
TIMES = ((0.7, 0.98), (0.1, 0.3))  # noise levels of the first and of the last step, as fractions of the schedule


@dataclass(frozen=True)
class Manner:
    """How a prior is asked: fields of `ScoreDistillationConfig`."""

    guidance_scale: float
    rescale: float
    space: Literal["latent", "image"]


EXACT = Manner(1.0, 0.0, "image")  # where background and view are told
OPEN = Manner(50.0, 0.5, "latent")  # where the prompt leaves most of a picture open; the numbers are MVDream's


def manner_of(prior: Denoiser) -> Manner:
    """How to ask a prior: those with a camera token are of Toybox."""
    return EXACT if prior.has_camera_token else OPEN


class Model(nn.Module):
    """What is optimised, and the occupancy grid that follows it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        # exp sharpens a surface within hundreds of steps, where softplus stays soft
        shape = FieldConfig(bound=BOUND, density="exp", gain=3.0, blob=5.0, blob_radius=0.45)
        self.field = HashGridField(shape, torch.Generator().manual_seed(seed))
        self.occupancy = OccupancyGrid(48, BOUND)

    @property
    def step(self) -> float:
        """Metres between samples."""
        return 2 * BOUND / SAMPLES_ACROSS


@dataclass
class DreamFusionTask:
    """One optimisation step after the other, each a function of (seed, step).

    Attributes:
        model: field and occupancy.
        prior: who judges the pictures.
        prompt: the object, without view or background.
        config: see there.
        views: "auto" uses the camera token where there is one; "words" describes the view instead, with Perp-Neg
            (2304.04968) against a second face.
    """

    model: Model
    prior: Denoiser
    prompt: str
    config: DreamFusionConfig
    views: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        self.in_words = self.views == "words" or not self.prior.has_camera_token
        distillation = PerpNegDistillation if self.in_words else ScoreDistillation
        self.guidance: dict[str, Guidance] = {}  # for each background
        manner = manner_of(self.prior)
        scale = self.config.guidance_scale
        for word in self._backgrounds():
            settings = ScoreDistillationConfig(
                guidance_scale=manner.guidance_scale if scale is None else scale,
                rescale=manner.rescale,
                space=manner.space,
                form="x0",
                times=TimeRange(*TIMES, self.config.steps),
                views="words" if self.in_words else "camera",
                wording=ViewPrompts("{prompt}, {view} view" + self._setting(word)),
            )
            self.guidance[word] = distillation(self.prior, settings, self.seed)

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Cameras (n,), evenly spread from a random start; whether the step is lit; its background."""
        generator = step_generator(self.seed, step)
        draws = torch.rand(2 + 2 * batch_size, generator=generator)
        azimuth = 2 * math.pi * (draws[0] + torch.arange(batch_size) / batch_size)
        low, high = (math.radians(angle) for angle in ELEVATIONS)
        elevation = low + (high - low) * draws[2 : 2 + batch_size]
        near, far = world.CAMERA_RADIUS
        radius = near + (far - near) * draws[2 + batch_size :]
        shaded = step >= ALBEDO_FIRST * self.config.steps and draws[1] < self.config.shaded
        backgrounds = self._backgrounds()
        chosen = int(torch.randint(len(backgrounds), (1,), generator=generator))
        rows = {"azimuth": azimuth, "elevation": elevation, "radius": radius}
        facts = {"step": step, "shaded": int(shaded), "background": chosen}
        same = {name: torch.full((batch_size,), value) for name, value in facts.items()}
        return {name: value[positions] for name, value in (rows | same).items()}

    def loss(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Score distillation and the regularisers."""
        step, shaded = int(batch["step"][0]), bool(batch["shaded"][0])
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, 2))
        if step % OCCUPANCY_EVERY == 0:
            model.occupancy.update(model.field.density, model.step, generator)
        cameras = orbit(batch["azimuth"], batch["elevation"], batch["radius"])
        word = self._backgrounds()[int(batch["background"][0])]
        size = self._size(step)
        seen = self.look(model, cameras, size, torch.tensor(plain(word)), shaded, generator)
        pictures = seen.color.unflatten(0, (len(cameras), size, size)).movedim(-1, 1)  # (n, 3, h, w)
        prompt = self.prompt if self.in_words else self.prompt + self._setting(word)
        distillation, info = self.guidance[word](pictures, prompt, cameras, step)
        progress = step / self.config.steps
        opacity = (seen.opacity.square() + 0.01).sqrt().mean()
        entropy = binary_entropy(seen.opacity).mean()
        regular = self.config.opacity_weight * opacity + self.config.entropy_weight * progress * entropy
        if shaded:
            regular = regular + self.config.orientation_weight * orientation(seen)
        parts: dict[str, float | Tensor] = {"sds": distillation, "opacity": seen.opacity.mean(), "entropy": entropy}
        return distillation + self._latent_numbers() * regular, parts | {"t": info["t"].float().mean()}

    def look(
        self,
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

    def _size(self, step: int) -> int:
        fine = max(64, min(self.prior.image_size, 128))
        return self.config.coarse_size if step < self.config.refine_at * self.config.steps else fine

    def _latent_numbers(self) -> int:
        """Numbers of a latent: distillation is a sum over them, the regularisers are means."""
        return self.prior.latent_channels * self.prior.latent_size**2

    def _setting(self, background: str) -> str:
        """How the prompt goes on: priors of Toybox, which have a camera token, know the names of backgrounds."""
        return f", {background_phrase(None, background)}" if self.prior.has_camera_token else ""

    def _backgrounds(self) -> list[str]:
        """Plain backgrounds that the object does not have the colour of; white only where words do not name them."""
        if not self.prior.has_camera_token:
            return ["white"]
        return [word for word in world.COLOR_NAMES if word != "black" and word not in self.prompt.split()]


def training_recipe(config: DreamFusionConfig, seed: int) -> TrainingRecipe:
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
