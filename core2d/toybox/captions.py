"""The caption grammar: everything that Toybox can say about a picture or a clip.

    [a picture of] a [size] [pattern] COLOR CLASS [MOTION] [, VIEW view] [, on GROUND | on a COLOR background]
    [a picture of] a doll with HAIR hair, a SHIRT shirt and TROUSERS trousers [MOTION] [, VIEW view] [, ...]

The ground or background is named half of the time, so that leaving it out says nothing and naming it asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from core2d.toybox import world

OPENINGS = ("", "a picture of ", "a photo of ")
GROUND_PHRASES = {
    "grass": "on grass",
    "sand": "on sand",
    "wood": "on a wooden floor",
    "tiles": "on a tiled floor",
    "carpet": "on a carpet",
    "water": "on water",
}


def object_phrase(name: str, color: str, size: str | None = None, pattern: str | None = None) -> str:
    """ "a small striped red mug"."""
    return with_article(" ".join(word for word in (size, pattern, color, name) if word))


def doll_phrase(hair: str, shirt: str, trousers: str) -> str:
    """ "a doll with black hair, a red shirt and blue trousers"."""
    return f"a doll with {hair} hair, {with_article(shirt)} shirt and {trousers} trousers"


def background_phrase(ground: str | None, background: str) -> str:
    """ "on grass" for a ground, "on a white background" for a plain one."""
    return GROUND_PHRASES[ground] if ground else f"on {with_article(background)} background"


def sentence(
    subject: str, motion: str | None = None, view: str | None = None, setting: str | None = None, opening: str = ""
) -> str:
    """Put the phrases together; those that are None are left out."""
    text = f"{opening}{subject}"
    if motion:
        text += motion_phrase(motion)
    if view:
        text += f", {view} view"
    if setting:
        text += f", {setting}"
    return text


def motion_phrase(motion: str) -> str:
    """What a motion adds to a sentence: " bouncing", ", camera zooming in"."""
    if motion == "still":
        motion = "standing still"
    return f", {motion}" if motion.startswith("camera") else f" {motion}"


def without_motion(text: str, motion: str) -> str:
    """A sentence that `sentence` made with a motion, as it is without."""
    return text.replace(motion_phrase(motion), "", 1)


def with_article(phrase: str) -> str:
    """ "a red mug", "an orange mug"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def vocabulary() -> Iterator[str]:
    """Sentences that together hold every word of the grammar: what a tokenizer is trained on."""
    colors = world.COLOR_NAMES
    for i, name in enumerate(world.CLASS_NAMES):
        for j, color in enumerate(colors):
            yield sentence(object_phrase(name, color, world.SIZES[(i + j) % 3], world.PATTERNS[j % 3]))
    for i, motion in enumerate(world.MOTIONS):
        subject = doll_phrase(colors[i % 10], colors[(i + 3) % 10], colors[(i + 7) % 10])
        yield sentence(subject, motion, world.VIEWS[i % 4], background_phrase(None, colors[i % 10]), OPENINGS[i % 3])
    for ground in world.GROUNDS:
        yield sentence("an orange cactus", setting=background_phrase(ground, "white"))
