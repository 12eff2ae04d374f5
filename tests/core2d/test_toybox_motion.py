"""Toybox clips: what moves, which way, and what tells one motion from another."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from helpers.toybox_scenes import FRAMES, JUDGE, camera_of, clips_of, first_frames, project
from hypothesis import given, settings
from hypothesis import strategies as st

from core2d.toybox import doll, world
from core2d.toybox.dataset import camera_numbers, labels_of
from core2d.toybox.render import render
from core2d.toybox.sample import mesh_of
from core2d.toybox.scene import Scene, moment, portrait


@pytest.mark.parametrize("motion", world.MOTIONS)
def test_a_clip_is_one_body_in_one_place(motion: str) -> None:
    assert len(clips_of(motion)) == 4
    for scenes in clips_of(motion):
        kept = {(s.caption, s.kind, s.name, s.colors, s.ground, s.ground_shift, s.background, s.floor) for s in scenes}
        assert len(kept) == 1
        lows = [mesh_of(scene).vertices[:, 2].min() - scene.floor for scene in scenes]
        assert min(lows) > -1e-5  # nothing sinks into the ground
        if motion.startswith("camera"):
            assert scenes[0].ground  # else a zoom would look like growth, a pan like a slide
            assert all(scene.parts == scenes[0].parts for scene in scenes)
            assert {(scene.yaw, scene.scale, scene.offset) for scene in scenes} == {(0, 0.82, (0, 0, 0))}
        else:
            assert all(scene.view == scenes[0].view and scene.view.pan == 0 for scene in scenes)
        if scenes[0].kind == "object":
            assert all(scene.parts == scenes[0].parts for scene in scenes)
        if motion in ("bouncing", "jumping") or motion.startswith("hopping"):
            assert min(lows) < 0.1 and max(lows) > 0.15
        elif scenes[0].kind == "doll":
            assert max(lows) < 1e-5  # one foot stands


@pytest.mark.parametrize("motion", [m for m in world.MOTIONS if m.startswith(("spinning", "turning"))])
def test_clockwise_is_as_seen_from_above(motion: str) -> None:
    sign = 1 if motion.endswith("counterclockwise") else -1
    for scenes in clips_of(motion):
        for before, after in pairwise(mesh_of(scene).vertices for scene in scenes):
            cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]  # > 0: counter-clockwise from above
            away = np.hypot(*before[:, :2].T) > 0.01
            assert (sign * cross[away] > 0).all()
            np.testing.assert_allclose(before[:, 2], after[:, 2], atol=1e-6)


@pytest.mark.parametrize(
    ("motion", "sign"),
    [
        ("sliding left", -1), ("sliding right", 1), ("hopping left", -1), ("hopping right", 1),
        ("camera panning left", 1), ("camera panning right", -1),
    ],
)  # fmt: skip
def test_left_and_right_are_those_of_the_picture(motion: str, sign: int) -> None:
    for scenes in clips_of(motion):
        across = [project(mesh_of(scene).vertices.mean(0, keepdims=True), scene)[0, 0] for scene in scenes]
        assert (np.diff(across) * sign > 0).all() and abs(across[-1] - across[0]) > 0.5


@pytest.mark.parametrize(
    ("motion", "sign"), [("growing", 1), ("shrinking", -1), ("camera zooming in", 1), ("camera zooming out", -1)]
)
def test_growing_and_zooming_in_make_the_body_larger(motion: str, sign: int) -> None:
    for scenes in clips_of(motion):
        extents = [np.ptp(project(mesh_of(scene).vertices, scene), axis=0).prod() for scene in scenes]
        assert (np.diff(extents) * sign > 0).all() and max(extents) / min(extents) > 1.4
        lows = [mesh_of(scene).vertices[:, 2].min() for scene in scenes]
        assert np.ptp(lows) < 0.02  # it grows from the ground up


@pytest.mark.parametrize("motion", ["camera orbiting clockwise", "camera orbiting counterclockwise"])
def test_an_orbit_goes_round_at_one_height(motion: str) -> None:
    sign = 1 if motion.endswith("counterclockwise") else -1
    for scenes in clips_of(motion):
        positions = np.concatenate([camera_of(scene).position.numpy() for scene in scenes]).astype(float)
        steps = [a[0] * b[1] - a[1] * b[0] for a, b in pairwise(positions)]
        assert (np.multiply(steps, sign) > 0).all()
        assert np.ptp(positions[:, 2]) < 1e-5 and np.ptp(np.linalg.norm(positions, axis=1)) < 1e-5
        assert abs(scenes[-1].view.azimuth - scenes[0].view.azimuth) > 1.2


@settings(deadline=None)
@given(st.sampled_from(world.DOLL_MOTIONS), st.floats(-3, 3))
def test_the_doll_keeps_its_bones_and_its_feet_on_the_ground(motion: str, phase: float) -> None:
    pose = doll.pose_of(motion, phase)
    joints = {name: np.array(point) for name, point in doll.joints_of(pose).items()}
    lowest = min(joints["right ankle"][2], joints["left ankle"][2])
    assert lowest == pytest.approx(doll.FOOT + pose.lift) and 0 <= pose.lift < 0.25
    bones = {("hip", "knee"): doll.THIGH, ("knee", "ankle"): doll.SHIN}
    bones |= {("shoulder", "elbow"): doll.UPPER_ARM, ("elbow", "wrist"): doll.FOREARM}
    for side in ("right", "left"):
        for (start, end), length in bones.items():
            assert np.linalg.norm(joints[f"{side} {start}"] - joints[f"{side} {end}"]) == pytest.approx(length)
    other = doll.joints_of(doll.pose_of(motion, phase + 0.5) if motion == "walking" else pose)
    if motion != "waving":  # a walk mirrors itself half a cycle later, the others at once
        for name, (x, y, z) in other.items():
            side, _, part = name.partition(" ")
            mirrored = {"right": f"left {part}", "left": f"right {part}"}.get(side, name)
            np.testing.assert_allclose(joints[mirrored], (x, -y, z), atol=1e-9)


def test_the_doll_does_what_its_caption_says() -> None:
    def moved(motion: str) -> set[str]:
        poses = [doll.joints_of(doll.pose_of(motion, phase / 12)) for phase in range(12)]
        return {name for name in doll.JOINTS if np.ptp([pose[name] for pose in poses], axis=0).max() > 0.02}

    assert moved("standing") == set() and moved("waving") == {"right wrist"}
    assert {"right ankle", "left ankle", "right wrist", "left wrist"} <= moved("walking")
    assert moved("squatting") >= set(doll.JOINTS) - {"right ankle", "left ankle"}
    assert moved("jumping") == set(doll.JOINTS)
    rest = doll.joints_of(doll.Pose())
    assert rest["left wrist"][1] > 0 > rest["right wrist"][1]  # it faces +X
    assert rest["nose"][0] > rest["right ear"][0]
    for scenes in clips_of("walking"):
        assert (np.diff([scene.offset[0] for scene in scenes]) > 0).all()


def test_a_spin_moves_the_light_over_the_body_and_an_orbit_does_not() -> None:
    start = portrait("car", "red", 30, 20, JUDGE, 0)
    spun = replace(start, yaw=-2.2)
    orbited = replace(start, view=replace(start.view, azimuth=start.view.azimuth + 2.2))
    np.testing.assert_allclose(camera_numbers([spun]), camera_numbers([orbited]), atol=1e-6)
    assert labels_of(spun) == labels_of(orbited)
    one, other = render([spun], 48), render([orbited], 48)
    assert np.mean(one.mask != other.mask) < 0.01  # the same outline
    assert np.abs(one.rgb - other.rgb).mean(-1)[one.mask > 0].mean() > 0.05  # in another light


def test_the_ground_tells_growing_from_zooming() -> None:
    def unchanged_ground(motion: str) -> float:
        film = next(s for s in clips_of(motion) + more_clips(motion) if s[0].ground in ("grass", "sand", "water"))
        first, last = (render([scene], 48) for scene in (film[0], film[-1]))
        ground = (first.mask[0] == 0) & (last.mask[0] == 0)
        ground[:32] = False  # there may be sky
        return float((np.abs(first.rgb[0] - last.rgb[0]).max(-1)[ground] < 1e-6).mean())

    def more_clips(motion: str) -> list[list[Scene]]:
        found = [i for i, s in enumerate(first_frames(JUDGE)) if s.motion == motion and s.ground]
        return [[moment(JUDGE, index, frame, FRAMES) for frame in range(FRAMES)] for index in found]

    assert unchanged_ground("growing") > 0.5
    assert unchanged_ground("camera zooming in") < 0.05
