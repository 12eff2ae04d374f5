"""How good meshes are: what `scripts/evaluate.py --suite mesh` says of each.

A mesh is drawn from eight fixed sides in the light of Toybox, and the picture judge says what it sees there; its
surface is held against true shapes of the same class. Nothing here makes meshes, and nothing here chooses among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import trimesh
from scipy.spatial import KDTree
from torch import Tensor

from core2d.prior.cameras import Cameras, degrees, orbit
from core2d.prior.oracle import OracleBackbone
from core2d.toybox import world
from core2d.toybox.captions import background_phrase
from core2d.toybox.judge import REJECT, SIZE, PictureJudge, Verdict
from core2d.toybox.render import render
from core2d.toybox.sample import mesh_of
from core2d.toybox.scene import Scene, View, plain, portrait
from gen3d.mesh import MeshReport, TexturedMesh, check_mesh, render_mesh

AZIMUTHS = tuple(45.0 * i for i in range(8))  # degrees, of the views that are judged: front, 45, left side, ...
ELEVATION = 20.0  # degrees
RADIUS = sum(world.CAMERA_RADIUS) / 2  # metres
ENOUGH = 5  # of the eight views: then a mesh is right
FRONT, BEHIND = 0, (3, 4, 5)  # views at azimuth 0, and at 135, 180 and 225 degrees
POINTS = 2048  # on each surface that is compared
SHAPES = 200  # true ones of a class
ORACLE_SIDES = 32
ORACLE_ELEVATIONS = (-5, 15, 35, 50)  # degrees


@dataclass(frozen=True)
class MeshScores:
    """What one mesh is worth.

    Attributes:
        views_class, views_color, views_both: in how many of the eight views the judge reads the class, the colour,
            and both in the same view.
        views_rejected: views that show nothing of this world to the judge.
        janus: whether it has a second front, see `is_janus`; None for classes without a front.
        one_body: closed, and of one piece.
        coverage: share of the surface that has its own place in the texture, in [0, 1].
        chamfer: distance to the nearest true shape, see `distance_to_class`; NaN where there is no mesh.
    """

    views_class: int
    views_color: int
    views_both: int
    views_rejected: int
    janus: bool | None
    one_body: bool
    coverage: float
    chamfer: float

    @property
    def right(self) -> bool:
        """Whether class and colour are both read in enough of the views."""
        return self.views_both >= ENOUGH


NO_MESH = MeshScores(0, 0, 0, 0, None, False, 0.0, math.nan)  # of a prompt that no mesh came from


def score_mesh(mesh: TexturedMesh, judge: PictureJudge, name: str, color: str, seed: int) -> MeshScores:
    """Look at a mesh that should be a `color` `name`; `seed` is that of the true shapes it is held against."""
    verdict, report = look(mesh, judge), check_mesh(mesh)
    right = verdict.is_right([name] * len(AZIMUTHS), [color] * len(AZIMUTHS))
    return MeshScores(
        views_class=int((verdict.classes == world.CLASS_NAMES.index(name)).sum()),
        views_color=int((verdict.colors == world.COLOR_NAMES.index(color)).sum()),
        views_both=int(right.sum()),
        views_rejected=int((verdict.classes == REJECT).sum()),
        janus=is_janus(verdict) if name in world.FRONTED else None,
        one_body=is_one_body(report),
        coverage=report.texture_coverage or 0.0,
        chamfer=distance_to_class(mesh, name, seed),
    )


def summary(scores: Sequence[MeshScores]) -> dict[str, float]:
    """Counts and shares over many meshes: `right` and `watertight_one_body` are counts, the rest shares and means."""
    views = len(AZIMUTHS) * len(scores)
    fronted = [row.janus for row in scores if row.janus is not None]
    distances = [row.chamfer for row in scores if not math.isnan(row.chamfer)]
    return {
        "right": sum(row.right for row in scores),
        "right_share": sum(row.right for row in scores) / len(scores),
        "views_class": sum(row.views_class for row in scores) / views,
        "views_color": sum(row.views_color for row in scores) / views,
        "views_both": sum(row.views_both for row in scores) / views,
        "rejected": sum(row.views_rejected for row in scores) / views,
        "janus": sum(fronted) / len(fronted) if fronted else math.nan,
        "watertight_one_body": sum(row.one_body for row in scores),
        "texture_coverage": min(row.coverage for row in scores),
        "chamfer": sum(distances) / len(distances) if distances else math.nan,
    }


# -- what a judge sees -----------------------------------------------------------------------------------------


def cameras(azimuths: Sequence[float] = AZIMUTHS) -> Cameras:
    """Cameras at azimuths in degrees (those of the judge by default), at its elevation and distance."""
    return orbit(degrees(azimuths), degrees(ELEVATION), RADIUS)


def look(mesh: TexturedMesh, judge: PictureJudge) -> Verdict:
    """What the judge reads from the eight sides."""
    return judge.judge(drawn(mesh)[:, :3])


def drawn(mesh: TexturedMesh) -> Tensor:
    """(8, 4, 64, 64) colour and coverage in [0, 1] from the eight sides, as Toybox draws its stills: on white, 2x2
    samples.
    """
    return render_mesh(mesh, cameras(), SIZE, supersampling=2)


def is_janus(verdict: Verdict) -> bool:
    """Whether eight views show two fronts: the judge reads "front" at the front and again from behind.

    From behind means at least one of 135, 180 and 225 degrees. Views next to the front do not count: no word fits
    there, and the judge reads "front" at 45 degrees of every third true object. Of true objects of classes with a
    front, 1 in 320 counts as Janus by this.
    """
    front = verdict.views == world.VIEWS.index("front")  # (8,)
    return bool(front[FRONT] and front[list(BEHIND)].any())


def is_one_body(report: MeshReport) -> bool:
    return report.watertight and report.bodies == 1


# -- distance to the truth -------------------------------------------------------------------------------------


def chamfer(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance from each point (n, 3) to the nearest of the others (m, 3), both ways, averaged; not squared."""
    there = KDTree(second).query(first)[0].mean()
    back = KDTree(first).query(second)[0].mean()
    return float(there + back) / 2


