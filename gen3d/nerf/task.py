"""NeRF: a radiance field from photographs whose cameras are known.

    step:  pixels of all photographs -> rays -> field along them (eq. 1) -> colour (eq. 3) -> difference to the pixel

Two systems, in the one training loop:
- `FastTask` (Instant-NGP, Mueller et al. 2022, 2201.05989): a hash grid with small networks (3), rays that skip empty
  cells (appendix E), and as many rays a step as give the same number of samples.
- `VanillaTask` (NeRF, Mildenhall et al. 2020, 2003.08934): two networks on positional encodings (5.1), the second one
  sampled where the first one saw something (5.2).

All happens in model space, where what is of interest lies in [-1, 1]^3 (`gen3d.data.placement`); scenes without bounds
are contracted into [-2, 2]^3 (mip-NeRF 360, 2111.12077).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, smooth_l1_loss

from core2d.media.pictures import save_image, to_uint8
from core2d.training.loop import TrainingRecipe, step_generator, step_seed
from gen3d.data.photographs import Photographs
from gen3d.fields.config import FieldConfig, HashGridConfig
from gen3d.fields.frequency_field import FrequencyField
from gen3d.fields.hash_grid_field import HashGridField
from gen3d.nerf.recipe import FastConfig, VanillaConfig
from gen3d.render.contraction import Contracted, march_unbounded
from gen3d.render.hierarchical import render_hierarchical
from gen3d.render.occupancy import OccupancyGrid
from gen3d.render.rays import intersect_box
from gen3d.render.volume import render_rays

OCCUPANCY_EVERY, OCCUPANCY_WARM_UP = 16, 256  # steps between looks; until then all cells are looked at
FEWEST_RAYS = 256
SMOOTH_L1 = 0.1  # difference of colours up to which the loss is quadratic
POSE_SCALE = 0.01  # radians and model units: what Adam's rate means for a camera
CHUNK = 1 << 14  # rays rendered together
OUTLYING = 5.0  # median distances from the median: of normal numbers, one in 1,300 lies further below
PREVIEW_RAYS = 20_000  # of a held-out view that is looked at while training goes on
BACKGROUNDS = {"white": 1.0, "black": 0.0, "random": 1.0}  # what is behind where nothing is drawn at random


@dataclass(frozen=True)
class RenderedRays:
    """What r rays see: color (r, 3) over the background, opacity (r,), depth (r,) in model units."""

    color: Tensor
    opacity: Tensor
    depth: Tensor


class CameraCorrections(nn.Module):
    """Small motions of n cameras, learned with the field: turns about their own place, and shifts."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.zeros(count, 3))
        self.shift = nn.Parameter(torch.zeros(count, 3))

    def forward(self, camera_to_world: Tensor) -> Tensor:
        """(n, 4, 4) corrected matrices."""
        x, y, z = (POSE_SCALE * self.turn).unbind(1)
        zero = torch.zeros_like(x)
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).unflatten(1, (3, 3))
        turned = torch.linalg.matrix_exp(skew) @ camera_to_world[:, :3, :3]
        moved = camera_to_world[:, :3, 3:] + POSE_SCALE * self.shift[:, :, None]
        return torch.cat([torch.cat([turned, moved], 2), camera_to_world[:, 3:]], 1)


