"""How good a solid made from one picture is, against the true body: the numbers of the suite.

All of it is in the frame of the picture: azimuth 0 is where that was taken. Volumes and surfaces are compared in the
unit box, since one picture does not tell size and distance.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core2d.media.pictures import to_uint8
from core2d.prior.cameras import Cameras, degrees, orbit
from core2d.toybox.sample import mesh_of
from gen3d.data.single_picture import resample
from gen3d.mesh import TexturedMesh, build_mesh, render_mesh
from gen3d.shaping.model import BOUND
from gen3d.toybox.mesh_scores import chamfer, in_unit_box, surface_points
from gen3d.toybox.view_scores import SEEN_FROM, VIEWS, Case, foreground_psnr

SIDE = 24  # points along each side of the unit box
AT_ONCE = 256  # points whose angles to all faces are held together


def solid_scores(found: TexturedMesh, case: Case) -> dict[str, float]:
    """`volume_iou`; `chamfer` (two-sided mean, unsquared); `psnr` of the foreground of the 11 unseen views, in dB."""
    vertices, faces = true_body(case)
    first, second = in_unit_box(found.vertices), in_unit_box(vertices)
    points = [surface_points(first, found.faces), surface_points(second, faces, seed=1)]
    ours, true = inside(first, found.faces), inside(second, faces)
    pictures = render_mesh(found, unseen_cameras(case), case.picture.shape[-1], lighted=False)[:, :3]
    return {
        "volume_iou": float((ours & true).sum() / (ours | true).sum().clamp(min=1)),
        "chamfer": chamfer(*points),
        "psnr": foreground_psnr(pictures, case.truth[1:], case.masks[1:]).mean().item(),
    }


def true_body(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3) and faces (f, 3), turned so that the picture was taken from azimuth 0."""
    body = mesh_of(case.body)
    turn = float(case.source.azimuth[0]) + case.body.yaw
    cos, sin = math.cos(turn), math.sin(turn)
    back = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(body.vertices) @ back.T, np.asarray(body.faces)


def unseen_cameras(case: Case) -> Cameras:
    """Of all true renders but the first, which is from the azimuth of the picture."""
    azimuths = degrees([360.0 * i / VIEWS for i in range(1, VIEWS)])
    return orbit(azimuths, degrees(SEEN_FROM), float(case.cameras.radius[0]), float(case.cameras.fov_y[0]))


def inside(vertices: np.ndarray, faces: np.ndarray) -> Tensor:
    """(SIDE ** 3,) bool: which points of a grid over the unit box a surface winds around, see `winding`."""
    line = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    points = torch.cartesian_prod(line, line, line)
    corners = torch.from_numpy(np.ascontiguousarray(vertices[faces], np.float32))
    return torch.cat([winding(some, corners) for some in points.split(AT_ONCE)]) > 0.5


def winding(points: Tensor, corners: Tensor) -> Tensor:
    """(n,) how often closed surfaces wind around points (n, 3): 0 outside, more than 1 where parts overlap.

    The sum of the solid angles (Van Oosterom and Strackee 1983) of faces (f, 3, 3), as in Jacobson et al. 2013.
    """
    a, b, c = (corners[None] - points[:, None, None]).unbind(2)  # (n, f, 3) each
    la, lb, lc = a.norm(dim=2), b.norm(dim=2), c.norm(dim=2)
    volume = (a * torch.linalg.cross(b, c)).sum(2)
    rest = la * lb * lc + (a * b).sum(2) * lc + (b * c).sum(2) * la + (c * a).sum(2) * lb
    return torch.atan2(volume, rest).sum(1) / (2 * math.pi)


def extruded(case: Case, mask: Tensor) -> TexturedMesh:
    """The baseline: the silhouette (s, s) of the picture pulled along the line of sight, as deep as it is wide on
    average, in the colours of the object, which go on beyond its edge."""
    camera = orbit(0.0, float(case.source.elevation[0]), float(case.source.radius[0]), float(case.source.fov_y[0]))
    right, up, forward = camera.camera_to_world[0, :3, :3].unbind(1)
    focal = 1 / math.tan(float(camera.fov_y[0]) / 2) / float(camera.radius[0])
    solid = (mask > 0.5).float()
    colors = torch.from_numpy(resample(to_uint8(case.cutout[None])[0], (0, 0), 1, mask.shape[-1]))[
        :3
    ]  # no white at edges
    half = float(solid.sum().sqrt() / mask.shape[-1] / focal)  # half the side of a square of the same area

    def at(layers: Tensor, points: Tensor) -> Tensor:
        places = torch.stack([points @ right, -(points @ up)], dim=1) * focal  # (n, 2) x right, y down
        return F.grid_sample(layers[None], places[None, None], align_corners=False)[0, :, 0].T  # (n, c)

    def density(points: Tensor) -> Tensor:
        return 100 * at(solid[None], points)[:, 0] * ((points @ forward).abs() < half)

    bounds = torch.tensor([[-BOUND] * 3, [BOUND] * 3])
    return build_mesh(density, lambda points: at(colors, points), bounds, resolution=80, texture_size=512)[0]
