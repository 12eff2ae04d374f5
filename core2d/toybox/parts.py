"""An object as a list of parts: a primitive, an affine map, a colour. Plain Python, because objects are small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from core2d.toybox.primitives import bank

Vector = Sequence[float]
Color = tuple[float, float, float]

MAIN = (-1.0, -1.0, -1.0)  # stands for the object's own colour and pattern


@dataclass
class Parts:
    """Rows of an object. `add` keeps them in order; `normalised` fits them around the origin.

    Attributes:
        shapes: primitive of each part, an index into the bank.
        matrices: 12 numbers each, a row-major 3x4 affine map from primitive to object space.
        colors: RGB of each part, or MAIN.
    """

    shapes: list[int] = field(default_factory=list)
    matrices: list[list[float]] = field(default_factory=list)
    colors: list[Color] = field(default_factory=list)

    def add(self, shape: str, center: Vector, size: Vector, color: Color = MAIN, turn: Vector = (0, 0, 0)) -> None:
        """Put one primitive.

        Args:
            shape: a name of the bank.
            center: where its middle goes.
            size: extent along its own axes.
            color: RGB in [0, 1], or MAIN.
            turn: degrees about x, then y, then z.
        """
        rotation = _rotation(turn)
        x, y, z = center
        sx, sy, sz = size
        self.shapes.append(bank().names[shape])
        self.colors.append(color)
        if rotation is None:
            self.matrices.append([sx, 0, 0, x, 0, sy, 0, y, 0, 0, sz, z])
            return
        a, b, c = rotation
        self.matrices.append(
            [a[0] * sx, a[1] * sy, a[2] * sz, x, b[0] * sx, b[1] * sy, b[2] * sz, y, c[0] * sx, c[1] * sy, c[2] * sz, z]
        )

    def limb(self, shape: str, start: Vector, end: Vector, thickness: float, color: Color = MAIN) -> None:
        """A primitive whose Z axis runs from `start` to `end`."""
        dx, dy, dz = (e - s for s, e in zip(start, end, strict=True))
        length = math.sqrt(dx * dx + dy * dy + dz * dz) or 1e-6
        w = (dx / length, dy / length, dz / length)
        helper = (0.0, 1.0, 0.0) if abs(w[1]) < 0.9 else (1.0, 0.0, 0.0)
        u = _unit(_cross(helper, w))
        v = _cross(w, u)
        middle = [(s + e) / 2 for s, e in zip(start, end, strict=True)]
        row = [n for i in range(3) for n in (u[i] * thickness, v[i] * thickness, w[i] * length, middle[i])]
        self.shapes.append(bank().names[shape])
        self.colors.append(color)
        self.matrices.append(row)

    def bounds(self) -> tuple[list[float], list[float]]:
        """Lowest and highest corner of the parts' boxes."""
        low, high = [math.inf] * 3, [-math.inf] * 3
        for m in self.matrices:
            for i in range(3):
                reach = 0.5 * (abs(m[4 * i]) + abs(m[4 * i + 1]) + abs(m[4 * i + 2]))
                low[i] = min(low[i], m[4 * i + 3] - reach)
                high[i] = max(high[i], m[4 * i + 3] + reach)
        return low, high

    def normalised(self, extent: float, stretch: Vector = (1, 1, 1)) -> Parts:
        """The same object stretched, then centred at the origin.

        The geometric mean of its sides becomes 0.78 `extent` metres, so that a long thin object is not drawn tiny,
        but no side grows beyond 1.05 `extent`.
        """
        low, high = self.bounds()
        sides = [(h - b) * s for b, h, s in zip(low, high, stretch, strict=True)]
        fitted = min(0.78 / math.prod(sides) ** (1 / 3), 1.05 / max(sides)) * extent
        scale = [fitted * s for s in stretch]
        middle = [(b + h) / 2 for b, h in zip(low, high, strict=True)]
        matrices = []
        for m in self.matrices:
            row = []
            for i in range(3):
                row += [m[4 * i] * scale[i], m[4 * i + 1] * scale[i], m[4 * i + 2] * scale[i]]
                row.append((m[4 * i + 3] - middle[i]) * scale[i])
            matrices.append(row)
        return Parts(self.shapes, matrices, self.colors)


def _rotation(turn: Vector) -> tuple[Vector, Vector, Vector] | None:
    if not any(turn):
        return None
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(math.radians(t)), math.sin(math.radians(t))) for t in turn)
    return (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )


def _cross(a: Vector, b: Vector) -> tuple[float, float, float]:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _unit(a: Vector) -> tuple[float, float, float]:
    length = math.sqrt(sum(x * x for x in a)) or 1e-6
    return (a[0] / length, a[1] / length, a[2] / length)
