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
  words and its camera leave so little open that guidance only leads out of what its autoencoder knows;
- told the view in words, it is asked from where a word of Toybox fits, without Perp-Neg (2304.04968), which is another
  guidance; published priors are asked from everywhere, with words that are mixed on the way around, and with Perp-Neg.

`DreamFusionTask` runs in the one training loop, so a killed run goes on to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from core2d.guidance import (
    Guidance,
    PerpNegDistillation,
    ScoreDistillation,
    ScoreDistillationConfig,
    TimeRange,
    ViewPrompts,
)
from core2d.guidance.base import Learning, Tell
from core2d.prior.base import Prior
from core2d.prior.cameras import Cameras, orbit
from core2d.toybox import world
from core2d.toybox.captions import background_phrase
from core2d.toybox.scene import plain
from core2d.training.loop import Phase, step_generator, step_seed
from gen3d.dreamfusion.recipe import DreamFusionConfig
from gen3d.render.volume import Rendered
from gen3d.shaping.model import TIMES, Model, around, as_pictures, latent_numbers, look, picture_size, regularisation

Distill = Callable[[Prior, ScoreDistillationConfig, int], Guidance]

ALBEDO_FIRST = 0.2  # fraction of the steps without shading, while there is no surface yet
# Where view words of Toybox fit. What a prior imagines for a word is a mean over all that the word leaves open, so the
# cameras keep to the middle of that: to either side of front, sides and back, at the height of most pictures.
NAMED_WITHIN, NAMED_ELEVATIONS = 10.0, (10.0, 30.0)  # degrees
OVERHEAD, OVERHEAD_ELEVATIONS = 0.1, (62.0, 78.0)  # share of the steps, degrees
# Adam's, for what a guidance learns: ten times that of ProlificDreamer, which takes a hundred times as many steps.
LEARNER_RATE = 1e-3


@dataclass(frozen=True)
class Manner:
    """How a prior is asked: fields of `ScoreDistillationConfig`."""

    guidance_scale: float
    rescale: float
    space: Literal["latent", "image"]


EXACT = Manner(1.0, 0.0, "image")  # where background and view are told
OPEN = Manner(50.0, 0.5, "latent")  # where the prompt leaves most of a picture open; the numbers are MVDream's


def manner_of(prior: Prior) -> Manner:
    """How to ask a prior, by the world that its own metadata names."""
    return EXACT if prior.world == world.NAME else OPEN


@dataclass(frozen=True)
class Shown:
    """What a step shows its guidance: pictures (n, 3, h, w) in [0, 1] and their rays, in words, and from where."""

    pictures: Tensor
    seen: Rendered
    prompt: str
    cameras: Cameras
    step: int
    guidance: Guidance


