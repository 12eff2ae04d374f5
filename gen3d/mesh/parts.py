"""What files hold: surfaces that each have a look of their own; and how they become one mesh with one texture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from gen3d.mesh.export import linear, srgb
from gen3d.mesh.mesh import TexturedMesh
from gen3d.mesh.texture import paint
from gen3d.mesh.uv import GAP, unwrap

LARGEST = 8192  # texels along a side
FARTHEST = 1e9  # texels beyond the border: more than can be written out, but still a whole number
PAINTED = (1024, 4096)  # texels along a side of a texture that is painted anew: at least, at most
SWATCH = 4  # texels along a side of a part that has one colour
Beyond = Literal["wrap", "symmetric", "edge"]  # what lies beyond the border of a texture, in the words of `np.pad`
PERIODS: dict[Beyond, int] = {"wrap": 1, "symmetric": 2, "edge": 0}  # widths until it is the same again


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture, and what lies beyond its border.

    Attributes:
        pixels: (h, w, 3) uint8 sRGB, row 0 at the top.
        beyond: what lies to the sides, and what above and below.
    """

    pixels: np.ndarray
    beyond: tuple[Beyond, Beyond] = ("wrap", "wrap")


@dataclass(frozen=True, eq=False)
class Part:
    """A surface with one look: its colour is the texture times the colours of the vertices, in linear light.

    Attributes:
        vertices: (v, 3).
        faces: (f, 3).
        colors: (v, 3) linear light in [0, 1], or None where the file names no colour.
        uv: (v, 2) from the top left corner of the texture; any range.
        texture: shown where there is one; needs `uv`.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: Texture | None = None

    def __post_init__(self) -> None:
        if len(self.faces) and not 0 <= self.faces.min() <= self.faces.max() < len(self.vertices):
            raise ValueError(f"a face names vertex {self.faces.max()} of {len(self.vertices)}")
        for name, columns in (("vertices", 3), ("colors", 3), ("uv", 2)):
            values = getattr(self, name)
            if values is not None and values.shape != (len(self.vertices), columns):
                raise ValueError(f"{name} must be ({len(self.vertices)}, {columns}), not {values.shape}")
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite")
        if self.texture is not None and self.uv is None:
            raise ValueError("a texture needs texture coordinates")

    @property
    def tone(self) -> np.ndarray | None:
        """The one colour (3,) of all vertices, white where none is named; None where they differ."""
        if self.colors is None:
            return np.ones(3)
        return self.colors[0] if (self.colors == self.colors[:1]).all() else None


def one_mesh(parts: list[Part]) -> TexturedMesh:
    """Put parts together, in the order in which their looks come.

    Parts without textures become one mesh with colours per vertex. Otherwise all looks are put side by side into one
    texture. A texture that repeats is written out as often as the surface shows it; one that is multiplied by different
    colours at the vertices is painted anew.

    Raises:
        ValueError: no face, or a texture that cannot be written out.
    """
    parts = _by_look([_tidy(part) for part in parts if len(part.faces)])
    if not parts:
        raise ValueError("it holds no faces")
    if all(part.texture is None for part in parts):
        whole = _join(parts)
        colors = None if whole.colors is None else srgb(whole.colors)
        return TexturedMesh(whole.vertices, whole.faces, colors=colors)
    sheets = [_sheet(part, alone=len(parts) == 1) for part in parts]
    return sheets[0] if len(sheets) == 1 else _side_by_side(sheets)


# -- parts that look alike ---------------------------------------------------------------------------------


def _tidy(part: Part) -> Part:
    """Without vertices that no face has, so that they count neither for bounds nor for looks."""
    used, faces = np.unique(part.faces, return_inverse=True)
    return part if len(used) == len(part.vertices) else _rows(part, used, faces.reshape(-1, 3))


def _rows(part: Part, rows: np.ndarray, faces: np.ndarray) -> Part:
    taken = {name: getattr(part, name) for name in ("vertices", "colors", "uv")}
    return replace(part, faces=faces, **{name: value[rows] for name, value in taken.items() if value is not None})


def _by_look(parts: list[Part]) -> list[Part]:
    looks: dict[object, list[Part]] = {}
    for part in parts:
        tone = part.tone
        key = None if tone is None else tuple(tone.tolist())
        looks.setdefault((id(part.texture), part.colors is None, key), []).append(part)
    return [_join(alike) for alike in looks.values()]


def _join(parts: list[Part]) -> Part:
    """One part of those that share a texture, or of those that have none."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])
    colors, uv = None, None
    if any(part.colors is not None for part in parts):  # beside others, a part without colour is white
        colors = np.concatenate([np.ones((len(p.vertices), 3)) if p.colors is None else p.colors for p in parts])
    if parts[0].texture is not None:
        uv = np.concatenate([part.uv for part in parts if part.uv is not None])
    return Part(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces.astype(np.int64) + offset for part, offset in zip(parts, offsets, strict=False)]),
        colors,
        uv,
        parts[0].texture,
    )


