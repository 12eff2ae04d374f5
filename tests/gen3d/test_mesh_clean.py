"""Cleaning: one body, closed, smooth, within the budget."""

import math

import numpy as np
import pytest
import torch
import trimesh
from fast_simplification import simplify
from helpers.mesh_fields import BOX, mug, soft, sphere

from core2d.app.errors import InputError
from gen3d.mesh import TexturedMesh, check_mesh, topology
from gen3d.mesh.clean import HASTE, clean, decimate, is_closed, taubin
from gen3d.mesh.iso import extract_surface


def ball(radius: float = 0.5, center: tuple[float, float, float] = (0, 0, 0)) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(4, radius)
    return np.asarray(mesh.vertices, np.float32) + np.array(center, np.float32), np.asarray(mesh.faces, np.int32)


def joined(*bodies: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.cumsum([0, *(len(vertices) for vertices, _ in bodies)])
    vertices = np.concatenate([vertices for vertices, _ in bodies])
    return vertices, np.concatenate([faces + start for (_, faces), start in zip(bodies, counts, strict=False)])


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    return float(topology.volumes(vertices, faces).sum())


def test_of_two_blobs_the_larger_stays_and_the_other_is_reported() -> None:
    def two(points: torch.Tensor) -> torch.Tensor:
        return torch.minimum(sphere(points, 0.5, (-0.3, 0, 0)), sphere(points, 0.2, (0.7, 0, 0)))

    surface = extract_surface(soft(two), BOX, 96)
    vertices, faces, cleaning = clean(surface.vertices, surface.faces)
    assert cleaning.dropped_parts == 1 and cleaning.filled_cavities == 0
    assert cleaning.dropped_share == pytest.approx(0.2**3 / (0.2**3 + 0.5**3), rel=0.03)
    report = check_mesh(TexturedMesh(vertices, faces))
    assert report.problems == () and report.bodies == 1
    assert report.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.01)


def test_a_cavity_is_filled_and_no_loss() -> None:
    outer, inner = ball(0.5), ball(0.3)
    vertices, faces, cleaning = clean(*joined(outer, (inner[0], inner[1][:, ::-1])), smoothing=0)
    assert (cleaning.dropped_parts, cleaning.dropped_share, cleaning.filled_cavities) == (0, 0, 1)
    assert volume(vertices, faces) == pytest.approx(volume(*outer), rel=1e-4)


def test_inside_out_is_turned() -> None:
    vertices, faces = ball()
    turned, turned_faces, cleaning = clean(vertices, faces[:, ::-1], smoothing=0)
    assert volume(turned, turned_faces) == pytest.approx(volume(vertices, faces), rel=1e-4)
    assert cleaning.filled_cavities == 0


def test_holes_and_disagreeing_faces_are_mended() -> None:
    vertices, faces = ball()
    holed = faces[(vertices[faces].mean(1)[:, 2] < 0.47)]
    holed[::7] = holed[::7, ::-1]
    assert len(holed) < len(faces) and not is_closed(holed)
    mended, mended_faces, cleaning = clean(vertices, holed, smoothing=0)
    assert cleaning.filled_holes and is_closed(mended_faces)
    assert 0.97 * volume(vertices, faces) < volume(mended, mended_faces) <= volume(vertices, faces)


def test_smoothing_takes_the_noise_and_leaves_the_size() -> None:
    vertices, faces = ball()
    noisy = vertices * (1 + 0.02 * np.random.default_rng(0).standard_normal((len(vertices), 1))).astype(np.float32)
    smooth = taubin(noisy, faces, 10)

    def roughness(points: np.ndarray) -> float:
        return float(np.linalg.norm(points, axis=1).std())

    assert roughness(smooth) < 0.5 * roughness(noisy)
    assert volume(taubin(vertices, faces, 10), faces) == pytest.approx(volume(vertices, faces), rel=5e-3)
    assert np.array_equal(taubin(vertices, faces, 0), vertices)


@pytest.mark.parametrize("budget", [20_000, 2_000, 700])
def test_fewer_faces_and_still_closed(budget: int) -> None:
    """At the smallest budget the plain algorithm pinches the thin walls of this mug: then more faces stay."""
    surface = extract_surface(soft(mug, 200.0), BOX, 64)
    vertices, faces = decimate(surface.vertices, surface.faces, budget)
    assert is_closed(faces) and len(faces) <= len(surface.faces)
    report = check_mesh(TexturedMesh(vertices, faces))
    assert report.euler == -2 and report.outward and report.crowded_edges == 0
    assert report.volume == pytest.approx(volume(surface.vertices, surface.faces), rel=0.02)
    if budget >= 2_000:
        assert len(faces) <= 1.3 * budget


def test_within_the_budget_nothing_changes() -> None:
    vertices, faces = ball()
    kept = decimate(vertices, faces, len(faces))
    assert kept[0] is vertices and kept[1] is faces


def test_where_every_collapse_breaks_it_the_surface_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = ball()

    def torn(points: np.ndarray, triangles: np.ndarray, **_: float) -> tuple[np.ndarray, np.ndarray]:
        return points, triangles[1:]

    monkeypatch.setattr("gen3d.mesh.clean.simplify", torn)
    kept = decimate(vertices, faces, 1000)
    assert np.array_equal(kept[0], vertices) and np.array_equal(kept[1], faces)


def test_a_hasty_collapse_that_breaks_the_surface_is_tried_again_with_care(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = ball()
    asked = []

    def torn_in_haste(points: np.ndarray, triangles: np.ndarray, *, target_count: int, agg: float) -> tuple:
        asked.append((target_count, agg))
        found = simplify(points, triangles, target_count=target_count, agg=agg)
        return (found[0], found[1][1:]) if agg == HASTE[0] else found

    monkeypatch.setattr("gen3d.mesh.clean.simplify", torn_in_haste)
    kept = decimate(vertices, faces, 1000)
    assert asked == [(1000, agg) for agg in HASTE] and is_closed(kept[1]) and len(kept[1]) < len(faces)


def test_nothing_to_clean() -> None:
    with pytest.raises(InputError, match="the mesh is empty"):
        clean(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="face_budget is 3"):
        clean(*ball(), face_budget=3)
