"""The image tower of CLIP (Radford et al. 2021, 2103.00020): what a picture shows, as numbers that networks are told.

tower = ImageTower.load("toybox-clip")  # or an image_encoder folder, or a model that has one
tower.embed(pictures)  # (b, e), the whole picture
tower.patches(pictures)  # (b, p, d), a token for each part of it
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPVisionModelWithProjection

from core2d.app.errors import InputError
from core2d.app.registry import resolve
from core2d.files import ldm
from core2d.files.loading import load_model, read_json, with_weights

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PART = "image_encoder"  # its sub-folder in the folder of a model


class ImageTower:
    """A frozen image tower, and how it wants pictures.

    Args:
        encoder: the network.
        mean, std: of the three colours in [0, 1], before it sees them.
    """

    def __init__(
        self,
        encoder: CLIPVisionModelWithProjection,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        self.encoder, self.mean, self.std = encoder, tuple(mean), tuple(std)
        config: Any = encoder.config
        self.side: int = config.image_size
        self.embedding_width: int = config.projection_dim
        self.patch_width: int = config.hidden_size

    @classmethod
    def load(cls, name_or_folder: str | Path, dtype: torch.dtype = torch.float32) -> ImageTower:
        """Load a bundled tower, its folder, that of a whole CLIP model, or a model that has an `image_encoder/`.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        folder = resolve(name_or_folder)
        whole, folder = folder, folder / PART if (folder / PART).is_dir() else folder
        encoder = load_image_encoder(folder, dtype)
        for place in (folder, whole / "feature_extractor"):
            if (place / "preprocessor_config.json").is_file():
                said = read_json(place / "preprocessor_config.json")
                return cls(encoder, *(_triple(said, key, usual, place) for key, usual in USUAL.items()))
        return cls(encoder)

    def to(self, device: torch.device) -> ImageTower:
        """Move it to a device; itself, for chaining."""
        self.encoder.to(device)  # pyright: ignore[reportArgumentType]
        return self

    def pixels(self, pictures: Tensor) -> Tensor:
        """(b, 3, H, W) in [0, 1] -> (b, 3, side, side) as the tower takes them, differentiable.

        The middle is cut out and scaled, as stock processors do, so that nothing is stretched.
        """
        height, width = pictures.shape[-2:]
        cut = min(height, width)
        top, left = (height - cut) // 2, (width - cut) // 2
        middle = pictures[..., top : top + cut, left : left + cut]
        seen = F.interpolate(middle, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (seen.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((seen.clamp(0, 1) - mean) / std).to(self.encoder.device, self.encoder.dtype)

    def embed(self, pictures: Tensor) -> Tensor:
        """(b, 3, H, W) in [0, 1] -> (b, e) projected embeddings, not normalised; differentiable."""
        return self.encoder(self.pixels(pictures)).image_embeds.to(pictures.dtype)

    def patches(self, pictures: Tensor) -> Tensor:
        """(b, 3, H, W) in [0, 1] -> (b, p, d) tokens after the last layer but one; differentiable."""
        return self._tokens(self.pixels(pictures)).to(pictures.dtype)

    def patches_of_nothing(self) -> Tensor:
        """(1, p, d) the same of pixels that are all zero, after normalisation: of no picture."""
        return self._tokens(self.pixels(torch.zeros(1, 3, self.side, self.side)) * 0).float()

    def _tokens(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels, output_hidden_states=True).hidden_states[-2]


USUAL = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}


def _triple(said: dict[str, Any], key: str, usual: Sequence[float], place: Path) -> Sequence[float]:
    values = said.get(key, usual)
    if not (isinstance(values, list | tuple) and len(values) == 3 and all(isinstance(v, int | float) for v in values)):
        raise InputError(f"{place / 'preprocessor_config.json'} has {key} = {values!r}: write three numbers")
    return values


def load_image_encoder(folder: Path, dtype: torch.dtype) -> CLIPVisionModelWithProjection:
    """The network of an image tower from its folder, or from that of a whole CLIP model."""
    kind = read_json(folder / "config.json").get("model_type")
    if kind in (None, "clip_vision_model"):
        return load_model(CLIPVisionModelWithProjection, folder, dtype)
    if kind != "clip":
        raise InputError(f"{folder} holds no image tower of CLIP, but a model of the type {kind!r}")
    whole = load_model(CLIPModel, folder, dtype)
    said: Any = whole.config
    config = {**said.vision_config.to_dict(), "projection_dim": said.projection_dim}
    tower, state = ldm.clip_vision_on_meta(config), whole.state_dict()
    return with_weights(tower, {name: state[name] for name in tower.state_dict()}, dtype)
