"""Deep marching tetrahedra (Shen et al. 2021, 2111.04276): a surface that can be optimised through its own triangles.

A lattice of tetrahedra carries a signed distance and a small shift at each vertex. Where the distance changes its sign
along an edge, the surface has a vertex, which moves with both. The lattice is body-centred cubic: the corners and the
centres of cubes, and all tetrahedra inside of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from core2d.app.errors import InputError

Distance = Callable[[Tensor], Tensor]  # points (n, 3) to signed distances (n,) in metres, negative inside

CHUNK = 1 << 18  # points that are asked for together
FURTHEST = 0.2  # of a cube's side, along each axis: with less than 0.204 no tetrahedron can turn over
NUDGE = 1e-4  # of a cube's side: a distance nearer to 0 would make triangles without area
EDGES = tuple(combinations(range(4), 2))  # of a tetrahedron, by its corners


class Tetrahedra(nn.Module):
    """A cube of tetrahedra with a surface in it.

    Args:
        cells: cubes along a side, at least 2; there are about 2 cells^3 vertices and 12 cells^3 tetrahedra.
        bound: half the side in metres.

    Attributes:
        distance: (n,) signed distances at the vertices in metres, negative inside; a parameter.
        shift: (n, 3) a parameter: tanh of it, times a fifth of a cube's side, moves the vertex. Those on the outside of
            the lattice stay.
        places: (n, 3) metres, where vertices without a shift are.
        corners: (t, 4) int64 rows of vertices; (b - a) x (c - a) . (d - a) is positive.
    """

    places: Tensor
    corners: Tensor
    free: Tensor

    def __init__(self, cells: int, bound: float = 1.0) -> None:
        super().__init__()
        if cells < 2 or bound <= 0:
            raise ValueError(f"a lattice needs 2 cells or more and a size; got {cells} and {bound}")
        self.spacing = 2 * bound / cells
        places, corners = lattice(cells)
        self.register_buffer("places", places * self.spacing - bound, persistent=False)
        self.register_buffer("corners", corners, persistent=False)
        inside = ((places > 0) & (places < cells)).all(1)  # (n,)
        self.register_buffer("free", (inside * FURTHEST * self.spacing)[:, None], persistent=False)  # (n, 1)
        self.distance = nn.Parameter(self.places.norm(dim=1) - bound / 2)
        self.shift = nn.Parameter(torch.zeros_like(self.places))

    @torch.no_grad()
    def start_from(self, distance: Distance) -> None:
        """Take over a signed distance, and undo all shifts.

        Raises:
            InputError: it has no surface in the lattice, or is not finite.
        """
        found = torch.cat([distance(points) for points in self.places.split(CHUNK)]).to(self.distance)
        if not found.isfinite().all():
            raise InputError("the signed distance is NaN or infinite somewhere: its training diverged")
        if bool((found < 0).all()) or bool((found >= 0).all()):
            raise InputError("the signed distance has no surface in the lattice: its sign is the same everywhere")
        self.distance.copy_(found)
        self.shift.zero_()

    def forward(self) -> tuple[Tensor, Tensor]:
        """The surface: vertices (v, 3) in metres, and faces (f, 3) int32, counter-clockwise seen from outside.

        Raises:
            InputError: nothing is left of it.
        """
        vertices = self.places + self.shift.tanh() * self.free
        return marching_tetrahedra(vertices, self.distance, self.corners, NUDGE * self.spacing)


def marching_tetrahedra(
    vertices: Tensor, distance: Tensor, corners: Tensor, nudge: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The surface between the vertices of tetrahedra that are inside and those that are not (2111.04276, section 3.1).

    Args:
        vertices: (n, 3).
        distance: (n,) negative inside, and there alone.
        corners: (t, 4) int64 rows of the vertices, as of `Tetrahedra`.
        nudge: distances nearer to 0 than this are seen as if they were this far away.

    Returns:
        Surface vertices (v, 3), differentiable in vertices and distance, each on its own edge of the lattice; and faces
        (f, 3) int32, counter-clockwise seen from outside. Closed, but for where it leaves the lattice.

    Raises:
        InputError: all is inside, or nothing.
    """
    away = torch.where(distance < 0, -nudge, nudge)  # (n,)
    distance = torch.where(distance.abs() < nudge, distance + (away - distance).detach(), distance)
    inside = distance < 0  # (n,)
    pattern = (inside[corners] * torch.tensor([1, 2, 4, 8], device=corners.device)).sum(1)  # (t,) row of TRIANGLES
    crossed = ((pattern > 0) & (pattern < 15)).nonzero()[:, 0]  # (m,)
    if not len(crossed):
        raise InputError("nothing is left of the surface: the distance has one sign in the whole lattice")
    ends = corners[crossed][:, torch.tensor(EDGES, device=corners.device)]  # (m, 6, 2)
    low, high = ends.amin(2), ends.amax(2)  # (m, 6)
    keys = low * len(vertices) + high  # (m, 6) the same for all tetrahedra around an edge
    edges = torch.tensor(TRIANGLES, device=corners.device)[pattern[crossed]]  # (m, 2, 3) of each triangle's corners
    owner, which = (edges[..., 0] >= 0).nonzero(as_tuple=True)  # (f,) each: one triangle or two
    used, faces = keys[owner[:, None], edges[owner, which]].unique(return_inverse=True)  # (v,), (f, 3)
    start, end = used // len(vertices), used % len(vertices)  # (v,) each
    part = (distance[start] / (distance[start] - distance[end]))[:, None]  # (v, 1) of the way, in [0, 1]
    return torch.lerp(vertices[start], vertices[end], part), faces.int()


