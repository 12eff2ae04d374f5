"""Meshes into files, whole or absent.

| suffix | axes                | colours                        | for                                    |
|--------|---------------------|--------------------------------|----------------------------------------|
| .glb   | Y up, front +Z      | PNG, one factor, or per vertex | browsers, Blender, engines             |
| .obj   | Y up, front +Z      | .mtl and .png beside it        | everything else (same axes as its kin) |
| .ply   | Z up, front +X      | per vertex                     | point and scan tools                   |
| .stl   | Z up, front +X      | none                           | slicers (they read metres as mm)       |

Axes are those that importers of a format take for granted; the conversion happens here and nowhere else. All lengths
are metres. Vertices of OBJ, PLY and STL are merged along seams; GLB must split them.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image

import gen3d
from core2d.app.outputs import MESH_SUFFIXES as MESH_SUFFIXES
from core2d.app.outputs import atomic_path, check_output
from core2d.prior.cameras import world_to_gltf
from gen3d.mesh.mesh import TexturedMesh
from gen3d.mesh.topology import drop_unused, merge_positions

FLOAT, UINT = 5126, 5125  # glTF component types
VERTEX_DATA, INDEX_DATA = 34962, 34963  # glTF buffer view targets
LINEAR, MIPMAPPED, CLAMPED = 9729, 9987, 33071  # glTF sampler settings


def save_mesh(path: str | Path, mesh: TexturedMesh) -> list[Path]:
    """Write a mesh in the format that the name ends in.

    Args:
        path: .glb, .obj, .ply or .stl.
        mesh: in our world; each format gets the axes of its own (see above).

    Returns:
        The files, `path` first; an OBJ with a texture brings `NAME.mtl` and `NAME_texture.png` (NAME without
        spaces).

    Raises:
        InputError: another suffix, or a place where nothing can be written.
    """
    path = check_output(path, MESH_SUFFIXES)
    files = _FORMATS[path.suffix.lower()](mesh, path)
    for extra in list(files)[1:]:
        check_output(extra, (extra.suffix,))
    with ExitStack() as whole:  # nothing takes its name before all are written; `path` takes its own last
        for file, content in files.items():
            whole.enter_context(atomic_path(file)).write_bytes(content)
    return list(files)


def linear(srgb: np.ndarray) -> np.ndarray:
    """uint8 sRGB to linear light in [0, 1]: what glTF wants of numbers that are no pictures (IEC 61966-2-1)."""
    values = srgb / 255.0
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to uint8 sRGB."""
    values = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


# -- formats: each gives the bytes of its files, the one that was asked for first -------------------------


