"""A coarse memory of where a field is empty, so that rays can skip it (Instant-NGP, appendix E)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

DECAY = 0.95  # of a cell's memory each time it is looked at
THRESHOLD = 0.01  # optical thickness of one step below which a cell is empty, unless the mean is lower
CHUNK = 1 << 18  # points evaluated together


class OccupancyGrid(nn.Module):
    """resolution^3 cells over the cube [-bound, bound]^3; all occupied until the first update.

    Attributes:
        thickness: (resolution,) * 3 remembered density times step: an exponential moving maximum.
        mask: (resolution,) * 3 bool, True where a ray has to look. The first axis is x.
        box: (2, 3) low and high corner, in metres, of a box around the occupied cells.
    """

    thickness: Tensor
    mask: Tensor
    box: Tensor

    def __init__(self, resolution: int = 64, bound: float = 1.0) -> None:
        super().__init__()
        if resolution < 1 or bound <= 0:
            raise ValueError(f"an occupancy grid needs cells and a size; got {resolution} cells, bound {bound}")
        self.resolution, self.bound = resolution, bound
        shape = (resolution,) * 3
        self.register_buffer("thickness", torch.zeros(shape))
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("box", torch.tensor([[-bound] * 3, [bound] * 3], dtype=torch.float32))

    @torch.no_grad()
    def update(
        self,
        density: Callable[[Tensor], Tensor],
        step: float,
        generator: torch.Generator | None = None,
        everywhere: bool = True,
    ) -> None:
        """Look at the field again, at one random point of each chosen cell.

        Args:
            density: of points (n, 3) in metres, (n,) per metre.
            step: metres between samples of a ray.
            generator: of the points; without one, cells are looked at in their middle.
            everywhere: all cells; otherwise a quarter of them at random and as many occupied ones (needs a generator).
        """
        cells = self._all_cells() if everywhere else self._some_cells(generator)  # (m,)
        seen = torch.cat([density(points) for points in self._points(cells, generator).split(CHUNK)]) * step  # (m,)
        thickness = self.thickness.flatten()
        thickness[cells] *= DECAY  # a cell that was drawn twice still decays once
        thickness.scatter_reduce_(0, cells, seen.to(thickness), "amax")
        self.thickness = thickness.view_as(self.mask)
        self.set_mask(self.thickness > min(THRESHOLD, float(thickness.mean())))

    def set_mask(self, mask: Tensor) -> None:
        """Say which cells are occupied. Where none is, all are: with nothing to look at, training could never go on."""
        if mask.shape != self.mask.shape:
            raise ValueError(f"the grid has {tuple(self.mask.shape)} cells, the mask {tuple(mask.shape)}")
        self.mask = (mask if bool(mask.any()) else torch.ones_like(mask)).to(self.mask)
        ends = []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            occupied = self.mask.any(dim=others[1]).any(dim=others[0]).nonzero()
            ends.append([int(occupied[0]), int(occupied[-1]) + 1])
        cells = torch.tensor(ends, dtype=torch.float32).T  # (2, 3)
        self.box = (cells * (2 * self.bound / self.resolution) - self.bound).to(self.box)

    @property
    def share(self) -> float:
        """Of cells that are occupied."""
        return float(self.mask.float().mean())

    def _all_cells(self) -> Tensor:
        return torch.arange(self.mask.numel(), device=self.mask.device)

    def _some_cells(self, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            raise ValueError("to look at some cells only, the occupancy grid needs a generator to draw them with")
        count = max(1, self.mask.numel() // 4)
        occupied = self.mask.flatten().nonzero()[:, 0]

        def draw(below: int) -> Tensor:
            return torch.randint(below, (count,), generator=generator, device=generator.device).to(self.mask.device)

        return torch.cat([draw(self.mask.numel()), occupied[draw(len(occupied))]])

    def _points(self, cells: Tensor, generator: torch.Generator | None) -> Tensor:
        """(m, 3) metres: a point in each cell."""
        n = self.resolution
        corner = torch.stack([cells // (n * n), cells // n % n, cells % n], dim=1)  # (m, 3)
        inside = 0.5
        if generator is not None:
            inside = torch.rand(len(cells), 3, generator=generator, device=generator.device).to(self.thickness)
        return (corner + inside) * (2 * self.bound / n) - self.bound
