"""Rendering a field along rays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gen3d.fields.contract import Field
from gen3d.kernels.compositing import composite, visible
from gen3d.render.marching import Samples, march
from gen3d.render.occupancy import OccupancyGrid

FAINT = 1e-6  # opacity below which a ray has no depth

Background = Callable[[Tensor], Tensor] | Tensor


@dataclass(frozen=True)
class Points:
    """The samples as a shader sees them: everything packed, n in all.

    Attributes:
        x: (n, 3) metres.
        direction: (n, 3) of the ray of view.
        normal: (n, 3) unit, or None where normals were not asked for.
        ray: (n,) int64 row of the ray.
    """

    x: Tensor
    direction: Tensor
    normal: Tensor | None
    ray: Tensor


Shader = Callable[[Tensor, Points], Tensor]  # the field's colours (n, 3) to what is seen (n, 3)


@dataclass(frozen=True)
class Rendered:
    """What r rays see; n samples were taken.

    Attributes:
        color: (r, 3) over the background.
        opacity: (r,) in [0, 1].
        depth: (r,) mean distance along the ray in metres of what is seen; 0 where nothing is.
        normal: (r, 3) weighted sum of unit normals, as long as the ray is opaque; None if not asked for.
        weights: (n,) what each sample counts.
        samples: where they are.
        points: what the shader saw.
    """

    color: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor | None
    weights: Tensor
    samples: Samples
    points: Points


def render_rays(
    field: Field,
    background: Background | None,
    origins: Tensor,
    directions: Tensor,
    occupancy: OccupancyGrid,
    step: float,
    *,
    generator: torch.Generator | None = None,
    normals: bool = False,
    shade: Shader | None = None,
    normals_from: float = 0.0,
    prune: bool = False,
    samples: Samples | None = None,
) -> Rendered:
    """Render rays through a field; differentiable in the field, the background and the rays.

    Args:
        field: what fills the cube of `occupancy`.
        background: colour of directions (r, 3), or a colour (3,) or (r, 3), or None for black.
        origins, directions: (r, 3) metres, and unit vectors.
        occupancy: which cells to look at.
        step: metres between samples.
        generator: jitters the samples; without one they are where they always are.
        normals: whether normals are asked of the field, for shading, orientation losses and display.
        shade: from the field's colours to those that are seen; by default they are the same.
        normals_from: weight below which a sample is not asked for its normal, but faces the camera. Of the samples of
            an optimisation three in four weigh less than a thousandth, and all of them together 0.3 %.
        prune: first ask for densities alone, without gradient, and leave out what lies behind the early stop. The
            picture is the same; it pays where much of what is occupied lies deep inside an object.
        samples: where to look, for spaces that are not marched through like a cube.
    """
    if samples is None:
        samples = march(origins, directions, occupancy, step, generator)
    if prune and len(samples):
        with torch.no_grad():
            density = field.density(_positions(samples, origins, directions))
            samples = samples.keep(visible(density * samples.delta, samples.ray_offsets))
    x = _positions(samples, origins, directions)  # (n, 3)
    along = directions[samples.ray]  # (n, 3)
    density, color = field(x, along)  # (n,), (n, 3)
    normal = _normals(field, x, along, density, samples, normals_from) if normals else None  # (n, 3)
    points = Points(x, along, normal, samples.ray)
    if shade is not None:
        color = shade(color, points)
    values = color if normal is None else torch.cat([color, normal.to(color)], dim=1)  # (n, 3 or 6)
    seen = composite(density, samples.delta, values, samples.t, samples.ray_offsets)
    behind = 0.0
    if background is not None:
        paint = background if isinstance(background, Tensor) else background(directions)
        behind = (1 - seen.opacity)[:, None] * paint.to(seen.color)
    depth = torch.where(seen.opacity > FAINT, seen.depth / seen.opacity.clamp(min=FAINT), 0)
    return Rendered(
        color=seen.color[:, :3] + behind,
        opacity=seen.opacity,
        depth=depth,
        normal=seen.color[:, 3:] if normals else None,
        weights=seen.weights,
        samples=samples,
        points=points,
    )


def _normals(field: Field, x: Tensor, along: Tensor, density: Tensor, samples: Samples, least_weight: float) -> Tensor:
    """(n, 3) unit normals; of samples that weigh less than `least_weight`, the direction to the camera."""
    if not least_weight:
        return field.normal(x)
    with torch.no_grad():
        weights = composite(density, samples.delta, along[:, :1], samples.t, samples.ray_offsets).weights
        chosen = (weights >= least_weight).nonzero()[:, 0]
    return (-along).index_copy(0, chosen, field.normal(x[chosen]).to(along))


def _positions(samples: Samples, origins: Tensor, directions: Tensor) -> Tensor:
    """(n, 3) metres."""
    return origins[samples.ray] + samples.t[:, None] * directions[samples.ray]
