"""Pictures that no honest judge may accept: blobs, chimeras, two-coloured and noisy objects."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import numpy as np

from core2d.toybox import world
from core2d.toybox.parts import Parts
from core2d.toybox.render import Renders, render
from core2d.toybox.scene import Scene, finish_still, random_object, still

KINDS = ("blob", "chimera", "two-coloured", "noisy")


def draw_rejects(seed: int, indices: range, size: int, in_clips: bool = False) -> np.ndarray:
    """(n, size, size, 3) float32 pictures; picture i is of kind `KINDS[i % 4]`.

    Args:
        in_clips: bodies as small and as far from the middle as those in clips are.
    """
    randoms = {i: Random(f"{world.VERSION}/reject/{seed}/{i}") for i in indices}
    first = [_first(randoms[i], KINDS[i % 4], seed, i) for i in indices]
    if in_clips:
        first = [_as_in_clip(randoms[i], scene) for i, scene in zip(indices, first, strict=True)]
    second = [_second(randoms[i], KINDS[i % 4], scene) for i, scene in zip(indices, first, strict=True)]
    a, b = render(first, size), render(second, size)
    pictures = []
    for row, i in enumerate(indices):
        kind = KINDS[i % 4]
        if kind == "blob":
            pictures.append(a.rgb[row])
        elif kind == "noisy":
            pictures.append(_noisy(randoms[i], a.rgb[row], a.mask[row]))
        else:
            pictures.append(_split(randoms[i], a, b, row))
    return np.stack(pictures)


def _first(random: Random, kind: str, seed: int, index: int) -> Scene:
    scene = still(seed, 10_000_000 + index, kind="object")
    return finish_still(random, replace(scene, parts=_blob(random), pattern=None)) if kind == "blob" else scene


def _as_in_clip(random: Random, scene: Scene) -> Scene:
    """A still body at the size and place of one that moves (see `core2d.toybox.scene.moment`)."""
    scale = 0.82 * (random.uniform(0.6, 1.4) if random.random() < 0.3 else 1.0)
    sideways, up = random.uniform(-0.58, 0.58), random.choice((0.0, random.uniform(0.0, 0.4)))
    azimuth = scene.view.azimuth
    offset = (-sideways * math.sin(azimuth), sideways * math.cos(azimuth), up)
    return replace(scene, scale=scale, offset=offset,
                   view=replace(scene.view, radius=random.uniform(*world.CLIP_CAMERA_RADIUS)))  # fmt: skip


def _second(random: Random, kind: str, scene: Scene) -> Scene:
    """The other half of a split picture: another class, or the same body in another colour."""
    if kind == "chimera":
        name = random.choice([n for n in world.CLASS_NAMES if n != scene.name])
        other = random_object(random, name, scene.colors[0], adjectives=False)
        return replace(scene, parts=other.parts, name=name, pattern=None)
    color = random.choice([c for c in world.COLOR_NAMES if c != scene.colors[0]])
    return replace(scene, main=world.COLORS[color], pattern=None)


def _blob(random: Random) -> Parts:
    parts = Parts()
    for _ in range(random.randint(2, 6)):
        center = [random.uniform(-0.35, 0.35) for _ in range(3)]
        size = [random.uniform(0.2, 0.7) for _ in range(3)]
        turn = [random.uniform(0, 180) for _ in range(3)]
        parts.add(random.choice(("sphere", "sphere", "box", "cone")), center, size, turn=turn)
    return parts.normalised(1.0)


def _split(random: Random, a: Renders, b: Renders, row: int) -> np.ndarray:
    """One side of a line from `a`, the other from `b`, so that either gives a good share of the body."""
    size = a.rgb.shape[1]
    y, x = np.mgrid[:size, :size]
    different = np.abs(a.rgb[row] - b.rgb[row]).sum(2)  # (h, w) where the two bodies disagree
    total = different.sum() + 1e-6
    center_x, center_y = (x * different).sum() / total, (y * different).sum() / total
    for _ in range(8):
        angle = random.uniform(0, 2 * math.pi)
        side = (x - center_x) * math.cos(angle) + (y - center_y) * math.sin(angle) > 0
        if 0.3 < different[side].sum() / total < 0.7:
            break
    return np.where(side[..., None], a.rgb[row], b.rgb[row])


def _noisy(random: Random, rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Strong noise on the body: grains of one to eight pixels."""
    generator = np.random.default_rng(random.getrandbits(32))
    grain = random.choice((1, 2, 4, 8))
    coarse = generator.normal(0, random.uniform(0.35, 0.6), (*(-(-s // grain) for s in mask.shape), 3))
    noise = coarse.repeat(grain, 0).repeat(grain, 1)[: mask.shape[0], : mask.shape[1]]
    return np.clip(rgb + noise * mask[..., None], 0, 1).astype(np.float32)
