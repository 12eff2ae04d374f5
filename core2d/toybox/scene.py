"""Which scene a (seed, index) stands for: what is shown, how it moves, from where it is seen, what it is called.

Every function here is pure: the same address gives the same scene, on any machine and in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from random import Random

from core2d.toybox import captions, doll, objects, world
from core2d.toybox.parts import Color, Parts

SKIES = ((0.78, 0.88, 0.97), (0.96, 0.93, 0.86), (0.86, 0.87, 0.89))
WHITE = (1.0, 1.0, 1.0)
CYCLES_A_SECOND = {"waving": 1.4, "walking": 1.0, "squatting": 0.7, "jumping": 1.0}


@dataclass(frozen=True)
class View:
    """A camera that looks at the origin, then turns by `pan`. Angles in radians, lengths in metres."""

    azimuth: float
    elevation: float
    radius: float
    pan: float = 0.0  # counter-clockwise turn of the camera on its own axis


@dataclass(frozen=True)
class Scene:
    """One moment of the world, ready to be drawn.

    Attributes:
        kind: "object" or "doll".
        name: class of the object, or "doll".
        colors: (main colour,) of an object; (hair, shirt, trousers) of a doll; as words.
        parts: the body in rest coordinates, centred at the origin, front +X.
        main, second: RGB of the object's own colour and of its pattern's other colour.
        yaw, scale, offset: where the body stands: turned by yaw about Z, scaled, then moved.
        ground: a name of `world.GROUNDS`, or None for a plain background.
        background: RGB of the plain background, or of the sky.
        floor: height of the ground plane in metres.
        joints: the doll's 18 joints in rest coordinates, empty for objects.
        caption: what the grammar says about it.
    """

    kind: str
    name: str
    colors: tuple[str, ...]
    parts: Parts
    main: Color
    second: Color
    view: View
    caption: str
    size: str | None = None
    pattern: str | None = None
    motion: str | None = None
    yaw: float = 0.0
    scale: float = 1.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ground: str | None = None
    ground_shift: tuple[float, float] = (0.0, 0.0)
    background: Color = WHITE
    floor: float = -0.5
    joints: tuple[tuple[float, float, float], ...] = field(default=())

    @property
    def view_word(self) -> str | None:
        """The view word that fits, or None (no front, or between two words)."""
        if self.name not in world.FRONTED and self.kind == "object":
            return None
        azimuth = math.degrees(self.view.azimuth - self.yaw)
        return world.view_word(azimuth, math.degrees(self.view.elevation))


def still(seed: int, index: int, kind: str | None = None) -> Scene:
    """A still picture: an object or a doll seen from a random side.

    Args:
        seed: says what the sample is for (see `world.GENERATOR_SEEDS` and its neighbours).
        index: any non-negative integer.
        kind: "object" or "doll"; None mixes four objects to one doll.
    """
    random = Random(f"{world.VERSION}/still/{seed}/{index}")
    mixed = "doll" if random.random() < 0.2 else "object"
    kind = kind or mixed
    name, color = draw_pair(random, seed)
    body = random_doll(random, random.choice(world.DOLL_MOTIONS[:5])) if kind == "doll" else random_object(
        random, name, color)  # fmt: skip
    return finish_still(random, body)


def portrait(name: str, color: str, azimuth: float, elevation: float, seed: int, index: int) -> Scene:
    """One plain object on white from a given side (degrees): what prompts without adjectives ask for."""
    random = Random(f"{world.VERSION}/portrait/{seed}/{index}")
    body = random_object(random, name, color, adjectives=False)
    view = View(math.radians(azimuth), math.radians(elevation), sum(world.CAMERA_RADIUS) / 2)
    return replace(body, view=view, caption=captions.object_phrase(name, color))


def moment(seed: int, index: int, frame: int, frames: int, kind: str | None = None, fps: float = 8.0) -> Scene:
    """Frame `frame` of the clip at this address.

    Cyclic motions (spin, bounce, walk, ...) follow the clock; the others (slide, grow, orbit, ...) run once over the
    clip's `frames`. Camera moves are always filmed over a ground, so that on a plain background a change of size can
    only be growth and a shift only a slide.
    """
    random = Random(f"{world.VERSION}/clip/{seed}/{index}")
    mixed = "doll" if random.random() < 0.25 else "object"
    kind = kind or mixed
    name, color = draw_pair(random, seed)
    motion = _draw_motion(random, seed, kind, name)
    rate, phase, extent = random.uniform(0.85, 1.15), random.random(), random.uniform(0.85, 1.15)
    seconds, progress = frame / fps, frame / max(frames - 1, 1)
    if kind == "doll":
        cycles = phase + rate * seconds * CYCLES_A_SECOND.get(motion, 0.0)
        body = replace(random_doll(random, motion, cycles), scale=0.82)
    else:
        body = replace(random_object(random, name, color), scale=0.82)
    with_camera = motion.startswith("camera")
    scene = _set(random, body, world.CLIP_CAMERA_RADIUS, elevations=(5.0, 45.0), force_ground=with_camera)
    scene = _move(scene, motion, rate * seconds, phase, progress, extent)
    view_word = None if "ing c" in motion or scene.view_word is None or random.random() < 0.7 else scene.view_word
    return replace(scene, motion=motion, caption=_caption(random, scene, motion, view_word))


def frame(seed: int, index: int, frames: int = 16) -> Scene:
    """One moment of the clip of an object at this address: an earlier or a later one from index to index."""
    return moment(seed, index, index % frames, frames, kind="object")


def draw_pair(random: Random, seed: int) -> tuple[str, str]:
    """A class and a colour; generator seeds never give a held-out pair."""
    while True:
        pair = random.choice(world.CLASS_NAMES), random.choice(world.COLOR_NAMES)
        if seed not in world.GENERATOR_SEEDS or not world.is_held_out(*pair):
            return pair


def finish_still(random: Random, body: Scene) -> Scene:
    """Give a body a background, a camera and a caption."""
    scene = _set(random, body, world.CAMERA_RADIUS)
    motion = body.motion if body.kind == "doll" and random.random() < 0.7 else None
    view_word = scene.view_word if random.random() < 0.6 else None
    return replace(scene, caption=_caption(random, scene, motion, view_word))


def random_object(random: Random, name: str, color: str, adjectives: bool = True) -> Scene:
    size = random.choice(world.SIZES) if adjectives and random.random() < 0.3 else None
    pattern = random.choice(world.PATTERNS) if adjectives and random.random() < 0.25 else None
    stretch = {"tall": (0.78, 0.78, 1.3), "wide": (1.3, 1.3, 0.78)}.get(size or "", (1, 1, 1))
    extent = 0.6 if size == "small" else random.uniform(0.92, 1.0)
    parts = objects.build(name, random).normalised(extent, stretch)
    low, _ = parts.bounds()
    main = _jitter(random, world.COLORS[color])
    return Scene(
        kind="object", name=name, colors=(color,), parts=parts, main=main, second=_tint(main), view=View(0, 0, 1),
        caption="", size=size, pattern=pattern, floor=low[2],
    )  # fmt: skip


def random_doll(random: Random, motion: str, cycles: float | None = None) -> Scene:
    words = tuple(random.choice(world.COLOR_NAMES) for _ in range(3))
    hair, shirt, trousers = (_jitter(random, world.COLORS[word]) for word in words)
    pose = doll.pose_of(motion, random.random() if cycles is None else cycles)
    joints = doll.joints_of(pose)
    centred = {name: (x, y, z - 0.5) for name, (x, y, z) in joints.items()}
    return Scene(
        kind="doll", name="doll", colors=words, parts=doll.dress(centred, hair, shirt, trousers), main=shirt,
        second=shirt, view=View(0, 0, 1), caption="", motion=motion, scale=0.92,
        joints=tuple(centred[name] for name in doll.JOINTS),
    )  # fmt: skip


def _set(
    random: Random,
    body: Scene,
    radii: tuple[float, float],
    elevations: tuple[float, float] | None = None,
    force_ground: bool = False,
) -> Scene:
    """Background and camera: 40 % white, 25 % a plain colour, 35 % a textured ground."""
    setting = random.random()
    low = 5.0 if force_ground or setting >= 0.65 else -10.0  # never below the ground
    high_view = random.random() < 0.12 and elevations is None
    elevation = random.uniform(61.0, 80.0) if high_view else random.uniform(*(elevations or (low, 50.0)))
    view = View(random.uniform(0, 2 * math.pi), math.radians(elevation), random.uniform(*radii))
    if force_ground or setting >= 0.65:
        shift = (random.uniform(0, 10), random.uniform(0, 10))
        ground, sky = random.choice(world.GROUNDS), random.choice(SKIES)
        return replace(body, view=view, ground=ground, ground_shift=shift, background=sky)
    if setting < 0.4:
        return replace(body, view=view, background=WHITE)
    word = random.choice([w for w in world.COLOR_NAMES if w not in (*body.colors, "white")])
    return replace(body, view=view, background=plain(word))


def plain(word: str) -> Color:
    """RGB of "a WORD background": pastel, so that objects stand out; white is pure, black is dark grey."""
    if word in ("white", "black"):
        return {"white": WHITE, "black": (0.16, 0.16, 0.17)}[word]
    r, g, b = (0.45 * c + 0.55 for c in world.COLORS[word])
    return (r, g, b)


def _caption(random: Random, scene: Scene, motion: str | None, view_word: str | None) -> str:
    if scene.kind == "doll":
        hair, shirt, trousers = scene.colors
        subject = captions.doll_phrase(hair, shirt, trousers)
    else:
        subject = captions.object_phrase(scene.name, scene.colors[0], scene.size, scene.pattern)
    named = random.random() < 0.5
    background = next((w for w in world.COLOR_NAMES if plain(w) == scene.background), "white")
    setting = captions.background_phrase(scene.ground, background) if named else None
    opening = random.choice(("", "", "a picture of ", "a photo of "))
    return captions.sentence(subject, motion, view_word, setting, opening)


def _draw_motion(random: Random, seed: int, kind: str, name: str) -> str:
    if random.random() < 0.25:
        return random.choice(world.CAMERA_MOTIONS)
    while True:
        motion = random.choice(world.DOLL_MOTIONS if kind == "doll" else world.OBJECT_MOTIONS)
        unseen_spin = motion.startswith("spinning") and kind == "object" and name not in world.SPINNING
        held_out = seed in world.GENERATOR_SEEDS and kind == "object" and (name, motion) in world.HELD_OUT_MOTIONS
        if not unseen_spin and not held_out:
            return motion


def _move(scene: Scene, motion: str, clock: float, phase: float, progress: float, extent: float) -> Scene:
    """Where body and camera are: `clock` in seconds for cyclic motions, `progress` in [0, 1] for the others."""
    view, half = scene.view, extent * (progress - 0.5)  # from -0.5 to 0.5
    sign = -1.0 if motion.endswith((" clockwise", "left", "out")) else 1.0
    right = (-math.sin(view.azimuth), math.cos(view.azimuth))  # the camera's right hand, on the ground
    if motion.startswith(("spinning", "turning")):
        return replace(scene, yaw=2 * math.pi * (phase + sign * 0.45 * clock))
    if motion == "bouncing":
        return replace(scene, offset=(0.0, 0.0, 0.34 * extent * abs(math.sin(math.pi * (phase + clock)))))
    if motion.startswith("sliding"):
        return replace(scene, offset=(sign * half * right[0], sign * half * right[1], 0.0))
    if motion.startswith("hopping"):
        height = 0.22 * extent * abs(math.sin(math.pi * (phase + 1.5 * clock)))
        return replace(scene, offset=(sign * half * right[0], sign * half * right[1], height))
    if motion in ("growing", "shrinking"):
        grown = scene.scale * (1.0 + (0.7 if motion == "growing" else -0.7) * half)
        return replace(scene, scale=grown)
    if motion == "walking":
        return replace(scene, offset=(0.6 * half, 0.0, 0.0))
    if motion.startswith("camera orbiting"):
        return replace(scene, view=replace(view, azimuth=view.azimuth + sign * 1.5 * half))
    if motion.startswith("camera zooming"):
        return replace(scene, view=replace(view, radius=view.radius * (1.0 - sign * 0.45 * half)))
    if motion.startswith("camera panning"):
        return replace(scene, view=replace(view, pan=-sign * 0.36 * half))  # panning right turns clockwise
    return scene


def _jitter(random: Random, color: Color) -> Color:
    r, g, b = (min(1.0, max(0.0, c + random.uniform(-0.03, 0.03))) for c in color)
    return (r, g, b)


def _tint(color: Color) -> Color:
    """The other colour of a pattern: a light tint of dark colours, a shade of light ones."""
    light = sum(color) > 1.9
    r, g, b = (0.62 * c if light else 0.5 + 0.5 * c for c in color)
    return (r, g, b)
