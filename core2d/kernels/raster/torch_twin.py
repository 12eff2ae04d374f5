"""The rasteriser in plain torch: the readable definition that the fast kernels are held against.

Every pixel looks at every triangle. A corner (x, y, w) in homogeneous pixel coordinates is seen at (x / w,
y / w). With the pixel as origin, (u, v) = (x, y) - pixel * w, the edge function opposite a corner is the
cross product of the two other corners (Olano and Greer 1997, section 3), and the depth is the blend of the
three w. So both stay precise for small triangles in large pictures, and on the two sides of a shared edge
the edge function is the same number with opposite sign: no pixel falls between two triangles. All backends
do the same float32 operations in the same order, so they agree to the bit.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from core2d.kernels.raster.fragments import NEAR

CHUNK = 1 << 22  # triangles times pixels looked at together: bounds memory to about 0.3 GB in float32


def rasterize(
    clip: Tensor, faces: Tensor, face_offsets: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `core2d.kernels.raster.rasterize`; computes on the device and in the dtype of `clip`.

    Returns:
        face (b, h, w) int32, barycentric (b, h, w, 3), depth (b, h, w).
    """
    clip = clip.detach()
    shape = (len(face_offsets) - 1, height, width)
    face = torch.full(shape, -1, dtype=torch.int32, device=clip.device)  # (b, h, w)
    barycentric = clip.new_zeros(*shape, 3)  # (b, h, w, 3)
    depth = clip.new_full(shape, torch.inf)  # (b, h, w)
    chunk = max(1, CHUNK // max(1, height * width))  # triangles at a time
    for image, (first, last) in enumerate(pairwise(face_offsets.tolist())):
        for start in range(first, last, chunk):
            corners = clip[faces[start : min(start + chunk, last)].to(clip.device).long()]  # (n, 3, 4)
            found, weights, w = _nearest(corners, height, width)  # (h, w), (h, w, 3), (h, w)
            closer = w < depth[image]  # (h, w); strict, so that of equal depths the first triangle stays
            face[image] = torch.where(closer, start + found, face[image])
            barycentric[image] = torch.where(closer[..., None], weights, barycentric[image])
            depth[image] = torch.where(closer, w, depth[image])
    return face, barycentric, depth


def _nearest(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest of triangles (n, 3, 4): index (h, w), barycentric (h, w, 3), depth (h, w) or inf."""
    x, y, w = _homogeneous_pixels(corners, height, width)  # (n, 3) each
    columns = torch.arange(width, device=w.device, dtype=w.dtype) + 0.5  # (w)
    rows = torch.arange(height, device=w.device, dtype=w.dtype) + 0.5  # (h)
    u = x[:, None] - columns[:, None] * w[:, None]  # (n, w, 3): corners as seen from the pixel
    v = y[:, None] - rows[:, None] * w[:, None]  # (n, h, 3)
    u0, u1, u2 = u[:, None].unbind(-1)  # (n, 1, w) each
    v0, v1, v2 = v[:, :, None].unbind(-1)  # (n, h, 1) each
    e0 = u1 * v2 - u2 * v1  # (n, h, w): barycentric coordinates times one number
    e1 = u2 * v0 - u0 * v2  # (n, h, w)
    e2 = u0 * v1 - u1 * v0  # (n, h, w)
    one_winding = (e0 >= 0) & (e1 >= 0) & (e2 >= 0)  # (n, h, w)
    other_winding = (e0 <= 0) & (e1 <= 0) & (e2 <= 0)  # (n, h, w)
    total = e0 + e1 + e2  # (n, h, w)
    covered = (one_winding | other_winding) & (total != 0) & _box(x, y, w, height, width)  # (n, h, w)

    b0, b1, b2 = e0 / total, e1 / total, e2 / total  # (n, h, w) each
    w0, w1, w2 = w[:, :, None, None].unbind(1)  # (n, 1, 1) each
    depth = b0 * w0 + b1 * w1 + b2 * w2  # (n, h, w)
    depth = torch.where(covered & (depth >= NEAR), depth, torch.inf)  # (n, h, w)
    found = depth.argmin(0, keepdim=True)  # (1, h, w); the first of equals
    weights = torch.cat([b.gather(0, found) for b in (b0, b1, b2)])  # (3, h, w)
    return found[0].int(), weights.movedim(0, -1), depth.gather(0, found)[0]


def _homogeneous_pixels(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clip-space corners (n, 3, 4) as x, y, w (n, 3): the pixel is x / w to the right, y / w down."""
    w = corners[..., 3]  # (n, 3)
    x = (corners[..., 0] + w) * (0.5 * width)  # (n, 3)
    y = (w - corners[..., 1]) * (0.5 * height)  # (n, 3)
    return x, y, w


def _box(x: Tensor, y: Tensor, w: Tensor, height: int, width: int) -> Tensor:
    """(n, h, w) bool: pixels that triangles (n, 3) may cover; all where one crosses the camera plane."""
    in_front = (w > NEAR).all(1)[:, None]  # (n, 1)
    behind = (w <= NEAR).all(1)[:, None]  # (n, 1)

    def span(position: Tensor, size: int) -> Tensor:  # (n, 3) -> (n, size)
        pixels = torch.arange(size, device=w.device)  # (size)
        first = (position.amin(1, keepdim=True) - 0.5).ceil()  # (n, 1)
        last = (position.amax(1, keepdim=True) - 0.5).floor()  # (n, 1)
        return (~in_front | ((pixels >= first) & (pixels <= last))) & ~behind  # (n, size)

    return span(y / w, height)[:, :, None] & span(x / w, width)[:, None, :]  # (n, h, w)
