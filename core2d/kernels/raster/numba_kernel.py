"""The rasteriser on CPU: one image a thread, one triangle after the other, only the pixels of its bounding box."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from core2d.kernels.numba_cache import njit
from core2d.kernels.raster.fragments import NEAR


def rasterize(
    clip: Tensor, faces: Tensor, face_offsets: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `core2d.kernels.raster.rasterize`: returns face (b, h, w), barycentric (b, h, w, 3), depth (b, h, w)."""
    face, barycentric, depth = rasterize_arrays(
        clip.detach().cpu().numpy().astype(np.float32, copy=False),
        faces.cpu().numpy().astype(np.int32, copy=False),
        face_offsets.cpu().numpy().astype(np.int32, copy=False),
        height,
        width,
    )
    return torch.from_numpy(face), torch.from_numpy(barycentric), torch.from_numpy(depth)


def rasterize_arrays(
    clip: np.ndarray, faces: np.ndarray, face_offsets: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same on NumPy arrays, for callers that live outside torch."""
    images = len(face_offsets) - 1
    face = np.full((images, height, width), -1, np.int32)
    barycentric = np.zeros((images, height, width, 3), np.float32)
    depth = np.full((images, height, width), np.inf, np.float32)
    _draw(clip, faces, face_offsets, face, barycentric, depth)
    return face, barycentric, depth


@njit(parallel=True, fastmath=False, error_model="numpy")
def _draw(clip, faces, face_offsets, face, barycentric, depth):
    images = len(face)
    for image in numba.prange(images):
        for f in range(face_offsets[image], face_offsets[image + 1]):
            _draw_triangle(clip, faces[f], f, face[image], barycentric[image], depth[image])


@njit(error_model="numpy", inline="always")
def _draw_triangle(clip, corners, f, face, barycentric, depth):
    height, width = face.shape
    half_width, half_height = np.float32(0.5 * width), np.float32(0.5 * height)
    w0, w1, w2 = clip[corners[0], 3], clip[corners[1], 3], clip[corners[2], 3]
    # pixel coordinates times w, so that pixel = (x / w, y / w)
    x0 = (clip[corners[0], 0] + w0) * half_width
    x1 = (clip[corners[1], 0] + w1) * half_width
    x2 = (clip[corners[2], 0] + w2) * half_width
    y0 = (w0 - clip[corners[0], 1]) * half_height
    y1 = (w1 - clip[corners[1], 1]) * half_height
    y2 = (w2 - clip[corners[2], 1]) * half_height

    left, right, top, bottom = 0, width - 1, 0, height - 1
    if w0 > NEAR and w1 > NEAR and w2 > NEAR:
        px0, px1, px2 = x0 / w0, x1 / w1, x2 / w2
        py0, py1, py2 = y0 / w0, y1 / w1, y2 / w2
        # clamped before the conversion: far outside, a float does not fit an int
        left = int(np.ceil(min(max(min(px0, px1, px2) - 0.5, 0.0), width)))
        right = int(np.floor(max(min(max(px0, px1, px2) - 0.5, width - 1.0), -1.0)))
        top = int(np.ceil(min(max(min(py0, py1, py2) - 0.5, 0.0), height)))
        bottom = int(np.floor(max(min(max(py0, py1, py2) - 0.5, height - 1.0), -1.0)))
    elif w0 <= NEAR and w1 <= NEAR and w2 <= NEAR:
        return

    # Seen from the pixel (corner - pixel * w), the edge functions are plain cross products: precise for small triangles
    # in large pictures, and exactly opposite on the two sides of a shared edge, so that no pixel falls between them.
    for row in range(top, bottom + 1):
        py = np.float32(row + 0.5)
        v0, v1, v2 = y0 - py * w0, y1 - py * w1, y2 - py * w2
        for column in range(left, right + 1):
            px = np.float32(column + 0.5)
            u0, u1, u2 = x0 - px * w0, x1 - px * w1, x2 - px * w2
            e0, e1, e2 = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0
            front = e0 >= 0.0 and e1 >= 0.0 and e2 >= 0.0
            back = e0 <= 0.0 and e1 <= 0.0 and e2 <= 0.0
            total = e0 + e1 + e2
            if (front or back) and total != 0.0:
                b0, b1, b2 = e0 / total, e1 / total, e2 / total
                w = b0 * w0 + b1 * w1 + b2 * w2
                if w >= NEAR and w < depth[row, column]:
                    depth[row, column] = w
                    face[row, column] = f
                    barycentric[row, column, 0] = b0
                    barycentric[row, column, 1] = b1
                    barycentric[row, column, 2] = b2