def _glb(mesh: TexturedMesh, path: Path) -> dict[Path, bytes]:
    """glTF 2.0, binary: one buffer that holds arrays and texture, one JSON that says where they are."""
    blob, views, accessors = bytearray(), [], []

    def view(data: bytes, **settings: int) -> int:
        blob.extend(bytes(-len(blob) % 4))  # every view starts at a multiple of four
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data), **settings})
        blob.extend(data)
        return len(views) - 1

    def accessor(array: np.ndarray, kind: str, component: int, target: int, **settings: object) -> int:
        row = {"bufferView": view(array.tobytes(), target=target), "componentType": component}
        accessors.append({**row, "count": len(array), "type": kind, **settings})
        return len(accessors) - 1

    positions, normals = _to_gltf(mesh.vertices), _to_gltf(mesh.normals())
    bounds = {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    attributes = {
        "POSITION": accessor(positions, "VEC3", FLOAT, VERTEX_DATA, **bounds),
        "NORMAL": accessor(normals, "VEC3", FLOAT, VERTEX_DATA),
    }
    material: dict[str, object] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    pictures: dict[str, object] = {}
    if mesh.texture is not None and mesh.uv is not None:
        attributes["TEXCOORD_0"] = accessor(mesh.uv, "VEC2", FLOAT, VERTEX_DATA)
        material["baseColorTexture"] = {"index": 0}
        pictures = {
            "textures": [{"sampler": 0, "source": 0}],
            "samplers": [{"magFilter": LINEAR, "minFilter": MIPMAPPED, "wrapS": CLAMPED, "wrapT": CLAMPED}],
            "images": [{"bufferView": view(_png(mesh.texture)), "mimeType": "image/png"}],
        }
    elif mesh.colors is not None and (mesh.colors == mesh.colors[0]).all():  # more programs show this than COLOR_0
        material["baseColorFactor"] = [*linear(mesh.colors[0]).tolist(), 1.0]
    elif mesh.colors is not None:
        attributes["COLOR_0"] = accessor(linear(mesh.colors), "VEC3", FLOAT, VERTEX_DATA)
    indices = accessor(mesh.faces.astype(np.uint32).reshape(-1), "SCALAR", UINT, INDEX_DATA)
    primitive = {"attributes": attributes, "indices": indices, "material": 0}
    blob.extend(bytes(-len(blob) % 4))
    tree = {
        "asset": {"version": "2.0", "generator": f"liftkit {gen3d.__version__}"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": path.stem.encode(errors="replace").decode()}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"pbrMetallicRoughness": material}],
        **pictures,
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
    }
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + bytes(blob)
    return {path: struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks}


def _obj(mesh: TexturedMesh, path: Path) -> dict[Path, bytes]:
    """Wavefront OBJ: texture coordinates have rows of their own, so that the surface stays closed; v counts upward."""
    stem = re.sub(r"[^\w.-]+", "_", path.stem)  # few readers take spaces in the names that an OBJ and its MTL give
    library, picture = path.with_name(f"{stem}.mtl"), path.with_name(f"{stem}_texture.png")
    positions, faces, rows = merge_positions(_to_gltf(mesh.vertices), mesh.faces)
    normals = np.empty_like(positions)
    normals[rows] = _to_gltf(mesh.normals())
    numbers = positions
    if mesh.colors is not None and mesh.texture is None:  # the common way to say colours per vertex: three more numbers
        numbers = np.concatenate([positions, np.empty_like(positions)], 1)
        numbers[rows, 3:] = mesh.colors / 255
    lines = [f"# liftkit {gen3d.__version__}: Y up, front +Z, metres"]
    lines += _lines("v", numbers) + _lines("vn", normals)
    if mesh.texture is None or mesh.uv is None:
        corners = np.repeat(faces, 2, axis=1) + 1
        lines += ["f {}//{} {}//{} {}//{}".format(*row) for row in corners.tolist()]
        return {path: _text(lines)}
    corners = np.stack([faces, mesh.faces, faces], 2).reshape(-1, 9) + 1
    lines += _lines("vt", np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], 1))
    lines += [f"mtllib {library.name}", "usemtl surface"]
    lines += ["f {}/{}/{} {}/{}/{} {}/{}/{}".format(*row) for row in corners.tolist()]
    material = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {picture.name}"]
    return {path: _text(lines), library: _text(material), picture: _png(mesh.texture)}


def _ply(mesh: TexturedMesh, path: Path) -> dict[Path, bytes]:
    """Binary little-endian PLY with red, green, blue and alpha per vertex."""
    return {path: _bytes(_merged(mesh).export(file_type="ply", vertex_normal=False))}


def _stl(mesh: TexturedMesh, path: Path) -> dict[Path, bytes]:
    """Binary STL."""
    return {path: _bytes(_merged(mesh).export(file_type="stl"))}


_FORMATS: dict[str, Callable[[TexturedMesh, Path], dict[Path, bytes]]] = {
    ".glb": _glb,
    ".obj": _obj,
    ".ply": _ply,
    ".stl": _stl,
}


def _merged(mesh: TexturedMesh) -> trimesh.Trimesh:
    """The mesh in our world without the seams of its texture, with its colours."""
    vertices, faces, rows = merge_positions(mesh.vertices, mesh.faces)
    colors = mesh.vertex_colors()
    if colors is not None:
        kept = np.empty((len(vertices), 3), np.uint8)
        kept[rows] = colors
        colors, _ = drop_unused(kept, faces)
    vertices, faces = drop_unused(vertices, faces)
    return trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False)


def _to_gltf(points: np.ndarray) -> np.ndarray:
    return world_to_gltf(torch.from_numpy(points)).numpy()


def _png(texture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(texture).save(buffer, "PNG")
    return buffer.getvalue()


def _lines(word: str, rows: np.ndarray) -> list[str]:
    pattern = word + " {:.9g}" * rows.shape[1]  # nine digits bring every float32 back exactly
    return [pattern.format(*row) for row in rows.tolist()]


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _bytes(content: Any) -> bytes:
    if not isinstance(content, bytes):
        raise TypeError(f"trimesh gave {type(content).__name__}, not bytes")
    return content
