"""Where the features of a multiresolution hash grid lie: tiny-cuda-nn's convention, kept to the last entry.

Level l has scale s = coarsest growth^l - 1 and resolution ceil(s) + 1 vertices along a side. A point x sits at
s x + 0.5 (the half staggers the levels). Vertex (i, j, k) has row i + j res + k res^2 while all fit into the table,
else the exclusive or of i, j 2654435761 and k 805459861 in 32 bits, each modulo the number of rows. At the far faces
of the cube the half step leads past the last vertex of a level that stores them all, and the modulo wraps around: so
it does in tiny-cuda-nn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PRIME_Y = 2654435761
PRIME_Z = 805459861


@dataclass(frozen=True)
class HashGridLayout:
    """The shape of a hash grid.

    Parameters are one table (entries, features), level after level. tiny-cuda-nn's flat parameter vector of the same
    shape is `table.flatten()`.

    Attributes:
        levels: number of grids.
        features: numbers per entry: 1, 2, 4 or 8.
        log2_table: a level has at most 2^log2_table entries.
        coarsest: vertices along a side of the first level.
        growth: from a level's resolution to that of the next.
    """

    levels: int = 16
    features: int = 2
    log2_table: int = 19
    coarsest: int = 16
    growth: float = 1.447269237440378  # 16 to 4096 over 16 levels

    def __post_init__(self) -> None:
        sound = self.levels >= 1 and self.features in (1, 2, 4, 8) and 3 <= self.log2_table <= 24
        grows = self.coarsest >= 2 and self.growth >= 1
        # beyond 2^20 vertices along a side, float32 no longer says where in its cell a point lies
        if not (sound and grows and self.coarsest * self.growth ** (self.levels - 1) <= 1 << 20):
            raise ValueError(f"no hash grid has this shape: {self}")

    @classmethod
    def reaching(cls, finest: int, *, levels: int, coarsest: int, log2_table: int, features: int = 2) -> HashGridLayout:
        """The layout whose last level has `finest` vertices along a side."""
        growth = math.exp(math.log(finest / coarsest) / (levels - 1)) if levels > 1 else 1.0
        return cls(levels, features, log2_table, coarsest, growth)

    @cached_property
    def scales(self) -> np.ndarray:
        """(levels,) float32: from the unit cube to units of a level's cells."""
        steps = np.arange(self.levels, dtype=np.float32) * np.log2(np.float32(self.growth))
        return np.exp2(steps) * np.float32(self.coarsest) - np.float32(1)

    @cached_property
    def resolutions(self) -> np.ndarray:
        """(levels,) int64: vertices along a side."""
        return np.ceil(self.scales).astype(np.int64) + 1

    @cached_property
    def offsets(self) -> np.ndarray:
        """(levels + 1,) int64: level l has rows offsets[l]:offsets[l + 1] of the table."""
        vertices = (self.resolutions**3 + 7) // 8 * 8  # rounded up, so that levels start aligned
        return np.concatenate([[0], np.minimum(vertices, 1 << self.log2_table).cumsum()]).astype(np.int64)

    @cached_property
    def hashed(self) -> np.ndarray:
        """(levels,) bool: where vertices outnumber entries; such a level has 2^log2_table of them."""
        return self.resolutions**3 > np.diff(self.offsets)

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return int(self.offsets[-1])

    @property
    def outputs(self) -> int:
        """Length of an encoding."""
        return self.levels * self.features
