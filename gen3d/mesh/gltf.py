"""glTF 2.0, .glb and .gltf, as parts: whatever in it moves a vertex or changes the base colour is followed.

Shapes stand as the file shows them at first: nodes, skins and morph weights at rest, no animation. Points and lines are
left out, and so is transparency. What cannot be followed is refused by the name of its extension.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from trimesh.transformations import quaternion_matrix

from gen3d.mesh.files import say
from gen3d.mesh.gltf_data import Document, read_document, refusal
from gen3d.mesh.gltf_look import Looks
from gen3d.mesh.parts import Part

TRIANGLES, STRIP, FAN = 4, 5, 6
DRACO, INSTANCES, VISIBILITY = "KHR_draco_mesh_compression", "EXT_mesh_gpu_instancing", "KHR_node_visibility"


def gltf_parts(path: Path) -> list[Part]:
    """The parts of a .glb or .gltf, in metres with Y up.

    Raises:
        ValueError: no glTF 2.0, damaged, or it needs an extension that is not read.
    """
    document = read_document(path)
    worlds, looks, parts = _worlds(document.tree), Looks(document), []
    for index, world in worlds.items():
        node = document.tree["nodes"][index]
        if "mesh" not in node:
            continue
        mesh = document.tree["meshes"][node["mesh"]]
        weights = node.get("weights", mesh.get("weights", []))
        for primitive in mesh["primitives"]:
            if primitive.get("mode", TRIANGLES) in (TRIANGLES, STRIP, FAN):
                part = _primitive(document, primitive, weights, looks)
                matrices = _skin(document, node, primitive, worlds)
                instances = _instances(document, node, world) if matrices is None else [matrices]
                parts += [_moved(part, instance) for instance in instances]
    return parts


# -- where nodes stand -----------------------------------------------------------------------------------------


def _worlds(tree: dict[str, Any]) -> dict[int, np.ndarray]:
    """The matrix (4, 4) to the world of every node in the scene that is shown."""
    nodes = tree.get("nodes", [])
    if "scenes" in tree:
        roots = tree["scenes"][tree.get("scene", 0)].get("nodes", [])
    else:
        roots = sorted(set(range(len(nodes))) - {child for node in nodes for child in node.get("children", [])})
    worlds: dict[int, np.ndarray] = {}
    waiting = [(root, np.eye(4)) for root in reversed(roots)]
    while waiting:
        index, above = waiting.pop()
        if index in worlds:
            raise ValueError(f"its node {index} stands in two places of the scene")
        node = nodes[index]
        if not node.get("extensions", {}).get(VISIBILITY, {}).get("visible", True):
            continue  # with all that is below it
        worlds[index] = above @ _matrix(node)
        waiting += [(child, worlds[index]) for child in reversed(node.get("children", []))]
    return worlds


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """(4, 4) from a node to the one above it."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T  # the file has columns
    return _placed(node.get("translation", (0, 0, 0)), node.get("rotation", (0, 0, 0, 1)), node.get("scale", (1, 1, 1)))


def _placed(translation: Any, rotation: Any, scale: Any) -> np.ndarray:
    """(4, 4) of a scale, then a turn by a quaternion (x, y, z, w), then a move."""
    x, y, z, w = rotation
    matrix = quaternion_matrix([w, x, y, z]) @ np.diag([*scale, 1.0])
    matrix[:3, 3] = translation
    return matrix


def _instances(document: Document, node: dict[str, Any], world: np.ndarray) -> list[np.ndarray]:
    """Matrices (4, 4) of the places where a node shows its mesh: one, or many where it is instanced."""
    attributes = node.get("extensions", {}).get(INSTANCES, {}).get("attributes")
    if attributes is None:
        return [world]
    found = {name: document.array(index) for name, index in attributes.items() if not name.startswith("_")}
    count = max(map(len, found.values()), default=0)
    default = {"TRANSLATION": (0, 0, 0), "ROTATION": (0, 0, 0, 1), "SCALE": (1, 1, 1)}
    columns = [found.get(name, np.tile(value, (count, 1))) for name, value in default.items()]
    return [world @ _placed(*row) for row in zip(*columns, strict=True)]


