"""glTF materials, as far as base colour goes: factors, textures, where a texture is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gen3d.mesh.files import read_pixels, say
from gen3d.mesh.gltf_data import Document, refusal
from gen3d.mesh.parts import Beyond, Texture

BEYOND: dict[int, Beyond] = {
    10497: "wrap",
    33648: "symmetric",
    33071: "edge",
}  # sampler settings
NEAREST = 9728
CRISP = 512  # texels along a side that a texture with hard texels gets at least
SOURCES = ("EXT_texture_webp", "EXT_texture_avif", "MSFT_texture_dds")  # other formats that Pillow reads
GLOSSY = "KHR_materials_pbrSpecularGlossiness"


@dataclass(frozen=True)
class Look:
    """The base colour of a material.

    Attributes:
        factor: (3,) linear light, or None where the material names none.
        texture: or None.
        uv_set: which texture coordinates it is looked up by.
        matrix: (2, 3) that they go through first.
    """

    factor: np.ndarray | None = None
    texture: Texture | None = None
    uv_set: int = 0
    matrix: np.ndarray | None = None

    def place(self, uv: np.ndarray) -> np.ndarray:
        """Texture coordinates (v, 2) as the texture is looked up by."""
        return uv if self.matrix is None else uv @ self.matrix[:, :2].T + self.matrix[:, 2]


class Looks:
    """The materials of a file; each, and each texture, is read once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._looks: dict[int, Look] = {}
        self._textures: dict[str, Texture | None] = {}

    def of(self, primitive: dict[str, Any]) -> Look:
        """The look of a primitive; plain where it has no material."""
        index = primitive.get("material")
        if index is None:
            return Look()
        if index not in self._looks:
            self._looks[index] = self._look(self.document.tree["materials"][index])
        return self._looks[index]

    def _look(self, material: dict[str, Any]) -> Look:
        if material.get("alphaMode", "OPAQUE") != "OPAQUE":
            say(self.document.path, f"the transparency of a material (alphaMode {material['alphaMode']}) is left out")
        glossy = material.get("extensions", {}).get(GLOSSY)
        if glossy is not None:  # goes before the metallic way, which is there for those who cannot read it
            factor, info = glossy.get("diffuseFactor"), glossy.get("diffuseTexture")
        else:
            metallic = material.get("pbrMetallicRoughness", {})
            factor, info = metallic.get("baseColorFactor"), metallic.get("baseColorTexture")
        color = None if factor is None else np.clip(np.array(factor[:3], np.float64), 0, 1)
        if info is None:
            return Look(color)
        transform = info.get("extensions", {}).get("KHR_texture_transform", {})
        uv_set = transform.get("texCoord", info.get("texCoord", 0))
        return Look(color, self._texture(info["index"]), uv_set, _matrix(transform) if transform else None)

    def _texture(self, index: int) -> Texture | None:
        texture = self.document.tree["textures"][index]
        key = repr([texture.get(name) for name in ("source", "sampler", "extensions")])  # some list one many times
        if key not in self._textures:
            self._textures[key] = self._read(texture)
        return self._textures[key]

    def _read(self, texture: dict[str, Any]) -> Texture | None:
        pixels = self._pixels(texture)
        if pixels is None:
            return None
        samplers = self.document.tree.get("samplers", [])
        sampler = samplers[texture["sampler"]] if "sampler" in texture else {}
        if sampler.get("magFilter") == NEAREST:  # its hard edges would be blended: larger texels keep them
            times = max(1, CRISP // max(pixels.shape[:2]))
            pixels = pixels.repeat(times, 0).repeat(times, 1)
        return Texture(pixels, (BEYOND[sampler.get("wrapS", 10497)], BEYOND[sampler.get("wrapT", 10497)]))

    def _pixels(self, texture: dict[str, Any]) -> np.ndarray | None:
        """The first of its pictures that can be read; None, and a word on stderr, where none can."""
        others = texture.get("extensions", {})
        sources = [others[name]["source"] for name in SOURCES if name in others]
        sources += [texture["source"]] if "source" in texture else []
        if others and not sources:
            raise refusal(next(iter(others)))
        reason: ValueError | None = None
        for source in sources:
            image = self.document.tree["images"][source]
            try:
                if "uri" in image:
                    return read_pixels(self.document.resource(image["uri"]))
                return read_pixels(bytes(self.document.view(image["bufferView"])))
            except ValueError as error:
                reason = error
        say(self.document.path, f"a texture is left out: {reason or 'it names no picture'}")
        return None


def _matrix(transform: dict[str, Any]) -> np.ndarray:
    """(2, 3) of KHR_texture_transform: scale, then turn, then move.

    It turns as every renderer does and as the words of the standard say, counter-clockwise with v downward; the
    program text in the standard turns the other way (KhronosGroup/glTF issue 1563).
    """
    (across, down), (left, top) = transform.get("scale", (1, 1)), transform.get("offset", (0, 0))
    cos, sin = np.cos(transform.get("rotation", 0.0)), np.sin(transform.get("rotation", 0.0))
    return np.array([[cos * across, sin * down, left], [-sin * across, cos * down, top]])