def surface_points(vertices: np.ndarray, faces: np.ndarray, count: int = POINTS, seed: int = 0) -> np.ndarray:
    """(count, 3) points, uniform over the area of a surface; the seed decides them."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0])


def in_unit_box(vertices: np.ndarray) -> np.ndarray:
    """(v, 3) moved and scaled, all axes alike, so that they fit around the origin with a longest side of 1."""
    low, high = vertices.min(0), vertices.max(0)
    return (vertices - (low + high) / 2) / (high - low).max()


def distance_to_class(mesh: TexturedMesh, name: str, seed: int, shapes: int = SHAPES) -> float:
    """Chamfer distance to the nearest of the true shapes of a class, each in the unit box.

    A true shape is at about 0.02 from its own class by this: so far apart are the points, and its parts overlap, so
    that some of their surface lies inside.
    """
    return nearest_shape(mesh, name, seed, shapes)[0]


def nearest_shape(mesh: TexturedMesh, name: str, seed: int, shapes: int = SHAPES) -> tuple[float, int]:
    """That distance, and which of the true shapes it is the distance to."""
    found = surface_points(in_unit_box(mesh.vertices), mesh.faces, seed=seed)
    return min((chamfer(found, true_points(name, seed, index)), index) for index in range(shapes))


def true_points(name: str, seed: int, index: int) -> np.ndarray:
    """(POINTS, 3) points of a Toybox body of a class, in the unit box."""
    body = mesh_of(portrait(name, world.COLOR_NAMES[0], 0, 0, seed, index))
    return surface_points(in_unit_box(np.asarray(body.vertices)), np.asarray(body.faces), seed=index)


# -- a prior that knows one object -----------------------------------------------------------------------------


def oracle_of(scene: Scene, device: torch.device | str = "cpu", size: int = SIZE) -> OracleBackbone:
    """The exact scores of one body, from many sides and over each plain background that DreamFusion names.

    With it there is no prior to blame: what is wrong with a mesh is wrong in guidance, field, renderer or mesh stage.

    Args:
        device: where it answers.
        size: pixels of a side that it sees.
    """
    scenes, sentences = [], []
    for word in world.COLOR_NAMES:
        if word in ("black", *scene.colors):
            continue
        for side in range(ORACLE_SIDES):
            elevation = math.radians(ORACLE_ELEVATIONS[side % len(ORACLE_ELEVATIONS)])
            view = View(2 * math.pi * side / ORACLE_SIDES, elevation, RADIUS)
            scenes.append(replace(scene, view=view, background=plain(word)))
            sentences.append(f"{scene.caption}, {background_phrase(None, word)}")
    pictures = (torch.from_numpy(render(scenes, size).rgb).movedim(-1, 1) * 2 - 1).to(device)  # (n, 3, h, w)
    views = torch.tensor([[one.view.azimuth, one.view.elevation, one.view.radius] for one in scenes])  # (n, 3)
    return OracleBackbone(pictures, sentences, orbit(*views.T), select=str.__eq__, world=world.NAME)
