"""The 24 object classes. Each function puts parts with random proportions; fronts face +X, up is +Z.

Units are free: `build` fits the result into a unit box. MAIN parts carry the object's colour and pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from core2d.toybox.parts import Parts

DARK = (0.13, 0.13, 0.14)
METAL = (0.58, 0.60, 0.63)
WOOD = (0.47, 0.29, 0.15)
CREAM = (0.93, 0.88, 0.74)
GLASS = (0.66, 0.84, 0.93)
SNOW = (0.97, 0.97, 0.97)
CARROT = (0.98, 0.50, 0.08)
LEAF = (0.10, 0.42, 0.14)
SKIN = (0.96, 0.79, 0.64)


def build(name: str, random: Random) -> Parts:
    """The parts of one object of class `name`, in free units."""
    parts = Parts()
    BUILDERS[name](parts, random)
    return parts


def chair(p: Parts, r: Random) -> None:
    width, depth, seat, back = r.uniform(0.9, 1.1), r.uniform(0.9, 1.1), r.uniform(0.8, 1.0), r.uniform(0.9, 1.2)
    p.add("box", (0, 0, seat), (depth, width, 0.16))
    p.add("box", (-depth / 2 + 0.07, 0, seat + back / 2), (0.14, width, back))
    _legs(p, depth / 2 - 0.09, width / 2 - 0.09, seat, 0.14, WOOD)


def sofa(p: Parts, r: Random) -> None:
    width, depth, back = r.uniform(1.9, 2.4), r.uniform(0.85, 1.0), r.uniform(0.75, 0.9)
    p.add("box", (0, 0, 0.28), (depth, width, 0.4))
    p.add("box", (-depth / 2 + 0.12, 0, back / 2 + 0.1), (0.26, width, back))
    for side in (-1, 1):
        p.add("box", (0, side * (width / 2 - 0.1), 0.4), (depth, 0.22, 0.6))
        p.add("box", (0.1, side * width * 0.2, 0.52), (depth * 0.7, width * 0.36, 0.12), CREAM)


def table(p: Parts, r: Random) -> None:
    width, depth, height = r.uniform(1.5, 2.0), r.uniform(0.9, 1.1), r.uniform(0.75, 1.0)
    p.add("box", (0, 0, height), (depth, width, 0.14))
    _legs(p, depth / 2 - 0.1, width / 2 - 0.1, height, 0.14, WOOD)


def lamp(p: Parts, r: Random) -> None:
    height, shade = r.uniform(0.8, 1.1), r.uniform(0.8, 1.0)
    p.add("cylinder", (0, 0, 0.05), (0.6, 0.6, 0.1), DARK)
    p.add("cylinder", (0, 0, height / 2), (0.11, 0.11, height), METAL)
    p.add("frustum", (0, 0, height + 0.25), (shade, shade, r.uniform(0.55, 0.7)))


def television(p: Parts, r: Random) -> None:
    width, height, depth = r.uniform(1.3, 1.6), r.uniform(0.95, 1.1), r.uniform(0.5, 0.65)
    p.add("box", (0, 0, height / 2 + 0.2), (depth, width, height))
    p.add("box", (depth / 2, 0.12, height / 2 + 0.2), (0.06, width * 0.68, height * 0.72), GLASS)
    for z in (0.35, 0.65):
        p.add("cylinder", (depth / 2, -width * 0.39, 0.2 + height * z), (0.14, 0.14, 0.1), DARK, (0, 90, 0))
    for side in (-1, 1):
        p.limb("cylinder", (0, 0, height + 0.15), (0, side * 0.4, height + 0.65), 0.06, METAL)
        p.add("box", (0, side * width * 0.3, 0.1), (depth * 0.7, 0.12, 0.2), DARK)


def mug(p: Parts, r: Random) -> None:
    width, height = r.uniform(0.8, 0.95), r.uniform(0.9, 1.1)
    p.add("cup", (0, 0, height / 2), (width, width, height))
    p.add("cylinder", (0, 0, height * 0.78), (width * 0.84, width * 0.84, 0.02), (0.30, 0.17, 0.08))
    p.add("handle", (0, width / 2 + 0.13, height / 2), (0.38, 0.75, height * 0.68), turn=(0, 0, 90))


def teapot(p: Parts, r: Random) -> None:
    width, height = r.uniform(1.0, 1.15), r.uniform(0.8, 0.95)
    p.add("sphere", (0, 0, height / 2), (width, width, height))
    p.add("cylinder", (0, 0, 0.05), (width * 0.5, width * 0.5, 0.1))
    p.add("sphere", (0, 0, height + 0.06), (0.2, 0.2, 0.2), DARK)
    p.add("cylinder", (0, 0, height - 0.02), (width * 0.45, width * 0.45, 0.06), DARK)
    p.limb("taper", (width * 0.38, 0, height * 0.3), (width * 0.5 + 0.4, 0, height * 0.92), 0.26)
    p.add("handle", (-width / 2 - 0.12, 0, height / 2), (0.42, 0.75, height * 0.8), DARK, (0, 0, 180))


def bottle(p: Parts, r: Random) -> None:
    width, body, neck = r.uniform(0.5, 0.65), r.uniform(0.8, 1.0), r.uniform(0.3, 0.45)
    p.add("cylinder", (0, 0, body / 2), (width, width, body))
    p.add("dome", (0, 0, body + 0.12), (width, width, 0.25))
    p.add("cylinder", (0, 0, body + 0.1 + neck / 2), (0.2, 0.2, neck + 0.2))
    p.add("cylinder", (0, 0, body + neck + 0.24), (0.26, 0.26, 0.14), WOOD)
    p.add("cylinder", (0, 0, body * 0.5), (width * 1.03, width * 1.03, body * 0.4), SNOW)


def house(p: Parts, r: Random) -> None:
    width, depth, wall, roof = r.uniform(1.1, 1.4), r.uniform(1.0, 1.2), r.uniform(0.6, 0.8), r.uniform(0.5, 0.7)
    p.add("box", (0, 0, wall / 2), (depth, width, wall))
    p.add("prism", (0, 0, wall + roof / 2), (depth * 1.15, width * 1.2, roof), (0.42, 0.20, 0.14))
    p.add("box", (depth / 2, 0, 0.22), (0.06, 0.26, 0.44), WOOD)
    for side in (-1, 1):
        p.add("box", (depth / 2, side * width * 0.32, wall * 0.6), (0.06, 0.22, 0.24), GLASS)
    p.add("box", (-depth * 0.2, width * 0.3, wall + roof * 0.8), (0.18, 0.18, 0.4), METAL)


def windmill(p: Parts, r: Random) -> None:
    height, blade, angle = r.uniform(1.5, 1.8), r.uniform(0.75, 0.9), r.uniform(0, 90)
    p.add("taper", (0, 0, height / 2), (0.85, 0.85, height))
    p.add("cone", (0, 0, height + 0.16), (0.7, 0.7, 0.34), (0.42, 0.20, 0.14))
    p.add("box", (0.4, 0, 0.2), (0.12, 0.24, 0.4), WOOD)
    p.add("sphere", (0.44, 0, height * 0.85), (0.24, 0.2, 0.2), DARK)
    for quarter in range(4):
        p.add("box", _around(blade / 2, angle + 90 * quarter, (0.5, 0, height * 0.85)), (0.05, 0.2, blade), CREAM,
              (angle + 90 * quarter, 0, 0))  # fmt: skip


def tree(p: Parts, r: Random) -> None:
    trunk, layers = r.uniform(0.3, 0.45), 3
    p.add("cylinder", (0, 0, trunk / 2), (0.22, 0.22, trunk), WOOD)
    width, z = r.uniform(0.95, 1.15), trunk
    for layer in range(layers):
        size = width * (1 - 0.24 * layer)
        p.add("cone", (0, 0, z + 0.28), (size, size, 0.58))
        z += 0.34


def cactus(p: Parts, r: Random) -> None:
    height, width = r.uniform(1.3, 1.5), r.uniform(0.3, 0.36)
    p.add("taper", (0, 0, 0.17), (0.6, 0.6, 0.34), (0.66, 0.33, 0.18), (180, 0, 0))
    p.add("cylinder", (0, 0, 0.3 + height / 2), (width, width, height))
    p.add("sphere", (0, 0, 0.3 + height), (width, width, width))
    for side, low in ((-1, r.uniform(0.6, 0.75)), (1, r.uniform(0.8, 0.95))):
        y, top = side * 0.42, low + r.uniform(0.4, 0.5)
        p.limb("cylinder", (0, 0, low), (0, y, low), width * 0.7)
        p.limb("cylinder", (0, y, low), (0, y, top), width * 0.7)
        p.add("sphere", (0, y, low), (width * 0.7,) * 3)
        p.add("sphere", (0, y, top), (width * 0.7,) * 3)


def mushroom(p: Parts, r: Random) -> None:
    stem, cap = r.uniform(0.5, 0.75), r.uniform(1.1, 1.3)
    p.add("taper", (0, 0, stem / 2), (0.42, 0.42, stem), CREAM)
    p.add("dome", (0, 0, stem + 0.26), (cap, cap, r.uniform(0.5, 0.62)))
    for turn in range(6):
        x, y, _ = _around(cap * 0.33, 60 * turn, (0, 0, 0), axis="z")
        p.add("sphere", (x, y, stem + 0.38), (0.17, 0.17, 0.12), SNOW)
    p.add("sphere", (0, 0, stem + 0.53), (0.18, 0.18, 0.1), SNOW)


def car(p: Parts, r: Random) -> None:
    length, width, cabin = r.uniform(1.9, 2.2), r.uniform(0.85, 0.95), r.uniform(0.38, 0.45)
    p.add("box", (0, 0, 0.42), (length, width, 0.4))
    p.add("box", (-length * 0.08, 0, 0.6 + cabin / 2), (length * 0.5, width * 0.88, cabin), GLASS)
    p.add("box", (-length * 0.08, 0, 0.62 + cabin), (length * 0.46, width * 0.9, 0.1))
    _wheels(p, (-length * 0.3, length * 0.3), width / 2, 0.42)
    for side in (-1, 1):
        p.add("box", (length / 2, side * width * 0.33, 0.47), (0.05, 0.18, 0.14), (1.0, 0.95, 0.6))


def truck(p: Parts, r: Random) -> None:
    length, width, cargo = r.uniform(2.1, 2.4), r.uniform(0.85, 0.95), r.uniform(0.95, 1.15)
    p.add("box", (-0.3, 0, 0.42 + cargo / 2), (length - 0.6, width, cargo))
    p.add("box", (length / 2 - 0.28, 0, 0.72), (0.56, width * 0.94, 0.72), METAL)
    p.add("box", (length / 2, 0, 0.86), (0.05, width * 0.78, 0.3), GLASS)
    p.add("box", (0, 0, 0.34), (length * 0.94, width * 0.7, 0.14), DARK)
    _wheels(p, (-length * 0.36, -length * 0.1, length * 0.36), width / 2, 0.42)


def train(p: Parts, r: Random) -> None:
    length, width = r.uniform(1.9, 2.2), r.uniform(0.75, 0.85)
    p.limb("cylinder", (-length * 0.2, 0, 0.72), (length / 2, 0, 0.72), width * 0.9)
    p.add("box", (-length * 0.3, 0, 0.9), (length * 0.38, width, r.uniform(0.95, 1.1)))
    p.add("box", (-length * 0.3, 0, 1.46), (length * 0.44, width * 1.15, 0.1), DARK)
    p.add("box", (-length * 0.3, 0, 1.1), (length * 0.24, width * 1.03, 0.36), GLASS)
    p.add("cylinder", (length * 0.36, 0, 1.22), (0.24, 0.24, 0.44), DARK)
    p.add("sphere", (length * 0.08, 0, 1.06), (0.24, 0.24, 0.26), METAL)
    p.add("wedge", (length / 2 + 0.06, 0, 0.2), (width * 0.8, 0.3, 0.3), DARK, (0, 0, -90))
    p.limb("cylinder", (length / 2 - 0.02, 0, 0.74), (length / 2 + 0.05, 0, 0.74), 0.26, (1.0, 0.95, 0.6))
    _wheels(p, (-length * 0.34, -length * 0.02, length * 0.3), width / 2, 0.4)


def boat(p: Parts, r: Random) -> None:
    length, width, mast = r.uniform(1.5, 1.8), r.uniform(0.6, 0.7), r.uniform(1.2, 1.4)
    p.add("box", (-0.15, 0, 0.17), (length - 0.5, width, 0.34))
    p.add("wedge", (length / 2 - 0.15, 0, 0.17), (width, 0.5, 0.34), turn=(180, 0, 90))
    p.add("box", (-0.15, 0, 0.36), (length - 0.5, width * 0.84, 0.05), WOOD)
    p.add("cylinder", (0.1, 0, 0.34 + mast / 2), (0.08, 0.08, mast), WOOD)
    p.add("wedge", (-0.33, 0, 0.42 + mast * 0.45), (0.05, 0.72, mast * 0.85), SNOW, (0, 0, 90))
    p.add("box", (-0.02, 0, 0.38 + mast), (0.24, 0.04, 0.14))


def airplane(p: Parts, r: Random) -> None:
    length, span = r.uniform(1.8, 2.0), r.uniform(1.7, 2.0)
    p.limb("cylinder", (-length / 2 + 0.3, 0, 0.5), (length / 2 - 0.2, 0, 0.5), 0.38)
    p.add("sphere", (length / 2 - 0.2, 0, 0.5), (0.6, 0.38, 0.38))
    p.limb("taper", (-length / 2 + 0.32, 0, 0.5), (-length / 2 - 0.1, 0, 0.56), 0.38)
    p.add("box", (0.1, 0, 0.46), (0.46, span, 0.07), METAL)
    p.add("box", (-length / 2 + 0.08, 0, 0.6), (0.28, 0.72, 0.06), METAL)
    p.add("wedge", (-length / 2 + 0.1, 0, 0.84), (0.07, 0.34, 0.5), turn=(0, 0, -90))
    p.add("sphere", (length / 2 - 0.28, 0, 0.62), (0.36, 0.26, 0.22), GLASS)
    for side in (-1, 1):
        p.limb("cylinder", (-0.02, side * span * 0.25, 0.38), (0.36, side * span * 0.25, 0.38), 0.18, DARK)


def rocket(p: Parts, r: Random) -> None:
    height, width = r.uniform(1.3, 1.6), r.uniform(0.5, 0.6)
    p.add("cylinder", (0, 0, 0.25 + height / 2), (width, width, height))
    p.add("cone", (0, 0, 0.25 + height + 0.28), (width, width, 0.56), METAL)
    p.add("frustum", (0, 0, 0.15), (width * 0.8, width * 0.8, 0.3), DARK)
    for quarter in range(4):
        x, y, _ = _around(width / 2 + 0.14, 90 * quarter, (0, 0, 0), axis="z")
        p.add("wedge", (x, y, 0.42), (0.07, 0.34, 0.62), METAL, (0, 0, 90 * quarter - 90))
    for z in (0.62, 0.85):
        p.add("sphere", (0.23, 0, 0.25 + height * z), (0.14, 0.22, 0.22), GLASS)


def dog(p: Parts, r: Random) -> None:
    length, leg = r.uniform(1.1, 1.3), r.uniform(0.4, 0.5)
    p.limb("cylinder", (-length / 2, 0, leg + 0.2), (length / 2, 0, leg + 0.2), 0.46)
    p.add("sphere", (length / 2, 0, leg + 0.2), (0.46, 0.46, 0.46))
    p.add("sphere", (-length / 2, 0, leg + 0.2), (0.46, 0.46, 0.46))
    p.add("sphere", (length / 2 + 0.2, 0, leg + 0.62), (0.5, 0.46, 0.46))
    p.limb("taper", (length / 2 + 0.25, 0, leg + 0.56), (length / 2 + 0.62, 0, leg + 0.52), 0.28, CREAM)
    p.add("sphere", (length / 2 + 0.62, 0, leg + 0.56), (0.14, 0.14, 0.12), DARK)
    p.limb("cylinder", (-length / 2 - 0.1, 0, leg + 0.3), (-length / 2 - 0.38, 0, leg + 0.7), 0.12)
    for side in (-1, 1):
        p.add("box", (length / 2 + 0.12, side * 0.25, leg + 0.6), (0.2, 0.08, 0.36), DARK)
        p.add("sphere", (length / 2 + 0.42, side * 0.11, leg + 0.72), (0.07, 0.09, 0.09), DARK)
        for x in (-1, 1):
            p.add("cylinder", (x * length * 0.42, side * 0.14, leg / 2), (0.17, 0.17, leg))


def duck(p: Parts, r: Random) -> None:
    length, neck = r.uniform(1.1, 1.25), r.uniform(0.72, 0.85)
    p.add("sphere", (0, 0, 0.4), (length, 0.8, 0.7))
    p.limb("taper", (-length * 0.3, 0, 0.5), (-length * 0.62, 0, 0.78), 0.42)
    p.limb("cylinder", (length * 0.3, 0, 0.5), (length * 0.36, 0, neck + 0.1), 0.3)
    p.add("sphere", (length * 0.38, 0, neck + 0.14), (0.46, 0.44, 0.44))
    p.limb("taper", (length * 0.38 + 0.16, 0, neck + 0.1), (length * 0.38 + 0.46, 0, neck + 0.06), 0.2, CARROT)
    for side in (-1, 1):
        p.add("sphere", (-0.06, side * 0.38, 0.44), (length * 0.55, 0.14, 0.36), METAL)
        p.add("sphere", (length * 0.38 + 0.14, side * 0.15, neck + 0.22), (0.1, 0.1, 0.1), DARK)
        p.add("box", (0.15, side * 0.18, 0.04), (0.3, 0.2, 0.08), CARROT)


def fish(p: Parts, r: Random) -> None:
    length, height = r.uniform(1.2, 1.4), r.uniform(0.7, 0.85)
    p.add("sphere", (0.1, 0, 0.5), (length, 0.46, height))
    p.add("wedge", (-length * 0.62, 0, 0.5 + height * 0.25), (0.1, 0.46, height * 0.5), CARROT, (0, 0, -90))
    p.add("wedge", (-length * 0.62, 0, 0.5 - height * 0.25), (0.1, 0.46, height * 0.5), CARROT, (0, 180, -90))
    p.add("wedge", (0.05, 0, 0.58 + height * 0.5), (0.07, 0.5, 0.34), CARROT, (0, 0, -90))
    for side in (-1, 1):
        p.add("sphere", (length * 0.42, side * 0.16, 0.58), (0.18, 0.14, 0.18), SNOW)
        p.add("sphere", (length * 0.45, side * 0.2, 0.58), (0.1, 0.1, 0.1), DARK)
        p.add("box", (0.08, side * 0.3, 0.42), (0.3, 0.2, 0.05), CARROT, (side * 30, 0, side * 20))


def robot(p: Parts, r: Random) -> None:
    width, body, head = r.uniform(0.7, 0.85), r.uniform(0.7, 0.85), r.uniform(0.42, 0.5)
    for side in (-1, 1):
        p.add("box", (0, side * width * 0.26, 0.2), (0.3, 0.22, 0.4), METAL)
        p.add("box", (0.07, side * width * 0.26, 0.05), (0.44, 0.26, 0.1), DARK)
        p.add("box", (0, side * (width / 2 + 0.12), 0.4 + body * 0.55), (0.2, 0.18, body * 0.8), METAL)
        p.add("sphere", (0, side * (width / 2 + 0.12), 0.4 + body * 0.1), (0.24, 0.24, 0.24), DARK)
        p.add("sphere", (0.24, side * 0.13, 0.52 + body + head / 2), (0.08, 0.15, 0.15), (1.0, 0.95, 0.6))
    p.add("box", (0, 0, 0.4 + body / 2), (0.5, width, body))
    p.add("box", (0.25, 0, 0.4 + body * 0.6), (0.05, width * 0.5, body * 0.35), GLASS)
    p.add("box", (0, 0, 0.46 + body + head / 2), (0.46, 0.58, head))
    p.add("cylinder", (0, 0, 0.56 + body + head), (0.05, 0.05, 0.26), DARK)
    p.add("sphere", (0, 0, 0.7 + body + head), (0.14, 0.14, 0.14), CARROT)


def snowman(p: Parts, r: Random) -> None:
    low, middle, head = r.uniform(0.85, 1.0), r.uniform(0.6, 0.7), r.uniform(0.44, 0.5)
    p.add("sphere", (0, 0, low * 0.46), (low, low, low * 0.92))
    p.add("sphere", (0, 0, low * 0.8 + middle * 0.42), (middle,) * 3)
    z = low * 0.8 + middle * 0.8 + head * 0.42
    p.add("sphere", (0, 0, z), (head,) * 3)
    p.limb("cone", (head * 0.4, 0, z), (head * 0.4 + 0.36, 0, z), 0.15, CARROT)
    p.add("cylinder", (0, 0, z + head * 0.42), (head * 1.25, head * 1.25, 0.07), DARK)
    p.add("cylinder", (0, 0, z + head * 0.42 + 0.17), (head * 0.8, head * 0.8, 0.32), DARK)
    for side in (-1, 1):
        p.add("sphere", (head * 0.43, side * 0.1, z + 0.09), (0.08, 0.08, 0.08), DARK)
        hand = (0.1, side * (middle * 0.5 + 0.42), low + 0.36)
        p.limb("cylinder", (0, side * middle * 0.4, low + 0.1), hand, 0.06, WOOD)
    for dz in (-0.1, 0.12):
        p.add("sphere", (middle * 0.47, 0, low * 0.8 + middle * 0.42 + dz), (0.09, 0.09, 0.09), DARK)


def _legs(p: Parts, x: float, y: float, height: float, thickness: float, color) -> None:
    for sx in (-1, 1):
        for sy in (-1, 1):
            p.add("box", (sx * x, sy * y, height / 2), (thickness, thickness, height), color)


def _wheels(p: Parts, xs, y: float, size: float) -> None:
    for x in xs:
        for side in (-1, 1):
            p.add("cylinder", (x, side * y, size / 2), (size, size, 0.16), DARK, (90, 0, 0))
            p.add("cylinder", (x, side * (y + 0.06), size / 2), (size * 0.5, size * 0.5, 0.08), METAL, (90, 0, 0))


def _around(radius: float, degrees: float, center, axis: str = "x") -> tuple[float, float, float]:
    """A point at `radius` from `center`: turned about x it starts at +Z, about z at +X."""

    c, s = radius * math.cos(math.radians(degrees)), radius * math.sin(math.radians(degrees))
    x, y, z = center
    return (x, y - s, z + c) if axis == "x" else (x + c, y + s, z)


BUILDERS: dict[str, Callable[[Parts, Random], None]] = {
    function.__name__: function
    for function in (
        chair, sofa, table, lamp, television, mug, teapot, bottle, house, windmill, tree, cactus, mushroom, car,
        truck, train, boat, airplane, rocket, dog, duck, fish, robot, snowman,
    )
}  # fmt: skip