class FastModel(nn.Module):
    """A hash grid, and the occupancy grid that follows it.

    Args:
        config: sizes.
        seed: of the first parameters.
        unbounded: contract all of space instead of looking at the cube [-1, 1]^3 alone.
        cameras: how many of them may move; 0 for none.
    """

    samples_a_ray: Tensor

    def __init__(self, config: FastConfig, seed: int, unbounded: bool = False, cameras: int = 0) -> None:
        super().__init__()
        self.config, self.unbounded = config, unbounded
        table = HashGridConfig(
            levels=config.levels, coarsest=config.coarsest, finest=config.finest, log2_table=config.log2_table
        )
        shape = FieldConfig(
            grid=table, bound=2.0 if unbounded else 1.0, width=config.width, density_layers=1, color_layers=2,
            view_dependent=True, density="exp", blob=0.0,
        )  # fmt: skip
        grid = HashGridField(shape, torch.Generator().manual_seed(seed))
        self.field = Contracted(grid) if unbounded else grid
        self.occupancy = OccupancyGrid(config.cells, shape.bound)
        self.corrections = CameraCorrections(cameras) if cameras else None
        self.register_buffer("samples_a_ray", torch.tensor(float(config.samples_across)))  # lately

    @property
    def step(self) -> float:
        """Model units between samples."""
        return 2.0 / self.config.samples_across

    @property
    def _intervals(self) -> int:
        """Samples of a ray through all of contracted space."""
        return 4 * self.config.samples_across

    @property
    def rays(self) -> int:
        """How many give the samples that a step aims at."""
        wanted = self.config.samples / max(1.0, float(self.samples_a_ray))
        return int(min(max(wanted, FEWEST_RAYS), self.config.most_rays))

    def look_around(self, generator: torch.Generator, everywhere: bool) -> None:
        """Bring the occupancy grid up to date."""
        if isinstance(self.field, Contracted):  # whose far samples stand for many metres
            self.occupancy.update(self.field.contracted_density, 4 / self._intervals, generator, everywhere)
        else:
            self.occupancy.update(self.field.density, self.step, generator, everywhere)

    def see(
        self, origins: Tensor, directions: Tensor, background: Tensor, generator: torch.Generator | None = None
    ) -> RenderedRays:
        """Rays (r, 3) over a background (3,) or (r, 3); differentiable while training, faster otherwise."""
        samples = None
        if self.unbounded:
            samples = march_unbounded(origins, directions, self.occupancy, self._intervals, generator=generator)
        seen = render_rays(
            self.field, background, origins, directions, self.occupancy, self.step,
            generator=generator, prune=not self.training, samples=samples,
        )  # fmt: skip
        if self.training:
            self.samples_a_ray.lerp_(torch.tensor(len(seen.samples) / len(origins)).to(self.samples_a_ray), 0.2)
        return RenderedRays(seen.color, seen.opacity, seen.depth)


