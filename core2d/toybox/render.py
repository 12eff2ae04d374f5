"""Draw Toybox scenes: expand parts to meshes, rasterise with supersampling, shade, average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from core2d.kernels.numba_cache import njit
from core2d.kernels.raster.numba_kernel import rasterize_arrays
from core2d.toybox import world
from core2d.toybox.parts import MAIN
from core2d.toybox.primitives import bank
from core2d.toybox.scene import Scene

PATTERN_IDS = {None: 0, "striped": 1, "checkered": 2, "dotted": 3}
FOCAL = np.float32(1.0 / math.tan(math.radians(world.FIELD_OF_VIEW) / 2))  # NDC y = FOCAL * up / forward
AMBIENT, FROM_ABOVE, LAMBERT = (np.float32(strength) for strength in world.LIGHT_STRENGTHS)
GROUND_IDS = {None: 0} | {name: i + 1 for i, name in enumerate(world.GROUNDS)}


@dataclass(frozen=True)
class Renders:
    """Pictures of b scenes, as NumPy arrays.

    Attributes:
        rgb: (b, h, w, 3) float32 in [0, 1], body over its background.
        rgba: (b, h, w, 4) float32, body alone; straight (not premultiplied) colour, alpha = coverage.
        mask: (b, h, w) float32 coverage of the body in [0, 1].
        depth: (b, h, w) float32 distance along the view axis in metres, mean over the covered part; inf where none.
        normal: (b, h, w, 3) float32 unit world normals, 0 where the body is not seen.
    """

    rgb: np.ndarray
    rgba: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """Packed world-space meshes of b scenes; faces of scene i are rows face_offsets[i]:face_offsets[i + 1].

    Where a scene has a ground, the second half of its faces is the body's shadow, laid on the ground.
    """

    rest: np.ndarray  # (v, 3) in rest coordinates, where patterns live
    position: np.ndarray  # (v, 3) in the world
    normal: np.ndarray  # (v, 3) world
    faces: np.ndarray  # (f, 3) int32
    face_part: np.ndarray  # (f,) int32 row of the packed parts, -1 for shadow
    vertex_offsets: np.ndarray  # (b + 1,) int32
    face_offsets: np.ndarray  # (b + 1,) int32
    part_color: np.ndarray  # (p, 3) RGB
    part_is_main: np.ndarray  # (p,) bool


def render(scenes: Sequence[Scene], size: int = 64, supersampling: int = 2) -> Renders:
    """Draw scenes into square pictures of `size` pixels with `supersampling`^2 samples a pixel."""
    geometry = expand(scenes)
    eye, axes = cameras(scenes)
    clip = _project(geometry.position, geometry.vertex_offsets, eye, axes)
    samples = size * supersampling
    face, barycentric, depth = rasterize_arrays(clip, geometry.faces, geometry.face_offsets, samples, samples)
    out = [np.empty((len(scenes), size, size, channels), np.float32) for channels in (3, 4, 1, 3)]
    paint = np.array([[*s.main, *s.second, *s.background] for s in scenes], np.float32)
    setting = np.array([[*s.ground_shift, s.floor, math.cos(s.yaw), math.sin(s.yaw)] for s in scenes], np.float32)
    kinds = np.array([[PATTERN_IDS[s.pattern], GROUND_IDS[s.ground]] for s in scenes], np.int32)
    _shade(
        face, barycentric, depth, geometry.faces, geometry.face_part, geometry.rest, geometry.normal,
        geometry.part_color, geometry.part_is_main, paint, setting, kinds, eye, axes,
        np.array(world.LIGHT, np.float32), supersampling, *out,
    )  # fmt: skip
    rgb, rgba, depth_map, normal = out
    return Renders(rgb, rgba, rgba[..., 3], depth_map[..., 0], normal)


def expand(scenes: Sequence[Scene]) -> Geometry:
    """The world-space triangle meshes of the scenes, packed one after the other."""
    shapes = bank()
    part = np.array([shape for s in scenes for shape in s.parts.shapes], np.int32)
    matrix = np.array([row for s in scenes for row in s.parts.matrices], np.float32).reshape(-1, 3, 4)
    color = np.array([c for s in scenes for c in s.parts.colors], np.float32)
    owner = np.repeat(np.arange(len(scenes), dtype=np.int32), [len(s.parts.shapes) for s in scenes])
    turns = ((math.cos(s.yaw), math.sin(s.yaw), s) for s in scenes)
    place = np.array([[c, n, s.scale, *s.offset, s.floor, s.ground is not None] for c, n, s in turns], np.float32)
    shadowed = place[owner, 7].astype(np.int32) + 1  # a part with a shadow is written twice
    vertex_count = np.diff(shapes.vertex_offsets)[part]
    face_count = np.diff(shapes.face_offsets)[part]
    scene_vertices = np.bincount(owner, vertex_count * shadowed, len(scenes)).astype(np.int32)
    scene_faces = np.bincount(owner, face_count * shadowed, len(scenes)).astype(np.int32)
    vertex_offsets = np.concatenate([[0], np.cumsum(scene_vertices)]).astype(np.int32)
    face_offsets = np.concatenate([[0], np.cumsum(scene_faces)]).astype(np.int32)
    # where each part starts, inside its scene's body half
    vertex_start = _starts(vertex_count, owner, vertex_offsets)
    face_start = _starts(face_count, owner, face_offsets)
    rest = np.empty((vertex_offsets[-1], 3), np.float32)
    position, normal = np.empty_like(rest), np.empty_like(rest)
    faces = np.empty((face_offsets[-1], 3), np.int32)
    face_part = np.empty(face_offsets[-1], np.int32)
    _expand(
        part, matrix, owner, place, vertex_start, face_start, scene_vertices, scene_faces, shapes.vertices,
        shapes.normals, shapes.faces, shapes.vertex_offsets, shapes.face_offsets, np.array(world.LIGHT, np.float32),
        rest, position, normal, faces, face_part,
    )  # fmt: skip
    is_main = (color == np.array(MAIN, np.float32)).all(1)
    return Geometry(rest, position, normal, faces, face_part, vertex_offsets, face_offsets, color, is_main)


def cameras(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Eye positions (b, 3) and camera axes (b, 3, 3) as rows right, up, forward, in world coordinates."""
    azimuth, elevation, radius, pan = np.array(
        [[s.view.azimuth, s.view.elevation, s.view.radius, s.view.pan] for s in scenes]
    ).T
    toward = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1)
    right = np.stack([-np.sin(azimuth), np.cos(azimuth), np.zeros_like(azimuth)], 1)
    forward = -toward
    up = np.cross(right, forward)
    # panning turns the camera counter-clockwise about its own up axis
    c, s = np.cos(pan)[:, None], np.sin(pan)[:, None]
    forward, right = c * forward - s * right, c * right + s * forward
    axes = np.stack([right, up, forward], 1)
    return (radius[:, None] * toward).astype(np.float32), axes.astype(np.float32)


