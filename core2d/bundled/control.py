"""toybox-control-depth and toybox-control-pose: ControlNets of the prior, trained on maps that the renderer knows.

Sizes come from the prior, so that another prior needs no other recipe. A stage takes what stands in the prior's folder
and leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from core2d.adapters.controlnet import fresh_controlnet
from core2d.adapters.controlnet_files import read_controlnet, write_controlnet
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.bundled import clip, control_scores, prior, world
from core2d.bundled.scores import Scores
from core2d.bundled.stages import judge_in
from core2d.bundled.training import Stage, TrainingSetup, history_of, keep, processes, run_training
from core2d.media.skeletons import draw_skeleton
from core2d.prior.backbone import Backbone
from core2d.prior.condition import Condition
from core2d.systems.control.maps import depth_map, edge_map, normal_map, segmentation_map
from core2d.systems.control.task import EMPTY, ControlTask
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import world as toybox
from core2d.toybox.dataset import CHUNK, Pictures, draw, labels_of, mixed_scene, to_bytes
from core2d.toybox.render import cameras, render
from core2d.toybox.sample import seen_joints
from core2d.toybox.scene import Scene, moment, still
from core2d.training.loop import TrainingRecipe

PRIOR = "toybox-sd"  # that they are of
RECIPE = TrainingRecipe(
    steps=6000, batch_size=32, learning_rate=5e-4, warmup_steps=100, ema_decay=0.998, checkpoint_every=250,
    anneal="minutes", minutes=90,
)  # fmt: skip
DOLL = len(toybox.CLASS_NAMES)  # the class of dolls in maps of classes


# -- maps of scenes ------------------------------------------------------------------------------------------------


def depth_maps(scenes: Sequence[Scene], size: int) -> Tensor:
    """(n, 3, size, size) depth of bodies; grounds have none."""
    return depth_map(torch.from_numpy(render(scenes, size).depth))


def normal_maps(scenes: Sequence[Scene], size: int) -> Tensor:
    """(n, 3, size, size) normals of bodies."""
    normal = torch.from_numpy(render(scenes, size).normal).permute(0, 3, 1, 2)
    return normal_map(normal, torch.from_numpy(cameras(scenes)[1]))


def segmentation_maps(scenes: Sequence[Scene], size: int) -> Tensor:
    """(n, 3, size, size) bodies in the colour of their class."""
    classes = [DOLL if scene.kind == "doll" else labels_of(scene)[0] for scene in scenes]
    return segmentation_map(torch.from_numpy(render(scenes, size).mask), torch.tensor(classes))


def edge_maps(scenes: Sequence[Scene], size: int) -> Tensor:
    """(n, 3, size, size) edges of pictures, grounds included."""
    return edge_map(torch.from_numpy(render(scenes, size).rgb).permute(0, 3, 1, 2))


def pose_maps(scenes: Sequence[Scene], size: int) -> Tensor:
    """(n, 3, size, size) skeletons of dolls."""
    drawn = [draw_skeleton(joints, size, size) for joints in seen_joints(scenes, size)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)


def doll_scene(seed: int, index: int) -> Scene:
    """What a ControlNet of poses learns from: 17 stills of dolls to 3 frames of their clips."""
    if index % 20 < 3:
        return moment(seed, index, frame=index * 7 % 16, frames=16, kind="doll")
    return still(seed, index, kind="doll")


def draw_maps(
    path: Path, scene_of: Callable[[int], Scene], maps_of: control_scores.MapsOf, count: int, size: int
) -> np.ndarray:
    """(count, 3, size, size) uint8 maps of scenes, drawn once into a .npy file and read from there without copying."""
    if not path.is_file():
        with atomic_path(path) as temporary:
            maps = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, 3, size, size))
            for start in range(0, count, CHUNK):
                scenes = [scene_of(i) for i in range(start, min(start + CHUNK, count))]
                maps[start : start + len(scenes)] = to_bytes(maps_of(scenes, size).numpy())
            maps.flush()
    return np.load(path, mmap_mode="r")


# -- stages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of map: how it is drawn, what is learned from, and how well it is followed.

    Attributes:
        name: as of `core2d.systems.control.recipe.KINDS`.
        maps_of: draws the maps of scenes.
        scene_of: what is learned from, by seed and index.
        share: of the pictures of a setup; dolls are of fewer kinds than objects.
        scene_kind: what is scored, "object" or "doll".
        seed: of the order of rows.
        begins_as: another kind, whose ControlNet it begins as where there is one: how a map is followed is learned
            once, and what this kind of map shows is the smaller part.
    """

    name: str
    maps_of: control_scores.MapsOf
    scene_of: Callable[[int, int], Scene]
    share: float
    scene_kind: str
    seed: int
    begins_as: str | None = None

    @property
    def folder(self) -> str:
        return f"toybox-control-{self.name}"

    def pictures(self, setup: TrainingSetup) -> tuple[Pictures, np.ndarray]:
        """Pictures, and their maps (n, 3, size, size) of uint8; drawn at the first time."""
        count, scenes = max(1, round(self.share * setup.pictures)), partial(self.scene_of, world.SEED)
        if self.scene_of is mixed_scene:
            pictures, count = world.training_pictures(setup.data, setup.pictures, setup.size), setup.pictures
        else:
            pictures = draw(setup.data / f"{self._stem(setup, count)}-pictures", scenes, count, setup.size)
        path = setup.data / f"{self._stem(setup, count)}-maps.npy"
        return pictures, draw_maps(path, scenes, self.maps_of, count, setup.size)

    def _stem(self, setup: TrainingSetup, count: int) -> str:
        return f"v{toybox.VERSION}-{self.name}-{setup.size}px-{count}"

    def scores(self, pipeline: TextToImage, network: ControlNetModel, judge_folder: Path, seed: int) -> Scores:
        """Of `SCORED` maps that nothing was trained on."""
        if self.scene_kind == "doll":
            return control_scores.pose_scores(pipeline, network, self.maps_of, seed)
        return control_scores.layout_scores(pipeline, network, self.maps_of, judge_in(judge_folder), seed)


