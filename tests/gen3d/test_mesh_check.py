"""The check finds what is wrong, one fault at a time, and nothing where nothing is."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from helpers.mesh_fields import arrows

from gen3d.mesh import TexturedMesh, check_mesh, topology


def cube(shift: float = 0.0) -> TexturedMesh:
    body = trimesh.creation.box((1, 1, 1))
    return TexturedMesh(np.asarray(body.vertices) + shift, np.asarray(body.faces))


def textured_cube() -> TexturedMesh:
    """Each face a place of its own in a 4 by 3 sheet of right triangles."""
    body = cube()
    corners = np.array([[0.0, 0.0], [0.9, 0.0], [0.0, 0.9]])
    cells = np.stack([np.arange(12) % 4, np.arange(12) // 4], 1)
    uv = ((cells[:, None] + corners) / [4, 3]).reshape(-1, 2)
    faces = np.arange(36).reshape(12, 3)
    return TexturedMesh(body.vertices[body.faces].reshape(-1, 3), faces, uv, np.zeros((64, 64, 3), np.uint8))


def test_a_cube_is_fine() -> None:
    report = check_mesh(cube())
    assert report.problems == ()
    assert (report.vertices, report.faces, report.euler, report.bodies) == (8, 12, 2, 1)
    assert report.watertight and report.consistent and report.outward
    assert report.volume == pytest.approx(1) and report.area == pytest.approx(6)
    assert report.bounds == ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))
    assert report.uv_range is report.texture_size is report.texture_coverage is None


def test_seams_are_no_borders() -> None:
    report = check_mesh(textured_cube())
    assert report.problems == () and report.watertight and report.vertices == 36 and report.euler == 2
    assert report.texture_size == (64, 64) and report.texture_coverage == 1
    assert report.uv_range == (0, pytest.approx((3 + 0.9) / 4))


def faulty() -> dict[str, TexturedMesh]:
    body, painted = cube(), textured_cube()
    assert painted.uv is not None
    half = painted.uv.copy()
    half[18:] = 0.5
    fin = np.array([[*body.faces[0, :2], 8]])
    return {
        "The surface is open: 3 edges": replace(body, faces=body.faces[1:]),
        "not manifold: 1 edges": TexturedMesh(
            np.concatenate([body.vertices, [[2, 2, 2]]]), np.concatenate([body.faces, fin])
        ),
        "disagree about which side": replace(body, faces=np.concatenate([body.faces[:1, ::-1], body.faces[1:]])),
        "look inward": replace(body, faces=body.faces[:, ::-1]),
        "3 separate bodies": arrows(),
        "1 faces have no area": replace(body, faces=np.concatenate([body.faces, [[0, 0, 1]]])),
        "Texture coordinates leave": replace(painted, uv=painted.uv + 0.5),
        "Only 50.0 % of the surface": replace(painted, uv=half),
    }


@pytest.mark.parametrize("sentence", faulty())
def test_a_fault_gets_its_sentence(sentence: str) -> None:
    problems = check_mesh(faulty()[sentence]).problems
    assert sum(sentence in problem for problem in problems) == 1
    if not sentence.startswith(("not", "1", "Texture")):  # a fin is open too, a flat face crowds its edges, ...
        assert len(problems) == 1


def test_arrays_that_do_not_fit_are_refused() -> None:
    body = cube()
    for change in (
        {"faces": body.faces + 8},
        {"faces": body.faces[:0]},
        {"vertices": body.vertices[:, :2]},
        {"vertices": body.vertices * np.nan},
        {"uv": np.zeros((3, 2))},
        {"texture": np.zeros((4, 4, 3), np.uint8)},
        {"colors": np.zeros((8, 3))},
    ):
        with pytest.raises(ValueError, match=r"must be|need|uint8"):
            replace(body, **change)


def test_topology_of_two_cubes_that_touch_in_a_point() -> None:
    one, other = cube(), cube(1.0)
    vertices, faces, rows = topology.merge_positions(
        np.concatenate([one.vertices, other.vertices]), np.concatenate([one.faces, other.faces + 8])
    )
    assert len(vertices) == 15 and np.array_equal(vertices[rows][:8], one.vertices)
    assert topology.parts(faces).max() == 1  # a shared corner does not join them
    kept, kept_faces = topology.drop_unused(vertices, faces[12:])
    assert len(kept) == 8 and topology.volumes(kept, kept_faces).sum() == pytest.approx(1)
