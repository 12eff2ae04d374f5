"""The mesh kernels in plain torch: the readable definition that the fast kernels are held against."""

from __future__ import annotations

import torch
from torch import Tensor

from core2d.kernels.raster.fragments import NEAR


def barycentrics(clip: Tensor, corners: Tensor) -> Tensor:
    """(b, h, w, 3) at the pixel centres, with the operations of `core2d.kernels.raster` in the same order."""
    image, row, column = (corners[..., 0] >= 0).nonzero(as_tuple=True)  # (n,) each, the pixels that see something
    vertices = clip[image[:, None], corners[image, row, column].long()]  # (n, 3, 4)
    u, v, _ = as_seen(vertices, row, column, corners.shape[1:3])  # (n, 3) each
    (u0, u1, u2), (v0, v1, v2) = u.unbind(1), v.unbind(1)  # (n,) each
    e0, e1, e2 = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0  # (n,) each
    total = e0 + e1 + e2  # (n,)
    seen = torch.stack([e0 / total, e1 / total, e2 / total], dim=1)  # (n, 3)
    return clip.new_zeros(corners.shape).index_put((image, row, column), seen)


def slopes(clip: Tensor, corners: Tensor) -> Tensor:
    """(b, h, w, 3, 2): how fast barycentric coordinates change with a pixel to the right and a pixel down."""
    image, row, column = (corners[..., 0] >= 0).nonzero(as_tuple=True)  # (n,) each
    vertices = clip[image[:, None], corners[image, row, column].long()]  # (n, 3, 4)
    u, v, w = as_seen(vertices, row, column, corners.shape[1:3])  # (n, 3) each
    edge = torch.linalg.cross(torch.stack([u, v, w], 2).roll(-1, 1), torch.stack([u, v, w], 2).roll(-2, 1))  # (n, 3, 3)
    total = edge[..., 2].sum(1)[:, None, None]  # (n, 1, 1): u1 v2 - u2 v1 is the last number of each cross product
    change = edge[..., :2]  # (n, 3, 2) of the edge functions: each is its line's numbers times (right, down, 1)
    weight = edge[..., 2:] / total  # (n, 3, 1)
    seen = (change - weight * change.sum(1, keepdim=True)) / total  # (n, 3, 2)
    return clip.new_zeros(*corners.shape, 2).index_put((image, row, column), seen)


