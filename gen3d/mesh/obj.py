"""Wavefront OBJ, as parts: one for each material."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from gen3d.mesh.export import linear
from gen3d.mesh.files import find_beside, say
from gen3d.mesh.mtl import Material, decoded, read_materials, statements
from gen3d.mesh.parts import Part, Texture

NONE = -1  # a corner without texture coordinates


@dataclass
class Corners:
    """The triangles of one material: rows of positions and of texture coordinates, three a triangle."""

    positions: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


@dataclass
class Listing:
    """An OBJ as it stands: numbers row by row, triangles by the name of their material."""

    positions: list[list[float]] = field(default_factory=list)
    places: list[list[float]] = field(default_factory=list)
    triangles: dict[str | None, Corners] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)
    corners: dict[str, tuple[int, int]] = field(default_factory=dict)  # those read before: most come several times


def obj_parts(path: Path) -> list[Part]:
    """The parts of an OBJ with its MTL files; lines, points and curves are left out.

    Colours of vertices (three more numbers, sRGB) go before `Kd`, a picture before both. `Kd` is linear light, as
    Blender and converters to glTF take it; the format does not say.

    Raises:
        ValueError: a number that is none, or a face of vertices that are not there.
    """
    listing = _listing(decoded(path.read_bytes()))
    materials = _materials(path, listing)
    positions, colors = _positions(listing.positions)
    places = np.array([row[:2] if len(row) > 1 else [row[0], 0.0] for row in listing.places]).reshape(-1, 2)
    textures: dict[str, Texture | None] = {}  # materials that show the same picture share it
    parts = []
    for name, corners in listing.triangles.items():
        material = materials.get(name or "", Material())
        key = repr(material.picture)
        if material.picture is not None and key not in textures:
            textures[key] = material.picture.texture()
        parts += _parts(corners, positions, colors, places, material, textures.get(key))
    return parts


def _listing(text: str) -> Listing:
    listing, material = Listing(), None
    for word, rest in statements(text.replace("\\\r\n", " ").replace("\\\n", " ")):
        if word == "v":
            listing.positions.append(_numbers(rest, 3))
        elif word == "vt":
            listing.places.append(_numbers(rest, 1))
        elif word == "f":
            _add_face(listing, listing.triangles.setdefault(material, Corners()), rest)
        elif word == "usemtl":
            material = rest or None
        elif word == "mtllib":
            listing.libraries.append(rest)
    return listing


def _numbers(rest: str, least: int) -> list[float]:
    numbers = list(map(float, rest.partition("#")[0].split()))
    if len(numbers) < least:
        raise ValueError(f"{rest!r} is not {least} numbers")
    return numbers


def _add_face(listing: Listing, corners: Corners, rest: str) -> None:
    """Cut a face into triangles around its first corner."""
    found = [listing.corners.get(corner) or _corner(listing, corner) for corner in rest.partition("#")[0].split()]
    for second, third in pairwise(found[1:]):
        corners.positions += (found[0][0], second[0], third[0])
        corners.places += (found[0][1], second[1], third[1])


def _corner(listing: Listing, corner: str) -> tuple[int, int]:
    """Rows of position and texture coordinates of `12`, `12/3`, `12//4` or `12/3/4`."""
    position, place = [*corner.split("/"), ""][:2]
    rows = _row(position, len(listing.positions)), _row(place, len(listing.places)) if place else NONE
    if "-" not in corner:
        listing.corners[corner] = rows
    return rows


def _row(number: str, count: int) -> int:
    """From 1, or from the last row so far with -1, to a row from 0. Rows may also come after the face."""
    index = int(number)
    if index == 0 or index < -count:
        raise ValueError(f"a face names row {index} of {count}")
    return index - 1 if index > 0 else count + index


def _materials(path: Path, listing: Listing) -> dict[str, Material]:
    """The materials of all libraries; libraries and materials that are not there are told on stderr."""
    materials: dict[str, Material] = {}
    for line in dict.fromkeys(listing.libraries):
        whole = find_beside(path.parent, line)  # a name with spaces, before several names
        for name in [line] if whole is not None else line.split():
            file = find_beside(path.parent, name)
            if file is None:
                say(path, f"its materials {line} were not found")
                break
            materials |= read_materials(file)
    missing = [name for name in listing.triangles if name is not None and name not in materials]
    if missing and materials:
        say(path, f"no material {', '.join(missing)} in {', '.join(listing.libraries)}")
    return materials


def _positions(rows: list[list[float]]) -> tuple[np.ndarray, np.ndarray | None]:
    """(v, 3) positions, and colours (v, 3) in linear light where some vertex has one; others are white."""
    positions = np.array([row[:3] for row in rows]).reshape(-1, 3)
    if not any(len(row) >= 6 for row in rows):
        return positions, None
    named = np.array([len(row) >= 6 for row in rows])
    values = np.array([row[3:6] for row in rows if len(row) >= 6])
    colors = np.full(positions.shape, 255.0)
    colors[named] = values if values.max() > 1 else values * 255  # some write 0 to 255
    return positions, linear(np.rint(colors.clip(0, 255)))


def _parts(
    corners: Corners,
    positions: np.ndarray,
    colors: np.ndarray | None,
    places: np.ndarray,
    material: Material,
    texture: Texture | None,
) -> list[Part]:
    """The triangles of one material: those with texture coordinates, those without."""
    rows = np.array(corners.positions, np.int64)
    if len(rows) and rows.max() >= len(positions):
        raise ValueError(f"a face names vertex {rows.max() + 1} of {len(positions)}")
    if colors is None and material.color is not None:
        colors = np.broadcast_to(material.color, positions.shape)
    where = np.array(corners.places if len(places) else [NONE] * len(rows), np.int64)
    shown = np.repeat((where.reshape(-1, 3) != NONE).all(1), 3) & (texture is not None)
    parts = []
    if not shown.all():
        parts.append(Part(positions, rows[~shown].reshape(-1, 3), colors))
    if shown.any() and material.picture is not None:
        if where[shown].max() >= len(places):
            raise ValueError(f"a face names texture coordinates {where[shown].max() + 1} of {len(places)}")
        pairs, faces = np.unique(rows[shown] * len(places) + where[shown], return_inverse=True)
        uv = material.picture.place(places[pairs % len(places)]) * [1, -1] + [0, 1]
        parts.append(Part(positions[pairs // len(places)], faces.reshape(-1, 3), None, uv, texture))
    return parts
