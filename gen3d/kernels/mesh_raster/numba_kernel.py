"""The mesh kernels on CPU: images in parallel, one pixel after the other, so that sums never vary."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from core2d.kernels.numba_cache import njit
from core2d.kernels.raster.fragments import NEAR
from gen3d.kernels.mesh_raster.torch_twin import WALK


def barycentrics_backward(grad: Tensor, clip: Tensor, corners: Tensor, found: Tensor) -> Tensor:
    """Gradient to clip (b, v, 4) of that to the barycentric coordinates (b, h, w, 3)."""
    grad_clip = np.zeros(tuple(clip.shape), np.float32)
    _barycentrics_backward(_array(grad), _array(clip), _array(corners), _array(found), grad_clip)
    return torch.from_numpy(grad_clip)


def slopes(clip: Tensor, corners: Tensor) -> Tensor:
    """See `torch_twin.slopes`."""
    out = np.zeros((*corners.shape, 2), np.float32)
    _slopes(_array(clip), _array(corners), out)
    return torch.from_numpy(out)


def blend(values: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """See `torch_twin.blend`."""
    out = np.zeros((len(rows), values.shape[1]), np.float32)
    _blend(_array(values), _array(rows), _array(weights), out)
    return torch.from_numpy(out)


def blend_backward(
    grad: Tensor, values: Tensor, rows: Tensor, weights: Tensor, to_values: bool, to_weights: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to values (m, c) and to weights (n, k), as far as they are asked for."""
    grad_values = grad_weights = None
    if to_values:
        found = np.zeros(tuple(values.shape), np.float32)
        _scatter(_array(grad), _array(rows), _array(weights), found)
        grad_values = torch.from_numpy(found)
    if to_weights:
        found = np.zeros(tuple(weights.shape), np.float32)
        _weigh(_array(grad), _array(values), _array(rows), found)
        grad_weights = torch.from_numpy(found)
    return grad_values, grad_weights


def look_up(table: Tensor, levels: Tensor, uv: Tensor, footprint: Tensor) -> Tensor:
    """See `torch_twin.look_up`."""
    out = np.zeros((len(uv), table.shape[1]), np.float32)
    _look_up(_array(table), _array(levels), _array(uv), _array(footprint), out)
    return torch.from_numpy(out)


