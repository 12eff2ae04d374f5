"""What comes out of a run of NeRF: meshes, points, data sets and films. The work behind `gen3d export` and `render`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core2d.app.devices import pick_device
from core2d.app.errors import InputError
from core2d.media.pictures import to_uint8
from core2d.media.videos import write_video
from core2d.prior.cameras import Cameras, degrees, orbit
from gen3d.data.paths import CameraPath, lens_of_view, read_path
from gen3d.data.photographs import Photographs
from gen3d.data.pictures import Split
from gen3d.data.write import write_point_cloud, write_transforms
from gen3d.mesh import TexturedMesh, build_mesh, save_mesh
from gen3d.mesh.build import Build
from gen3d.mesh.pictures import save_views
from gen3d.nerf.command import NerfRun, load_run
from gen3d.nerf.task import BACKGROUNDS, see_in_pieces
from gen3d.results.recipe import ExportRecipe, RenderRecipe

Result = tuple[list[Path], Mapping[str, Any]]

MESH_RESOLUTION, TEXTURE_SIZE, FACES = 160, 1024, 60_000
POINTS = 200_000
SOLID = 0.5  # opacity of a ray from which on it hits something
ORBIT_FRAMES, ORBIT_FPS = 96, 24.0


def export_scene(recipe: ExportRecipe) -> Result:
    """Follow `gen3d export` of a run of NeRF."""
    found = load_run(recipe.source, pick_device(recipe.device))
    if recipe.kind == "transforms":
        return [copy_scene(recipe.output, found)], {"views": len(found.scene.views)}
    box = None if recipe.box is None else torch.tensor(recipe.box).view(2, 3)
    if recipe.kind == "points":
        points, colors, normals = surface_points(found, POINTS, box, recipe.seed)
        return [write_point_cloud(recipe.output, points, colors, normals)], {"points": len(points)}
    mesh, build = mesh_of_scene(found, box)
    if recipe.colors == "vertices":
        mesh = TexturedMesh(mesh.vertices, mesh.faces, colors=mesh.vertex_colors())
    report = build.report
    facts = {"faces": report.faces, "watertight": report.watertight, "bodies": report.bodies}
    return save_mesh(recipe.output, mesh), {**facts, "dropped_share": build.cleaning.dropped_share}


def render_scene(recipe: RenderRecipe) -> Result:
    """Follow `gen3d render` of a run of NeRF: a film along a path, or pictures from sides that are named."""
    if recipe.turntable is not None:
        raise InputError(f"{recipe.source} is a run of gen3d nerf: film it with --path orbit -o {recipe.turntable}")
    assert recipe.output is not None
    found = load_run(recipe.source, pick_device(recipe.device))
    if recipe.path is None:
        path = orbit_of_scene(found, degrees(list(recipe.azimuth)), math.radians(recipe.elevation), recipe.size)
        return [save_views(recipe.output, pictures_along(found, path))], {"views": len(path.lenses)}
    if recipe.path == "orbit":
        turn = torch.linspace(0, 2 * math.pi, ORBIT_FRAMES + 1)[:-1]
        path = orbit_of_scene(found, turn, math.radians(recipe.elevation), recipe.size)
    else:
        path = read_path(Path(recipe.path))
        path = replace(path, camera_to_world=found.placement.apply_cameras(path.camera_to_world))
    fps = Fraction(path.fps).limit_denominator(1001)
    return [write_video(recipe.output, pictures_along(found, path), fps)], {"frames": len(path.lenses)}


# -- cameras ---------------------------------------------------------------------------------------------------


def orbit_of_scene(run: NerfRun, azimuth: Tensor, elevation: float, size: int) -> CameraPath:
    """Cameras around the middle of model space, as far away as those of the photographs, which say where up is.

    Args:
        azimuth: (n,) radians.
        elevation: radians.
        size: pixels of a side.
    """
    taken = run.photographs("train").camera_to_world
    upright = turn_to(normalize(taken[:, :3, 1].mean(0), dim=0))
    radius = float(taken[:, :3, 3].norm(dim=1).median())
    lens = run.scene.of("train")[0].lens
    fov = 2 * math.atan(lens.height / (2 * lens.fy))
    around = orbit(azimuth, elevation, radius, fov).camera_to_world
    turned = torch.eye(4)
    turned[:3, :3] = upright
    return CameraPath(turned @ around, (lens_of_view(fov, size, size),) * len(around), ORBIT_FPS)


def turn_to(up: Tensor) -> Tensor:
    """(3, 3) the smallest rotation that takes +Z to the unit vector `up` (3,)."""
    axis = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), up)
    if axis.norm() < 1e-6:
        return torch.eye(3) if up[2] > 0 else torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    angle = torch.atan2(axis.norm(), up[2])
    x, y, z = (axis / axis.norm() * angle).tolist()
    return torch.linalg.matrix_exp(torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))


def pictures_along(run: NerfRun, path: CameraPath) -> Iterator[np.ndarray]:
    """uint8 (h, w, 3) from each camera of a path in model space, one after the other."""
    behind = torch.full((3,), BACKGROUNDS[run.recipe.background])
    for matrix, lens in zip(path.camera_to_world, path.lenses, strict=True):
        across, down = torch.arange(lens.width) + 0.5, torch.arange(lens.height) + 0.5
        pixels = torch.cartesian_prod(down, across).flip(1)  # (h w, 2) x, y
        directions = lens.directions(pixels) @ matrix[:3, :3].T  # (h w, 3)
        origins = matrix[:3, 3].expand_as(directions)
        seen = torch.cat([part.color for part in see_in_pieces(run.model, origins, directions, behind)])
        yield to_uint8(seen.clamp(0, 1).T.unflatten(1, (lens.height, lens.width)))


# -- surfaces --------------------------------------------------------------------------------------------------


def mesh_of_scene(run: NerfRun, box: Tensor | None = None) -> tuple[TexturedMesh, Build]:
    """The surface of what lies in the box (2, 3), in the scene's units; by default in the model's cube [-1, 1]^3.

    Its colour is what a camera sees that looks straight at it.
    """
    field = run.model.field
    device = next(run.model.parameters()).device
    bounds = torch.tensor([[-1.0] * 3, [1.0] * 3]) if box is None else run.placement.to_model(box).float()

    def color(x: Tensor) -> Tensor:
        return field.color(x, -surface_normal(run, x))

    mesh, build = build_mesh(field.density, color, bounds.to(device), MESH_RESOLUTION, FACES, TEXTURE_SIZE)
    vertices = run.placement.to_world(torch.from_numpy(mesh.vertices).double()).float().numpy()
    return replace(mesh, vertices=vertices), build


def surface_normal(run: NerfRun, x: Tensor) -> Tensor:
    """(n, 3) unit normals of the field at x (n, 3) in model space."""
    return run.model.field.normal(x)


@torch.no_grad()
def surface_points(
    run: NerfRun, count: int, box: Tensor | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays of the training views, drawn at random, meet something: in the scene's units.

    Returns:
        points (n, 3) float32, colours (n, 3) uint8 and unit normals (n, 3) float32, n at most `count`.

    Raises:
        InputError: no ray met anything.
    """
    photographs = run.photographs("train")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(photographs.pixels), (4 * count,), generator=generator)
    origins, directions = photographs.rays(rows)
    seen = list(see_in_pieces(run.model, origins, directions, torch.ones(3)))
    depth = torch.cat([part.depth for part in seen])
    model_points = origins + depth[:, None] * directions
    points = run.placement.to_world(model_points.double())
    hit = torch.cat([part.opacity for part in seen]) > SOLID
    if box is not None:
        hit &= ((points >= box[0]) & (points <= box[1])).all(1)
    chosen = hit.nonzero()[:count, 0]
    if not len(chosen):
        raise InputError(f"{run.folder} has no surface there: train it for longer, or name another --box")
    colors = torch.cat([part.color for part in seen])[chosen]
    device = next(run.model.parameters()).device
    normals = torch.cat([surface_normal(run, part.to(device)).cpu() for part in model_points[chosen].split(1 << 16)])
    rgb = (colors.clamp(0, 1) * 255).round().byte().numpy()
    return points[chosen].float().numpy(), rgb, normals.float().numpy()


def copy_scene(folder: Path, run: NerfRun) -> Path:
    """The photographs, as they were learned from, and cameras of a run as a nerfstudio data set."""
    alone = (Photographs([view]) for view in run.scene.views)  # one at a time: all may be more than memory holds
    pictures = (one.pixels[:, : 4 if one.has_alpha else 3].view(*one.size_of(0), -1).numpy() for one in alone)
    return write_transforms(folder, run.scene.views, pictures)


def cameras_of(run: NerfRun, split: Split) -> Cameras:
    """Those of a split, in the scene's world, without their lenses' distortion."""
    views = run.scene.of(split)
    matrices = torch.from_numpy(np.stack([view.camera_to_world for view in views])).float()
    fov = [2 * math.atan(view.lens.height / (2 * view.lens.fy)) for view in views]
    return Cameras(matrices, torch.tensor(fov))
