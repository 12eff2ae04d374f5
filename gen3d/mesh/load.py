"""Meshes out of files, back into our world."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import trimesh
from trimesh.exchange.ply import load_ply

from core2d.app.errors import InputError
from core2d.prior.cameras import gltf_to_world
from gen3d.mesh.export import linear
from gen3d.mesh.files import find_beside, picture_beside
from gen3d.mesh.gltf import gltf_parts
from gen3d.mesh.mesh import TexturedMesh
from gen3d.mesh.obj import obj_parts
from gen3d.mesh.parts import Part, Texture, one_mesh
from gen3d.mesh.topology import merge_positions

Y_UP = (".glb", ".gltf", ".obj")


def load_mesh(path: str | Path) -> TexturedMesh:
    """Read a mesh; the axes are taken to be those that `save_mesh` writes for the format.

    Several bodies become one mesh; of a material only its base colour is read, without transparency. A texture that
    cannot be had is left out, and told on stderr.

    Args:
        path: .glb, .gltf, .obj, .ply or .stl.

    Raises:
        InputError: no such file, another suffix, damaged, nothing in it, or a glTF extension that is not read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(f"cannot read {path}: its name must end in one of {', '.join(_FORMATS)}")
    if not path.is_file():
        raise InputError(f"no mesh at {path}")
    try:
        mesh = one_mesh(_FORMATS[suffix](path))
    except Exception as error:  # parsers fail in every way on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read as a mesh: {reason}") from error
    if suffix not in Y_UP:
        return mesh
    return replace(mesh, vertices=gltf_to_world(torch.from_numpy(mesh.vertices)).numpy())


def _ply_parts(path: Path) -> list[Part]:
    """A PLY with colours of vertices or faces (sRGB), or with the picture that its header names."""
    header = path.read_bytes().partition(b"end_header")[0]
    named = re.search(rb"^comment\s+TextureFile\s+(.+?)\s*$", header, re.IGNORECASE | re.MULTILINE)
    name = "" if named is None else named[1].decode(errors="replace")
    pixels = picture_beside(path, name) if name else None
    picture = find_beside(path.parent, name)
    with path.open("rb") as file:
        resolver: Any = SimpleNamespace(get=lambda _: picture.read_bytes() if picture is not None else None)
        content = load_ply(file, resolver=resolver, skip_materials=pixels is None)
    if pixels is None:
        content.pop("visual", None)  # it would hide the colours
    for kind in ("vertex_colors", "face_colors"):
        if content.get(kind) is not None:
            content[kind] = _eight_bits(content[kind])
    body = trimesh.Trimesh(**content, process=False)
    visual: Any = body.visual
    if pixels is not None and (uv := getattr(visual, "uv", None)) is not None:
        return [Part(body.vertices, body.faces, None, uv * [1, -1] + [0, 1], Texture(pixels))]
    colors = visual.vertex_colors if visual.kind in ("vertex", "face") else None
    return [Part(body.vertices, body.faces, None if colors is None else linear(np.asarray(colors)[:, :3]))]


def _eight_bits(colors: np.ndarray) -> np.ndarray:
    """Colours as trimesh takes them: it would take wider whole numbers modulo 256."""
    if colors.dtype.kind not in "iu" or colors.dtype.itemsize == 1:
        return colors
    return np.rint(colors.clip(0) / (np.iinfo(colors.dtype).max / 255)).astype(np.uint8)


def _stl_parts(path: Path) -> list[Part]:
    """An STL, whose three vertices a face are merged again."""
    body: Any = trimesh.load_mesh(path, process=False)
    vertices, faces, _ = merge_positions(body.vertices, body.faces)
    return [Part(vertices, faces)]


_FORMATS: dict[str, Callable[[Path], list[Part]]] = {
    ".glb": gltf_parts,
    ".gltf": gltf_parts,
    ".obj": obj_parts,
    ".ply": _ply_parts,
    ".stl": _stl_parts,
}