def camera_to_world(scenes: Sequence[Scene]) -> np.ndarray:
    """(b, 4, 4) float32 camera-to-world matrices with OpenGL axes (x right, y up, looking along -z)."""
    eye, axes = cameras(scenes)
    matrices = np.tile(np.eye(4, dtype=np.float32), (len(scenes), 1, 1))
    matrices[:, :3, 0], matrices[:, :3, 1], matrices[:, :3, 2] = axes[:, 0], axes[:, 1], -axes[:, 2]
    matrices[:, :3, 3] = eye
    return matrices


def _starts(counts: np.ndarray, owner: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    before = np.cumsum(counts) - counts
    first = np.searchsorted(owner, np.arange(len(offsets) - 1))
    return (before - before[first][owner] + offsets[owner]).astype(np.int32)


def _project(position: np.ndarray, offsets: np.ndarray, eye: np.ndarray, axes: np.ndarray) -> np.ndarray:
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    local = np.einsum("vij,vj->vi", axes[owner], position - eye[owner])  # (v, 3) right, up, forward
    f = FOCAL
    return np.stack([f * local[:, 0], f * local[:, 1], np.zeros_like(local[:, 0]), local[:, 2]], 1).astype(np.float32)


@njit(parallel=True)
def _expand(part, matrix, owner, place, vertex_start, face_start, scene_vertices, scene_faces, bank_vertices,
            bank_normals, bank_faces, bank_vertex_offsets, bank_face_offsets, light,
            rest, position, normal, faces, face_part):  # fmt: skip
    for row in numba.prange(len(part)):
        shape, scene, m = part[row], owner[row], matrix[row]
        cos, sin, scale, shadow = place[scene, 0], place[scene, 1], place[scene, 2], place[scene, 7] > 0
        floor = place[scene, 6]
        # normals transform with the cofactors of the linear part
        n00, n01, n02 = (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1], m[1, 2] * m[2, 0] - m[1, 0] * m[2, 2],
                         m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])  # fmt: skip
        n10, n11, n12 = (m[0, 2] * m[2, 1] - m[0, 1] * m[2, 2], m[0, 0] * m[2, 2] - m[0, 2] * m[2, 0],
                         m[0, 1] * m[2, 0] - m[0, 0] * m[2, 1])  # fmt: skip
        n20, n21, n22 = (m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1], m[0, 2] * m[1, 0] - m[0, 0] * m[1, 2],
                         m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0])  # fmt: skip
        low, start = bank_vertex_offsets[shape], vertex_start[row]
        half_vertices = scene_vertices[scene] // 2
        for k in range(bank_vertex_offsets[shape + 1] - low):
            x, y, z = bank_vertices[low + k]
            rx = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
            ry = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
            rz = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            out = start + k
            rest[out, 0], rest[out, 1], rest[out, 2] = rx, ry, rz
            # bodies grow from the ground up: scaling keeps the floor in place
            px = scale * (cos * rx - sin * ry) + place[scene, 3]
            py = scale * (sin * rx + cos * ry) + place[scene, 4]
            pz = scale * (rz - floor) + floor + place[scene, 5]
            position[out, 0], position[out, 1], position[out, 2] = px, py, pz
            a, b, c = bank_normals[low + k]
            nx, ny, nz = n00 * a + n01 * b + n02 * c, n10 * a + n11 * b + n12 * c, n20 * a + n21 * b + n22 * c
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-20
            nx, ny, nz = nx / length, ny / length, nz / length
            normal[out, 0], normal[out, 1], normal[out, 2] = cos * nx - sin * ny, sin * nx + cos * ny, nz
            if shadow:
                drop = (pz - floor) / light[2]
                out += half_vertices
                rest[out, 0], rest[out, 1], rest[out, 2] = rx, ry, rz
                position[out, 0], position[out, 1] = px - drop * light[0], py - drop * light[1]
                position[out, 2] = floor
                normal[out, 0], normal[out, 1], normal[out, 2] = 0.0, 0.0, 1.0
        low_face, start_face = bank_face_offsets[shape], face_start[row]
        half_faces = scene_faces[scene] // 2
        for k in range(bank_face_offsets[shape + 1] - low_face):
            for corner in range(3):
                faces[start_face + k, corner] = start + bank_faces[low_face + k, corner]
                if shadow:
                    faces[start_face + k + half_faces, corner] = faces[start_face + k, corner] + half_vertices
            face_part[start_face + k] = row
            if shadow:
                face_part[start_face + k + half_faces] = -1


