"""Rendering as in the first NeRF paper (2003.08934, sections 4 and 5.2): every ray has the same number of samples.

A coarse field is looked at once in each of equal intervals. What it sees says where more samples pay; a fine field is
looked at in all of them. What every sample weighs follows from densities by equation 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from gen3d.fields.contract import Field
from gen3d.fields.frequency_field import FrequencyField
from gen3d.render.volume import FAINT, Background

ENDLESS = 1e10  # what the last sample of a ray stands for, in metres: if it is not empty, nothing shines through it
EVEN = 1e-5  # added to all weights, so that samples can be drawn along rays that see nothing
PIECE = 1 << 16  # points evaluated together where no gradient is asked for


@dataclass(frozen=True)
class HierarchicalRendered:
    """What r rays see; each has n samples.

    Attributes:
        color: (r, 3) over the background.
        opacity: (r,) in [0, 1].
        depth: (r,) mean distance along the ray in metres of what is seen; 0 where nothing is.
        weights: (r, n) what each sample counts.
        t: (r, n) metres from the ray's origin, front to back.
    """

    color: Tensor
    opacity: Tensor
    depth: Tensor
    weights: Tensor
    t: Tensor


def stratified(near: Tensor, far: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """One sample in each of `count` equal intervals between near and far (eq. 2).

    Args:
        near, far: (r,) metres.
        count: of intervals, at least 1.
        generator: of places in the intervals; without one, each sample stands in the middle of its own.

    Returns:
        (r, count) metres, front to back.
    """
    if near.ndim != 1 or far.shape != near.shape or count < 1:
        shapes = f"{tuple(near.shape)}, {tuple(far.shape)}"
        raise ValueError(f"stratified needs near and far (r,) and a count; got {shapes} and {count}")
    places = (_index(count, near) + _within(len(near), count, near, generator)) / count  # (r, count) in [0, 1)
    return near[:, None] + (far - near)[:, None] * places


@torch.no_grad()
def sample_pdf(edges: Tensor, weights: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Samples of a piecewise-constant density, by inverting its distribution function (5.2).

    Args:
        edges: (r, m + 1) metres, rising: the ends of m intervals.
        weights: (r, m) of the intervals, not negative; they need no certain sum, and 1e-5 is added to each.
        count: of samples.
        generator: draws them; without one they are those below which (k + 1/2) / count of the weight lies.

    Returns:
        (r, count) metres, without gradient, in order only if there is no generator.
    """
    if edges.ndim != 2 or edges.shape != (len(weights), weights.shape[-1] + 1) or weights.ndim != 2:
        shapes = f"{tuple(edges.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"sample_pdf needs edges (r, m + 1) and weights (r, m); got {shapes}")
    weights = weights + EVEN
    below = pad(weights.cumsum(1), (1, 0))  # (r, m + 1) of the weight, up to each edge
    rays, intervals = weights.shape
    if generator is None:
        share = ((_index(count, edges) + 0.5) / count).expand(rays, count)
    else:
        share = _within(rays, count, edges, generator)
    wanted = (share * below[:, -1:]).contiguous()  # (r, count) of the weight below each sample
    index = (torch.searchsorted(below, wanted, right=True) - 1).clamp(0, intervals - 1)  # its interval
    inside = ((wanted - below.gather(1, index)) / weights.gather(1, index)).clamp(0, 1)
    return torch.lerp(edges.gather(1, index), edges.gather(1, index + 1), inside)


