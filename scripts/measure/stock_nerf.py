"""NeRF from stock parts: what "time to 30 dB" of `benchmark.py --suite nerf` is held against.

It is what one writes with PyTorch and no kernel of one's own: a hash grid that gathers the eight corners of each
level, `nn.Linear` networks, as many samples on every ray from where it enters the cube to where it leaves, cumulative
products over (rays, samples), autograd, and Adam. Sizes of grid and networks, loss, rates, average and background are
those of `gen3d.nerf.task`'s fast system. It is as fast as stock parts were measured to be: corners come first in
memory and are gathered by `index_select`, which takes a third of the time of the readable twin of our kernel; rays
that miss the cube cost nothing; Adam is fused; and of the settings that `candidates` lists the best is the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pad, smooth_l1_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gen3d.data.photographs import Photographs
from gen3d.fields.activations import truncated_exp
from gen3d.fields.directions import spherical_harmonics
from gen3d.kernels.hash_grid import HashGridLayout, initial_table
from gen3d.kernels.hash_grid.layout import PRIME_Y, PRIME_Z
from gen3d.render.rays import intersect_box

LAYOUT = HashGridLayout.reaching(512, levels=12, coarsest=16, log2_table=17)
GEOMETRY, DEGREE = 15, 4  # what the networks hand on, and bands of spherical harmonics
RATE, LAST_RATE, WARM_UP = 1e-2, 0.02, 10  # of Adam, the share of it at the end, and steps until it is reached
SMOOTH_L1 = 0.1  # difference of colours up to which the loss is quadratic
AVERAGE = 0.95  # share of the old average that stays at each step
CHUNK = 1 << 11  # rays rendered together


@dataclass(frozen=True)
class StockSettings:
    """What a user of stock parts can choose.

    Attributes:
        rays: of a step.
        samples: of a ray, between where it enters the cube and where it leaves.
        width: units of a hidden layer.
        bfloat16: whether networks run under autocast.
        threads: of torch; 0 leaves them as they are.
    """

    rays: int = 2048
    samples: int = 96
    width: int = 64
    bfloat16: bool = False
    threads: int = 0


def candidates() -> list[StockSettings]:
    """What to try before the best of it is called the baseline: rays and samples, then a faster arithmetic."""
    sizes = [(1024, 64), (1024, 96), (2048, 64), (2048, 96), (2048, 128), (4096, 64), (4096, 96)]
    exact = [StockSettings(rays, samples) for rays, samples in sizes]
    return exact + [StockSettings(rays, samples, bfloat16=True) for rays, samples in ((1024, 96), (2048, 96))]


def encode(x: Tensor, table: Tensor) -> Tensor:
    """(n, 24) features of points (n, 3) in the unit cube, from a table of `LAYOUT`."""
    position = x.T.contiguous()  # (3, n)
    sizes = (LAYOUT.offsets[1:] - LAYOUT.offsets[:-1]).tolist()
    features = [_level(position, part, level) for level, part in enumerate(table.split(sizes))]  # 12 of (n, 2)
    return torch.cat(features, dim=1)


def _level(position: Tensor, table: Tensor, level: int) -> Tensor:
    place = position * float(LAYOUT.scales[level]) + 0.5  # (3, n) in cells
    low = place.floor()
    fraction = place - low
    x, y, z = torch.stack([low, low + 1], dim=1).long()  # (2, n) each: both ends of the cell
    along_x, along_y, along_z = torch.stack([1 - fraction, fraction], dim=1)  # (2, n) each
    if LAYOUT.hashed[level]:
        rows = x[None, None] ^ (y * PRIME_Y)[None, :, None] ^ (z * PRIME_Z)[:, None, None]  # (2, 2, 2, n)
        rows = rows & (len(table) - 1)
    else:
        side = int(LAYOUT.resolutions[level])
        rows = (x[None, None] + side * y[None, :, None] + side * side * z[:, None, None]) % len(table)
    weight = along_x[None, None] * along_y[None, :, None] * along_z[:, None, None]  # (2, 2, 2, n)
    weight = weight.flatten(0, 2)[..., None]  # (8, n, 1)
    found = table.index_select(0, rows.view(-1)).view(*weight.shape[:2], table.shape[1])  # (8, n, f)
    return (weight * found).sum(0)  # (n, f)


class StockField(nn.Module):
    """Density and colour in the cube [-1, 1]^3."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.table = nn.Parameter(initial_table(LAYOUT, generator))
        self.density = nn.Sequential(
            nn.Linear(LAYOUT.outputs, width, bias=False), nn.ReLU(), nn.Linear(width, 1 + GEOMETRY, bias=False)
        )
        self.color = nn.Sequential(
            nn.Linear(DEGREE**2 + GEOMETRY, width, bias=False), nn.ReLU(),
            nn.Linear(width, width, bias=False), nn.ReLU(),
            nn.Linear(width, 3, bias=False),
        )  # fmt: skip
        for layer in [*self.density, *self.color]:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)

    def forward(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (r, s) and colour (r, s, 3) at x (r, s, 3), seen along directions (r, 3)."""
        numbers = self.density(encode((x.view(-1, 3) + 1) / 2, self.table)).view(*x.shape[:2], 1 + GEOMETRY)
        harmonics = spherical_harmonics(directions, DEGREE).to(numbers)  # (r, 16)
        seen = torch.cat([harmonics[:, None].expand(*x.shape[:2], -1), numbers[..., 1:]], dim=-1)
        return truncated_exp(numbers[..., 0].float() - 1), torch.sigmoid(self.color(seen).float())


class StockNerf:
    """Optimisation by stock parts, over white.

    Args:
        photographs: to learn from, in model space: what is of interest lies in [-1, 1]^3.
        settings: see there; threads are set for the whole process.
        seed: of the first parameters, the pixels and the jitters.
    """

    def __init__(self, photographs: Photographs, settings: StockSettings, seed: int = 0) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.photographs, self.settings = photographs, settings
        self.generator = torch.Generator().manual_seed(seed)
        self.field = StockField(settings.width, self.generator)
        self.average = AveragedModel(self.field, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
        self.optimizer = torch.optim.Adam(self.field.parameters(), RATE, (0.9, 0.99), 1e-15, fused=True)
        self.steps = 0

    def step(self, progress: float = 0.0) -> float:
        """One whole step: pixels, rays, colours, loss, gradients, update, average. Returns the loss.

        `progress` in [0, 1] of the time there is says how far the rate is down its half cosine.
        """
        pixels = self.photographs.pixels.shape[0]
        rows = torch.randint(pixels, (self.settings.rays,), generator=self.generator)
        color, alpha = self.photographs.colors(rows)
        target = color * alpha[:, None] + 1 - alpha[:, None]
        seen = self.see(self.field, *self.photographs.rays(rows), self.generator)
        loss = smooth_l1_loss(seen, target, beta=SMOOTH_L1)
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * rate(self.steps, progress)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average.update_parameters(self.field)
        self.steps += 1
        return loss.item()

    def see(
        self,
        field: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        origins: Tensor,
        directions: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(r, 3) colours of rays over white; a generator draws a place in each interval, else it is the middle."""
        count, high = len(origins), torch.ones(3)
        near, far = intersect_box(origins, directions, -high, high)
        hits = (far > near).nonzero()[:, 0]
        origins, directions, near, far = (part[hits] for part in (origins, directions, near, far))
        shape = len(hits), self.settings.samples
        within = torch.full(shape, 0.5) if generator is None else torch.rand(shape, generator=generator)  # (h, s)
        length = (far - near) / shape[1]  # (h,) of an interval
        t = near[:, None] + length[:, None] * (torch.arange(shape[1]) + within)  # (h, s)
        x = origins[:, None] + t[..., None] * directions[:, None]  # (h, s, 3)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            density, color = field(x, directions)
        alpha = 1 - torch.exp(-density * length[:, None])  # (h, s)
        through = torch.cumprod(pad(1 - alpha[:, :-1] + 1e-10, (1, 0), value=1.0), dim=1)  # (h, s)
        weights = alpha * through
        over_white = (weights[..., None] * color).sum(1) + 1 - weights.sum(1, keepdim=True)  # (h, 3)
        return torch.ones(count, 3).index_copy(0, hits, over_white)

    @torch.no_grad()
    def render(self, photographs: Photographs, view: int) -> Tensor:
        """(3, h, w) in [0, 1]: what the averaged field shows of a view, over white."""
        origins, directions = photographs.rays(photographs.rows_of(view))
        rays = zip(origins.split(CHUNK), directions.split(CHUNK), strict=True)
        color = torch.cat([self.see(self.average, *part) for part in rays]).clamp(0, 1)
        return color.T.unflatten(1, photographs.size_of(view))

    def psnr(self, photographs: Photographs, view: int) -> float:
        """Of that picture against the photograph over white, in dB."""
        color, alpha = photographs.colors(photographs.rows_of(view))
        truth = color * alpha[:, None] + 1 - alpha[:, None]
        seen = self.render(photographs, view).flatten(1).T
        return float(-10 * mse_loss(seen, truth).clamp(min=1e-10).log10())


def rate(step: int, progress: float) -> float:
    """Share of the learning rate: a linear warm-up, then half a cosine down to a fiftieth, as in
    `core2d.training.loop`.
    """
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2
