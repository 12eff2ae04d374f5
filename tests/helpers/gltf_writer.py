"""Small glTF files of every kind, written by hand: what exporters of others write and ours does not."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COMPONENTS = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}

# A square metre in the plane z = 0 of glTF that faces +Z, from the top left against the clock; uv from the top left.
CORNERS = np.array([[-0.5, 0.5, 0], [-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0]], np.float32)
PLACES = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]], np.uint32)


def png(pixels: np.ndarray) -> bytes:
    """A picture as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Gltf:
    """A glTF that grows piece by piece; `tree` may be changed before it is saved."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}
        self.blob = bytearray()

    def add(self, kind: str, item: dict[str, Any]) -> int:
        """Put an item at the end of a list such as `nodes`; its index."""
        self.tree.setdefault(kind, []).append(item)
        return len(self.tree[kind]) - 1

    def view(self, data: bytes, **settings: Any) -> int:
        self.blob.extend(bytes(-len(self.blob) % 4))
        place = {"buffer": 0, "byteOffset": len(self.blob), "byteLength": len(data)}
        self.blob.extend(data)
        return self.add("bufferViews", {**place, **settings})

    def array(self, values: np.ndarray, vertices: bool = True, **settings: Any) -> int:
        """An accessor with a view of its own; rows of vertices begin at multiples of four bytes, as they must."""
        rows = np.ascontiguousarray(values).reshape(len(values), -1)
        data, more = rows.tobytes(), {}
        width = rows.shape[1] * rows.itemsize
        if vertices and width % 4:
            wide = np.zeros((len(rows), width + -width % 4), np.uint8)
            wide[:, :width] = rows.view(np.uint8)
            data, more = wide.tobytes(), {"byteStride": wide.shape[1]}
        accessor = {"bufferView": self.view(data, **more), "componentType": COMPONENTS[rows.dtype.name]}
        return self.add("accessors", {**accessor, "count": len(rows), "type": KINDS[rows.shape[1]], **settings})

    def positions(self, values: np.ndarray, **settings: Any) -> int:
        return self.array(values, min=values.min(0).tolist(), max=values.max(0).tolist(), **settings)

    def texture(self, pixels: np.ndarray, **sampler: int) -> int:
        """A texture with its picture inside the file."""
        image = self.add("images", {"bufferView": self.view(png(pixels)), "mimeType": "image/png"})
        return self.add("textures", {"source": image, "sampler": self.add("samplers", sampler)})

    def material(self, texture: int | None = None, factor: list[float] | None = None, **info: Any) -> int:
        metallic: dict[str, Any] = {"metallicFactor": 0}
        if factor is not None:
            metallic["baseColorFactor"] = factor
        if texture is not None:
            metallic["baseColorTexture"] = {"index": texture, **info}
        return self.add("materials", {"pbrMetallicRoughness": metallic})

    def mesh(self, attributes: dict[str, int], indices: int | None = None, **settings: Any) -> int:
        primitive = {"attributes": attributes, **settings}
        if indices is not None:
            primitive["indices"] = indices
        return self.add("meshes", {"primitives": [primitive]})

    def node(self, top: bool = True, **settings: Any) -> int:
        index = self.add("nodes", settings)
        if top:
            self.tree["scenes"][0]["nodes"].append(index)
        return index

    def quad(self, material: int | None = None, uv: np.ndarray = PLACES, **attributes: int) -> int:
        """A mesh of the square above."""
        given = {"POSITION": self.positions(CORNERS), "TEXCOORD_0": self.array(uv.astype(np.float32)), **attributes}
        settings = {} if material is None else {"material": material}
        return self.mesh(given, self.array(FACES.reshape(-1), vertices=False), **settings)

    def uses(self, extension: str, required: bool = True) -> None:
        for key in ("extensionsUsed", *(["extensionsRequired"] if required else [])):
            self.tree.setdefault(key, []).append(extension)

    def save(self, path: Path) -> Path:
        """Write a .glb."""
        self.blob.extend(bytes(-len(self.blob) % 4))
        self.tree["buffers"] = [{"byteLength": len(self.blob)}, *self.tree.get("buffers", [])[1:]]
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self.blob), b"BIN\0") + bytes(self.blob)
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path
