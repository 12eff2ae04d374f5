"""As much of nerfstudio 1.1.5 as a method has to do with: its names and signatures, and little of its work.

`modules()` goes into `sys.modules`. Written from nerfstudio's documentation and its public interface, and compared with
nerfstudio itself: docs/nerfstudio.md tells of the runs.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


@dataclass
class InstantiateConfig:
    _target: type

    def setup(self, **kwargs: Any) -> Any:
        return self._target(self, **kwargs)


@dataclass
class ViewerConfig:
    relative_log_filename: str = "viewer_log_filename.txt"
    websocket_port: int | None = None
    websocket_port_default: int = 7007
    websocket_host: str = "0.0.0.0"
    num_rays_per_chunk: int = 32768
    quit_on_train_completion: bool = False


@dataclass
class RayBundle:
    origins: Tensor
    directions: Tensor
    pixel_area: Tensor
    camera_indices: Tensor | None = None
    nears: Tensor | None = None
    fars: Tensor | None = None
    metadata: dict[str, Tensor] = field(default_factory=dict)
    times: Tensor | None = None

    def __len__(self) -> int:
        return self.origins.numel() // 3


@dataclass
class SceneBox:
    aabb: Tensor


class TrainingCallbackLocation(Enum):
    BEFORE_TRAIN_ITERATION = auto()
    AFTER_TRAIN_ITERATION = auto()
    AFTER_TRAIN = auto()


@dataclass
class TrainingCallbackAttributes:
    optimizers: Any
    grad_scaler: Any
    pipeline: Any
    trainer: Any


class TrainingCallback:
    def __init__(
        self,
        where_to_run: list[TrainingCallbackLocation],
        func: Callable,
        update_every_num_iters: int | None = None,
        iters: tuple[int, ...] | None = None,
        args: list | None = None,
        kwargs: dict | None = None,
    ) -> None:
        assert "step" in inspect.signature(func).parameters
        self.where_to_run, self.func = where_to_run, func
        self.update_every_num_iters, self.iters = update_every_num_iters, iters
        self.args, self.kwargs = args or [], kwargs or {}

    def run_callback_at_location(self, step: int, location: TrainingCallbackLocation) -> None:
        every = self.update_every_num_iters
        if location in self.where_to_run and (step % every == 0 if every else step in (self.iters or ())):
            self.func(*self.args, **self.kwargs, step=step)


@dataclass
class AdamOptimizerConfig:
    _target: type = torch.optim.Adam
    lr: float = 0.0005
    eps: float = 1e-8
    max_norm: float | None = None
    weight_decay: float = 0

    def setup(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return self._target(params, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay)


@dataclass
class ExponentialDecaySchedulerConfig(InstantiateConfig):
    _target: type = object
    lr_pre_warmup: float = 1e-8
    lr_final: float | None = None
    warmup_steps: int = 0
    max_steps: int = 100000
    ramp: Literal["linear", "cosine"] = "cosine"


class CameraType(Enum):
    PERSPECTIVE = auto()
    FISHEYE = auto()
    EQUIRECTANGULAR = auto()


@dataclass
class Cameras:
    """Of n cameras: poses (n, 3, 4), numbers (n, 1), distortion (n, 6): k1, k2, k3, k4, p1, p2."""

    camera_to_worlds: Tensor
    fx: Tensor
    fy: Tensor
    cx: Tensor
    cy: Tensor
    width: Tensor
    height: Tensor
    distortion_params: Tensor | None
    camera_type: Tensor

    def rescale_output_resolution(self, scaling_factor: float) -> None:
        for name in ("fx", "fy", "cx", "cy"):
            setattr(self, name, getattr(self, name) * scaling_factor)
        self.width, self.height = ((size * scaling_factor).long() for size in (self.width, self.height))


@dataclass
class DataparserOutputs:
    image_filenames: list[Path]
    cameras: Cameras
    alpha_color: Tensor | None = None
    scene_box: SceneBox = field(default_factory=lambda: SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])))
    mask_filenames: list[Path] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class InputDataset(torch.utils.data.Dataset):
    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        self._dataparser_outputs, self.scale_factor = dataparser_outputs, scale_factor
        self.scene_box, self.metadata, self.cameras = (
            copy.deepcopy(getattr(dataparser_outputs, name)) for name in ("scene_box", "metadata", "cameras")
        )
        self.cameras.rescale_output_resolution(scaling_factor=scale_factor)

    def __len__(self) -> int:
        return len(self._dataparser_outputs.image_filenames)

    @property
    def image_filenames(self) -> list[Path]:
        return self._dataparser_outputs.image_filenames

    def get_image_float32(self, image_idx: int) -> Tensor:
        """(h, w, 3), or (h, w, 4) where the picture has alpha and there is no `alpha_color` to put behind it."""
        with Image.open(self.image_filenames[image_idx]) as picture:
            width, height = (int(side * self.scale_factor) for side in picture.size)
            image = torch.from_numpy(np.array(picture.resize((width, height))).astype("float32") / 255)
        behind = self._dataparser_outputs.alpha_color
        if behind is None or image.shape[-1] == 3:
            return image
        return image[..., :3] * image[..., 3:] + behind * (1 - image[..., 3:])


@dataclass
class NerfstudioDataParserConfig(InstantiateConfig):
    _target: type = object
    data: Path = Path()
    scale_factor: float = 1.0
    scene_scale: float = 1.0


@dataclass
class VanillaDataManagerConfig(InstantiateConfig):
    _target: type = field(default_factory=lambda: VanillaDataManager)
    data: Path | None = None
    dataparser: NerfstudioDataParserConfig = field(default_factory=NerfstudioDataParserConfig)
    train_num_rays_per_batch: int = 1024
    eval_num_rays_per_batch: int = 1024
    camera_res_scale_factor: float = 1.0
    patch_size: int = 1


class PixelSampler:
    def __init__(self, num_rays_per_batch: int) -> None:
        self.num_rays_per_batch = num_rays_per_batch

    def set_num_rays_per_batch(self, num_rays_per_batch: int) -> None:
        self.num_rays_per_batch = num_rays_per_batch


class VanillaDataManager(nn.Module):
    def __init__(
        self,
        config: VanillaDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        self.config, self.test_split = config, "test" if test_mode in ("test", "inference") else "val"
        self.dataparser = config.dataparser.setup()
        self.train_dataparser_outputs = self.dataparser.get_dataparser_outputs(split="train")
        self.train_dataset = self.create_train_dataset()
        self.eval_dataset = self.create_eval_dataset()
        super().__init__()
        self.train_pixel_sampler = PixelSampler(config.train_num_rays_per_batch)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        return []

    def create_train_dataset(self) -> InputDataset:
        return InputDataset(self.train_dataparser_outputs, self.config.camera_res_scale_factor)

    def create_eval_dataset(self) -> InputDataset:
        outputs = self.dataparser.get_dataparser_outputs(split=self.test_split)
        return InputDataset(outputs, self.config.camera_res_scale_factor)


@dataclass
class ModelConfig(InstantiateConfig):
    _target: type = field(default_factory=lambda: Model)
    enable_collider: bool = True
    collider_params: dict[str, float] | None = field(default_factory=lambda: {"near_plane": 2.0, "far_plane": 6.0})
    loss_coefficients: dict[str, float] = field(default_factory=lambda: {"rgb_loss_coarse": 1.0, "rgb_loss_fine": 1.0})
    eval_num_rays_per_chunk: int = 4096
    prompt: str | None = None


class Model(nn.Module):
    def __init__(self, config: ModelConfig, scene_box: SceneBox, num_train_data: int, **kwargs: Any) -> None:
        super().__init__()
        self.config, self.scene_box, self.num_train_data, self.kwargs = config, scene_box, num_train_data, kwargs
        self.render_aabb, self.collider = None, None
        self.populate_modules()
        self.callbacks = None
        self.device_indicator_param = nn.Parameter(torch.empty(0))

    @property
    def device(self) -> torch.device:
        return self.device_indicator_param.device

    def populate_modules(self) -> None:
        assert not self.config.enable_collider, "the stand-in has no collider"

    def forward(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        return self.get_outputs(ray_bundle)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        raise NotImplementedError

    @torch.no_grad()
    def get_outputs_for_camera_ray_bundle(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Of a picture (h, w), in pieces of `eval_num_rays_per_chunk` rays."""
        height, width = camera_ray_bundle.origins.shape[:2]
        pieces: dict[str, list[Tensor]] = {}
        rays = [part.reshape(-1, 3) for part in (camera_ray_bundle.origins, camera_ray_bundle.directions)]
        for origins, directions in zip(
            *(part.split(self.config.eval_num_rays_per_chunk) for part in rays), strict=True
        ):
            seen = self.forward(RayBundle(origins, directions, torch.ones(len(origins), 1)))
            for name, value in seen.items():
                pieces.setdefault(name, []).append(value)
        return {name: torch.cat(parts).view(height, width, -1) for name, parts in pieces.items()}