@dataclass
class DreamFusionTask:
    """One optimisation step after the other, each a function of (seed, step).

    Attributes:
        model: field and occupancy.
        prior: who judges the pictures.
        prompt: the object, without view or background.
        config: see there.
        views: "auto" uses the camera token where there is one; "words" describes the view instead.
        distill: makes the guidance of prior, settings and seed, once for each background; by default plain score
            distillation, or Perp-Neg where a prior of no small world is told the view in words. One with state
            (`core2d.guidance.base.Learning`) learns beside the field.
        tell: what more the prior is told of each picture, by the guidance that is made by default; one that `distill`
            makes is given its own.
    """

    model: Model
    prior: Prior
    prompt: str
    config: DreamFusionConfig
    views: str = "auto"
    seed: int = 0
    distill: Distill | None = None
    tell: Tell | None = None

    def __post_init__(self) -> None:
        self.in_words = self.views == "words" or not self.prior.has_camera_token
        self.of_toybox = self.prior.world == world.NAME
        usual = PerpNegDistillation if self.in_words and not self.of_toybox else ScoreDistillation
        distill = self.distill or partial(usual, tell=self.tell)
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
                wording=ViewPrompts("{prompt}, {view} view" + self._setting(word), interpolate=not self.of_toybox),
            )
            self.guidance[word] = distill(self.prior, settings, self.seed)
        learners = {id(one.learner): one.learner for one in self.guidance.values() if isinstance(one, Learning)}
        self.model.learners.extend(learners.values())  # so that the run trains, saves and resumes them

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Cameras (n,), evenly spread from a random start; whether the step is lit; its background."""
        generator = step_generator(self.seed, step)
        draws = torch.rand(2 + 2 * batch_size, generator=generator)
        shaded = step >= ALBEDO_FIRST * self.config.steps and draws[1] < self.config.shaded
        backgrounds = self._backgrounds()
        chosen = int(torch.randint(len(backgrounds), (1,), generator=generator))
        facts = {"step": step, "shaded": int(shaded), "background": chosen}
        same = {name: torch.full((batch_size,), value) for name, value in facts.items()}
        spread = where_words_fit if self.in_words and self.of_toybox else around
        return {name: value[positions] for name, value in (spread(draws[0], draws[2:]) | same).items()}

    def loss(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Score distillation and the regularisers, and what a guidance with state learns."""
        shown = self.show(model, batch)
        loss, parts = self.field_loss(shown)
        learned = self.learner_loss(shown)
        return (loss if learned is None else loss + learned), parts

    def show(self, model: Model, batch: dict[str, Tensor]) -> Shown:
        """The pictures of a step."""
        step, shaded = int(batch["step"][0]), bool(batch["shaded"][0])
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, 2))
        model.follow(step, generator)
        cameras = orbit(batch["azimuth"], batch["elevation"], batch["radius"])
        word = self._backgrounds()[int(batch["background"][0])]
        size = picture_size(self.config, step, self.prior.image_size)
        seen = look(model, cameras, size, torch.tensor(plain(word)), shaded, generator)
        prompt = self.prompt if self.in_words else (self.prompt + self._setting(word)).removeprefix(", ")
        return Shown(as_pictures(seen.color, size), seen, prompt, cameras, step, self.guidance[word])

    def field_loss(self, shown: Shown) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Score distillation and the regularisers."""
        distillation, info = shown.guidance(shown.pictures, shown.prompt, shown.cameras, shown.step)
        regular, parts = regularisation(shown.seen, self.config, shown.step)
        parts |= {"sds": distillation, "t": info["t"].float().mean()}
        return distillation + latent_numbers(self.prior) * regular, parts

    def learner_loss(self, shown: Shown) -> Tensor | None:
        """Of a guidance with state; None of others."""
        if not isinstance(shown.guidance, Learning):
            return None
        return shown.guidance.learner_loss(shown.pictures.detach(), shown.prompt, shown.cameras, shown.step)

    def _setting(self, background: str) -> str:
        """How the prompt goes on: priors of Toybox know the names of backgrounds."""
        return f", {background_phrase(None, background)}" if self.of_toybox else ""

    def _backgrounds(self) -> list[str]:
        """Plain backgrounds that the object does not have the colour of; white only where words do not name them."""
        if not self.of_toybox:
            return ["white"]
        return [word for word in world.COLOR_NAMES if word != "black" and word not in self.prompt.split()]


class LearningTask:
    """A `DreamFusionTask` whose guidance learns, as a task of two phases: low-rank layers that are moved as fast as a
    hash grid fall to pieces.

    Args:
        task: whose loss is asked in two parts, of one rendering.
    """

    def __init__(self, task: DreamFusionTask) -> None:
        self.task, self.model = task, task.model
        rate = LEARNER_RATE / task.config.learning_rate
        self.phases = (Phase("field", ("field",)), Phase("learner", ("learners",), rate=rate))
        self.shown: Shown | None = None  # of the step under way

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        return self.task.batch(step, positions, batch_size)

    def loss(self, model: Model, batch: dict[str, Tensor], phase: str) -> tuple[Tensor, dict[str, float | Tensor]]:
        if phase == "field":
            self.shown = self.task.show(model, batch)
            return self.task.field_loss(self.shown)
        assert self.shown is not None
        learned = self.task.learner_loss(self.shown)
        assert learned is not None
        return learned, {}


def where_words_fit(start: Tensor, draws: Tensor) -> dict[str, Tensor]:
    """As `gen3d.shaping.model.around`, from where Toybox has a word for the view: all overhead, or spread over the
    others.
    """
    count = len(draws) // 2
    turns, rest = torch.arange(count) / count, (4 * start) % 1
    if rest < OVERHEAD:
        azimuth, heights = rest / OVERHEAD + turns, OVERHEAD_ELEVATIONS
    else:
        aside = (2 * draws[count:] - 1) * NAMED_WITHIN / 360
        azimuth, heights = (4 * start).floor() / 4 + (4 * turns).round() / 4 + aside, NAMED_ELEVATIONS
    low, high = (math.radians(angle) for angle in heights)
    radius = torch.full((count,), sum(world.CAMERA_RADIUS) / 2)
    return {"azimuth": 2 * math.pi * azimuth, "elevation": low + (high - low) * draws[:count], "radius": radius}
