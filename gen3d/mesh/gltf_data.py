"""glTF 2.0 files as numbers: the container, what it refers to, and its arrays whatever way they are stored."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np

from gen3d.mesh.files import find_beside

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
MOST = 1 << 28  # rows of an array: more than any mesh has, few enough to be held

HONOURED = (
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_node_visibility",
    "EXT_mesh_gpu_instancing",
    "EXT_texture_webp",
    "EXT_texture_avif",
    "MSFT_texture_dds",
)
# These change neither the shape nor the base colour: shine, light, movement, notes.
HARMLESS = ("KHR_materials_", "KHR_lights_", "EXT_lights_", "KHR_animation_", "KHR_xmp", "KHR_node_")
REFUSED = {
    "KHR_draco_mesh_compression": "Draco compression",
    "EXT_meshopt_compression": "meshopt compression",
    "KHR_meshopt_compression": "meshopt compression",
    "KHR_texture_basisu": "KTX2 textures",
}
MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")


def refusal(extension: str) -> ValueError:
    """What is said of a file that cannot be read without an extension."""
    known = f" ({REFUSED[extension]})" if extension in REFUSED else ""
    return ValueError(f"it needs the glTF extension {extension}{known}, which is not read: save the mesh without it")


@dataclass(frozen=True)
class Document:
    """An open glTF file.

    Attributes:
        path: where it lies; names in it are relative to its folder.
        tree: its JSON.
        binary: the chunk of a .glb that holds the arrays; empty in a .gltf.
    """

    path: Path
    tree: dict[str, Any]
    binary: bytes

    @cached_property
    def buffers(self) -> list[bytes]:
        """The bytes of each buffer; empty where a compressed buffer has no fallback."""
        return [self._buffer(index, buffer) for index, buffer in enumerate(self.tree.get("buffers", []))]

    def _buffer(self, index: int, buffer: dict[str, Any]) -> bytes:
        if "uri" in buffer:
            return self.resource(buffer["uri"])
        return self.binary if index == 0 else b""

    def resource(self, uri: str) -> bytes:
        """What a URI holds: in itself, or in a file beside this one.

        Raises:
            ValueError: no such file, or a place on the network.
        """
        if uri.startswith("data:"):
            head, _, content = uri.partition(",")
            return base64.b64decode(unquote(content)) if head.endswith(";base64") else unquote_to_bytes(content)
        if "://" in uri:
            raise ValueError(f"{uri} lies on the network: fetch it and name the file")
        file = find_beside(self.path.parent, unquote(uri))
        if file is None:
            raise ValueError(f"{uri} was not found beside it")
        return file.read_bytes()

    def view(self, index: int) -> memoryview:
        """The bytes of a buffer view."""
        view = self.tree["bufferViews"][index]
        start, length = view.get("byteOffset", 0), view["byteLength"]
        content = memoryview(self.buffers[view["buffer"]])[start : start + length]
        if len(content) == length:
            return content
        for extension in MESHOPT:
            if extension in view.get("extensions", {}):
                raise refusal(extension)
        raise ValueError(f"its buffer {view['buffer']} ends before its buffer view {index} does")

    def array(self, index: int) -> np.ndarray:
        """The rows of an accessor (count, columns).

        Whole numbers that stand for fractions (`normalized`) come as float64 in [0, 1] or [-1, 1]; others as they are.
        """
        accessor = self.tree["accessors"][index]
        count, columns = accessor["count"], COLUMNS[accessor["type"]]
        component = np.dtype(COMPONENTS[accessor["componentType"]])
        if not 0 <= count <= MOST:
            raise ValueError(f"its accessor {index} has {count} rows")
        if "bufferView" in accessor:
            values = self._strided(accessor, count, columns, component)
        else:  # zeros by the standard, for a sparse accessor to change
            values = np.zeros((count, columns), component)
        if "sparse" in accessor:
            sparse, values = accessor["sparse"], values.copy()
            where = np.dtype(COMPONENTS[sparse["indices"]["componentType"]])
            rows = self._strided(sparse["indices"], sparse["count"], 1, where)[:, 0]
            values[rows] = self._strided(sparse["values"], sparse["count"], columns, component)
        if accessor.get("normalized") and component.kind in "iu":
            return np.maximum(values / np.iinfo(component).max, -1.0)
        return values

    def _strided(self, place: dict[str, Any], count: int, columns: int, component: np.dtype) -> np.ndarray:
        """(count, columns) at a place in a buffer view, in which rows of other arrays may lie between its own."""
        content, start = self.view(place["bufferView"]), place.get("byteOffset", 0)
        width = columns * component.itemsize
        stride = self.tree["bufferViews"][place["bufferView"]].get("byteStride", width)
        if start < 0 or stride < component.itemsize or (count and start + (count - 1) * stride + width > len(content)):
            raise ValueError(f"an array of {count} rows is longer than its buffer view {place['bufferView']}")
        return np.ndarray((count, columns), component, content, start, (stride, component.itemsize))


def read_document(path: Path) -> Document:
    """Open a .glb or .gltf.

    Raises:
        ValueError: no glTF 2.0, cut short, or it needs an extension that is not read.
    """
    content = path.read_bytes()
    text, binary = _chunks(content) if content[:4] == b"glTF" else (content, b"")
    tree = json.loads(text.decode("utf-8-sig"))
    if not isinstance(tree, dict):
        raise ValueError("its JSON is no object")
    version = str(tree.get("asset", {}).get("version", "2.0"))
    if not version.startswith("2."):
        raise ValueError(f"it is glTF {version}; only glTF 2 is read")
    for extension in tree.get("extensionsRequired", []):
        if extension in REFUSED or not (extension in HONOURED or extension.startswith(HARMLESS)):
            raise refusal(extension)
    return Document(path, tree, binary)


def _chunks(content: bytes) -> tuple[bytes, bytes]:
    """JSON and binary chunk of a .glb."""
    _, version, length = struct.unpack_from("<4sII", content)
    if version != 2:
        raise ValueError(f"it is glTF {version}; only glTF 2 is read")
    if len(content) < length:
        raise ValueError(f"it is cut short: {len(content)} of {length} bytes are there")
    found, start = {}, 12
    while start + 8 <= length:
        size, kind = struct.unpack_from("<I4s", content, start)
        if start + 8 + size > length:
            raise ValueError("one of its chunks is cut short")
        found.setdefault(kind, content[start + 8 : start + 8 + size])
        start += 8 + size
    if b"JSON" not in found:
        raise ValueError("it has no JSON")
    return found[b"JSON"], found.get(b"BIN\0", b"")
