"""All pixels of some views in memory, and the rays that they lie on."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gen3d.data.lenses import Lenses
from gen3d.data.pictures import read_mask, read_picture, shrink, shrink_mask
from gen3d.data.placement import Placement
from gen3d.data.scene import CapturedView


class Photographs:
    """The pixels of n views, p in all: view after view, row after row, in any mixture of sizes and lenses.

    Args:
        views: of a scene, at least one.
        downscale: average so many pixels, squared, into one, beyond what the views say already.

    Attributes:
        views: as given.
        lenses: theirs, for the pixels as they are here.
        pixels: (p, 4) uint8, colours as the files have them (not multiplied by alpha) and alpha.
        offsets: (n + 1,) int64; view i has the rows offsets[i]:offsets[i + 1].
        kept: (p,) bool, False where a mask says not to learn from a pixel; None without masks.
        has_alpha: whether any pixel is not opaque.
        camera_to_world: (n, 4, 4) float32, in the world of the scene until `moved`.

    Raises:
        ValueError: no view, or a downscale that leaves none of a picture.
        InputError: a picture cannot be read any more.
    """

    def __init__(self, views: Sequence[CapturedView], downscale: int = 1):
        if not views or not 1 <= downscale <= min(min(view.lens.width, view.lens.height) for view in views):
            raise ValueError(f"Photographs of {len(views)} views with a downscale by {downscale} have no pixels")
        self.views = tuple(views)
        self.lenses = tuple(view.lens.shrunk(downscale) for view in views)
        counts = torch.tensor([0, *(lens.width * lens.height for lens in self.lenses)])
        self.offsets = counts.cumsum(0)
        self.pixels = torch.empty((int(self.offsets[-1]), 4), dtype=torch.uint8)
        self.kept: Tensor | None = None
        if any(view.mask is not None for view in views):
            self.kept = torch.ones(len(self.pixels), dtype=torch.bool)
        for index, view in enumerate(views):
            self._read(index, view, downscale)
        self.has_alpha = bool((self.pixels[:, 3] < 255).any())
        self._widths = torch.tensor([lens.width for lens in self.lenses])
        self._lenses = Lenses.of(self.lenses).to(torch.zeros((), dtype=torch.float32))
        self._poses = torch.from_numpy(np.stack([view.camera_to_world for view in views])).double()
        self.camera_to_world = self._poses.float()

    def _read(self, index: int, view: CapturedView, downscale: int) -> None:
        rows = self.rows_of(index)
        factor = view.downscale * downscale
        pixels, _ = read_picture(view.path, view.upright)
        self.pixels[rows] = torch.from_numpy(_cut(shrink(pixels, factor), self.size_of(index)).reshape(-1, 4))
        if view.mask is not None and self.kept is not None:
            mask = shrink_mask(read_mask(view.mask, view.upright), factor)
            self.kept[rows] = torch.from_numpy(_cut(mask, self.size_of(index)).reshape(-1))

    def __len__(self) -> int:
        return len(self.views)

    def size_of(self, view: int) -> tuple[int, int]:
        """(height, width) of a view."""
        return self.lenses[view].height, self.lenses[view].width

    def rows_of(self, view: int) -> Tensor:
        """(h w,) int64 rows of a view, row after row of its picture."""
        first, last = self.offsets[view : view + 2].tolist()
        return torch.arange(first, last, device=self.offsets.device)

    def views_of(self, rows: Tensor) -> Tensor:
        """(r,) int64 views that rows (r,) belong to."""
        return torch.searchsorted(self.offsets, rows.contiguous(), right=True) - 1

    def rays(self, rows: Tensor, camera_to_world: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rays through the middles of pixels.

        Args:
            rows: (r,) int64.
            camera_to_world: (n, 4, 4) to use instead of `self.camera_to_world`, such as refined ones; the rays are
                differentiable in them.

        Returns:
            Origins (r, 3) and unit directions (r, 3), float32.
        """
        poses = self.camera_to_world if camera_to_world is None else camera_to_world
        if poses.shape != self.camera_to_world.shape:
            raise ValueError(f"rays needs {tuple(self.camera_to_world.shape)} poses, got {tuple(poses.shape)}")
        view = self.views_of(rows)
        inside = rows - self.offsets[view]
        width = self._widths[view]
        x, y = inside % width, inside.div(width, rounding_mode="floor")
        local = self._lenses[view].directions(torch.stack([x, y], dim=1).float() + 0.5)  # (r, 3)
        pose = poses.float()[view]
        directions = (pose[:, :3, :3] @ local[..., None])[..., 0]
        return pose[:, :3, 3], torch.nn.functional.normalize(directions, dim=1)

    def colors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Colours (r, 3), not multiplied by alpha, and alpha (r,), float32 in [0, 1]."""
        values = self.pixels[rows].float() / 255
        return values[:, :3], values[:, 3]

    def moved(self, placement: Placement) -> Photographs:
        """The same pixels, which are shared, with cameras in the coordinates of the model."""
        other = copy.copy(self)
        other._poses = placement.apply_cameras(self._poses)  # in float64: scenes may lie far from their origin
        other.camera_to_world = other._poses.float()
        return other

    def to(self, device: torch.device | str) -> Photographs:
        """All of it on a device."""
        other = copy.copy(self)
        for name in ("pixels", "offsets", "kept", "camera_to_world", "_widths"):
            tensor = getattr(self, name)
            setattr(other, name, tensor if tensor is None else tensor.to(device))
        other._lenses = self._lenses.to(torch.zeros((), dtype=torch.float32, device=device))
        return other


def _cut(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrinking twice may leave a row or column less than shrinking once by the product."""
    return pixels[: size[0], : size[1]]
