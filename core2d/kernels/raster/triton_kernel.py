"""The rasteriser on CUDA: one program per image and tile keeps its pixels' best triangles in registers.

`_setup` turns each triangle, once, into homogeneous pixel corners and a bounding box. `_draw` reads the
boxes of its image a block at a time, picks those that touch its tile in ascending order (so the tie rule
needs no atomics and results never vary), and tests the tile's pixels with the arithmetic of the torch twin:
same order, IEEE division, no fused multiply-add, which would break the equality of the two sides of a
shared edge.

Floors for b images of h x w pixels, f triangles in all, and `hits` pairs of triangle and touched tile:
    bytes  20 b h w written once (face, barycentric, depth); 112 f in `_setup` (12 index, 48 clip, 52 table);
           from the L2 cache 16 f / b per tile for boxes and 36 per hit for corners.
    FLOP   256 per hit x 19: 9 edge functions, 2 sum, 3 divisions, 5 depth (the shift by the pixel is shared
           along rows and columns); about 12 comparisons and 5 selects issue like FLOP but do not count.
64 pictures of 128 x 128 with 500 triangles of 8 hits each: 25 MB, or 5 us at 4.8 TB/s, and 1.2 GFLOP, or
37 us at the 33.5 TFLOP/s that an H200 does in float32 without fusing: bound by arithmetic. Not yet timed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from core2d.kernels.raster import fragments

TILE = 16  # pixels along a tile's side
BLOCK = 128  # triangles whose boxes are read together
NEAR = tl.constexpr(fragments.NEAR)
SETUP_OPTIONS: dict[str, Any] = {"BLOCK": BLOCK, "num_warps": 4, "enable_fp_fusion": False}
# one warp per tile: picking its next triangle is then a reduction without barriers
DRAW_OPTIONS: dict[str, Any] = {"TILE": TILE, "BLOCK": BLOCK, "num_warps": 1, "enable_fp_fusion": False}


def rasterize(
    clip: Tensor, faces: Tensor, face_offsets: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `core2d.kernels.raster.rasterize`: returns face (b, h, w), barycentric (b, h, w, 3), depth (b, h, w).

    Raises:
        ValueError: the tensors are not on CUDA (only Triton's interpreter, TRITON_INTERPRET=1, takes others).
    """
    if not clip.is_cuda and not knobs.runtime.interpret:
        raise ValueError(f"the triton raster backend needs CUDA tensors; clip is on {clip.device}")
    clip = clip.detach().float().contiguous()  # (v, 4)
    faces = faces.to(clip.device, torch.int32).contiguous()  # (f, 3)
    face_offsets = face_offsets.to(clip.device, torch.int32).contiguous()  # (b + 1)
    images = len(face_offsets) - 1
    corners = clip.new_empty(len(faces), 9)  # x, y, w of three corners
    boxes = faces.new_empty(4, len(faces))  # first and last column, first and last row
    face = faces.new_empty(images, height, width)
    barycentric = clip.new_empty(images, height, width, 3)
    depth = clip.new_empty(images, height, width)
    tiles = triton.cdiv(height, TILE) * triton.cdiv(width, TILE)
    with torch.cuda.device_of(clip):
        if len(faces):
            _setup[(triton.cdiv(len(faces), BLOCK),)](
                clip, faces, corners, boxes, len(faces), height, width, **SETUP_OPTIONS
            )
        if images and tiles:
            _draw[(tiles, images)](
                corners,
                boxes,
                face_offsets,
                face,
                barycentric,
                depth,
                len(faces),
                height,
                width,
                **DRAW_OPTIONS,
            )
    return face, barycentric, depth


@triton.jit
def _setup(clip, faces, corners, boxes, count, height, width, BLOCK: tl.constexpr):
    """Corners (f, 9) and boxes (4, f) of a block of triangles; the box is empty behind the camera."""
    face = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = face < count
    x0, y0, w0 = _corner(clip, faces + face * 3, mask, height, width)
    x1, y1, w1 = _corner(clip, faces + face * 3 + 1, mask, height, width)
    x2, y2, w2 = _corner(clip, faces + face * 3 + 2, mask, height, width)

    in_front = (w0 > NEAR) & (w1 > NEAR) & (w2 > NEAR)
    behind = (w0 <= NEAR) & (w1 <= NEAR) & (w2 <= NEAR)
    left, right = _span(x0, x1, x2, w0, w1, w2, width)
    top, bottom = _span(y0, y1, y2, w0, w1, w2, height)
    left = tl.where(in_front, left, tl.where(behind, width, 0))
    tl.store(boxes + face, left, mask)
    tl.store(boxes + count + face, tl.where(in_front, right, width - 1), mask)
    tl.store(boxes + 2 * count + face, tl.where(in_front, top, 0), mask)
    tl.store(boxes + 3 * count + face, tl.where(in_front, bottom, height - 1), mask)

    row = corners + face * 9
    tl.store(row, x0, mask)
    tl.store(row + 1, y0, mask)
    tl.store(row + 2, w0, mask)
    tl.store(row + 3, x1, mask)
    tl.store(row + 4, y1, mask)
    tl.store(row + 5, w1, mask)
    tl.store(row + 6, x2, mask)
    tl.store(row + 7, y2, mask)
    tl.store(row + 8, w2, mask)