def look_up_backward(
    grad: Tensor, table: Tensor, levels: Tensor, uv: Tensor, footprint: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to table (m, c) and uv (n, 2)."""
    grad_table, grad_uv = torch.zeros_like(table), torch.zeros_like(uv)
    _look_up_backward(*(_array(tensor) for tensor in (grad, table, levels, uv, footprint, grad_table, grad_uv)))
    return grad_table, grad_uv


def across_edges(faces: Tensor) -> Tensor:
    """See `torch_twin.across_edges`."""
    other = np.full(tuple(faces.shape), -1, np.int32)
    if len(faces):
        _across_edges(_array(faces), int(faces.max()) + 1, other)
    return torch.from_numpy(other)


def antialias(image: Tensor, clip: Tensor, faces: Tensor, across: Tensor, face: Tensor, depth: Tensor) -> Tensor:
    """See `torch_twin.antialias`."""
    mixed = image.clone()
    arrays = [_array(tensor) for tensor in (image, clip, faces, across, face, depth)]
    _antialias(*arrays, _array(mixed))
    return mixed


def antialias_backward(
    grad: Tensor, image: Tensor, clip: Tensor, faces: Tensor, across: Tensor, face: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to image (b, h, w, c) and clip (b, v, 4)."""
    grad_image, grad_clip = grad.clone(), torch.zeros_like(clip)
    arrays = [_array(tensor) for tensor in (grad, image, clip, faces, across, face, depth, grad_image, grad_clip)]
    _antialias_backward(*arrays)
    return grad_image, grad_clip


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise ValueError(f"numba mesh kernels need tensors on the CPU; one is on {tensor.device}")
    return tensor.numpy()


# -- barycentric coordinates -----------------------------------------------------------------------------------


@njit(error_model="numpy", inline="always")
def _as_seen(vertex, row, column, half_height, half_width):
    """A clip-space vertex in homogeneous pixels from the centre of a pixel: right, down, w."""
    w = vertex[3]
    right = (vertex[0] + w) * half_width - np.float32(column + 0.5) * w
    below = (w - vertex[1]) * half_height - np.float32(row + 0.5) * w
    return right, below, w


@njit(error_model="numpy", inline="always")
def _add_as_seen(grad, grad_right, grad_below, grad_w, row, column, half_height, half_width):
    """The gradient of `_as_seen`, added to that of the vertex."""
    grad[0] += grad_right * half_width
    grad[1] -= grad_below * half_height
    grad[3] += grad_w + grad_right * (half_width - np.float32(column + 0.5))
    grad[3] += grad_below * (half_height - np.float32(row + 0.5))


@njit(parallel=True, error_model="numpy")
def _barycentrics_backward(grad, clip, corners, found, grad_clip):
    images, height, width, _ = corners.shape
    half_height, half_width = np.float32(0.5 * height), np.float32(0.5 * width)
    for image in numba.prange(images):
        for row in range(height):
            for column in range(width):
                c0, c1, c2 = corners[image, row, column]
                if c0 < 0:
                    continue
                u0, v0, _ = _as_seen(clip[image, c0], row, column, half_height, half_width)
                u1, v1, _ = _as_seen(clip[image, c1], row, column, half_height, half_width)
                u2, v2, _ = _as_seen(clip[image, c2], row, column, half_height, half_width)
                total = (u1 * v2 - u2 * v1) + (u2 * v0 - u0 * v2) + (u0 * v1 - u1 * v0)
                g0, g1, g2 = grad[image, row, column]
                b0, b1, b2 = found[image, row, column]
                mean = g0 * b0 + g1 * b1 + g2 * b2
                g0, g1, g2 = (g0 - mean) / total, (g1 - mean) / total, (g2 - mean) / total  # to the edge functions
                _add_as_seen(grad_clip[image, c0], g1 * -v2 + g2 * v1, g1 * u2 - g2 * u1, np.float32(0),
                             row, column, half_height, half_width)  # fmt: skip
                _add_as_seen(grad_clip[image, c1], g0 * v2 - g2 * v0, g2 * u0 - g0 * u2, np.float32(0),
                             row, column, half_height, half_width)  # fmt: skip
                _add_as_seen(grad_clip[image, c2], g1 * v0 - g0 * v1, g0 * u1 - g1 * u0, np.float32(0),
                             row, column, half_height, half_width)  # fmt: skip


@njit(parallel=True, error_model="numpy")
def _slopes(clip, corners, out):
    images, height, width, _ = corners.shape
    half_height, half_width = np.float32(0.5 * height), np.float32(0.5 * width)
    for image in numba.prange(images):
        for row in range(height):
            for column in range(width):
                c0, c1, c2 = corners[image, row, column]
                if c0 < 0:
                    continue
                u0, v0, w0 = _as_seen(clip[image, c0], row, column, half_height, half_width)
                u1, v1, w1 = _as_seen(clip[image, c1], row, column, half_height, half_width)
                u2, v2, w2 = _as_seen(clip[image, c2], row, column, half_height, half_width)
                e0, e1, e2 = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0
                total = e0 + e1 + e2
                # with a step s to the right u becomes u - s w, with one down v becomes v - s w
                r0, r1, r2 = w2 * v1 - w1 * v2, w0 * v2 - w2 * v0, w1 * v0 - w0 * v1
                d0, d1, d2 = u2 * w1 - u1 * w2, u0 * w2 - u2 * w0, u1 * w0 - u0 * w1
                right, down = (r0 + r1 + r2) / total, (d0 + d1 + d2) / total
                place = out[image, row, column]
                place[0, 0], place[0, 1] = (r0 - e0 * right) / total, (d0 - e0 * down) / total
                place[1, 0], place[1, 1] = (r1 - e1 * right) / total, (d1 - e1 * down) / total
                place[2, 0], place[2, 1] = (r2 - e2 * right) / total, (d2 - e2 * down) / total


# -- blending --------------------------------------------------------------------------------------------------


@njit(parallel=True, error_model="numpy")
def _blend(values, rows, weights, out):
    for i in numba.prange(len(rows)):
        for k in range(rows.shape[1]):
            row, weight = rows[i, k], weights[i, k]
            if row >= 0:
                for c in range(values.shape[1]):
                    out[i, c] += weight * values[row, c]


@njit(error_model="numpy")
def _scatter(grad, rows, weights, grad_values):
    for i in range(len(rows)):
        for k in range(rows.shape[1]):
            row, weight = rows[i, k], weights[i, k]
            if row >= 0:
                for c in range(grad.shape[1]):
                    grad_values[row, c] += weight * grad[i, c]


@njit(parallel=True, error_model="numpy")
def _weigh(grad, values, rows, grad_weights):
    for i in numba.prange(len(rows)):
        for k in range(rows.shape[1]):
            row = rows[i, k]
            if row >= 0:
                total = np.float32(0)
                for c in range(grad.shape[1]):
                    total += grad[i, c] * values[row, c]
                grad_weights[i, k] = total


# -- textures --------------------------------------------------------------------------------------------------


@njit(error_model="numpy", inline="always")
def _levels(levels, footprint):
    """The finer and the coarser level for a pixel, and the part of the coarser one."""
    width, height = np.float32(levels[0, 0]), np.float32(levels[0, 1])
    a, b, c, d = footprint[0, 0] * width, footprint[0, 1] * width, footprint[1, 0] * height, footprint[1, 1] * height
    half, area = (a * a + b * b + c * c + d * d) * np.float32(0.5), a * d - b * c
    longest = half + np.sqrt(max(half * half - area * area, np.float32(0)))
    last = len(levels) - 1
    level = np.log2(max(longest, np.float32(1e-20))) * np.float32(0.5)
    level = min(max(level, np.float32(0)), np.float32(last))
    finer = min(int(level), max(0, last - 1))
    return finer, min(finer + 1, last), level - np.float32(finer)


@njit(error_model="numpy", inline="always")
def _around(level, u, v):
    """The four rows of the table around a point, and where it lies between them."""
    width, height, start = level[0], level[1], level[2]
    x, y = u * np.float32(width) - np.float32(0.5), v * np.float32(height) - np.float32(0.5)
    low_x, low_y = np.floor(x), np.floor(y)
    left = int(min(max(low_x, np.float32(0)), np.float32(width - 1)))
    right = int(min(max(low_x + np.float32(1), np.float32(0)), np.float32(width - 1)))
    top = int(min(max(low_y, np.float32(0)), np.float32(height - 1)))
    bottom = int(min(max(low_y + np.float32(1), np.float32(0)), np.float32(height - 1)))
    top, bottom = start + top * width, start + bottom * width
    return top + left, top + right, bottom + left, bottom + right, x - low_x, y - low_y


@njit(parallel=True, error_model="numpy")
def _look_up(table, levels, uv, footprint, out):
    one = np.float32(1)
    for n in numba.prange(len(uv)):
        finer, coarser, part = _levels(levels, footprint[n])
        for which in range(2):
            share = part if which else one - part
            if share == 0:
                continue
            r0, r1, r2, r3, x, y = _around(levels[coarser if which else finer], uv[n, 0], uv[n, 1])
            for c in range(table.shape[1]):
                above = (one - x) * table[r0, c] + x * table[r1, c]
                below = (one - x) * table[r2, c] + x * table[r3, c]
                out[n, c] += share * ((one - y) * above + y * below)


@njit(error_model="numpy")
def _look_up_backward(grad, table, levels, uv, footprint, grad_table, grad_uv):
    one = np.float32(1)
    for n in range(len(uv)):
        finer, coarser, part = _levels(levels, footprint[n])
        for which in range(2):
            share = part if which else one - part
            if share == 0:
                continue
            level = levels[coarser if which else finer]
            r0, r1, r2, r3, x, y = _around(level, uv[n, 0], uv[n, 1])
            to_x, to_y = np.float32(0), np.float32(0)
            for c in range(table.shape[1]):
                g = share * grad[n, c]
                grad_table[r0, c] += (one - y) * (one - x) * g
                grad_table[r1, c] += (one - y) * x * g
                grad_table[r2, c] += y * (one - x) * g
                grad_table[r3, c] += y * x * g
                t0, t1, t2, t3 = table[r0, c], table[r1, c], table[r2, c], table[r3, c]
                to_x += g * ((one - y) * (t1 - t0) + y * (t3 - t2))
                to_y += g * ((one - x) * (t2 - t0) + x * (t3 - t1))
            grad_uv[n, 0] += to_x * np.float32(level[0])
            grad_uv[n, 1] += to_y * np.float32(level[1])


# -- silhouettes -----------------------------------------------------------------------------------------------


@njit(error_model="numpy")
def _last_edge(clip, faces, across, f, goal, row, column, toward, down, half_height, half_width):
    """See `torch_twin.last_edges`: the edge's ends i and j, their (along, across, w), where it is crossed in pixels,
    and what the edge function loses with a pixel. -1 for i if there is none."""
    nothing, entry = np.float32(0), -1
    for _ in range(WALK):
        leaves = False
        for k in range(3):
            i, j, third, beyond = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3], faces[f, k], across[f, k]
            ui, vi, wi = _as_seen(clip[i], row, column, half_height, half_width)
            uj, vj, wj = _as_seen(clip[j], row, column, half_height, half_width)
            pi, qi, pj, qj = (vi, ui, vj, uj) if down else (ui, vi, uj, vj)
            if k == entry or (qi < 0) == (qj < 0) or wi <= NEAR or wj <= NEAR:
                continue
            loss = toward * (wi * qj - wj * qi)
            if loss == 0:
                continue
            t = (pi * qj - pj * qi) / loss
            if entry < 0 and t < 0:
                continue
            if t > 1:
                break
            if beyond < 0:
                return i, j, pi, qi, wi, pj, qj, wj, t, loss
            line_u, line_v, line_w = vi * wj - wi * vj, wi * uj - ui * wj, ui * vj - vi * uj
            u, v, w = _as_seen(clip[third], row, column, half_height, half_width)
            here = line_u * u + line_v * v + line_w * w
            u, v, w = _as_seen(clip[faces[beyond // 3, beyond % 3]], row, column, half_height, half_width)
            if here * (line_u * u + line_v * v + line_w * w) > 0:  # the surface turns back
                return i, j, pi, qi, wi, pj, qj, wj, t, loss
            f, entry, leaves = beyond // 3, beyond % 3, True
            break
        if not leaves or f == goal:
            break
    return -1, -1, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing


@njit(error_model="numpy", inline="always")
def _front(face, depth, row, column, down):
    """Of a pixel and its neighbour: the one in front, the one behind, and the direction from one to the other."""
    if depth[row, column] <= depth[row + down, column + 1 - down]:
        return row, column, row + down, column + 1 - down, np.float32(1)
    return row + down, column + 1 - down, row, column, np.float32(-1)


@njit(parallel=True, error_model="numpy")
def _antialias(image, clip, faces, across, face, depth, mixed):
    images, height, width, channels = image.shape
    half_height, half_width = np.float32(0.5 * height), np.float32(0.5 * width)
    for b in numba.prange(images):
        for down in range(2):
            for y in range(height - down):
                for x in range(width - 1 + down):
                    if face[b, y, x] == face[b, y + down, x + 1 - down]:
                        continue
                    row, column, back_row, back_column, toward = _front(face[b], depth[b], y, x, down)
                    edge = _last_edge(
                        clip[b], faces, across, face[b, row, column], face[b, back_row, back_column],
                        row, column, toward, down, half_height, half_width)  # fmt: skip
                    if edge[0] < 0:
                        continue
                    shift = np.float32(0.5) - edge[8]  # of the crossing from the border between the two pixels
                    if shift > 0:  # what is in front does not fill its pixel
                        target_row, target_column = row, column
                    else:
                        target_row, target_column = back_row, back_column
                    for c in range(channels):
                        step = shift * (image[b, back_row, back_column, c] - image[b, row, column, c])
                        mixed[b, target_row, target_column, c] += step


@njit(parallel=True, error_model="numpy")
def _antialias_backward(grad, image, clip, faces, across, face, depth, grad_image, grad_clip):
    images, height, width, channels = image.shape
    half_height, half_width = np.float32(0.5 * height), np.float32(0.5 * width)
    for b in numba.prange(images):
        for down in range(2):
            for y in range(height - down):
                for x in range(width - 1 + down):
                    if face[b, y, x] == face[b, y + down, x + 1 - down]:
                        continue
                    row, column, back_row, back_column, toward = _front(face[b], depth[b], y, x, down)
                    i, j, pi, qi, wi, pj, qj, wj, t, loss = _last_edge(
                        clip[b], faces, across, face[b, row, column], face[b, back_row, back_column],
                        row, column, toward, down, half_height, half_width)  # fmt: skip
                    if i < 0:
                        continue
                    shift = np.float32(0.5) - t
                    if shift > 0:
                        target_row, target_column = row, column
                    else:
                        target_row, target_column = back_row, back_column
                    gain = np.float32(0)
                    for c in range(channels):
                        g = grad[b, target_row, target_column, c]
                        gain += g * (image[b, back_row, back_column, c] - image[b, row, column, c])
                        grad_image[b, back_row, back_column, c] += shift * g
                        grad_image[b, row, column, c] -= shift * g
                    # t = (pi qj - pj qi) / loss, loss = toward (wi qj - wj qi), and shift = 1/2 - t
                    to_top, to_loss = -gain / loss, gain * t / loss * toward
                    gpi, gqi, gwi = to_top * qj, -to_top * pj - to_loss * wj, to_loss * qj
                    gpj, gqj, gwj = -to_top * qi, to_top * pi + to_loss * wi, -to_loss * qi
                    if down:
                        _add_as_seen(grad_clip[b, i], gqi, gpi, gwi, row, column, half_height, half_width)
                        _add_as_seen(grad_clip[b, j], gqj, gpj, gwj, row, column, half_height, half_width)
                    else:
                        _add_as_seen(grad_clip[b, i], gpi, gqi, gwi, row, column, half_height, half_width)
                        _add_as_seen(grad_clip[b, j], gpj, gqj, gwj, row, column, half_height, half_width)


@njit(error_model="numpy")
def _across_edges(faces, vertices, other):
    """Each edge is kept with its smaller end: few edges share one, so the other use of an edge is found by looking."""
    starts = np.zeros(vertices + 1, np.int64)
    for f in range(len(faces)):
        for k in range(3):
            starts[min(faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]) + 1] += 1
    for v in range(vertices):
        starts[v + 1] += starts[v]
    uses, filled = np.empty(3 * len(faces), np.int64), starts[:-1].copy()
    for f in range(len(faces)):
        for k in range(3):
            low = min(faces[f, (k + 1) % 3], faces[f, (k + 2) % 3])
            uses[filled[low]] = 3 * f + k
            filled[low] += 1
    for f in range(len(faces)):
        for k in range(3):
            i, j = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
            low, high, count, found = min(i, j), max(i, j), 0, -1
            for place in range(starts[low], starts[low + 1]):
                g, m = uses[place] // 3, uses[place] % 3
                if max(faces[g, (m + 1) % 3], faces[g, (m + 2) % 3]) == high:
                    count += 1
                    if g != f or m != k:
                        found = uses[place]
            if count == 2:
                other[f, k] = found