@dataclass
class VanillaPipelineConfig(InstantiateConfig):
    _target: type = field(default_factory=lambda: VanillaPipeline)
    datamanager: VanillaDataManagerConfig = field(default_factory=VanillaDataManagerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


class VanillaPipeline(nn.Module):
    def __init__(
        self,
        config: VanillaPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        super().__init__()
        self.datamanager = config.datamanager.setup(device=device, test_mode=test_mode, world_size=1, local_rank=0)
        self.model = config.model.setup(
            scene_box=self.datamanager.train_dataset.scene_box,
            num_train_data=len(self.datamanager.train_dataset),
            metadata=self.datamanager.train_dataset.metadata,
            device=device,
            grad_scaler=grad_scaler,
            seed_points=None,
        )


@dataclass
class TrainerConfig(InstantiateConfig):
    _target: type = object
    method_name: str | None = None
    pipeline: VanillaPipelineConfig = field(default_factory=VanillaPipelineConfig)
    optimizers: dict[str, Any] = field(default_factory=dict)
    viewer: ViewerConfig = field(default_factory=ViewerConfig)
    vis: str = "viewer"
    steps_per_save: int = 1000
    steps_per_eval_batch: int = 500
    steps_per_eval_image: int = 500
    steps_per_eval_all_images: int = 25000
    max_num_iterations: int = 1000000
    mixed_precision: bool = False
    use_grad_scaler: bool = False
    save_only_latest_checkpoint: bool = True
    gradient_accumulation_steps: dict[str, int] = field(default_factory=dict)


@dataclass
class MethodSpecification:
    config: TrainerConfig
    description: str


CONTENTS: dict[str, tuple[type, ...]] = {
    "cameras.cameras": (Cameras, CameraType),
    "cameras.rays": (RayBundle,),
    "configs.base_config": (InstantiateConfig, ViewerConfig),
    "data.datamanagers.base_datamanager": (VanillaDataManager, VanillaDataManagerConfig),
    "data.dataparsers.base_dataparser": (DataparserOutputs,),
    "data.dataparsers.nerfstudio_dataparser": (NerfstudioDataParserConfig,),
    "data.datasets.base_dataset": (InputDataset,),
    "data.scene_box": (SceneBox,),
    "engine.callbacks": (TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation),
    "engine.optimizers": (AdamOptimizerConfig,),
    "engine.schedulers": (ExponentialDecaySchedulerConfig,),
    "engine.trainer": (TrainerConfig,),
    "models.base_model": (Model, ModelConfig),
    "pipelines.base_pipeline": (VanillaPipeline, VanillaPipelineConfig),
    "plugins.types": (MethodSpecification,),
}


def modules() -> dict[str, ModuleType]:
    """Fresh modules by their full names, packages included."""
    found: dict[str, ModuleType] = {}
    for name, contents in CONTENTS.items():
        parts = ["nerfstudio", *name.split(".")]
        for end in range(1, len(parts) + 1):
            full = ".".join(parts[:end])
            module = found.setdefault(full, ModuleType(full))
            module.__path__ = []
        for one in contents:
            setattr(found[".".join(parts)], one.__name__, one)
    return found