@triton.jit
def _corner(clip, index, mask, height, width):
    """Homogeneous pixel coordinates of the vertices whose indices stand at `index`."""
    vertex = clip + tl.load(index, mask, 0) * 4
    w = tl.load(vertex + 3, mask, 1.0)
    x = (tl.load(vertex, mask, 1.0) + w) * (0.5 * width)
    y = (w - tl.load(vertex + 1, mask, 1.0)) * (0.5 * height)
    return x, y, w


@triton.jit
def _span(x0, x1, x2, w0, w1, w2, size):
    """First and last pixel whose centre lies within the triangle along one axis."""
    p0, p1, p2 = tl.div_rn(x0, w0), tl.div_rn(x1, w1), tl.div_rn(x2, w2)
    first = tl.ceil(tl.minimum(tl.minimum(p0, p1), p2) - 0.5)
    last = tl.floor(tl.maximum(tl.maximum(p0, p1), p2) - 0.5)
    # clamped before the conversion: far outside, a float does not fit an int
    first = tl.minimum(tl.maximum(first, 0.0), size * 1.0)
    last = tl.maximum(tl.minimum(last, size - 1.0), -1.0)
    return first.to(tl.int32), last.to(tl.int32)


@triton.jit
def _draw(
    corners, boxes, face_offsets, face_out, barycentric_out, depth_out, count, height, width,
    TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The nearest triangle at the pixels of one tile of one image."""
    across = tl.cdiv(width, TILE)
    left = (tl.program_id(0) % across) * TILE
    top = (tl.program_id(0) // across) * TILE
    image = tl.program_id(1)
    columns = (left + tl.arange(0, TILE))[None, :]  # (1, TILE)
    rows = (top + tl.arange(0, TILE))[:, None]  # (TILE, 1)

    face = tl.full((TILE, TILE), -1, tl.int32)
    depth = tl.full((TILE, TILE), float("inf"), tl.float32)
    best0 = tl.zeros((TILE, TILE), tl.float32)
    best1 = tl.zeros((TILE, TILE), tl.float32)
    best2 = tl.zeros((TILE, TILE), tl.float32)

    last = tl.load(face_offsets + image + 1)
    for start in range(tl.load(face_offsets + image), last, BLOCK):
        candidates = start + tl.arange(0, BLOCK)
        mask = candidates < last
        touches = mask & (tl.load(boxes + candidates, mask, 0) < left + TILE)
        touches &= tl.load(boxes + count + candidates, mask, 0) >= left
        touches &= tl.load(boxes + 2 * count + candidates, mask, 0) < top + TILE
        touches &= tl.load(boxes + 3 * count + candidates, mask, 0) >= top
        f = tl.min(tl.where(touches, candidates, last))
        while f < last:  # ascending, so that of equal depths the smaller index stays
            closer, w, b0, b1, b2 = _cover(corners + f * 9, boxes + f, count, rows, columns, depth)
            face = tl.where(closer, f, face)
            depth = tl.where(closer, w, depth)
            best0 = tl.where(closer, b0, best0)
            best1 = tl.where(closer, b1, best1)
            best2 = tl.where(closer, b2, best2)
            touches &= candidates > f
            f = tl.min(tl.where(touches, candidates, last))

    pixel = (image.to(tl.int64) * height + rows) * width + columns  # 64 bits: large batches pass 2^31 numbers
    inside = (rows < height) & (columns < width)
    tl.store(face_out + pixel, face, inside)
    tl.store(depth_out + pixel, depth, inside)
    tl.store(barycentric_out + pixel * 3, best0, inside)
    tl.store(barycentric_out + pixel * 3 + 1, best1, inside)
    tl.store(barycentric_out + pixel * 3 + 2, best2, inside)


@triton.jit
def _cover(corner, box, count, rows, columns, depth):
    """Where in a tile one triangle is closer than `depth`, with its depth and barycentric coordinates."""
    x0, y0, w0 = tl.load(corner), tl.load(corner + 1), tl.load(corner + 2)
    x1, y1, w1 = tl.load(corner + 3), tl.load(corner + 4), tl.load(corner + 5)
    x2, y2, w2 = tl.load(corner + 6), tl.load(corner + 7), tl.load(corner + 8)
    in_box = (columns >= tl.load(box)) & (columns <= tl.load(box + count))
    in_box &= (rows >= tl.load(box + 2 * count)) & (rows <= tl.load(box + 3 * count))
    px = columns.to(tl.float32) + 0.5
    py = rows.to(tl.float32) + 0.5
    u0, u1, u2 = x0 - px * w0, x1 - px * w1, x2 - px * w2  # (1, TILE) each: corners as seen from the pixel
    v0, v1, v2 = y0 - py * w0, y1 - py * w1, y2 - py * w2  # (TILE, 1) each
    e0 = u1 * v2 - u2 * v1
    e1 = u2 * v0 - u0 * v2
    e2 = u0 * v1 - u1 * v0
    total = e0 + e1 + e2
    covered = ((e0 >= 0) & (e1 >= 0) & (e2 >= 0)) | ((e0 <= 0) & (e1 <= 0) & (e2 <= 0))
    covered &= in_box & (total != 0)
    total = tl.where(covered, total, 1.0)
    b0, b1, b2 = tl.div_rn(e0, total), tl.div_rn(e1, total), tl.div_rn(e2, total)
    w = b0 * w0 + b1 * w1 + b2 * w2
    return covered & (w >= NEAR) & (w < depth), w, b0, b1, b2
