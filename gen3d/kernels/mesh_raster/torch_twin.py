"""The mesh kernels in plain torch: the readable definition that the fast kernels are held against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core2d.kernels.raster.fragments import NEAR

WALK = 16  # triangles on the way from one pixel to the next, before the search for a silhouette is given up


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


def antialias(image: Tensor, clip: Tensor, faces: Tensor, across: Tensor, face: Tensor, depth: Tensor) -> Tensor:
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

        ways = Ways(clip.detach(), faces, across, front, toward, down, face.shape[1:])
        i, j = last_edges(ways, face[front].long(), face[back].long()).unbind(1)  # (n,) each
        passes = (i >= 0).nonzero()[:, 0]  # (m,) pairs between which a silhouette passes
        front, back = tuple(axis[passes] for axis in front), tuple(axis[passes] for axis in back)
        p_i, q_i, w_i, p_j, q_j, w_j = edge_as_seen(clip, torch.stack([i, j], 1)[passes], front, ways)  # (m,) each
        t, _ = crossing(p_i, q_i, w_i, p_j, q_j, w_j, toward[passes])  # (m,)
        # the front covers what lies before the crossing: at a half nothing changes
        shift = (0.5 - t)[:, None]  # (m, 1)
        step = shift * (image[back] - image[front])  # (m, c)
        mixed = mixed.index_put(front, step.where(shift > 0, 0), accumulate=True)
        mixed = mixed.index_put(back, step.where(shift <= 0, 0), accumulate=True)
    return mixed


@dataclass(frozen=True)
class Ways:
    """n ways from the centre of a pixel to that of its neighbour, in pictures of the mesh of `antialias`.

    Attributes:
        pixel: picture, row and column, (n,) each, of the pixel whose triangle is in front.
        toward: (n,) 1 to the right or down, -1 to the left or up.
        down: 1 for neighbours above and below each other, 0 beside each other.
        size: (height, width).
    """

    clip: Tensor
    faces: Tensor
    across: Tensor
    pixel: tuple[Tensor, ...]
    toward: Tensor
    down: int
    size: tuple[int, ...]


def last_edges(ways: Ways, face: Tensor, goal: Tensor) -> Tensor:
    """Walk over the surface from triangles `face` (n,) to those of the neighbours, `goal` (n,): where does it end?

    Returns:
        (n, 2) ends of the edge at which it does, before the neighbour's centre; -1 where it does not.
    """
    found = torch.full_like(face, -1)[:, None].repeat(1, 2)  # (n, 2)
    way = torch.arange(len(face), device=face.device)  # (m,) those still under way
    entry = torch.full_like(face, -1)  # (m,) the corner opposite to the edge that the triangle was entered by
    for _ in range(WALK):
        beyond = ways.across[face].long()  # (m, 3)
        corners = torch.cat([ways.faces[face], ways.faces.flatten()[beyond.clamp(min=0)]], 1).long()  # (m, 6)
        picture, row, column = (axis[way] for axis in ways.pixel)  # (m,) each
        u, v, w = as_seen(ways.clip[picture[:, None], corners], row, column, ways.size)  # (m, 6) each
        p, q = (v, u) if ways.down else (u, v)  # (m, 6) each: along the way, and across
        leaves, last, t = [], [], []
        for k in range(3):
            i, j = (k + 1) % 3, (k + 2) % 3  # the ends of the edge opposite to corner k
            place, loss = crossing(p[:, i], q[:, i], w[:, i], p[:, j], q[:, j], w[:, j], ways.toward[way])  # (m,) each
            crosses = ((q[:, i] < 0) != (q[:, j] < 0)) & (w[:, i] > NEAR) & (w[:, j] > NEAR) & (loss != 0)  # (m,)
            leaves.append(crosses & (entry != k) & ((entry >= 0) | (place >= 0)))
            last.append(_ends(u, v, w, i, j, k, beyond[:, k] >= 0))
            t.append(place)
        edge = torch.stack(leaves, 1).int().argmax(1, keepdim=True)  # (m, 1) the first one
        here = torch.stack(leaves, 1).any(1) & (torch.stack(t, 1).gather(1, edge)[:, 0] <= 1)  # (m,)
        ends_here = here & torch.stack(last, 1).gather(1, edge)[:, 0]  # (m,)
        ends = torch.cat([corners.gather(1, (edge + 1) % 3), corners.gather(1, (edge + 2) % 3)], 1)  # (m, 2)
        found[way[ends_here]] = ends[ends_here]
        next_one = beyond.gather(1, edge)[:, 0]  # (m,)
        on = here & ~ends_here & (next_one // 3 != goal[way])  # (m,)
        way, face, entry = way[on], next_one[on] // 3, next_one[on] % 3
    return found


def crossing(
    p_i: Tensor, q_i: Tensor, w_i: Tensor, p_j: Tensor, q_j: Tensor, w_j: Tensor, toward: Tensor
) -> tuple[Tensor, Tensor]:
    """Where edges cross ways, in pixels from their start (n,); and what the edge function loses with a pixel (n,)."""
    loss = toward * (w_i * q_j - w_j * q_i)  # (n,)
    return (p_i * q_j - p_j * q_i) / torch.where(loss != 0, loss, 1), loss


def edge_as_seen(clip: Tensor, ends: Tensor, pixel: tuple[Tensor, ...], ways: Ways) -> list[Tensor]:
    """Along the way, across it, and w, of both ends (n, 2) of edges: six of (n,)."""
    picture, row, column = pixel  # (n,) each
    u, v, w = as_seen(clip[picture[:, None], ends], row, column, ways.size)  # (n, 2) each
    p, q = (v, u) if ways.down else (u, v)  # (n, 2) each
    return [axis[:, end] for end in (0, 1) for axis in (p, q, w)]


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


def across_edges(faces: Tensor) -> Tensor:
    """(f, 3) int32: the corner across the edge opposite to each corner, as 3 face + corner; -1 unless there is one."""
    corners = faces.long()  # (f, 3)
    start, end = corners.roll(-1, 1).flatten(), corners.roll(-2, 1).flatten()  # (3f,) of the edge opposite to a corner
    count = int(corners.max()) + 1 if len(corners) else 0
    keys = torch.minimum(start, end) * count + torch.maximum(start, end)  # (3f,)
    ordered, order = keys.sort(stable=True)  # uses of one edge become neighbours
    same = ordered[1:] == ordered[:-1]  # (3f - 1,)
    other = torch.full_like(order, -1)
    alone = torch.nn.functional.pad(same, (1, 1))  # (3f + 1,): whether a use has an equal before it
    before, after = alone[:-1], alone[1:]  # (3f,) each
    # a pair: the first has an equal after it and none before, the second the other way round, and no third follows
    first = (after & ~before).nonzero()[:, 0]
    first = first[~after[first + 1]]
    other[order[first]], other[order[first + 1]] = order[first + 1], order[first]
    return other.view(-1, 3).int()
