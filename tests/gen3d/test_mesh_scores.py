"""Judging meshes: true objects are right, others are not, and distances are what geometry says."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mesh_looks import textured_body

from core2d.toybox import world
from core2d.toybox.judge import PictureJudge, Verdict, load_picture_judge
from core2d.toybox.scene import portrait
from gen3d.mesh import TexturedMesh, load_mesh, save_mesh
from gen3d.toybox import mesh_scores as scores

SEED = world.TUNING_SEEDS[0]
RIGHT = scores.MeshScores(8, 8, 8, 0, False, True, 1.0, 0.02)


@pytest.fixture(scope="module")
def judge() -> PictureJudge:
    return load_picture_judge()


def true_object(name: str, color: str) -> TexturedMesh:
    return textured_body(portrait(name, color, 0, 0, SEED, 0))


def verdict_of(*words: str) -> Verdict:
    """What a judge says who reads these view words."""
    views = torch.tensor([world.VIEWS.index(word) for word in words])
    return Verdict(torch.zeros_like(views), torch.zeros_like(views), views, torch.zeros_like(views))


@pytest.mark.parametrize(("name", "color"), [("chair", "red"), ("mug", "green"), ("duck", "white")])
def test_a_true_object_is_right_and_nothing_else_is(
    name: str, color: str, judge: PictureJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "distance_to_class", lambda *_: 0.0)
    mesh = load_mesh(save_mesh(tmp_path / "true.glb", true_object(name, color))[0])
    found = scores.score_mesh(mesh, judge, name, color, SEED)
    assert found.right and found.views_both == 8 and found.views_rejected == 0
    assert found.janus is (False if name in world.FRONTED else None)
    for other_name, other_color in ((name, "blue"), ("truck", color)):
        other = scores.score_mesh(mesh, judge, other_name, other_color, SEED)
        assert not other.right and other.views_both == 0
        assert (other.views_class, other.views_color) == ((8, 0) if other_name == name else (0, 8))


def test_five_views_of_eight_are_enough() -> None:
    assert [scores.MeshScores(8, 8, both, 0, None, True, 1.0, 0.0).right for both in (4, 5)] == [False, True]


@pytest.mark.parametrize(
    ("views", "janus"),
    [
        ("front side side side back side side side", False),
        ("front front side back back back side front", False),  # beside the front no word fits
        ("front side side side front side side side", True),
        ("front side side front back side side side", True),
        ("front side side side back front side side", True),
        ("side side side side front side side side", False),  # turned around, but with one front
        ("front front front front front front front front", True),
    ],
)
def test_janus_has_a_front_behind(views: str, janus: bool) -> None:
    assert scores.is_janus(verdict_of(*views.split())) is janus


def test_the_eight_views_go_around_once() -> None:
    cameras = scores.cameras()
    turns = torch.rad2deg(cameras.azimuth) % 360
    torch.testing.assert_close(turns, torch.arange(8) * 45.0, atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.rad2deg(cameras.elevation), torch.full((8,), 20.0))
    torch.testing.assert_close(cameras.radius, torch.full((8,), sum(world.CAMERA_RADIUS) / 2))
    words = [world.view_word(azimuth, 20) for azimuth in scores.AZIMUTHS]
    assert words == ["front", None, "side", None, "back", None, "side", None]


def test_many_meshes_in_numbers() -> None:
    wrong = scores.MeshScores(4, 8, 4, 3, True, True, 0.995, 0.04)
    found = scores.summary([RIGHT, RIGHT, wrong, scores.NO_MESH])
    assert found == pytest.approx(
        {"right": 2, "right_share": 0.5, "views_class": 20 / 32, "views_color": 24 / 32, "views_both": 20 / 32,
         "rejected": 3 / 32, "janus": 1 / 3, "watertight_one_body": 3, "texture_coverage": 0.0, "chamfer": 0.08 / 3}
    )  # fmt: skip
    assert math.isnan(scores.summary([scores.NO_MESH])["chamfer"])


def test_chamfer_is_the_mean_distance_both_ways() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 3), -1).reshape(-1, 3)  # a metre apart
    assert scores.chamfer(grid, grid) == 0
    assert scores.chamfer(grid, grid + np.array([0.3, 0, 0])) == pytest.approx(0.3)
    one, two = np.zeros((1, 3)), np.array([[1.0, 0, 0], [3.0, 0, 0]])
    assert scores.chamfer(one, two) == scores.chamfer(two, one) == (1 + 2) / 2


def test_points_lie_on_the_surface_evenly() -> None:
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [4, 0, 0], [5, 0, 0], [4, 6, 0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6]])  # a square metre, and three
    points = scores.surface_points(square, faces, 4000, seed=1)
    assert np.array_equal(points, scores.surface_points(square, faces, 4000, seed=1))
    assert (points[:, 2] == 0).all() and (points[:, 0] < 2).mean() == pytest.approx(0.25, abs=0.03)


def test_a_shape_moved_and_scaled_is_the_same_shape() -> None:
    vertices = np.random.default_rng(0).uniform(-1, 1, (50, 3)) * [1, 2, 0.5]
    box = scores.in_unit_box(vertices)
    assert np.ptp(box, axis=0).max() == pytest.approx(1) and np.allclose(box.max(0), -box.min(0))
    assert np.allclose(box, scores.in_unit_box(3 * vertices + [1, 2, 3]))


def test_an_object_is_near_its_own_class() -> None:
    mug = true_object("mug", "red")
    own, other = (scores.distance_to_class(mug, name, SEED, shapes=4) for name in ("mug", "airplane"))
    assert own < 0.04 < 2 * own < other


def test_the_oracle_knows_its_object_from_all_sides() -> None:
    oracle = scores.oracle_of(portrait("chair", "red", 0, 20, SEED, 0))
    assert oracle.has_camera_token and oracle.image_size == 64
    words = oracle.encode_text(["a red chair, on a white background"]).tokens[0, :, 0]
    assert int((words > 0).sum()) == scores.ORACLE_SIDES and words.sum() == 1
