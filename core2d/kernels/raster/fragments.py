"""What a rasteriser answers, and how near it draws."""

from dataclasses import dataclass

from torch import Tensor

NEAR = 1e-4  # smallest distance along the view axis that is drawn, in metres


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees.

    Attributes:
        face: (b, h, w) int32, row of `faces`, or -1 where no triangle is seen.
        barycentric: (b, h, w, 3) float, perspective-correct, 0 where empty.
        depth: (b, h, w) float, distance along the view axis in metres, inf where empty.
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor

    @property
    def mask(self) -> Tensor:
        """(b, h, w) bool: True where a triangle is seen."""
        return self.face >= 0
