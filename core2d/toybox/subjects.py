"""Subjects that a model is taught from a few pictures: objects of a class, colour and pattern that it never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from core2d.toybox import captions, world
from core2d.toybox.dataset import STILL_SCALES
from core2d.toybox.scene import WHITE, Scene, finish_still, random_object

COUNT = 8  # subjects of a seed
RARE = "sks"  # a word that no caption has


@dataclass(frozen=True)
class Subject:
    """One object, always the same, whoever looks at it and from where.

    Attributes:
        body: in no setting yet.
        scenes: pictures of it, from sides and in settings of their own.
    """

    body: Scene
    scenes: Sequence[Scene]

    @property
    def called(self) -> str:
        """How it is taught: "a sks mug"."""
        return f"a {RARE} {self.body.name}"

    @property
    def kind(self) -> str:
        """What it is one of: "a mug"."""
        return captions.with_article(self.body.name)

    @property
    def described(self) -> str:
        """What a model can be told of it that was not taught: "a striped green mug"."""
        return captions.object_phrase(self.body.name, self.body.colors[0], pattern=self.body.pattern)


def subject(seed: int, number: int, pictures: int) -> Subject:
    """One of the subjects of a seed (see `world`), of a held-out pair and with a pattern.

    Args:
        number: in [0, `COUNT`).
        pictures: how many; the first ones are the same however many there are.
    """
    random = Random(f"{world.VERSION}/subject/{seed}/{number}")
    name, color = sorted(world.HELD_OUT_PAIRS)[number]
    plain = random_object(random, name, color, adjectives=False)
    body = replace(plain, pattern=world.PATTERNS[number % len(world.PATTERNS)])
    return Subject(body, [finish_still(random, body) for _ in range(pictures)])


def seen_again(scene: Scene, seed: int, index: int, plain: bool = False) -> Scene:
    """The same body from another side, at rest, in another setting: a picture that says what it is, and no more.

    Args:
        scene: a still, or a moment of a clip.
        seed, index: of the side and the setting.
        plain: on white and not from overhead, as one would show a thing to somebody.
    """
    random = Random(f"{world.VERSION}/again/{seed}/{index}")
    body = replace(scene, yaw=0.0, offset=(0.0, 0.0, 0.0), scale=STILL_SCALES[scene.kind], ground=None)
    while True:
        again = finish_still(random, body)
        if not plain:
            return again
        if again.view.elevation <= math.radians(world.OVERHEAD_ELEVATION):
            return replace(again, ground=None, background=WHITE)


def others(seed: int, name: str, pictures: int) -> list[Scene]:
    """Scenes of a class in every colour, with patterns and without: what a subject is one of."""
    random = Random(f"{world.VERSION}/others/{seed}/{name}")
    colors = [world.COLOR_NAMES[i % len(world.COLOR_NAMES)] for i in range(pictures)]
    return [finish_still(random, random_object(random, name, color)) for color in colors]
