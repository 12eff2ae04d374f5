"""What Toybox v1 contains: its words, its palette, and what is held out of whom. No arrays, no torch.

The world is frozen: any change that alters a picture needs a new `VERSION`, since every bundled model learned from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

VERSION = 1
NAME = "toybox"  # by which a model's metadata says that it was trained on this world

# class -> (has a front, looks different when spun). View words need a front; spin captions need a visible spin.
CLASSES: dict[str, tuple[bool, bool]] = {
    "chair": (True, True),
    "sofa": (True, True),
    "table": (False, True),
    "lamp": (False, False),
    "television": (True, True),
    "mug": (False, True),
    "teapot": (True, True),
    "bottle": (False, False),
    "house": (True, True),
    "windmill": (True, True),
    "tree": (False, False),
    "cactus": (False, True),
    "mushroom": (False, False),
    "car": (True, True),
    "truck": (True, True),
    "train": (True, True),
    "boat": (True, True),
    "airplane": (True, True),
    "rocket": (False, True),
    "dog": (True, True),
    "duck": (True, True),
    "fish": (True, True),
    "robot": (True, True),
    "snowman": (True, True),
}
CLASS_NAMES = tuple(CLASSES)
FRONTED = tuple(name for name, (front, _) in CLASSES.items() if front)
SPINNING = tuple(name for name, (_, spins) in CLASSES.items() if spins)

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.09, 0.09),
    "orange": (0.96, 0.48, 0.06),
    "yellow": (0.97, 0.86, 0.12),
    "green": (0.12, 0.60, 0.17),
    "cyan": (0.22, 0.80, 0.86),
    "blue": (0.11, 0.20, 0.80),
    "purple": (0.49, 0.14, 0.64),
    "pink": (0.98, 0.55, 0.73),
    "white": (0.96, 0.96, 0.96),
    "black": (0.12, 0.12, 0.13),
}
COLOR_NAMES = tuple(COLORS)

SIZES = ("tall", "wide", "small")
PATTERNS = ("striped", "checkered", "dotted")
GROUNDS = ("grass", "sand", "wood", "tiles", "carpet", "water")
VIEWS = ("front", "side", "back", "overhead")

# Motions by who moves. Directions are part of the motion: left and right as the camera sees them, clockwise from above.
OBJECT_MOTIONS = (
    "still",
    "spinning clockwise",
    "spinning counterclockwise",
    "bouncing",
    "sliding left",
    "sliding right",
    "hopping left",
    "hopping right",
    "growing",
    "shrinking",
)
DOLL_MOTIONS = (
    "standing",
    "waving",
    "walking",
    "squatting",
    "jumping",
    "turning clockwise",
    "turning counterclockwise",
)
CAMERA_MOTIONS = (
    "camera orbiting clockwise",
    "camera orbiting counterclockwise",
    "camera zooming in",
    "camera zooming out",
    "camera panning left",
    "camera panning right",
)
MOTIONS = OBJECT_MOTIONS + DOLL_MOTIONS + CAMERA_MOTIONS

# Never drawn for generators or CLIP: they measure whether a model composes words that it never saw together.
HELD_OUT_PAIRS = frozenset(
    {
        ("chair", "purple"),
        ("sofa", "orange"),
        ("mug", "green"),
        ("teapot", "blue"),
        ("house", "cyan"),
        ("tree", "pink"),
        ("car", "yellow"),
        ("train", "black"),
        ("airplane", "red"),
        ("duck", "white"),
        ("fish", "purple"),
        ("robot", "green"),
    }
)
# (class, motion) never drawn as clips for generators.
HELD_OUT_MOTIONS = frozenset(
    {
        ("mug", "bouncing"),
        ("car", "spinning clockwise"),
        ("house", "growing"),
        ("duck", "sliding left"),
        ("robot", "hopping right"),
        ("teapot", "shrinking"),
        ("boat", "sliding right"),
        ("dog", "spinning counterclockwise"),
        ("rocket", "hopping left"),
        ("chair", "still"),
    }
)

# A seed says what a sample is for. Only generator seeds leave the held-out pairs and motions out.
GENERATOR_SEEDS = range(0, 1000)  # generators, CLIP
JUDGE_SEEDS = range(1000, 2000)  # judges
TUNING_SEEDS = range(2000, 3000)  # choosing a recipe, a checkpoint, a scale
REPORTING_SEEDS = range(3000, 4000)  # reported numbers only

# Every camera looks at the origin from a distance, with this vertical field of view.
FIELD_OF_VIEW = 40.0  # degrees
CAMERA_RADIUS = (1.75, 2.15)  # metres, stills
CLIP_CAMERA_RADIUS = (2.0, 2.4)  # metres, clips: the object needs room to move
LIGHT = (0.4924, 0.4132, 0.7660)  # unit vector towards the light: azimuth 40, elevation 50 degrees, fixed to the world
LIGHT_STRENGTHS = (0.46, 0.06, 0.48)  # ambient, times the normal's z, times the Lambert term

VIEW_HALF_WIDTH = 30.0  # degrees around front, sides and back that a view word names; between them no word fits
OVERHEAD_ELEVATION = 60.0  # degrees above which a view is "overhead"


def view_word(azimuth: float, elevation: float) -> str | None:
    """The view word for a camera, or None where no word fits (between front and side, say).

    Args:
        azimuth: degrees counter-clockwise from the object's front (+X).
        elevation: degrees above the XY plane.
    """
    if elevation > OVERHEAD_ELEVATION:
        return "overhead"
    folded = abs((azimuth + 180.0) % 360.0 - 180.0)  # 0 front, 90 either side, 180 back
    for word, centre in (("front", 0.0), ("side", 90.0), ("back", 180.0)):
        if abs(folded - centre) <= VIEW_HALF_WIDTH:
            return word
    return None


def is_held_out(name: str, color: str) -> bool:
    """Whether this class and colour are never shown together to generators and CLIP."""
    return (name, color) in HELD_OUT_PAIRS


def pairs(held_out: bool | None = None) -> Iterator[tuple[str, str]]:
    """All (class, colour) pairs; only the held-out ones with True, only the others with False."""
    for name, color in product(CLASS_NAMES, COLOR_NAMES):
        if held_out is None or held_out == is_held_out(name, color):
            yield name, color