@njit(parallel=True)
def _shade(face, barycentric, depth, faces, face_part, rest, normal, part_color, part_is_main, paint, setting, kinds,
           eye, axes, light, supersampling, rgb, rgba, depth_map, normal_map):  # fmt: skip
    images, samples = face.shape[0], face.shape[1]
    size = samples // supersampling
    weight = np.float32(1.0 / (supersampling * supersampling))
    f = FOCAL
    for image in numba.prange(images):
        pattern, ground = kinds[image, 0], kinds[image, 1]
        cos, sin = setting[image, 3], setting[image, 4]
        for i in range(size):
            for j in range(size):
                r = g = b = br = bg = bb = np.float32(0.0)
                covered, distance = np.float32(0.0), np.float32(0.0)
                nx = ny = nz = np.float32(0.0)
                for si in range(supersampling):
                    for sj in range(supersampling):
                        y, x = i * supersampling + si, j * supersampling + sj
                        hit = face[image, y, x]
                        part = face_part[hit] if hit >= 0 else -2
                        if part >= 0:
                            px = py = pz = ax = ay = az = np.float32(0.0)
                            for k in range(3):
                                v, share = faces[hit, k], barycentric[image, y, x, k]
                                px += share * rest[v, 0]
                                py += share * rest[v, 1]
                                pz += share * rest[v, 2]
                                ax += share * normal[v, 0]
                                ay += share * normal[v, 1]
                                az += share * normal[v, 2]
                            length = np.sqrt(ax * ax + ay * ay + az * az) + np.float32(1e-20)
                            ax, ay, az = ax / length, ay / length, az / length
                            if part_is_main[part]:
                                rest_x, rest_y = cos * ax + sin * ay, cos * ay - sin * ax
                                second = pattern > 0 and _is_second(pattern, px, py, pz, rest_x, rest_y, az)
                                at = 3 if second else 0
                                cr, cg, cb = paint[image, at], paint[image, at + 1], paint[image, at + 2]
                            else:
                                cr, cg, cb = part_color[part, 0], part_color[part, 1], part_color[part, 2]
                            lit = _lit(ax, ay, az, light)
                            br += cr * lit
                            bg += cg * lit
                            bb += cb * lit
                            covered += 1.0
                            distance += depth[image, y, x]
                            nx += ax
                            ny += ay
                            nz += az
                        else:
                            cr, cg, cb = paint[image, 6], paint[image, 7], paint[image, 8]
                            if ground > 0:
                                u = np.float32((x + 0.5) / samples * 2.0 - 1.0) / f
                                v = np.float32(1.0 - (y + 0.5) / samples * 2.0) / f
                                where, shadowed = setting[image], part == -1
                                cr, cg, cb = _ground(ground, u, v, eye[image], axes[image], where, shadowed, cr, cg, cb)
                            r += cr
                            g += cg
                            b += cb
                rgb[image, i, j, 0], rgb[image, i, j, 1] = (r + br) * weight, (g + bg) * weight
                rgb[image, i, j, 2] = (b + bb) * weight
                inverse = np.float32(1.0) / max(covered, np.float32(1.0))
                rgba[image, i, j, 0], rgba[image, i, j, 1] = br * inverse, bg * inverse
                rgba[image, i, j, 2], rgba[image, i, j, 3] = bb * inverse, covered * weight
                depth_map[image, i, j, 0] = distance * inverse if covered > 0 else np.inf
                length = np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-20)
                normal_map[image, i, j, 0], normal_map[image, i, j, 1] = nx / length, ny / length
                normal_map[image, i, j, 2] = nz / length