def blend(values: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(n, c) sums of rows (n, k) of values (m, c) times weights (n, k)."""
    real = rows >= 0  # (n, k)
    taken = values[rows.clamp(min=0).long()]  # (n, k, c)
    return torch.einsum("nkc,nk->nc", taken, torch.where(real, weights, 0))


def look_up(table: Tensor, levels: Tensor, uv: Tensor, footprint: Tensor) -> Tensor:
    """(n, c): two levels of a pyramid, each looked up bilinearly at uv (n, 2), blended by the size of a pixel there."""
    last = len(levels) - 1
    level = level_of_detail(footprint, levels).clamp(0, last)  # (n,)
    finer = level.long().clamp(max=max(0, last - 1))  # (n,)
    part = (level - finer)[:, None]  # (n, 1) of the coarser one
    fine_rows, fine = _bilinear(uv, levels[finer])  # (n, 4) each
    coarse_rows, coarse = _bilinear(uv, levels[(finer + 1).clamp(max=last)])  # (n, 4) each
    weights = torch.cat([(1 - part) * fine, part * coarse], 1)  # (n, 8)
    return blend(table, torch.cat([fine_rows, coarse_rows], 1), weights)


@torch.no_grad()
def level_of_detail(footprint: Tensor, levels: Tensor) -> Tensor:
    """(n,) log2 of the longer axis, in texels of level 0, of the ellipse that a pixel's circle is in the texture."""
    texels = footprint * levels[0, :2].to(footprint)[:, None]  # (n, 2, 2)
    a, b, c, d = texels.flatten(1).unbind(1)  # (n,) each
    half, area = (a * a + b * b + c * c + d * d) / 2, a * d - b * c  # (n,) of the squared axes: half their sum; product
    longest = half + (half * half - area * area).clamp(min=0).sqrt()  # (n,) the larger square
    return longest.clamp(min=1e-20).log2() / 2


def _bilinear(uv: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, 4) int32 of the table and weights (n, 4) of the texels around uv (n, 2) in a level (n, 3) each."""
    size = level[:, :2].to(uv)  # (n, 2) width, height
    place = uv * size - 0.5  # (n, 2) from the first texel's centre
    low = place.detach().floor()  # (n, 2)
    x, y = (place - low).unbind(1)  # (n,) each
    first, second = (torch.minimum(step.clamp(min=0), size - 1).long() for step in (low, low + 1))  # (n, 2) each
    width, start = level[:, 0].long(), level[:, 2].long()  # (n,) each
    lines = [start + step[:, 1] * width for step in (first, second)]  # (n,) each
    rows = [line + step[:, 0] for line in lines for step in (first, second)]  # (n,) each
    weights = torch.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], 1)  # (n, 4)
    return torch.stack(rows, 1).int(), weights


def antialias(image: Tensor, clip: Tensor, faces: Tensor, opposite: Tensor, face: Tensor, depth: Tensor) -> Tensor:
    """(b, h, w, c): each pixel mixed with its neighbours to the right and below, where a silhouette passes between."""
    mixed = image  # (b, h, w, c)
    for down in (0, 1):
        first = face[:, : face.shape[1] - down, : face.shape[2] - 1 + down]  # (b, h', w')
        second = face[:, down:, 1 - down :]  # (b, h', w')
        picture, row, column = (first != second).nonzero(as_tuple=True)  # (n,) each: the pairs that may be mixed
        there = picture, row + down, column + 1 - down
        nearer = depth[picture, row, column] <= depth[there]  # (n,) whether the first one is in front
        rows, columns = torch.stack([row, row + down]), torch.stack([column, column + 1 - down])  # (2, n)
        front_row, back_row = torch.where(nearer, rows, rows.flip(0)).unbind(0)  # (n,) each
        front_column, back_column = torch.where(nearer, columns, columns.flip(0)).unbind(0)  # (n,) each
        front, back = (picture, front_row, front_column), (picture, back_row, back_column)
        toward = torch.where(nearer, 1.0, -1.0).to(clip)  # (n,) from the front one to the back one

        t, passes = _silhouette(clip, faces, opposite, face[front].long(), front, toward, down, face.shape[1:])
        # the front covers what lies before the crossing: at a half nothing changes
        shift = torch.where(passes, 0.5 - t, 0)[:, None]  # (n, 1)
        step = shift * (image[back] - image[front])  # (n, c)
        mixed = mixed.index_put(front, step.where(shift > 0, 0), accumulate=True)
        mixed = mixed.index_put(back, step.where(shift < 0, 0), accumulate=True)
    return mixed


def _silhouette(
    clip: Tensor, faces: Tensor, opposite: Tensor, face: Tensor, pixel: tuple[Tensor, Tensor, Tensor], toward: Tensor,
    down: int, size: tuple[int, ...],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Where triangles `face` (n,), seen at a pixel, end on the way to a neighbour's centre, in pixels (n,); and whether
    they end before it, and the surface with them (n,) bool."""
    picture, row, column = pixel  # (n,) each
    corners = torch.cat([faces[face], opposite[face]], 1).long()  # (n, 6)
    vertices = clip[picture[:, None], corners.clamp(min=0)]  # (n, 6, 4)
    u, v, w = as_seen(vertices, row, column, size)  # (n, 6) each
    p, q = (v, u) if down else (u, v)  # (n, 6) each: along the way, and across
    t, passes = [], []
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3  # the ends of the edge opposite to corner k
        at_pixel = p[:, i] * q[:, j] - p[:, j] * q[:, i]  # (n,) edge function
        a_pixel_on = toward * (w[:, i] * q[:, j] - w[:, j] * q[:, i])  # (n,) what it loses with a step of one pixel
        crosses = ((q[:, i] < 0) != (q[:, j] < 0)) & (w[:, i] > NEAR) & (w[:, j] > NEAR) & (a_pixel_on != 0)
        t.append(at_pixel / torch.where(crosses, a_pixel_on, 1))
        passes.append(crosses & (t[-1] >= 0) & (t[-1] <= 1) & _ends(u, v, w, i, j, k, corners[:, 3 + k] >= 0))
    chosen = torch.stack(passes, 1).int().argmax(1, keepdim=True)  # (n, 1) the first one
    return torch.stack(t, 1).gather(1, chosen)[:, 0], torch.stack(passes, 1).any(1)


def _ends(u: Tensor, v: Tensor, w: Tensor, i: int, j: int, k: int, has_other: Tensor) -> Tensor:
    """(n,) bool: whether the surface ends at edge ij: behind it comes nothing, or it turns back."""
    normal_u = v[:, i] * w[:, j] - w[:, i] * v[:, j]  # (n,) the line through both ends, as a plane through the camera
    normal_v = w[:, i] * u[:, j] - u[:, i] * w[:, j]  # (n,)
    normal_w = u[:, i] * v[:, j] - v[:, i] * u[:, j]  # (n,)
    side = [normal_u * u[:, c] + normal_v * v[:, c] + normal_w * w[:, c] for c in (k, 3 + k)]  # (n,) each
    return ~has_other | (side[0] * side[1] > 0)


def as_seen(vertices: Tensor, row: Tensor, column: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices (n, k, 4) in homogeneous pixels from the centre of a pixel: right, down, and w, each (n, k)."""
    x, y, _, w = vertices.unbind(2)  # (n, k) each
    right = (x + w) * (0.5 * size[1]) - (column[:, None] + 0.5) * w  # (n, k)
    below = (w - y) * (0.5 * size[0]) - (row[:, None] + 0.5) * w  # (n, k)
    return right, below, w


def opposite_corners(faces: Tensor) -> Tensor:
    """(f, 3) int32: the corner on the other side of the edge opposite to each corner, -1 unless there is just one."""
    corners = faces.long()  # (f, 3)
    start, end = corners.roll(-1, 1).flatten(), corners.roll(-2, 1).flatten()  # (3f,) of the edge opposite to a corner
    count = int(corners.max()) + 1 if len(corners) else 0
    keys = torch.minimum(start, end) * count + torch.maximum(start, end)  # (3f,)
    ordered, order = keys.sort(stable=True)  # uses of one edge become neighbours
    same = ordered[1:] == ordered[:-1]  # (3f - 1,)
    other = torch.full_like(order, -1)
    alone = torch.nn.functional.pad(same, (1, 1))  # (3f + 1,): whether a use has an equal before it
    before, after = alone[:-1], alone[1:]  # (3f,) each
    third = corners.flatten()[order]  # (3f,) the corner that faces the edge
    # a pair: the first has an equal after it and none before, the second the other way round, and no third follows
    first = (after & ~before).nonzero()[:, 0]
    first = first[~after[first + 1]]
    other[order[first]], other[order[first + 1]] = third[first + 1], third[first]
    return other.view(-1, 3).int()