class VanillaModel(nn.Module):
    """The coarse and the fine network of the paper; they look at the cube [-1, 1]^3.

    Args: as of `FastModel`.
    """

    def __init__(self, config: VanillaConfig, seed: int, cameras: int = 0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        self.coarse = FrequencyField(width=config.width, depth=config.depth, generator=generator)
        self.fine = FrequencyField(width=config.width, depth=config.depth, generator=generator)
        self.corrections = CameraCorrections(cameras) if cameras else None

    @property
    def field(self) -> FrequencyField:
        """What was learned in the end."""
        return self.fine

    def both(self, origins: Tensor, directions: Tensor, background: Tensor, generator: torch.Generator | None = None):
        """What the coarse and the fine network see along rays (r, 3)."""
        high = torch.ones(3, device=origins.device)
        near, far = intersect_box(origins, directions, -high, high)
        return render_hierarchical(
            self.coarse, self.fine, background, origins, directions, near, torch.maximum(near, far),
            self.config.coarse, self.config.fine, generator,
        )  # fmt: skip

    def see(self, origins: Tensor, directions: Tensor, background: Tensor) -> RenderedRays:
        """Rays (r, 3) over a background (3,) or (r, 3), by the fine network."""
        _, fine = self.both(origins, directions, background)
        return RenderedRays(fine.color, fine.opacity, fine.depth)


Model = FastModel | VanillaModel


@dataclass
class NerfTask:
    """What both systems share: pixels drawn from all photographs, and a look at a held-out view now and then.

    Attributes:
        model: what is trained.
        photographs: to learn from, in model space.
        held_out: to look at while training goes on; None for none.
        background: "white", "black", or "random" (another colour for each ray) behind transparent pictures.
        seed: of pixels, jitters and random backgrounds.
    """

    model: Model
    photographs: Photographs
    held_out: Photographs | None = None
    background: str = "white"
    seed: int = 0

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Rows of pixels (n,), each with a background (n, 3); `step` (n,)."""
        generator = step_generator(self.seed, step)
        chosen = self.photographs.kept
        among = torch.arange(0) if chosen is None else self._kept_rows()
        count = len(self.photographs.pixels) if chosen is None else len(among)
        row = torch.randint(count, (batch_size,), generator=generator)
        behind = torch.full((batch_size, 3), BACKGROUNDS[self.background])
        if self.background == "random":
            behind = torch.rand(batch_size, 3, generator=generator)
        rows = {"row": row if chosen is None else among[row], "background": behind}
        return {name: value[positions] for name, value in rows.items()} | {"step": torch.full((len(positions),), step)}

    def preview(self, model: nn.Module, folder: Path, step: int) -> None:
        """A held-out view beside its photograph, and its PSNR on stderr."""
        if self.held_out is None or not isinstance(model, FastModel | VanillaModel):
            return
        height, width = self.held_out.size_of(0)
        stride = max(1, round((height * width / PREVIEW_RAYS) ** 0.5))
        truth, seen, _ = look(model, self.held_out, 0, BACKGROUNDS[self.background], stride)
        save_image(folder / f"step-{step:06d}.png", to_uint8(torch.cat([truth, seen], 2)[None])[0])
        sys.stderr.write(f"\nstep {step}: {psnr(seen, truth):.2f} dB on a held-out view\n")

    def rays(self, model: Model, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and directions (r, 3) of pixels, through the corrected cameras where they may move."""
        moved = None if model.corrections is None else model.corrections(self.photographs.camera_to_world)
        return self.photographs.rays(rows, moved)

    def target(self, rows: Tensor, background: Tensor) -> Tensor:
        """(r, 3) photographed colours over a background (r, 3)."""
        color, alpha = self.photographs.colors(rows)
        return color * alpha[:, None] + background * (1 - alpha[:, None])

    def _kept_rows(self) -> Tensor:
        if not hasattr(self, "_kept"):
            assert self.photographs.kept is not None
            self._kept = self.photographs.kept.nonzero()[:, 0]
        return self._kept


class FastTask(NerfTask):
    """Instant-NGP's training."""

    model: FastModel

    def loss(self, model: FastModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Smooth L1 between the colours of rays and of their pixels."""
        step = int(batch["step"][0])
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, 2))
        if step % OCCUPANCY_EVERY == 0:
            model.look_around(generator, everywhere=step < OCCUPANCY_WARM_UP)
        rows, background = (batch[name][: model.rays] for name in ("row", "background"))
        seen = model.see(*self.rays(model, rows), background, generator)
        target = self.target(rows, background)
        error = mse_loss(seen.color.detach(), target)
        facts: dict[str, float | Tensor] = {"psnr": -10 * error.log10(), "rays": float(len(rows))}
        facts |= {"samples": float(model.samples_a_ray) * len(rows), "occupied": model.occupancy.share}
        return smooth_l1_loss(seen.color, target, beta=SMOOTH_L1), facts


class VanillaTask(NerfTask):
    """The paper's training."""

    model: VanillaModel

    def loss(self, model: VanillaModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Squared differences to the pixels, of both networks (eq. 6)."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, int(batch["step"][0]), 2))
        coarse, fine = model.both(*self.rays(model, batch["row"]), batch["background"], generator)
        target = self.target(batch["row"], batch["background"])
        error = mse_loss(fine.color, target)
        return error + mse_loss(coarse.color, target), {"psnr": -10 * error.detach().log10()}


def training_recipe(
    config: FastConfig | VanillaConfig, seed: int, steps: int | None = None, minutes: float | None = None
) -> TrainingRecipe:
    """The loop's settings: of so many steps, or of so many minutes."""
    fast = isinstance(config, FastConfig)
    return TrainingRecipe(
        steps=steps or (10_000_000 if minutes else config.steps),
        batch_size=config.most_rays if fast else config.rays,
        learning_rate=config.learning_rate, warmup_steps=10 if fast else 100,
        weight_decay=0.0, epsilon=1e-15 if fast else 1e-8, gradient_clip=0.0, ema_decay=0.95 if fast else 0.0,
        precision="no", seed=seed, minutes=minutes, anneal="minutes" if minutes else "steps",
        checkpoint_every=250, log_every=10,
    )  # fmt: skip


@torch.no_grad()
def look(
    model: Model, photographs: Photographs, view: int, background: float, stride: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Every `stride`-th pixel of a photograph: what it shows (3, h, w), what the field shows (3, h, w), its opacity.

    Both over a grey of brightness `background`.
    """
    height, width = photographs.size_of(view)
    rows = photographs.rows_of(view).view(height, width)[::stride, ::stride]  # (h, w)
    behind = torch.full((3,), background)
    color, alpha = photographs.colors(rows.reshape(-1))
    truth = color * alpha[:, None] + behind * (1 - alpha[:, None])
    seen = list(see_in_pieces(model, *photographs.rays(rows.reshape(-1)), behind))
    shown = torch.cat([part.color for part in seen]).clamp(0, 1)
    opacity = torch.cat([part.opacity for part in seen])
    return truth.T.unflatten(1, rows.shape), shown.T.unflatten(1, rows.shape), opacity.view(rows.shape)


@torch.no_grad()
def see_in_pieces(model: Model, origins: Tensor, directions: Tensor, background: Tensor) -> Iterator[RenderedRays]:
    """Any number of rays rendered, a piece at a time, on the model's device; without gradient, and in eval mode."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for start, along in zip(origins.split(CHUNK), directions.split(CHUNK), strict=True):
        seen = model.see(start.to(device), along.to(device), background.to(device))
        yield RenderedRays(seen.color.cpu(), seen.opacity.cpu(), seen.depth.cpu())
    model.train(training)


def psnr(seen: Tensor, truth: Tensor) -> float:
    """Peak signal to noise ratio in dB, of pictures in [0, 1]."""
    return float(-10 * mse_loss(seen, truth).clamp(min=1e-10).log10())


def ssim(seen: Tensor, truth: Tensor) -> float:
    """Structural similarity of (3, h, w) pictures in [0, 1] (Wang et al. 2004: Gaussian window, deviation 1.5)."""
    from skimage.metrics import structural_similarity

    one, other = (np.asarray(picture.movedim(0, -1), np.float64) for picture in (seen, truth))
    found = structural_similarity(
        one, other, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(np.asarray(found))


def doubtful_views(task: NerfTask, rays: int = 256) -> tuple[float, list[tuple[int, float]]]:
    """Views that the field could not explain: evidence that poses and photographs disagree.

    Args:
        task: after training.
        rays: pixels looked at in each view, of its body where pictures are transparent around one.

    Returns:
        The median over the training views of the PSNR in dB; and those views, with theirs, that lie further below it
        than views of one scene do: `OUTLYING` times the median distance from the median, and at least 5 dB.
    """
    photographs = task.photographs
    generator = torch.Generator().manual_seed(task.seed)
    behind = torch.full((3,), BACKGROUNDS[task.background])
    found = []
    for view in range(len(photographs)):
        rows = photographs.rows_of(view)
        body = rows[photographs.pixels[rows, 3] > 0]
        rows = body if len(body) else rows
        rows = rows[torch.randint(len(rows), (rays,), generator=generator).to(rows.device)]
        seen = torch.cat([part.color for part in see_in_pieces(task.model, *task.rays(task.model, rows), behind)])
        found.append(psnr(seen, task.target(rows, behind.to(rows.device).expand(len(rows), 3)).cpu()))
    median = float(np.median(found))
    usual = float(np.median(np.abs(np.array(found) - median)))
    least = median - max(5.0, OUTLYING * usual)
    return median, [(view, value) for view, value in enumerate(found) if value < least]