@njit(inline="always")
def _lit(nx, ny, nz, light):
    """Ambient, a little more from above, and a Lambert term."""
    diffuse = max(np.float32(0.0), nx * light[0] + ny * light[1] + nz * light[2])
    return AMBIENT + FROM_ABOVE * nz + LAMBERT * diffuse


@njit()
def _is_second(pattern, x, y, z, nx, ny, nz):
    """Whether a point of the surface has the pattern's second colour; rest coordinates, rest normal."""
    if pattern == 1:
        return np.floor(z * 7.0 + 64.25) % 2 == 0
    if abs(nx) >= abs(ny) and abs(nx) >= abs(nz):  # seen along the axis that the surface faces
        u, v = y, z
    elif abs(ny) >= abs(nz):
        u, v = x, z
    else:
        u, v = x, y
    if pattern == 2:
        return (np.floor(u * 6.0 + 64.5) + np.floor(v * 6.0 + 64.5)) % 2 == 0
    u, v = u * 5.0 + 64.5, v * 5.0 + 64.5
    u, v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return u * u + v * v < 0.1


@njit()
def _ground(kind, u, v, eye, axes, setting, shadowed, sky_r, sky_g, sky_b):
    """Colour where the ray through (u, v) meets the ground; it fades into the sky with distance."""
    dx = axes[2, 0] + u * axes[0, 0] + v * axes[1, 0]
    dy = axes[2, 1] + u * axes[0, 1] + v * axes[1, 1]
    dz = axes[2, 2] + u * axes[0, 2] + v * axes[1, 2]
    if dz > -1e-3:
        return sky_r, sky_g, sky_b
    t = (setting[2] - eye[2]) / dz
    x, y = eye[0] + t * dx, eye[1] + t * dy
    far = min(1.0, max(0.0, (np.sqrt(x * x + y * y) - 1.5) / 5.0))
    r, g, b = _texture(kind, x + setting[0], y + setting[1])
    dim = np.float32(0.6) if shadowed else np.float32(1.0)
    far, near = np.float32(far), np.float32(1.0 - far) * dim
    return near * np.float32(r) + far * sky_r, near * np.float32(g) + far * sky_g, near * np.float32(b) + far * sky_b


