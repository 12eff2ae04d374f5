"""Whole pictures of a field, a piece at a time, for looking at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from core2d.prior.cameras import Cameras
from gen3d.fields.contract import Field
from gen3d.render.occupancy import OccupancyGrid
from gen3d.render.volume import Background, Shader, render_rays

CHUNK = 1 << 14  # rays rendered together


@dataclass(frozen=True)
class Images:
    """Pictures from n cameras, row 0 at the top.

    Attributes:
        color: (n, 3, h, w) in [0, 1].
        opacity: (n, 1, h, w).
        depth: (n, 1, h, w) metres along the ray; 0 where nothing is seen.
        normal: (n, 3, h, w) in the world, as long as the pixel is opaque; None if not asked for.
    """

    color: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor | None


def camera_rays(cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (n h w, 3) of all pixels, camera after camera, row after row."""
    origins, directions = cameras.rays(height, width)  # (n, 3), (n, h, w, 3)
    origins = origins[:, None, None].expand_as(directions)
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


@torch.no_grad()
def render_images(
    field: Field,
    background: Background | None,
    cameras: Cameras,
    height: int,
    width: int,
    occupancy: OccupancyGrid,
    step: float,
    *,
    normals: bool = False,
    shade: Shader | None = None,
    chunk: int = CHUNK,
    prune: bool = True,
) -> Images:
    """Render pictures without gradient, `chunk` rays at a time; see `render_rays`. The background is one colour
    (3,) or a function of directions."""
    if isinstance(background, Tensor) and background.ndim != 1:
        raise ValueError(f"pictures need a background of one colour (3,) or a function; got {tuple(background.shape)}")
    origins, directions = camera_rays(cameras, height, width)
    rays = zip(origins.split(chunk), directions.split(chunk), strict=True)
    parts = [
        render_rays(field, background, start, along, occupancy, step, normals=normals, shade=shade, prune=prune)
        for start, along in rays
    ]

    def picture(pieces: list[Tensor]) -> Tensor:  # (rays, c) each -> (n, c, h, w)
        return rearrange(torch.cat(pieces), "(n h w) c -> n c h w", h=height, w=width)

    return Images(
        color=picture([part.color for part in parts]),
        opacity=picture([part.opacity[:, None] for part in parts]),
        depth=picture([part.depth[:, None] for part in parts]),
        normal=picture([part.normal for part in parts if part.normal is not None]) if normals else None,
    )
