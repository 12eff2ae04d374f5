"""Wavefront MTL: the base colour of the materials of an OBJ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gen3d.mesh.files import find_beside, picture_beside, say
from gen3d.mesh.parts import Texture

# Options of map_Kd and how many words follow each; of -o, -s and -t the second and third may be left out.
OPTIONS = {"-blendu": 1, "-blendv": 1, "-boost": 1, "-bm": 1, "-cc": 1, "-clamp": 1, "-colorspace": 1, "-imfchan": 1}
OPTIONS |= {"-mm": 2, "-o": 3, "-s": 3, "-t": 3, "-texres": 1, "-type": 1}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")


@dataclass(frozen=True)
class Picture:
    """What `map_Kd` says.

    Attributes:
        path: of the MTL.
        name: of the picture.
        options: the words after each option.
    """

    path: Path
    name: str
    options: dict[str, list[str]] = field(default_factory=dict)

    def texture(self) -> Texture | None:
        """The picture; None, and a word on stderr, where it cannot be had."""
        name = self.name
        if find_beside(self.path.parent, name) is None:
            name = re.split(r"\s+#", name)[0]  # a remark
        pixels = picture_beside(self.path, name)
        if pixels is None:
            return None
        base, gain = self._numbers("-mm", (0, 1))
        if (base, gain) != (0, 1):
            pixels = np.rint((255 * base + gain * pixels).clip(0, 255)).astype(np.uint8)
        beyond = "edge" if self.options.get("-clamp") == ["on"] else "wrap"
        return Texture(pixels, (beyond, beyond))

    def place(self, uv: np.ndarray) -> np.ndarray:
        """Texture coordinates (v, 2), from the bottom left, as the picture is looked up by."""
        return uv * self._numbers("-s", (1, 1, 1))[:2] + self._numbers("-o", (0, 0, 0))[:2]

    def _numbers(self, option: str, default: tuple[float, ...]) -> tuple[float, ...]:
        given = tuple(map(float, self.options.get(option, [])))
        return given + default[len(given) :]


@dataclass(frozen=True)
class Material:
    """The base colour of a material.

    Attributes:
        color: (3,) of `Kd`, linear light, or None. A picture takes its place, as in Blender: programs write a grey
            `Kd` beside a picture that is meant as it is.
        picture: or None.
    """

    color: np.ndarray | None = None
    picture: Picture | None = None


def read_materials(path: Path) -> dict[str, Material]:
    """The materials of an MTL file by name."""
    materials: dict[str, Material] = {}
    name = None
    for word, rest in statements(decoded(path.read_bytes())):
        word = word.lower()
        if word == "newmtl":
            name = rest
            materials[name] = Material()
        elif name is not None and word == "kd":
            materials[name] = replace(materials[name], color=_color(path, rest))
        elif name is not None and word == "map_kd":
            materials[name] = replace(materials[name], picture=_picture(path, rest))
    return materials


def statements(text: str) -> Iterator[tuple[str, str]]:
    """The first word of each line and what follows it, without lines that say nothing."""
    for line in text.split("\n"):
        word, *rest = line.split(None, 1)[:2] or ("#",)
        if not word.startswith("#"):
            yield word, rest[0].strip() if rest else ""


def decoded(content: bytes) -> str:
    """The text of an OBJ or MTL, which do not say their encoding."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _color(path: Path, rest: str) -> np.ndarray | None:
    """Kd: red, green and blue, or one number for all; None, and a word on stderr, for spectra and XYZ."""
    words = rest.partition("#")[0].split()
    if not words or not all(map(NUMBER.match, words)):
        say(path, f"Kd {rest} is left out: only red, green and blue are read")
        return None
    numbers = [float(word) for word in words]
    return np.clip(numbers[:3] if len(numbers) >= 3 else numbers[:1] * 3, 0, 1)


def _picture(path: Path, rest: str) -> Picture | None:
    options: dict[str, list[str]] = {}
    while (option := rest.split(None, 1)[0].lower() if rest else "") in OPTIONS:
        rest = rest[len(option) :].lstrip()
        given = options[option] = []
        while len(given) < OPTIONS[option] and rest:
            word = rest.split(None, 1)[0]
            if given and option in ("-o", "-s", "-t") and not NUMBER.match(word):
                break
            given.append(word.lower())
            rest = rest[len(word) :].lstrip()
    return Picture(path, rest, options) if rest else None