def lattice(cells: int) -> tuple[Tensor, Tensor]:
    """The body-centred cubic lattice: vertices (n, 3) in cells from the low corner, and tetrahedra (t, 4) int64.

    Around each edge of each square that two cubes share stand both centres: a tetrahedron. On the outside there is one
    centre, and the square is cut in two.
    """
    count = cells + 1
    axis = torch.arange(count)
    corners = torch.cartesian_prod(axis, axis, axis).float()  # (count^3, 3)
    centers = torch.cartesian_prod(*[axis[:cells]] * 3).float() + 0.5  # (cells^3, 3)
    corner = torch.arange(count**3).view(count, count, count)
    center = count**3 + torch.arange(cells**3).view(cells, cells, cells)
    found = []
    for direction in range(3):
        others = [other for other in range(3) if other != direction]
        across = corner.permute(direction, *others)  # (count, count, count): layers of squares
        square = torch.stack([across[:, :-1, :-1], across[:, 1:, :-1], across[:, 1:, 1:], across[:, :-1, 1:]], -1)
        middle = center.permute(direction, *others)  # (cells, cells, cells)
        below, above = middle[:-1].flatten(), middle[1:].flatten()  # on both sides of the squares inside
        inner = square[1:-1].reshape(-1, 4)
        found += [torch.stack([below, above, inner[:, k], inner[:, (k + 1) % 4]], 1) for k in range(4)]
        for layer, beside in ((square[0], middle[0]), (square[-1], middle[-1])):
            outer = layer.reshape(-1, 4)
            found += [torch.stack([beside.flatten(), outer[:, 0], outer[:, k], outer[:, k + 1]], 1) for k in (1, 2)]
    vertices, tetrahedra = torch.cat([corners, centers]), torch.cat(found)
    a, b, c, d = vertices[tetrahedra].unbind(1)
    turned = ((b - a).cross(c - a, dim=1) * (d - a)).sum(1) < 0  # (t,)
    tetrahedra[turned] = tetrahedra[turned][:, [0, 1, 3, 2]]
    return vertices, tetrahedra


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(v, 3) unit normals, the mean over the faces around by area; differentiable. Faces (f, 3)."""
    rows = faces.long()
    crosses = _crosses(vertices, rows).repeat_interleave(3, 0)  # (3f, 3)
    return normalize(torch.zeros_like(vertices).index_add(0, rows.flatten(), crosses), dim=1)


def normal_consistency(vertices: Tensor, faces: Tensor) -> Tensor:
    """How much a surface bends: the mean over its edges of 1 - cos between the normals of the faces at both sides."""
    rows = faces.long()  # (f, 3)
    normals = normalize(_crosses(vertices, rows), dim=1)  # (f, 3)
    start, end = rows.flatten(), rows.roll(-1, 1).flatten()  # (3f,) of each edge of each face
    keys, order = (torch.minimum(start, end) * len(vertices) + torch.maximum(start, end)).sort()  # (3f,) each
    same = (keys[1:] == keys[:-1]).nonzero()[:, 0]  # (e,) uses of one edge have become neighbours
    return (1 - (normals[order[same] // 3] * normals[order[same + 1] // 3]).sum(1)).mean()


def _crosses(vertices: Tensor, rows: Tensor) -> Tensor:
    """(f, 3) normals as long as twice the area."""
    a, b, c = vertices[rows].unbind(1)  # (f, 3) each
    return (b - a).cross(c - a, dim=1)


def _triangles() -> list[list[list[int]]]:
    """For each pattern of corners inside, up to two triangles of edges, turned outward; -1 where there is none.

    Found on one tetrahedron by turning what looks inward.
    """
    places = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    middles = torch.stack([(places[i] + places[j]) / 2 for i, j in EDGES])  # (6, 3)
    table = []
    for pattern in range(16):
        inside = [k for k in range(4) if pattern >> k & 1]
        outside = [k for k in range(4) if k not in inside]
        crossed = [EDGES.index((min(i, o), max(i, o))) for i in inside for o in outside]
        if len(crossed) == 4:  # two corners each: a square, whose corners come one after the other around it
            crossed = [crossed[k] for k in (0, 1, 3, 2)]
        triangles = [[crossed[0], crossed[k], crossed[k + 1]] for k in range(1, len(crossed) - 1)]
        for triangle in triangles:
            a, b, c = middles[triangle]
            outward = places[outside].mean(0) - places[inside].mean(0)
            if (b - a).cross(c - a, dim=0) @ outward < 0:
                triangle.reverse()
        table.append((triangles + [[-1] * 3] * 2)[:2])
    return table


TRIANGLES = _triangles()