# -- from a part to a mesh with a texture of its own ---------------------------------------------------------


def _sheet(part: Part, alone: bool) -> TexturedMesh:
    """A part with its whole look in one texture, texture coordinates within [0, 1]."""
    if part.texture is not None:
        part = _written_out(part, alone)
    tone = part.tone
    if tone is None:
        return _painted(part)
    if part.texture is None or part.uv is None:
        pixels = np.tile(srgb(tone), (SWATCH, SWATCH, 1))
        return TexturedMesh(part.vertices, part.faces, np.full((len(part.vertices), 2), 0.5), pixels)
    return TexturedMesh(part.vertices, part.faces, part.uv, _tinted(part.texture.pixels, tone))


def _tinted(pixels: np.ndarray, tone: np.ndarray) -> np.ndarray:
    if (tone >= 1).all():
        return pixels
    table = srgb(linear(np.arange(256))[:, None] * tone)  # (256, 3): what each value becomes
    return np.stack([table[pixels[..., channel], channel] for channel in range(3)], -1)


def _written_out(part: Part, alone: bool) -> Part:
    """A part whose texture coordinates stay within its texture, which repeats as often as it is shown."""
    if part.texture is None or part.uv is None:
        raise ValueError("only a texture can be written out")
    pixels, beyond = part.texture.pixels, part.texture.beyond
    size = np.array(pixels.shape[1::-1])  # (2,) width and height
    slack = 0.5 / size  # less than half a texel beyond the border shows the border
    part = _near_the_texture(part, np.array([PERIODS[way] for way in beyond]), slack)
    uv = np.asarray(part.uv, np.float64)
    before = np.ceil(((-uv.min(0) - slack) * size).clip(0, FARTHEST)).astype(np.int64)
    after = np.ceil(((uv.max(0) - 1 - slack) * size).clip(0, FARTHEST)).astype(np.int64)
    if alone:  # every renderer goes on with the border by itself
        kept = np.array([way != "edge" for way in beyond])
        before, after = before * kept, after * kept
    whole = size + before + after
    if not (before.any() or after.any()):
        return part
    if (whole > LARGEST).any():
        width, height = np.minimum(size, size * LARGEST // whole).tolist()
        if width == 0 or height == 0:
            raise ValueError("its texture repeats too often across one face")
        return _written_out(replace(part, texture=Texture(_resized(pixels, width, height), beyond)), alone)
    pixels = np.pad(pixels, ((0, 0), (before[0], after[0]), (0, 0)), beyond[0])
    pixels = np.pad(pixels, ((before[1], after[1]), (0, 0), (0, 0)), beyond[1])
    return replace(part, uv=(uv * size + before) / whole, texture=Texture(pixels, beyond))


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def _near_the_texture(part: Part, periods: np.ndarray, slack: np.ndarray) -> Part:
    """Move every face by whole periods so that it begins in the texture; vertices of faces that part are split."""
    corners = np.asarray(part.uv, np.float64)[part.faces]  # (f, 3, 2)
    low, high = corners.min(1), corners.max(1)
    steps = np.floor((low + slack) / np.maximum(periods, 1)) * periods  # (f, 2)
    steps[(low >= -slack) & (high <= 1 + slack)] = 0
    if not steps.any():
        return part
    far, kinds = np.unique(steps.round().view(np.complex128), return_inverse=True)  # pairs as one number each
    keys = part.faces.astype(np.int64) * len(far) + kinds.reshape(-1, 1)  # (f, 3)
    keys, faces = np.unique(keys, return_inverse=True)
    moved = _rows(part, keys // len(far), faces.reshape(-1, 3))
    return replace(moved, uv=np.asarray(moved.uv) - far[keys % len(far)].view(np.float64).reshape(-1, 2))


def _painted(part: Part) -> TexturedMesh:
    """A part in a texture of its own that holds its colours, blended between vertices, times its texture."""
    white, middle = np.full((1, 1, 3), 255, np.uint8), np.full((len(part.vertices), 2), 0.5)
    pixels, places = (white, middle) if part.texture is None else (part.texture.pixels, part.uv)
    size = int(np.clip(max(pixels.shape[:2]), *PAINTED))
    rows, faces, uv = unwrap(part.vertices, part.faces, size)
    picture = torch.tensor(pixels).float().movedim(-1, 0)[None]  # (1, 3, h, w)

    def color(points: Tensor) -> Tensor:
        where = points[None, None, :, 3:] * 2 - 1  # blended between texel centres, as renderers do
        texels = grid_sample(picture, where, padding_mode="border", align_corners=False)[0, :, 0].T
        return torch.from_numpy(srgb(linear(texels.numpy()) * points[:, :3].numpy()) / 255)

    carried = np.concatenate([np.asarray(part.colors), np.asarray(places)], 1)  # (v, 5)
    painted, _ = paint(color, carried[rows], faces, uv, size)
    return TexturedMesh(part.vertices[rows], faces, uv, painted)


# -- several textures side by side ---------------------------------------------------------------------------


def _side_by_side(sheets: list[TexturedMesh]) -> TexturedMesh:
    """One mesh of several, in one texture that holds theirs, each with a margin of its own border."""
    pictures = [np.asarray(sheet.texture) for sheet in sheets]
    places, whole = _shelves([picture.shape[1::-1] for picture in pictures])
    while max(whole) > LARGEST:
        pictures = [_resized(p, max(p.shape[1] // 2, 1), max(p.shape[0] // 2, 1)) for p in pictures]
        places, whole = _shelves([picture.shape[1::-1] for picture in pictures])
    canvas = np.zeros((whole[1], whole[0], 3), np.uint8)
    uvs, faces, count = [], [], 0
    for sheet, picture, (left, top) in zip(sheets, pictures, places, strict=True):
        framed = np.pad(picture, ((GAP, GAP), (GAP, GAP), (0, 0)), "edge")
        canvas[top : top + framed.shape[0], left : left + framed.shape[1]] = framed
        uvs.append((np.asarray(sheet.uv) * picture.shape[1::-1] + [left + GAP, top + GAP]) / whole)
        faces.append(sheet.faces + count)
        count += len(sheet.vertices)
    vertices = np.concatenate([sheet.vertices for sheet in sheets])
    return TexturedMesh(vertices, np.concatenate(faces), np.concatenate(uvs), canvas)


def _shelves(sizes: list[tuple[int, ...]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Left and top of each picture with its margin, the highest first along rows; and width and height of the whole."""
    framed = [(width + 2 * GAP, height + 2 * GAP) for width, height in sizes]
    room = max(max(width for width, _ in framed), int(np.ceil(np.sqrt(sum(w * h for w, h in framed)))))
    places, left, top, shelf, widest = [(0, 0)] * len(framed), 0, 0, 0, 0
    for index in sorted(range(len(framed)), key=lambda index: -framed[index][1]):
        width, height = framed[index]
        if left + width > room:
            left, top, shelf = 0, top + shelf, 0
        places[index] = (left, top)
        left, shelf = left + width, max(shelf, height)
        widest = max(widest, left)
    return places, (widest, top + shelf)
