"""Lenses: from points in front of a camera to pixels, and from pixels to directions.

Pixels count from the top left corner of the picture, x to the right and y down, so the centre of the first one is
(0.5, 0.5), as in COLMAP and nerfstudio. Camera axes are OpenGL's (x right, y up, looking along -z); on the plane of
normalised coordinates (x, y) = (right, down) / depth the formulas are OpenCV's: `calib3d` with the rational and
tangential terms, `fisheye` with the polynomial of the angle (Kannala and Brandt 2006).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Model = Literal["pinhole", "opencv", "fisheye"]
NUMBERS = {"pinhole": (0,), "opencv": (4, 5, 8), "fisheye": (4,)}  # how many numbers of distortion a model takes
NEWTON_STEPS = 10  # quadratic: ordinary lenses need four, the corners of extreme ones eight


@dataclass(frozen=True)
class Lens:
    """What a camera does to light, for a picture of one size.

    Attributes:
        width, height: of the picture, in pixels.
        fx, fy: focal lengths in pixels.
        cx, cy: where the optical axis meets the picture, in pixels from its top left corner.
        model: "pinhole", "opencv" or "fisheye".
        distortion: opencv: k1, k2, p1, p2[, k3[, k4, k5, k6]]; fisheye: k1, k2, k3, k4.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: Model = "pinhole"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.model not in NUMBERS or len(self.distortion) not in NUMBERS[self.model]:
            raise ValueError(f"a Lens {self.model!r} cannot have {len(self.distortion)} numbers of distortion")

    @property
    def usable(self) -> bool:
        """Whether the focal lengths are positive and all numbers finite."""
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        return all(map(math.isfinite, numbers)) and min(self.fx, self.fy) > 0

    def scaled(self, width: int, height: int) -> Lens:
        """The same lens for the same picture in another size."""
        x, y = width / self.width, height / self.height
        return replace(self, width=width, height=height, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y)

    def shrunk(self, factor: int) -> Lens:
        """For the picture with `factor`^2 pixels averaged into one; what is left over on the right and below is cut."""
        whole = replace(self, width=self.width // factor * factor, height=self.height // factor * factor)
        return whole.scaled(self.width // factor, self.height // factor) if factor > 1 else self

    def project(self, points: Tensor) -> Tensor:
        """Pixels (n, 2) of points (n, 3) in camera axes, any unit; NaN where the lens does not see a point."""
        return Lenses.of([self]).to(points).project(points)

    def directions(self, pixels: Tensor) -> Tensor:
        """Unit directions (n, 3) in camera axes from which the light of pixels (n, 2) came."""
        return Lenses.of([self]).to(pixels).directions(pixels)


@dataclass(frozen=True)
class Lenses:
    """n lenses, one for each of n points or pixels, or one for all.

    Attributes:
        focal, center: (n, 2) pixels.
        distortion: (n, 8), in the order of `Lens`, zeros where there is none.
        fisheye: (n,) bool.
        kinds: which models there are among them, so that nothing is computed for others.
    """

    focal: Tensor
    center: Tensor
    distortion: Tensor
    fisheye: Tensor
    kinds: frozenset[str]

    @staticmethod
    def of(lenses: Sequence[Lens]) -> Lenses:
        """As float64."""
        return Lenses(
            torch.tensor([(lens.fx, lens.fy) for lens in lenses], dtype=torch.float64).reshape(-1, 2),
            torch.tensor([(lens.cx, lens.cy) for lens in lenses], dtype=torch.float64).reshape(-1, 2),
            torch.tensor([(*lens.distortion, *[0.0] * 8)[:8] for lens in lenses], dtype=torch.float64).reshape(-1, 8),
            torch.tensor([lens.model == "fisheye" for lens in lenses], dtype=torch.bool),
            frozenset(lens.model for lens in lenses),
        )

    def to(self, like: Tensor) -> Lenses:
        """In the type and on the device of a tensor."""
        focal, center, distortion = (part.to(like) for part in (self.focal, self.center, self.distortion))
        return Lenses(focal, center, distortion, self.fisheye.to(like.device), self.kinds)

    def __getitem__(self, rows: Tensor) -> Lenses:
        """One lens for each of rows (m,) int64."""
        return Lenses(self.focal[rows], self.center[rows], self.distortion[rows], self.fisheye[rows], self.kinds)

    def project(self, points: Tensor) -> Tensor:
        """Pixels (n, 2) of points (n, 3) in camera axes, any unit.

        NaN where a lens does not see the point: behind the camera (a fisheye sees there too), or so far out that the
        distortion would fold it back into the picture.
        """
        side = points[:, :2] * points.new_tensor([1.0, -1.0])  # (n, 2) right and down
        depth = -points[:, 2:]  # (n, 1)
        xy = side / depth
        seen = depth > 0
        if "opencv" in self.kinds:
            seen = seen & (_jacobian(self.distortion, xy)[3] > 0)[:, None]
            xy = distort_opencv(self.distortion, xy)
        if "fisheye" in self.kinds:
            radius = side.norm(dim=1, keepdim=True)
            angle = torch.atan2(radius, depth)
            bent, slope = _bend(self.distortion, angle)
            fisheye = self.fisheye[:, None]
            seen = torch.where(fisheye, slope > 0, seen)
            xy = torch.where(fisheye, side * _ratio(bent, radius), xy)
        return torch.where(seen, xy * self.focal + self.center, torch.nan)

    @torch.no_grad()
    def directions(self, pixels: Tensor) -> Tensor:
        """Unit directions (n, 3) in camera axes of pixels (n, 2)."""
        bent = (pixels - self.center) / self.focal
        xy = undistort_opencv(self.distortion, bent) if "opencv" in self.kinds else bent
        local = torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)  # (n, 3) right, down, forward
        if "fisheye" in self.kinds:
            radius = bent.norm(dim=1, keepdim=True)
            angle = _unbend(self.distortion, radius)
            sphere = torch.cat([bent * _ratio(angle.sin(), radius), angle.cos()], dim=1)
            local = torch.where(self.fisheye[:, None], sphere, local)
        return torch.nn.functional.normalize(local * local.new_tensor([1.0, -1.0, -1.0]), dim=1)


# -- OpenCV's formulas on normalised coordinates ------------------------------------------------------------


def distort_opencv(distortion: Tensor, xy: Tensor) -> Tensor:
    """Where OpenCV's rational and tangential model moves normalised coordinates.

    Args:
        distortion: (n, 8) or (1, 8): k1, k2, p1, p2, k3, k4, k5, k6.
        xy: (n, 2).
    """
    _, _, p1, p2, *_ = distortion.unbind(1)
    x, y = xy.unbind(1)
    radial, _, r2 = _radial(distortion, xy)
    return torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        dim=1,
    )


