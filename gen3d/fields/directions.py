"""Directions as numbers that a small network can use: real spherical harmonics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DEGREES = range(1, 5)


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """The first `degree` bands of real, orthonormal spherical harmonics, as polynomials of the unit vector.

    Args:
        directions: (..., 3) unit vectors.
        degree: number of bands, 1 to 4.

    Returns:
        (..., degree^2), band after band, each from order -l to l.
    """
    if degree not in DEGREES:
        raise ValueError(f"spherical harmonics are written out for 1 to 4 bands, not {degree}")
    x, y, z = directions.unbind(-1)  # (...) each
    xx, yy, zz = x * x, y * y, z * z
    pi = math.pi
    bands = [torch.full_like(x, math.sqrt(1 / (4 * pi)))]
    if degree > 1:
        bands += [math.sqrt(3 / (4 * pi)) * axis for axis in (y, z, x)]
    if degree > 2:
        scale = math.sqrt(15 / (4 * pi))
        bands += [scale * x * y, scale * y * z, math.sqrt(5 / (16 * pi)) * (3 * zz - 1)]
        bands += [scale * x * z, scale / 2 * (xx - yy)]
    if degree > 3:
        outer, inner = math.sqrt(35 / (32 * pi)), math.sqrt(21 / (32 * pi))
        bands += [outer * y * (3 * xx - yy), math.sqrt(105 / (4 * pi)) * x * y * z, inner * y * (5 * zz - 1)]
        bands += [math.sqrt(7 / (16 * pi)) * z * (5 * zz - 3)]
        bands += [inner * x * (5 * zz - 1), math.sqrt(105 / (16 * pi)) * z * (xx - yy), outer * x * (xx - 3 * yy)]
    return torch.stack(bands, dim=-1)
