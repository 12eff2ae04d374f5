"""What a Toybox sample knows about itself: depth, normals, light, shadow, joints, mesh; and the parts it is made of."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import trimesh
from helpers.toybox_scenes import JUDGE, ball, camera_of, cast, first_frames, project, stills
from hypothesis import given, settings
from hypothesis import strategies as st

from core2d.toybox import doll, world
from core2d.toybox.parts import Parts
from core2d.toybox.primitives import bank
from core2d.toybox.render import expand, render
from core2d.toybox.sample import clip, mesh_of
from core2d.toybox.scene import Scene, moment, portrait, still


@pytest.mark.parametrize("scene", [still(JUDGE, index) for index in (1, 2, 3, 8)] + [moment(JUDGE, 6, 9, 16)])
def test_depth_and_normals_are_those_of_the_mesh(scene: Scene) -> None:
    size = 32
    picture, expected = render([scene], size, supersampling=1), cast(scene, size)
    seen = picture.mask[0] == 1
    assert seen.sum() > 50
    assert np.mean(seen == np.isfinite(expected)) > 0.995
    assert np.isinf(picture.depth[0][~seen]).all()
    both = seen & np.isfinite(expected)
    assert np.mean(np.abs(picture.depth[0][both] - expected[both]) < 1e-3) > 0.99
    normal = picture.normal[0]
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), seen, atol=1e-5)
    rays = camera_of(scene).rays(size, size)[1][0].numpy()
    assert np.mean((normal * rays).sum(-1)[seen] < 0.05) > 0.97  # they face the camera


def test_a_ball_has_the_depth_the_normals_and_the_light_of_a_ball() -> None:
    size, scene = 48, ball(1.0, pattern=None)
    picture = render([scene], size, supersampling=1)
    origin, rays = (part[0].numpy() for part in camera_of(scene).rays(size, size))
    along = -(rays @ origin)  # to the point nearest to the centre
    half = 0.25 - (origin @ origin - along**2)
    inner = half > 0.1  # away from the rim, where a ball of 16 segments has corners
    assert (picture.mask[0][inner] == 1).all() and inner.sum() > 200
    point = origin + rays * (along - np.sqrt(np.maximum(half, 0)))[..., None]
    forward = -origin / np.linalg.norm(origin)
    assert np.abs(picture.depth[0] - (point - origin) @ forward)[inner].max() < 0.03
    assert (picture.normal[0] * point / 0.5).sum(-1)[inner].min() > 0.99
    normal = picture.normal[0][inner]
    lit = 0.46 + 0.06 * normal[:, 2] + 0.48 * np.maximum(0, normal @ np.array(world.LIGHT))
    np.testing.assert_allclose(picture.rgba[0][inner][:, :3], lit[:, None] * np.array(scene.main), atol=1e-5)


def test_the_picture_is_the_body_over_its_background() -> None:
    scenes = stills(JUDGE)[:60]
    pictures = render(scenes, 32)
    assert np.array_equal(pictures.mask, pictures.rgba[..., 3])
    assert set(np.unique(pictures.mask)) == {0, 0.25, 0.5, 0.75, 1}  # four samples a pixel
    assert pictures.rgb.min() >= 0 and pictures.rgb.max() <= 1 and pictures.rgba.max() <= 1
    alpha = pictures.mask[..., None]
    behind = pictures.rgb - alpha * pictures.rgba[..., :3]
    for row, scene in enumerate(scenes):
        if scene.ground is None:
            expected = (1 - alpha[row]) * np.array(scene.background)
            np.testing.assert_allclose(behind[row], expected, atol=1e-5)
        else:
            assert behind[row].min() > -1e-5 and (behind[row] <= 1 - alpha[row] + 1e-5).all()
            plain_picture = render([replace(scene, ground=None)], 32)
            assert np.array_equal(plain_picture.rgba[0], pictures.rgba[row])  # the ground does not touch the body


def test_a_shadow_falls_away_from_the_light() -> None:
    scene = ball(0.4, ground="tiles", floor=-0.5, pattern=None)
    size, speck = 48, ball(1e-6, ground="tiles", floor=-0.5)
    lit, bare = render([scene], size), render([speck], size)
    share = np.where(lit.mask[0] > 0, 1, lit.rgb[0].mean(-1) / bare.rgb[0].mean(-1))
    assert share.max() < 1 + 1e-5 and share.min() == pytest.approx(0.6, abs=1e-3)
    drop = 0.5 / world.LIGHT[2]  # from the centre down to the ground
    for sign, expected in ((-1, 0.6), (1, 1.0)):
        at = project(np.array([[sign * drop * world.LIGHT[0], sign * drop * world.LIGHT[1], -0.5]]), scene)[0]
        column, row = int((at[0] + 1) / 2 * size), int((1 - at[1]) / 2 * size)
        assert share[row, column] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("motion", world.DOLL_MOTIONS)
def test_joints_lie_in_the_body_in_space_and_in_the_picture(motion: str) -> None:
    index = next(i for i, scene in enumerate(first_frames(JUDGE)) if scene.motion == motion)
    for frame in clip(JUDGE, index, frames=3):
        assert frame.joints.shape == (18, 3) and frame.joints_2d.shape == (18, 2)
        pixels = (project(frame.joints, frame.scene) * [1, -1] + 1) * 32
        np.testing.assert_allclose(frame.joints_2d, pixels, atol=1e-3)
        starts = np.cumsum([0] + [np.diff(bank().vertex_offsets)[shape] for shape in frame.scene.parts.shapes])
        vertices = frame.mesh().vertices
        boxes = [vertices[a:b] for a, b in pairwise(starts)]
        middles = np.array([(box.min(0) + box.max(0)) / 2 for box in boxes])
        for name in ("right wrist", "left wrist", "right knee", "left knee", "nose", "right eye", "left shoulder"):
            joint = frame.joints[doll.JOINTS.index(name)]
            assert np.linalg.norm(middles - joint, axis=1).min() < 0.01, name  # a ball of the mesh lies there
        toward = -frame.camera_to_world[:3, 2]
        depth = (frame.joints - frame.camera_to_world[:3, 3]) @ toward
        for name in ("neck", "right hip", "left hip", "right knee", "left knee", "right wrist", "left wrist"):
            joint = doll.JOINTS.index(name)
            column, row = frame.joints_2d[joint].astype(int)
            if 0 <= column < 64 and 0 <= row < 64:
                assert frame.mask[row, column] > 0 and frame.depth[row, column] < depth[joint] + 0.01, name


def test_objects_are_centred_and_fit_their_box() -> None:
    for scene in stills(JUDGE)[:600]:
        if scene.kind == "doll":
            continue
        low, high = scene.parts.bounds()
        assert np.abs(np.add(low, high)).max() < 1e-9 and scene.floor == low[2]
        sides = np.subtract(high, low)
        extent = 0.6 if scene.size == "small" else 1.0
        assert sides.max() <= 1.05 * extent + 1e-9
        assert min(math.prod(sides) ** (1 / 3) / 0.78, sides.max() / 1.05) <= extent + 1e-9
        mesh = mesh_of(scene)
        assert (mesh.bounds[0] > np.subtract(low, 1e-5)).all() and (mesh.bounds[1] < np.add(high, 1e-5)).all()
        assert mesh.bounds[0][2] - scene.floor < 0.03  # it stands on the ground


def test_a_mesh_has_the_colours_of_its_parts_and_no_shadow() -> None:
    scene = replace(portrait("mug", "red", 0, 20, JUDGE, 0), ground="grass")
    mesh, bare = mesh_of(scene), mesh_of(replace(scene, ground=None))
    assert np.array_equal(mesh.vertices, bare.vertices) and np.array_equal(mesh.faces, bare.faces)
    assert len(expand([scene]).faces) == 2 * len(mesh.faces)
    main = tuple(round(255 * channel) for channel in scene.main)
    visual: Any = mesh.visual
    counts = Counter(tuple(color[:3].tolist()) for color in visual.face_colors)
    assert counts.most_common(1)[0][0] == main and len(counts) == 2  # cup and handle; coffee


# -- parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bank().names)
def test_a_primitive_is_closed_fills_the_unit_cube_and_looks_outward(name: str) -> None:
    shapes, i = bank(), bank().names[name]
    rows, faces = (slice(*offsets[i : i + 2]) for offsets in (shapes.vertex_offsets, shapes.face_offsets))
    vertices, normals, faces = shapes.vertices[rows], shapes.normals[rows], shapes.faces[faces]
    assert faces.min() >= 0 and faces.max() < len(vertices)
    tube = {"ring": (1, 1, 0.24), "handle": (1, 0.24, 1)}
    np.testing.assert_allclose(vertices.min(0), -0.5 * np.array(tube.get(name, (1, 1, 1))), atol=1e-6)
    np.testing.assert_allclose(vertices.max(0), 0.5 * np.array(tube.get(name, (1, 1, 1))), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    mesh = trimesh.Trimesh(vertices.round(5), faces, process=False)
    assert (np.einsum("fi,fci->fc", mesh.face_normals, normals[faces]) > 0.7).all()  # normals agree with the winding
    mesh.merge_vertices(merge_norm=True, merge_tex=True)
    assert mesh.is_winding_consistent and mesh.volume > 0
    assert mesh.is_watertight == (name not in ("cup", "handle"))  # coffee and mug close those two
    volumes = {"box": 1, "prism": 1 / 2, "wedge": 1 / 2, "pyramid": 1 / 3, "cylinder": math.pi / 4}
    volumes |= {"cone": math.pi / 12, "sphere": math.pi / 6, "dome": math.pi / 6}
    if name in volumes:
        assert mesh.volume == pytest.approx(volumes[name], rel=0.07)


point = st.tuples(*[st.floats(-2, 2)] * 3)


@settings(deadline=None)
@given(point, point)
def test_a_limb_runs_from_start_to_end(start: tuple, end: tuple) -> None:
    length = math.dist(start, end)
    if length < 1e-3:
        return
    parts = Parts()
    parts.limb("cylinder", start, end, 0.2)
    matrix = np.array(parts.matrices[0]).reshape(3, 4)
    np.testing.assert_allclose(matrix @ [0, 0, -0.5, 1], start, atol=1e-9)
    np.testing.assert_allclose(matrix @ [0, 0, 0.5, 1], end, atol=1e-9)
    columns = matrix[:, :3] / [0.2, 0.2, length]
    np.testing.assert_allclose(columns.T @ columns, np.eye(3), atol=1e-9)
    assert np.linalg.det(columns) > 0