def composite_dense(
    density: Tensor, color: Tensor, t: Tensor, last: float | Tensor = ENDLESS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Blend the samples of rays front to back (eq. 3); differentiable in everything.

    Sample i reaches to the next one: it weighs T_i (1 - exp(-density_i delta_i)) with delta_i = t_{i+1} - t_i and
    T_i = exp(-sum over j < i of density_j delta_j), what those before it let through.

    Args:
        density: (r, n) per metre, not negative.
        color: (r, n, 3).
        t: (r, n) metres along rays of unit directions, rising.
        last: metres that the last sample stands for, the same for all rays or (r,).

    Returns:
        Colour (r, 3) over black, opacity (r,), the weighted sum of t (r,), and weights (r, n).
    """
    if density.ndim != 2 or t.shape != density.shape or color.shape != (*density.shape, 3):
        shapes = f"{tuple(density.shape)}, {tuple(color.shape)} and {tuple(t.shape)}"
        raise ValueError(f"composite_dense needs density (r, n), color (r, n, 3) and t (r, n); got {shapes}")
    end = torch.as_tensor(last, dtype=t.dtype, device=t.device).expand(len(t))[:, None]  # (r, 1)
    thickness = density * torch.cat([t.diff(dim=1), end], dim=1)  # (r, n)
    # a product of exponentials is that of a sum, whose gradient does not divide by what may be 0
    through = torch.exp(-pad(thickness[:, :-1].cumsum(1), (1, 0)))  # (r, n)
    weights = through * -torch.expm1(-thickness)  # (r, n)
    return (weights[..., None] * color).sum(1), weights.sum(1), (weights * t).sum(1), weights


def render_hierarchical(
    coarse: Field,
    fine: Field,
    background: Background | None,
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    coarse_count: int = 64,
    fine_count: int = 128,
    generator: torch.Generator | None = None,
    noise: float = 0.0,
) -> tuple[HierarchicalRendered, HierarchicalRendered]:
    """Render rays through two fields; both pictures are differentiable, each in its own field, and train it (eq. 6).

    Args:
        coarse: looked at in `coarse_count` places of a ray, one in each of as many equal intervals.
        fine: looked at in those and in `fine_count` more, drawn from the weights that the coarse ones got.
        background: colour of directions (r, 3), or a colour (3,) or (r, 3), or None for black.
        origins, directions: (r, 3) metres, and unit vectors.
        near, far: (r,) metres between which to look; a ray whose far is not above near sees the background alone.
        coarse_count: at least 3.
        fine_count: 0 or more.
        generator: of all that is random; without one, samples are where they always are.
        noise: deviation per metre of what is added to the density's number before its ReLU (appendix A: 1 in training
            on real scenes); only with a generator, and for a `FrequencyField`.

    Returns:
        What the coarse field sees, and what the fine one sees.
    """
    if coarse_count < 3 or fine_count < 0:
        raise ValueError(f"render_hierarchical needs 3 coarse samples or more; got {coarse_count} and {fine_count}")
    if noise and generator is None:
        raise ValueError("noise is drawn from a generator: give one, or leave the noise out")
    far = torch.maximum(near, far)
    last = ENDLESS * (far > near)  # (r,)

    def render(field: Field, t: Tensor) -> HierarchicalRendered:
        density, color = _look(field, origins, directions, t, noise, generator)
        seen, opacity, depth, weights = composite_dense(density, color, t, last.to(t))
        if background is not None:
            paint = background if isinstance(background, Tensor) else background(directions)
            seen = seen + (1 - opacity)[:, None] * paint.to(seen)
        depth = torch.where(opacity > FAINT, depth / opacity.clamp(min=FAINT), 0)
        return HierarchicalRendered(seen, opacity, depth, weights, t)

    t = stratified(near, far, coarse_count, generator)  # (r, coarse)
    first = render(coarse, t)
    # a weight is spread over the half intervals on both sides of its sample, so the outermost samples have none
    middles = (t[:, 1:] + t[:, :-1]) / 2
    more = sample_pdf(middles.detach(), first.weights[:, 1:-1].detach(), fine_count, generator)  # (r, fine)
    return first, render(fine, torch.cat([t, more], dim=1).sort(dim=1).values)


def _look(
    field: Field, origins: Tensor, directions: Tensor, t: Tensor, noise: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Density (r, n) and colour (r, n, 3) of a field at t (r, n) of rays."""
    x = (origins[:, None] + t[..., None] * directions[:, None]).reshape(-1, 3)  # (r n, 3)
    along = directions[:, None].expand(*t.shape, 3).reshape(-1, 3)  # (r n, 3)
    if noise:
        if not isinstance(field, FrequencyField):
            raise ValueError(f"noise goes before the ReLU of a FrequencyField; this is a {type(field).__name__}")
        assert generator is not None
        drawn = torch.randn(len(x), generator=generator, device=generator.device).to(x)
        density, color = field(x, along, noise * drawn)
    elif torch.is_grad_enabled() or len(x) <= PIECE:
        density, color = field(x, along)
    else:  # the layers of all points together may be more than fits into memory
        pieces = [field(*piece) for piece in zip(x.split(PIECE), along.split(PIECE), strict=True)]
        density, color = (torch.cat(part) for part in zip(*pieces, strict=True))
    return density.view(t.shape), color.view(*t.shape, 3)


def _index(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=like.dtype, device=like.device)


def _within(rays: int, count: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """(rays, count) uniform in [0, 1); a half without a generator."""
    if generator is None:
        return like.new_full((rays, count), 0.5)
    return torch.rand(rays, count, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
