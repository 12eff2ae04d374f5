"""Pictures of a mesh, in the light of Toybox: previews, turntables, and what judges see."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, normalize

from core2d.kernels.raster import Fragments, interpolate, rasterize
from core2d.prior.cameras import Cameras
from core2d.toybox.light import lit
from gen3d.mesh.mesh import TexturedMesh

WHITE = (1.0, 1.0, 1.0)
PLAIN = 0.8  # grey of a mesh without colours


def render_mesh(
    mesh: TexturedMesh,
    cameras: Cameras,
    size: int = 256,
    supersampling: int = 2,
    background: tuple[float, float, float] = WHITE,
    lighted: bool = True,
) -> Tensor:
    """Draw a mesh under the world-fixed light of Toybox, on the device of the cameras.

    Args:
        mesh: with a texture, colours per vertex, or neither (grey).
        cameras: n of them.
        size: pixels along each side.
        supersampling: samples along each side of a pixel.
        background: sRGB behind the mesh.
        lighted: False draws its colours as they are, where light is already in them.

    Returns:
        (n, 4, size, size) float in [0, 1]: colour over the background, and coverage.
    """
    device = cameras.camera_to_world.device
    vertices = torch.from_numpy(mesh.vertices).to(device)
    faces = torch.from_numpy(mesh.faces).to(device)
    normals = torch.from_numpy(mesh.normals()).to(device)
    behind = torch.tensor(background, device=device)
    homogeneous = torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1)  # (v, 4)
    samples, offsets = size * supersampling, torch.tensor([0, len(faces)], dtype=torch.int32, device=device)
    pictures = []
    for matrix in cameras.world_to_clip():
        seen = rasterize(homogeneous @ matrix.T, faces, offsets, samples, samples)
        normal = normalize(interpolate(normals, faces, seen), dim=-1)  # (1, h, w, 3)
        light = lit(normal) if lighted else 1.0
        shade = torch.where(seen.mask[..., None], _albedo(mesh, faces, seen) * light, behind)  # (1, h, w, 3)
        layers = torch.cat([shade, seen.mask[..., None].to(shade)], -1).movedim(-1, 1)  # (1, 4, h, w)
        pictures.append(avg_pool2d(layers, supersampling))
    return torch.cat(pictures).clamp(0, 1)


def render_depth(mesh: TexturedMesh, cameras: Cameras, height: int, width: int, supersampling: int = 2) -> Tensor:
    """(n, height, width) distances along the view axis in metres, infinite where nothing is, as Toybox's `render` has
    them: the mean over the covered part of a pixel.
    """
    device = cameras.camera_to_world.device
    vertices = torch.from_numpy(mesh.vertices).to(device)
    faces = torch.from_numpy(mesh.faces).to(device)
    homogeneous = torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1)  # (v, 4)
    offsets = torch.tensor([0, len(faces)], dtype=torch.int32, device=device)
    found = []
    for matrix in cameras.world_to_clip(aspect=width / height):
        seen = rasterize(homogeneous @ matrix.T, faces, offsets, height * supersampling, width * supersampling)
        there = seen.mask.to(vertices)  # (1, h, w)
        distance = torch.where(seen.mask, seen.depth, 0.0)
        total, covered = (avg_pool2d(one, supersampling) for one in (distance, there))
        found.append(torch.where(covered > 0, total / covered.clamp(min=1e-6), torch.inf))
    return torch.cat(found)


def _albedo(mesh: TexturedMesh, faces: Tensor, seen: Fragments) -> Tensor:
    """(1, h, w, 3) colours without light."""
    if mesh.texture is not None and mesh.uv is not None:
        texture = torch.from_numpy(mesh.texture).to(faces.device).movedim(-1, 0)[None] / 255  # (1, 3, h, w)
        uv = interpolate(torch.from_numpy(mesh.uv).to(faces.device), faces, seen)  # (1, h, w, 2)
        # bilinear between texel centres, as renderers do
        found = grid_sample(texture, uv * 2 - 1, padding_mode="border", align_corners=False)
        return found.movedim(1, -1)
    if mesh.colors is not None:
        return interpolate(torch.from_numpy(mesh.colors).to(faces.device) / 255, faces, seen)
    return torch.full((*seen.mask.shape, 3), PLAIN, device=faces.device)
