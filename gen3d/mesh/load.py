"""Meshes out of files, back into our world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from core2d.app.errors import InputError
from core2d.prior.cameras import gltf_to_world
from gen3d.mesh.export import linear, srgb
from gen3d.mesh.mesh import TexturedMesh
from gen3d.mesh.topology import merge_positions

READABLE = (".glb", ".gltf", ".obj", ".ply", ".stl")
Y_UP = (".glb", ".gltf", ".obj")
LINEAR_COLORS = (".glb", ".gltf")


def load_mesh(path: str | Path) -> TexturedMesh:
    """Read a mesh; the axes are taken to be those that `save_mesh` writes for the format.

    Several bodies become one mesh; of a material only its base colour is read.

    Args:
        path: .glb, .gltf, .obj, .ply or .stl.

    Raises:
        InputError: no such file, another suffix, damaged, or nothing in it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise InputError(f"cannot read {path}: its name must end in one of {', '.join(READABLE)}")
    if not path.is_file():
        raise InputError(f"no mesh at {path}")
    try:
        return _from_scene(trimesh.load_scene(path, process=False), suffix)
    except Exception as error:  # parsers fail in every way on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read as a mesh: {reason}") from error


def _from_scene(scene: Any, suffix: str) -> TexturedMesh:
    if len(scene.graph.nodes_geometry) == 1:  # as it is: a copy would lose colours beside a material
        matrix, name = scene.graph[scene.graph.nodes_geometry[0]]
        body = scene.geometry[name]
    else:
        matrix, body = np.eye(4), scene.to_mesh()
    faces = np.asarray(getattr(body, "faces", []), np.int32)
    if not len(faces):
        raise ValueError("it holds no faces")
    vertices = trimesh.transform_points(body.vertices, matrix).astype(np.float32)
    if np.linalg.det(matrix[:3, :3]) < 0:  # a mirror
        faces = faces[:, ::-1]
    if suffix in Y_UP:
        vertices = gltf_to_world(torch.from_numpy(vertices)).numpy()
    uv, texture = _texture(body.visual)
    if texture is not None:
        return TexturedMesh(vertices, faces, uv, texture)
    colors = _colors(body.visual, len(vertices), suffix in LINEAR_COLORS)
    if suffix == ".stl":  # three vertices a face
        vertices, faces, _ = merge_positions(vertices, faces)
        colors = None
    return TexturedMesh(vertices, faces, colors=colors)


def _texture(visual: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Texture coordinates from the top left (trimesh counts from the bottom), and the picture times its factor."""
    material, uv = getattr(visual, "material", None), getattr(visual, "uv", None)
    picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if picture is None or uv is None:
        return None, None
    texture = np.array(picture.convert("RGB"))
    factor = getattr(material, "baseColorFactor", None)
    if factor is not None and (tint := np.asarray(factor)[:3] / 255).min() < 1:
        texture = srgb(linear(texture) * tint)
    return np.stack([uv[:, 0], 1 - uv[:, 1]], 1), texture


def _colors(visual: Any, count: int, is_linear: bool) -> np.ndarray | None:
    """Colours (v, 3) uint8 of `count` vertices: their own, or the one of the material, or None."""
    material = getattr(visual, "material", None)
    if visual.kind in ("vertex", "face"):
        colors = np.asarray(visual.vertex_colors)
    elif (found := getattr(visual, "vertex_attributes", {}).get("color")) is not None:
        colors = np.asarray(found)  # beside a material, as the file has them
    elif (one := getattr(material, "baseColorFactor", None)) is not None:
        colors = np.tile(np.asarray(one), (count, 1))
    else:
        return None
    scale = np.iinfo(colors.dtype).max if colors.dtype.kind in "ui" else 1
    values = colors[:, :3] / scale
    return srgb(values) if is_linear else np.rint(255 * values.clip(0, 1)).astype(np.uint8)
