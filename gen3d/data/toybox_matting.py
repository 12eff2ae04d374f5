"""Where the subject of a picture is, in the world of the bundled models: `toybox-matting`, a small U-Net (1505.04597).

    matting = load_matting()
    subject = read_subject(Path("mug-on-grass.png"), 64, matting=matting)

It is for what stands on a ground or in front of a pattern; a plain background needs no net. Of other worlds than
Toybox it knows nothing: for photographs there is rembg.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from core2d.app.registry import resolve
from core2d.files.loading import load_model

FOLDER = "toybox-matting"
SIDE = 64  # pixels of the longer side that it looks at: those of the pictures that it learned from


class MattingNet(ModelMixin, ConfigMixin):
    """Maps pictures to the opacity of their subject.

    Args:
        channels: of the features, from the finest; each level has half the resolution of the one before.
    """

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _layers(inside, outside) for inside, outside in zip((3, *channels), channels, strict=False)
        )
        self.up = nn.ModuleList(
            _layers(coarse + fine, fine) for fine, coarse in zip(channels[-2::-1], channels[:0:-1], strict=True)
        )
        self.answer = nn.Conv2d(channels[0], 1, 1)

    @property
    def steps(self) -> int:
        """What the sides of a picture have to be multiples of."""
        return 2 ** len(self.up)

    def logits(self, pictures: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1], sides multiples of `steps` -> (n, 1, h, w)."""
        x, kept = 2 * pictures - 1, []
        for level, layers in enumerate(self.down):
            x = layers(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for layers, fine in zip(self.up, kept[-2::-1], strict=True):
            x = layers(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), fine], 1))
        return self.answer(x)

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] of any size -> alpha (n, 1, h, w) in [0, 1]."""
        sides = pictures.shape[-2:]
        longer = max(sides)
        seen = [max(1, round(side * SIDE / longer / self.steps)) * self.steps for side in sides]
        shown = F.interpolate(pictures, seen, mode="bilinear", antialias=True, align_corners=False)
        return F.interpolate(self.logits(shown), sides, mode="bilinear", align_corners=False).sigmoid()


def _layers(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
        nn.Conv2d(outside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
    )  # fmt: skip


def load_matting() -> MattingNet:
    """The bundled net, ready to use on the CPU."""
    return load_model(MattingNet, resolve(FOLDER), torch.float32)