def undistort_opencv(distortion: Tensor, xy: Tensor) -> Tensor:
    """The inverse of `distort_opencv` by Newton's method; finite also where there is none."""
    target, found = xy, xy
    for _ in range(NEWTON_STEPS):
        error = distort_opencv(distortion, found) - target  # (n, 2)
        xx, xy_, yy, determinant = _jacobian(distortion, found)
        determinant = torch.where(determinant.abs() < 1e-6, 1e-6, determinant)
        step = torch.stack([yy * error[:, 0] - xy_ * error[:, 1], xx * error[:, 1] - xy_ * error[:, 0]], dim=1)
        found = found - (step / determinant[:, None]).clamp(-1, 1)  # a fold is left, not jumped off from
    return found


def distort_fisheye(distortion: Tensor, xy: Tensor) -> Tensor:
    """Where OpenCV's fisheye model moves normalised coordinates (n, 2); `distortion` (n, 8) begins with k1 ... k4."""
    radius = xy.norm(dim=1, keepdim=True)
    return xy * _ratio(_bend(distortion, torch.atan(radius))[0], radius)


def undistort_fisheye(distortion: Tensor, xy: Tensor) -> Tensor:
    """The inverse of `distort_fisheye`, for angles below 90 degrees."""
    radius = xy.norm(dim=1, keepdim=True)
    return xy * _ratio(torch.tan(_unbend(distortion, radius)), radius)


def _radial(distortion: Tensor, xy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) each: the radial factor, its derivative by the squared radius, and that."""
    k1, k2, _, _, k3, k4, k5, k6 = distortion.unbind(1)
    r2 = xy.square().sum(1)
    above = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    below = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    above_slope = k1 + r2 * (2 * k2 + 3 * r2 * k3)
    below_slope = k4 + r2 * (2 * k5 + 3 * r2 * k6)
    radial = above / below
    return radial, (above_slope - radial * below_slope) / below, r2


def _jacobian(distortion: Tensor, xy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(n,) each: the entries xx, xy = yx, yy of the derivative of `distort_opencv`, and the determinant."""
    _, _, p1, p2, *_ = distortion.unbind(1)
    x, y = xy.unbind(1)
    radial, slope, _ = _radial(distortion, xy)
    xx = radial + 2 * slope * x * x + 2 * p1 * y + 6 * p2 * x
    across = 2 * slope * x * y + 2 * p1 * x + 2 * p2 * y
    yy = radial + 2 * slope * y * y + 6 * p1 * y + 2 * p2 * x
    return xx, across, yy, xx * yy - across * across


def _bend(distortion: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The radius (n, 1) at which a fisheye shows an angle (n, 1) from its axis, and the derivative."""
    k1, k2, k3, k4 = distortion[:, :4, None].unbind(1)  # (n, 1) each
    a = angle * angle
    bent = angle * (1 + a * (k1 + a * (k2 + a * (k3 + a * k4))))
    return bent, 1 + a * (3 * k1 + a * (5 * k2 + a * (7 * k3 + 9 * a * k4)))


def _unbend(distortion: Tensor, radius: Tensor) -> Tensor:
    """The angle (n, 1) in [0, pi] that a fisheye shows at a radius (n, 1), by Newton's method."""
    angle = radius.clamp(max=torch.pi)
    for _ in range(NEWTON_STEPS):
        bent, slope = _bend(distortion, angle)
        angle = (angle - (bent - radius) / slope.clamp(min=1e-3)).clamp(0, torch.pi)
    return angle


def _ratio(above: Tensor, radius: Tensor) -> Tensor:
    """above / radius, where both go to 0 together; there any finite number will do."""
    return above / radius.clamp(min=torch.finfo(radius.dtype).tiny)