def _skin(
    document: Document, node: dict[str, Any], primitive: dict[str, Any], worlds: dict[int, np.ndarray]
) -> np.ndarray | None:
    """Matrices (v, 4, 4) of vertices that follow joints; None where there is no skin."""
    attributes = primitive["attributes"]
    if "skin" not in node or "JOINTS_0" not in attributes:
        return None
    skin = document.tree["skins"][node["skin"]]
    joints = np.stack([worlds[joint] for joint in skin["joints"]])  # (j, 4, 4)
    if "inverseBindMatrices" in skin:
        joints = joints @ document.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
    sets = sum(name.startswith("JOINTS_") for name in attributes)
    names = [document.array(attributes[f"JOINTS_{index}"]) for index in range(sets)]
    shares = [document.array(attributes[f"WEIGHTS_{index}"]) for index in range(sets)]
    followed, share = np.concatenate(names, 1), np.concatenate(shares, 1).astype(np.float64)  # (v, 4 n)
    share /= np.maximum(share.sum(1, keepdims=True), 1e-12)
    return np.einsum("vk,vkij->vij", share, joints[followed])


def _moved(part: Part, matrix: np.ndarray) -> Part:
    """The part through a matrix (4, 4), or one per vertex (v, 4, 4); a mirror turns its faces."""
    turned = (matrix[..., :3, :3] @ part.vertices[..., None])[..., 0]
    mirrored = float(np.linalg.det(matrix[..., :3, :3]).mean()) < 0
    faces = part.faces[:, ::-1] if mirrored else part.faces
    return Part(turned + matrix[..., :3, 3], faces, part.colors, part.uv, part.texture)


# -- what a primitive holds ----------------------------------------------------------------------------------------


def _primitive(document: Document, primitive: dict[str, Any], weights: list[float], looks: Looks) -> Part:
    """The triangles of a primitive where its own node stands."""
    attributes = primitive["attributes"]
    if DRACO in primitive.get("extensions", {}):  # beside it, uncompressed arrays may lie for those who cannot read it
        accessors = [document.tree["accessors"][index] for index in attributes.values()]
        if any("bufferView" not in accessor and "sparse" not in accessor for accessor in accessors):
            raise refusal(DRACO)

    def values(name: str) -> np.ndarray | None:
        """(v, columns) float64 of an attribute with its morph targets; None where it has none."""
        if name not in attributes:
            return None
        found = document.array(attributes[name])
        if name.startswith("COLOR_") and found.dtype.kind in "iu":  # whole numbers can only be fractions here
            found = np.maximum(found / np.iinfo(found.dtype).max, 0.0)
        found = found.astype(np.float64)
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):
            if weight and name in target:
                found = found + weight * document.array(target[name])
        return found

    vertices = values("POSITION")
    if vertices is None:
        raise ValueError("one of its meshes has no positions")
    look, colors = looks.of(primitive), values("COLOR_0")
    if colors is not None:
        colors = colors[:, :3].clip(0, 1)
    if look.factor is not None:
        colors = np.broadcast_to(look.factor, vertices.shape) if colors is None else colors * look.factor
    uv = values(f"TEXCOORD_{look.uv_set}") if look.texture is not None else None
    if look.texture is not None and uv is None:
        say(document.path, f"a texture is left out: a mesh has no texture coordinates (TEXCOORD_{look.uv_set}) for it")
    faces = _faces(document, primitive, len(vertices))
    if uv is None:
        return Part(vertices, faces, colors)
    return Part(vertices, faces, colors, look.place(uv), look.texture)


def _faces(document: Document, primitive: dict[str, Any], count: int) -> np.ndarray:
    """(f, 3) rows of the `count` vertices."""
    rows = document.array(primitive["indices"])[:, 0] if "indices" in primitive else np.arange(count)
    if rows.dtype.kind == "f":
        raise ValueError("the indices of one of its meshes are no whole numbers")
    rows, mode = rows.astype(np.int64), primitive.get("mode", TRIANGLES)
    if mode == TRIANGLES:
        return rows[: len(rows) // 3 * 3].reshape(-1, 3)
    if len(rows) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == FAN:
        faces = np.stack([rows[1:-1], rows[2:], np.full(len(rows) - 2, rows[0])], 1)
    else:
        faces = np.stack([rows[:-2], rows[1:-1], rows[2:]], 1)
        faces[1::2] = faces[1::2, [1, 0, 2]]  # every other one is wound the other way
    flat = (faces == np.roll(faces, 1, axis=1)).any(1)  # how strips jump from one place to another
    return faces[~flat]
