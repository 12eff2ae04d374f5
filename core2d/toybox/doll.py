"""The doll: a skeleton with the 18 OpenPose joints, dressed in coloured clothes, and its poses over time.

Lengths are in metres for a doll one metre tall, feet on z = 0 and facing +X; its left hand is on +Y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from core2d.toybox.objects import DARK, SKIN
from core2d.toybox.parts import Color, Parts

# OpenPose-18 order. Right and left are the doll's own.
JOINTS = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye", "right ear", "left ear",
)  # fmt: skip

Point = tuple[float, float, float]

THIGH, SHIN, TORSO, NECK_TO_HEAD, UPPER_ARM, FOREARM = 0.22, 0.22, 0.30, 0.15, 0.16, 0.16
HIP_HALF_WIDTH, SHOULDER_HALF_WIDTH, HEAD_RADIUS, FOOT = 0.07, 0.13, 0.115, 0.05


@dataclass(frozen=True)
class Pose:
    """Joint angles in radians: 0 everywhere stands at ease with hanging arms.

    Attributes:
        lift: height of the feet above the ground in metres (jumping).
        swing_hips: forward angle of (right, left) thigh.
        bend_knees: backward bend of (right, left) shin.
        swing_arms: forward angle of (right, left) upper arm.
        raise_arms: sideways angle of (right, left) upper arm: 0 hangs, pi points up.
        bend_elbows: inward bend of (right, left) forearm, in the plane of the raised arm.
        lean: forward lean of the torso.
    """

    lift: float = 0.0
    swing_hips: tuple[float, float] = (0.0, 0.0)
    bend_knees: tuple[float, float] = (0.0, 0.0)
    swing_arms: tuple[float, float] = (0.0, 0.0)
    raise_arms: tuple[float, float] = (0.15, 0.15)
    bend_elbows: tuple[float, float] = (0.0, 0.0)
    lean: float = 0.0


def pose_of(motion: str, phase: float) -> Pose:
    """The pose of a motion at `phase`, in cycles (a walk cycle is two steps, a wave one swing to and fro)."""
    turn = 2 * math.pi * phase
    swing = math.sin(turn)
    if motion == "waving":
        return Pose(raise_arms=(2.45, 0.15), bend_elbows=(0.65 * swing, 0.0))
    if motion == "walking":
        stride = 0.6 * swing
        knees = (0.9 * max(0.0, math.cos(turn)), 0.9 * max(0.0, -math.cos(turn)))
        return Pose(swing_hips=(stride, -stride), bend_knees=knees, swing_arms=(-stride, stride))
    if motion == "squatting":
        depth = 0.5 - 0.5 * math.cos(turn)
        return Pose(
            swing_hips=(1.35 * depth, 1.35 * depth),
            bend_knees=(2.0 * depth, 2.0 * depth),
            swing_arms=(1.4 * depth, 1.4 * depth),
            lean=0.5 * depth,
        )
    if motion == "jumping":
        up = abs(math.sin(turn / 2))  # one jump a cycle
        return Pose(lift=0.22 * up, raise_arms=(0.15 + 2.4 * up, 0.15 + 2.4 * up))
    return Pose()


def joints_of(pose: Pose) -> dict[str, Point]:
    """Positions of the 18 joints (plus "head" and "pelvis") in metres, doll facing +X."""
    knees, ankles = [], []
    drops = []
    for hip_swing, knee_bend in zip(pose.swing_hips, pose.bend_knees, strict=True):
        shin_angle = hip_swing - knee_bend
        knee = (THIGH * math.sin(hip_swing), -THIGH * math.cos(hip_swing))
        ankle = (knee[0] + SHIN * math.sin(shin_angle), knee[1] - SHIN * math.cos(shin_angle))
        knees.append(knee)
        ankles.append(ankle)
        drops.append(-ankle[1])
    pelvis = (0.0, 0.0, max(drops) + FOOT + pose.lift)  # the lower foot stands on the ground
    lean = (math.sin(pose.lean), math.cos(pose.lean))
    neck = (TORSO * lean[0], 0.0, pelvis[2] + TORSO * lean[1])
    head = (neck[0] + NECK_TO_HEAD * lean[0], 0.0, neck[2] + NECK_TO_HEAD * lean[1])
    joints: dict[str, Point] = {"neck": neck, "head": head, "pelvis": pelvis}
    for i, (name, side) in enumerate((("right", -1), ("left", 1))):
        hip = (pelvis[0], side * HIP_HALF_WIDTH, pelvis[2])
        joints[f"{name} hip"] = hip
        joints[f"{name} knee"] = (hip[0] + knees[i][0], hip[1], hip[2] + knees[i][1])
        joints[f"{name} ankle"] = (hip[0] + ankles[i][0], hip[1], hip[2] + ankles[i][1])
        shoulder = (neck[0] - 0.03 * lean[0], side * SHOULDER_HALF_WIDTH, neck[2] - 0.03 * lean[1])
        elbow = _along(shoulder, pose.swing_arms[i], pose.raise_arms[i], side, UPPER_ARM)
        wrist = _along(elbow, pose.swing_arms[i], pose.raise_arms[i] + pose.bend_elbows[i], side, FOREARM)
        joints |= {f"{name} shoulder": shoulder, f"{name} elbow": elbow, f"{name} wrist": wrist}
        joints[f"{name} eye"] = (head[0] + 0.09, side * 0.045, head[2] + 0.03)
        joints[f"{name} ear"] = (head[0], side * 0.11, head[2])
    joints["nose"] = (head[0] + HEAD_RADIUS, 0.0, head[2] - 0.01)
    return joints


def dress(joints: dict[str, Point], hair: Color, shirt: Color, trousers: Color) -> Parts:
    """The doll's parts around its joints."""
    p = Parts()
    pelvis, neck, head = joints["pelvis"], joints["neck"], joints["head"]
    p.limb("cylinder", _shift(pelvis, z=-0.03), _shift(pelvis, z=0.07), 0.23, trousers)
    p.limb("taper", _shift(neck, z=0.01), _shift(pelvis, z=0.05), 0.26, shirt)
    p.limb("cylinder", neck, head, 0.07, SKIN)
    p.add("sphere", head, (2 * HEAD_RADIUS,) * 3, SKIN)
    p.add("sphere", _shift(head, x=-0.03, z=0.03), (0.24, 0.255, 0.24), hair)
    p.add("sphere", joints["nose"], (0.04, 0.04, 0.04), SKIN)
    for side in ("right", "left"):
        j = {name: joints[f"{side} {name}"] for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "eye")}
        p.add("sphere", j["shoulder"], (0.11,) * 3, shirt)
        p.limb("cylinder", j["shoulder"], j["elbow"], 0.095, shirt)
        p.limb("cylinder", j["elbow"], j["wrist"], 0.07, SKIN)
        p.add("sphere", j["wrist"], (0.095,) * 3, SKIN)
        p.limb("cylinder", j["hip"], j["knee"], 0.12, trousers)
        p.add("sphere", j["knee"], (0.115,) * 3, trousers)
        p.limb("cylinder", j["knee"], j["ankle"], 0.10, trousers)
        p.add("box", _shift(j["ankle"], x=0.03, z=-0.015), (0.16, 0.09, 0.07), DARK)
        p.add("sphere", j["eye"], (0.035, 0.035, 0.035), DARK)
    return p


def _along(start: Point, forward: float, sideways: float, side: int, length: float) -> Point:
    out, down = math.sin(sideways), math.cos(sideways)
    return (
        start[0] + length * down * math.sin(forward),
        start[1] + side * length * out,
        start[2] - length * down * math.cos(forward),
    )


def _shift(point: Point, x: float = 0.0, z: float = 0.0) -> Point:
    return (point[0] + x, point[1], point[2] + z)