@njit()
def _texture(kind, x, y):
    if kind == 1:  # grass
        n = _noise(x * 5.0, y * 5.0) - 0.5
        return 0.36 + 0.16 * n, 0.60 + 0.22 * n, 0.25 + 0.12 * n
    if kind == 2:  # sand, with ripples
        n = 0.05 * np.sin(9.0 * x + 3.0 * _noise(x * 1.5, y * 1.5))
        return 0.87 + n, 0.77 + n, 0.56 + n
    if kind == 3:  # wooden planks along x
        plank = np.floor(y * 3.5)
        shade = 0.8 + 0.3 * _hash(plank, np.floor(x * 0.6 + 0.37 * plank))
        return 0.62 * shade, 0.42 * shade, 0.24 * shade
    if kind == 4:  # tiles
        light = (np.floor(x * 2.2) + np.floor(y * 2.2)) % 2 == 0
        return (0.90, 0.90, 0.88) if light else (0.60, 0.65, 0.70)
    if kind == 5:  # carpet, with diamonds
        u, v = (x + y) * 1.4, (x - y) * 1.4
        inside = max(abs(u - np.floor(u) - 0.5), abs(v - np.floor(v) - 0.5)) < 0.28
        return (0.80, 0.62, 0.42) if inside else (0.55, 0.17, 0.24)
    n = 0.10 * np.sin(7.0 * y + 4.0 * _noise(x * 2.0, y * 2.0))  # water
    return 0.26 + n, 0.50 + n, 0.74 + n


@njit()
def _noise(x, y):
    """Smooth value noise in [0, 1]."""
    ix, iy = np.floor(x), np.floor(y)
    fx, fy = x - ix, y - iy
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    low = _hash(ix, iy) * (1 - fx) + _hash(ix + 1, iy) * fx
    high = _hash(ix, iy + 1) * (1 - fx) + _hash(ix + 1, iy + 1) * fx
    return low * (1 - fy) + high * fy


@njit()
def _hash(x, y):
    """A number in [0, 1] for a lattice point."""
    h = (np.int64(x) * 374761393 + np.int64(y) * 668265263) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 65535.0
