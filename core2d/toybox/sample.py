"""One Toybox sample or clip with everything that is known about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh

from core2d.toybox import world
from core2d.toybox.doll import JOINTS
from core2d.toybox.render import FOCAL, camera_to_world, cameras, expand, render
from core2d.toybox.scene import Scene, moment, still

EARS = [JOINTS.index(name) for name in ("right ear", "left ear")]
FACE = [JOINTS.index(name) for name in ("nose", "right eye", "left eye")] + EARS
TURNED_AWAY = -0.2  # cosine between the way to the camera and that out of the head


@dataclass(frozen=True)
class Sample:
    """A picture of the world and the truth behind it.

    Attributes:
        version, seed, index: its address.
        scene: what is shown, in words and parts; `scene.caption` is its sentence.
        rgb: (h, w, 3) float32 in [0, 1], with background.
        rgba: (h, w, 4) float32, the body alone, straight alpha.
        mask: (h, w) float32 coverage.
        depth: (h, w) float32 metres along the view axis, inf where there is no body.
        normal: (h, w, 3) float32 unit world normals, 0 where there is no body.
        camera_to_world: (4, 4) float32, OpenGL axes; fov_y: vertical field of view in radians.
        joints: (18, 3) float32 world positions of the doll's OpenPose joints, (0, 3) for objects.
        joints_2d: (18, 2) float32 their pixels (x, y), (0, 2) for objects.
    """

    version: int
    seed: int
    index: int
    scene: Scene
    rgb: np.ndarray
    rgba: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    camera_to_world: np.ndarray
    fov_y: float
    joints: np.ndarray
    joints_2d: np.ndarray

    @property
    def caption(self) -> str:
        """What the grammar says about it."""
        return self.scene.caption

    def mesh(self) -> trimesh.Trimesh:
        """The body in world coordinates, with a colour per face."""
        return mesh_of(self.scene)


def sample(seed: int, index: int, kind: str | None = None, size: int = 64) -> Sample:
    """The still at this address; `kind` is "object", "doll", or None for a mix."""
    return _samples([still(seed, index, kind)], seed, index, size)[0]


def clip(
    seed: int, index: int, frames: int = 16, kind: str | None = None, size: int = 64, fps: float = 8.0
) -> list[Sample]:
    """The clip at this address, frame by frame."""
    scenes = [moment(seed, index, frame, frames, kind, fps) for frame in range(frames)]
    return _samples(scenes, seed, index, size)


def mesh_of(scene: Scene) -> trimesh.Trimesh:
    """The body of a scene in world coordinates, with a colour per face (patterns are painted by the renderer only)."""
    geometry = expand([scene])
    own = geometry.face_part >= 0  # without the shadow
    faces = geometry.faces[own]
    part = geometry.face_part[own]
    colors = np.where(geometry.part_is_main[:, None], np.array(scene.main), geometry.part_color)[part]
    used = faces.max() + 1
    return trimesh.Trimesh(
        geometry.position[:used], faces, face_colors=(colors * 255).round().astype(np.uint8), process=False
    )


def seen_joints(scenes: Sequence[Scene], size: int) -> np.ndarray:
    """(b, 18, 2) float32 pixels (x, y) of dolls' joints; NaN for those of the face that the head turns away.

    A detector of poses finds hidden limbs, too, but no eyes in the back of a head: they tell where a doll looks.
    """
    eye, axes = cameras(scenes)
    found = np.empty((len(scenes), len(JOINTS), 2), np.float32)
    for i, scene in enumerate(scenes):
        joints = _joints(scene)
        head = joints[EARS].mean(0)
        out, toward = joints[FACE] - head, eye[i] - head  # (5, 3), (3,)
        turned = out @ toward / np.linalg.norm(toward) < TURNED_AWAY * np.linalg.norm(out, axis=1)
        found[i] = _pixels(joints, eye[i], axes[i], size)
        found[i, np.array(FACE)[turned]] = np.nan
    return found


def _samples(scenes: Sequence[Scene], seed: int, index: int, size: int) -> list[Sample]:
    pictures, matrices = render(scenes, size), camera_to_world(scenes)
    eye, axes = cameras(scenes)
    samples = []
    for i, scene in enumerate(scenes):
        joints = _joints(scene)
        samples.append(
            Sample(
                world.VERSION,
                seed,
                index,
                scene,
                pictures.rgb[i],
                pictures.rgba[i],
                pictures.mask[i],
                pictures.depth[i],
                pictures.normal[i],
                matrices[i],
                float(np.radians(world.FIELD_OF_VIEW)),
                joints,
                _pixels(joints, eye[i], axes[i], size),
            )
        )
    return samples


def _pixels(joints: np.ndarray, eye: np.ndarray, axes: np.ndarray, size: int) -> np.ndarray:
    """(j, 2) float32 pixels (x, y) of world positions (j, 3)."""
    local = (joints - eye) @ axes.T  # (j, 3) right, up, forward
    ndc = FOCAL * local[:, :2] / local[:, 2:]
    return ((ndc * [1, -1] + 1) * size / 2).astype(np.float32)


def _joints(scene: Scene) -> np.ndarray:
    """(j, 3) world positions: turned, grown from the floor, moved, as the renderer does with the mesh."""
    rest = np.array(scene.joints, np.float32).reshape(-1, 3)
    c, s = np.cos(scene.yaw), np.sin(scene.yaw)
    turned = rest @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)
    lift = np.array([0, 0, scene.floor], np.float32)
    return ((turned - lift) * scene.scale + lift + np.array(scene.offset, np.float32)).astype(np.float32)
