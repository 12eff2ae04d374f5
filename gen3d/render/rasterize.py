"""A differentiable rasteriser: from the vertices of a mesh to pictures, and from pictures back to vertices.

    clip = to_clip(vertices, cameras)                                  # (b, v, 4)
    visible = rasterize(clip, faces, 256)                              # which triangle, and where on it
    uv = interpolate(uv_of_vertices, visible)                          # (b, h, w, 2)
    color = sample(texture, uv, footprint(uv_of_vertices, visible))    # (b, h, w, 3)
    picture = antialias(torch.where(visible.mask[..., None], color, background), visible)

The four steps are those of Laine et al. 2020, "Modular Primitives for High-Performance Differentiable Rendering"
(2011.03277), written from the paper. Colours have gradients to attributes and textures, and inside of triangles to
vertices, through the barycentric coordinates. That a silhouette moves shows in `antialias` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from core2d.kernels import raster
from core2d.prior.cameras import Cameras
from gen3d.kernels import mesh_raster


@dataclass(frozen=True)
class Visible:
    """What the pixels of b pictures of one mesh see; row 0 is the top.

    Attributes:
        clip: (b, v, 4) the vertices that were drawn.
        faces: (f, 3) int32.
        face: (b, h, w) int32 row of `faces`, -1 where nothing is seen.
        corners: (b, h, w, 3) int32 vertices of the triangle that is seen, -1 where none is.
        barycentric: (b, h, w, 3) perspective-correct, 0 where nothing is seen; differentiable in `clip`.
        depth: (b, h, w) metres along the view axis, inf where nothing is seen; without gradient. With one it is
            `interpolate(clip[..., 3:], visible)`.
        backend: of what is done with it.
    """

    clip: Tensor
    faces: Tensor
    face: Tensor
    corners: Tensor
    barycentric: Tensor
    depth: Tensor
    backend: str

    @property
    def mask(self) -> Tensor:
        """(b, h, w) bool: True where a triangle is seen."""
        return self.face >= 0


def to_clip(vertices: Tensor, cameras: Cameras, aspect: float = 1.0) -> Tensor:
    """(b, v, 4) clip-space positions of vertices (v, 3) in metres, for b cameras; `aspect` is width over height."""
    return pad(vertices, (0, 1), value=1.0) @ cameras.world_to_clip(aspect=aspect).to(vertices).mT


def rasterize(clip: Tensor, faces: Tensor, size: int | tuple[int, int], backend: str = "auto") -> Visible:
    """Find what each pixel sees of a mesh (paper, section 3.2).

    Args:
        clip: (b, v, 4) clip-space vertices, one set a picture: w is the distance along the view axis, x/w and y/w lie
            in [-1, 1] inside the picture, y up.
        faces: (f, 3) rows of the vertices. For silhouettes, triangles that touch must share vertices.
        size: pixels of a side, or (height, width).
        backend: "torch", "numba", or "auto": Numba on the CPU, elsewhere and for float64 torch. On CUDA, "auto" leaves
            it to Triton to find the triangles.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown.
    """
    if clip.ndim != 3 or clip.shape[2] != 4 or faces.ndim != 2 or faces.shape[1] != 3:
        shapes = f"{tuple(clip.shape)} and {tuple(faces.shape)}"
        raise ValueError(f"rasterize needs clip (b, v, 4) and faces (f, 3); got {shapes}")
    return see(clip, faces.int(), find(clip, faces, size, backend), backend)


@torch.no_grad()
def find(clip: Tensor, faces: Tensor, size: int | tuple[int, int], backend: str = "auto") -> raster.Fragments:
    """The part of `rasterize` that has no gradient: which triangle each pixel sees, as rows of `faces`."""
    height, width = (size, size) if isinstance(size, int) else size
    images, vertices = clip.shape[:2]
    each = torch.arange(images, device=faces.device, dtype=torch.int32)  # (b,)
    packed = (faces.int() + each[:, None, None] * vertices).flatten(0, 1)  # (b f, 3): each picture has its own vertices
    offsets = torch.arange(images + 1, device=faces.device, dtype=torch.int32) * len(faces)
    found = raster.rasterize(clip.detach().reshape(-1, 4), packed, offsets, height, width, backend)
    face = torch.where(found.mask, found.face - each[:, None, None] * len(faces), -1)  # (b, h, w)
    return raster.Fragments(face, found.barycentric, found.depth)


def see(clip: Tensor, faces: Tensor, found: raster.Fragments, backend: str = "auto") -> Visible:
    """The part of `rasterize` that has a gradient: `found`, with barycentric coordinates that know the vertices."""
    corners = _corners(found.face, faces)  # (b, h, w, 3)
    barycentric = mesh_raster.barycentrics(clip, corners, found.barycentric, backend)
    return Visible(clip, faces, found.face, corners, barycentric, found.depth, backend)


def interpolate(attributes: Tensor, visible: Visible, faces: Tensor | None = None) -> Tensor:
    """Blend what the vertices carry over the triangles that are seen (section 3.3).

    Args:
        attributes: (v, c), or (b, v, c) if each picture has its own.
        visible: of `rasterize`.
        faces: (f, 3) rows of the attributes, where they are split otherwise than the vertices: along seams of UV.

    Returns:
        (b, h, w, c), 0 where nothing is seen; differentiable in the attributes and in the vertices.
    """
    rows, table = _rows(attributes, visible, faces)
    blended = mesh_raster.blend(table, rows, visible.barycentric.flatten(0, 2).to(table), visible.backend)
    return blended.unflatten(0, visible.face.shape)


@torch.no_grad()
def footprint(attributes: Tensor, visible: Visible, faces: Tensor | None = None) -> Tensor:
    """How fast interpolated attributes change with a pixel to the right, and with one down; without gradient.

    Args: as of `interpolate`.

    Returns:
        (b, h, w, c, 2).
    """
    rows, table = _rows(attributes.detach(), visible, faces)
    slopes = mesh_raster.slopes(visible.clip, visible.corners, visible.backend).flatten(0, 2).to(table)  # (n, 3, 2)
    columns = [mesh_raster.blend(table, rows, slope.contiguous(), visible.backend) for slope in slopes.unbind(2)]
    return torch.stack(columns, -1).unflatten(0, visible.face.shape)


def sample(texture: Tensor, uv: Tensor, uv_footprint: Tensor | None = None, backend: str = "auto") -> Tensor:
    """Look a texture up, blended over about the area of a pixel (section 3.4).

    Levels of a pyramid, each of half the size, are blended by the longer axis of a pixel's ellipse in the texture, and
    each is looked up bilinearly. The border texels go on for ever.

    Args:
        texture: (h, w, c), row 0 at the top.
        uv: (..., 2) from the top left corner, 1 at the bottom right.
        uv_footprint: (..., 2, 2) of `footprint`; without it the texture itself is looked up, however small it appears.
        backend: as of `rasterize`.

    Returns:
        (..., c), differentiable in the texture and, but for the choice of levels, in uv.
    """
    if texture.ndim != 3 or uv.shape[-1] != 2 or (uv_footprint is not None and uv_footprint.shape != (*uv.shape, 2)):
        shapes = [None if given is None else tuple(given.shape) for given in (texture, uv, uv_footprint)]
        raise ValueError(f"sample needs texture (h, w, c), uv (..., 2), uv_footprint (..., 2, 2); got {shapes}")
    levels = [texture] if uv_footprint is None else pyramid(texture)
    sizes = torch.tensor([level.shape[1::-1] for level in levels], dtype=torch.int32)  # (l, 2) width, height
    starts = sizes.prod(1, dtype=torch.int32).cumsum(0, dtype=torch.int32).roll(1)  # (l,)
    starts[0] = 0
    table = torch.cat([level.flatten(0, 1) for level in levels])  # (m, c)
    points = uv.reshape(-1, 2)  # (n, 2)
    pixel = points.new_zeros(len(points), 2, 2) if uv_footprint is None else uv_footprint.reshape(-1, 2, 2)
    layout = torch.cat([sizes, starts[:, None]], 1).to(table.device)  # (l, 3)
    return mesh_raster.look_up(table, layout, points, pixel, backend).unflatten(0, uv.shape[:-1])


def antialias(image: Tensor, visible: Visible) -> Tensor:
    """Mix pixels along silhouettes by how much of them the surface in front covers (section 3.5).

    Where two neighbours see different triangles, and the surface of the nearer one ends between their centres, the one
    that the edge is farther into takes part of the other's colour. This is the only step through which a picture has
    a gradient to where silhouettes are. The paper looks for the edge in the triangle that is seen alone; here it is
    looked for on the way from one centre to the other, since at the rim of round things triangles are narrower than a
    pixel.

    Args:
        image: (b, h, w, c), background included.
        visible: of `rasterize`.

    Returns:
        (b, h, w, c), differentiable in the image and in the vertices.
    """
    if image.ndim != 4 or image.shape[:3] != visible.face.shape:
        raise ValueError(f"antialias needs an image {tuple(visible.face.shape)} of c numbers; got {tuple(image.shape)}")
    across = mesh_raster.across_edges(visible.faces, visible.backend)
    seen = visible.face, visible.depth
    return mesh_raster.antialias(image, visible.clip, visible.faces, across, *seen, visible.backend)


def pyramid(texture: Tensor) -> list[Tensor]:
    """A texture (h, w, c) and its means over blocks of two by two, again and again down to one texel."""
    levels = [texture]
    while max(size := levels[-1].shape[:2]) > 1:
        half = max(1, size[0] // 2), max(1, size[1] // 2)
        levels.append(adaptive_avg_pool2d(levels[-1].movedim(-1, 0), half).movedim(0, -1))
    return levels


def _rows(attributes: Tensor, visible: Visible, faces: Tensor | None) -> tuple[Tensor, Tensor]:
    """For each pixel the three rows (b h w, 3) of a table (m, c) of the attributes of all pictures."""
    images = len(visible.face)
    if attributes.ndim not in (2, 3) or (attributes.ndim == 3 and len(attributes) != images):
        shape = tuple(attributes.shape)
        raise ValueError(f"attributes of {images} pictures are (v, c) or ({images}, v, c), not {shape}")
    corners = visible.corners if faces is None else _corners(visible.face, faces.int())
    if attributes.ndim == 3:
        each = torch.arange(images, device=corners.device, dtype=torch.int32) * attributes.shape[1]
        corners = torch.where(corners < 0, -1, corners + each[:, None, None, None])
        attributes = attributes.flatten(0, 1)
    return corners.flatten(0, 2), attributes


def _corners(face: Tensor, faces: Tensor) -> Tensor:
    """(b, h, w, 3) int32 rows of `faces`, -1 where `face` (b, h, w) is -1."""
    with_none = pad(faces, (0, 0, 0, 1), value=-1)  # (f + 1, 3): -1 is the last row
    return with_none[face.long()]