DEPTH = Kind("depth", depth_maps, mixed_scene, 1.0, "object", seed=21)
POSE = Kind("pose", pose_maps, doll_scene, 0.25, "doll", seed=22, begins_as="depth")


def train_control(setup: TrainingSetup, kind: Kind, stage: Stage) -> Scores:
    """A ControlNet that begins as a copy of the prior's encoder, or as what ships."""
    needed = setup.assets / PRIOR
    if not (needed / "unet").is_dir():
        raise InputError(f"a ControlNet needs {needed}: train the prior stage first")
    backbone = Backbone.load(needed, setup.place)
    setup = replace(setup, size=backbone.image_size)
    folder = setup.assets / kind.folder
    torch.manual_seed(5)
    fresh = setup.starts_fresh(folder / "config.json")
    model = begun(setup, kind, backbone) if fresh else read_controlnet(folder)
    with processes().main_process_first():
        pictures, maps = kind.pictures(setup)
    pipeline = TextToImage(backbone)

    def measure(network: ControlNetModel) -> Scores:
        return control_scores.followed(pipeline, network, kind.maps_of, kind.scene_kind, toybox.TUNING_SEEDS[1])

    task = control_task(model.requires_grad_(True), backbone, pictures, maps, kind.seed, measure)
    recipe = setup.recipe(RECIPE)
    if setup.place.type == "cpu":  # where the backward of torch's fused attention is half of a whole step
        for network in (model, backbone.denoiser):
            network.set_attn_processor(AttnProcessor())  # pyright: ignore[reportCallIssue]
    spent = run_training(setup, stage.name, task, recipe)
    for network in (model, backbone.denoiser):
        network.set_attn_processor(AttnProcessor2_0())  # pyright: ignore[reportCallIssue]
    judge, seed = setup.assets / "toybox-judge", toybox.TUNING_SEEDS[0]
    found = kind.scores(pipeline, model, judge, seed)
    # The prior may be another than the one that the noted scores came from.
    before = None if fresh else kind.scores(pipeline, read_controlnet(folder), judge, seed)

    def save() -> None:
        history = history_of(folder)
        with atomic_path(folder) as temporary:
            write_controlnet(temporary, model, dtype=torch.float16)
            write_json(temporary / "training.json", history)

    return keep(setup, stage, recipe, spent, found, save, before)


def begun(setup: TrainingSetup, kind: Kind, backbone: Backbone) -> ControlNetModel:
    """A ControlNet that was not trained on this kind of map yet."""
    other = setup.assets / f"toybox-control-{kind.begins_as}"
    if kind.begins_as is not None and (other / "config.json").is_file():
        return read_controlnet(other)
    return slim(fresh_controlnet(backbone))


def slim(model: ControlNetModel) -> ControlNetModel:
    """The same without the attention below its first level and without half of its middle: a little over half as large.

    Where things are, convolutions tell; the skip connections that it adds to are those of the whole copy.
    """
    first, *others = model.config["down_block_types"]
    types = [first, *("DownBlock2D" for _ in others)]
    small: ControlNetModel = ControlNetModel.from_config(  # pyright: ignore[reportAssignmentType]
        {**model.config, "down_block_types": types, "mid_block_type": "UNetMidBlock2D"}
    )
    weights = model.state_dict()
    small.load_state_dict({name: weights[name] for name in small.state_dict()})
    return small


def control_task(
    model: ControlNetModel,
    backbone: Backbone,
    pictures: Pictures,
    maps: np.ndarray,
    seed: int,
    measure: Callable[[ControlNetModel], Scores] | None = None,
) -> ControlTask:
    """Train `model` beside `backbone` on pictures and their maps (n, 3, h, w) of uint8."""
    factor = backbone.vae.config["scaling_factor"]
    mean, deviation = (part * factor for part in prior.encode_latents(backbone.vae, pictures))
    parts = backbone.family.parts
    captions = clip.tokenise(parts["tokenizer"], [*pictures.captions, ""]).to(backbone.device)  # (n + 1, length)
    assert EMPTY == -1  # the last row of the captions

    def told(rows: Tensor) -> Condition:
        return Condition(parts["text_encoder"](input_ids=captions[rows]).last_hidden_state)

    def shown(rows: Tensor) -> Tensor:
        return torch.from_numpy(maps[rows.numpy()]).float() / 255

    return ControlTask(model, backbone, mean, deviation, shown, told, measure=measure, seed=seed)


def train_depth(setup: TrainingSetup) -> Scores:
    """See `train_control`."""
    return train_control(setup, DEPTH, CONTROL_DEPTH)


def train_pose(setup: TrainingSetup) -> Scores:
    """See `train_control`."""
    return train_control(setup, POSE, CONTROL_POSE)


CONTROL_DEPTH = Stage("control-depth", DEPTH.folder, train_depth, "iou", "ControlNet of depth maps")
CONTROL_POSE = Stage("control-pose", POSE.folder, train_pose, "joints_near", "ControlNet of skeletons")
