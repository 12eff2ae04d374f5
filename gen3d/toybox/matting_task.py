"""Training the matting net on Toybox pictures, whose coverage is known, and how good its cut-outs are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import torch
from torch import Tensor
from torch.nn import functional as F

from core2d.bundled.judges import wear
from core2d.bundled.scores import pictures_of
from core2d.bundled.world import picture_rows
from core2d.toybox.dataset import Pictures
from core2d.toybox.scene import Scene, still
from core2d.training.loop import step_generator
from gen3d.data.toybox_matting import MattingNet
from gen3d.toybox.view_scores import mask_iou

ZOOM = (0.6, 1.4)  # of the side of a picture that is shown
SCORED = 400  # pictures


@dataclass
class MattingTask:
    """Finds the coverage of pictures that are flipped, zoomed, and worn as those of the judges are."""

    model: MattingNet
    pictures: Pictures
    seed: int = 18

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Random rows: pictures (n, 3, h, w) and alpha (n, 1, h, w), both in [0, 1]."""
        generator = step_generator(self.seed, step)
        rgb, mask = picture_rows(self.pictures, torch.randint(len(self.pictures), (batch_size,), generator=generator))
        shown = zoomed(torch.cat([rgb, mask[:, None]], 1).float() / 255, generator)
        worn = wear(shown[:, :3], generator)
        return {"pictures": worn[positions], "alpha": shown[positions, 3:]}

    def loss(self, model: MattingNet, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Cross-entropy of each pixel's coverage."""
        logits, alpha = model.logits(batch["pictures"]).float(), batch["alpha"]
        iou = mask_iou(logits[:, 0] > 0, alpha[:, 0] > 0.5).mean()
        return F.binary_cross_entropy_with_logits(logits, alpha), {"iou": iou}


def zoomed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A window of each picture (n, c, h, w), or more than the picture, with its border going on; half are flipped."""
    lot = torch.rand((4, len(pictures)), generator=generator)
    side = ZOOM[0] + (ZOOM[1] - ZOOM[0]) * lot[0]
    flip = torch.where(lot[1] < 0.5, -1.0, 1.0)
    free = (1 - side).abs()  # how far the window can go without leaving the picture, or the picture the window
    x, y = free * (2 * lot[2] - 1), free * (2 * lot[3] - 1)
    nothing = torch.zeros_like(side)
    window = torch.stack([torch.stack([flip * side, nothing, x], 1), torch.stack([nothing, side, y], 1)], 1)
    grid = F.affine_grid(window, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def on_grounds(seed: int) -> Iterator[Scene]:
    """Objects and dolls on a ground, where a plain-background rule finds nothing."""
    return (scene for scene in (still(seed, index) for index in count()) if scene.ground is not None)


@torch.no_grad()
def matting_scores(model: MattingNet, seed: int, size: int = 64) -> dict[str, float]:
    """On `SCORED` pictures of subjects on grounds.

    `iou` of alpha above a half with the true coverage, the mean over pictures; `good` is the share of pictures in which
    it is above 0.9; `error` the mean absolute error of alpha.
    """
    pictures, coverage = pictures_of(list(islice(on_grounds(seed), SCORED)), size)  # (n, 3, s, s), (n, 1, s, s)
    found = torch.cat([model(some) for some in pictures.split(50)])
    iou = mask_iou(found[:, 0] > 0.5, coverage[:, 0] > 0.5)
    return {
        "iou": iou.mean().item(),
        "good": (iou > 0.9).float().mean().item(),
        "error": (found - coverage).abs().mean().item(),
    }
