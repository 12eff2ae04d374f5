"""The fast system of `gen3d.nerf.task` as a method of nerfstudio: `ns-train liftkit-nerf --data FOLDER`.

nerfstudio finds it by the entry point `nerfstudio.method_configs` and asks for `liftkit_nerf`. Its pipeline gives rays
and pixels, its optimizers step, its viewer shows; the field, the occupancy grid and the renderer are ours, and so is
what `gen3d.data.placing` finds the photographs to be of: a thing that was cut out, or a place without bounds.

Made for nerfstudio 1.1.5 (docs/nerfstudio.md); never needed by anything else here.
"""

# pyright: reportMissingImports=false
# nerfstudio is not among our dependencies.

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

try:
    from nerfstudio.cameras.cameras import Cameras, CameraType
    from nerfstudio.cameras.rays import RayBundle
    from nerfstudio.configs.base_config import ViewerConfig
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.data.datasets.base_dataset import InputDataset
    from nerfstudio.data.scene_box import SceneBox
    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
    from nerfstudio.engine.optimizers import AdamOptimizerConfig
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
    from nerfstudio.engine.trainer import TrainerConfig
    from nerfstudio.models.base_model import Model, ModelConfig
    from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
    from nerfstudio.plugins.types import MethodSpecification

    from gen3d.data.lenses import Lens
    from gen3d.data.photographs import Photographs
    from gen3d.data.placement import Placement
    from gen3d.data.placing import place
    from gen3d.data.scene import CapturedScene, CapturedView
    from gen3d.nerf.recipe import FastConfig
    from gen3d.nerf.task import BACKGROUNDS, OCCUPANCY_EVERY, OCCUPANCY_WARM_UP, SMOOTH_L1, FastModel, ssim
except ImportError as error:
    # nerfstudio loads the entry points of all methods before it does anything, and does not catch what they raise: an
    # error here would end every ns-train of the user. None it only warns of. Without nerfstudio nobody asks.
    liftkit_nerf = None
    if not (error.name or "").startswith("nerfstudio"):
        warnings.warn(f"liftkit-nerf cannot be used with this nerfstudio: {error}", stacklevel=1)
else:
    import numpy as np
    import torch
    from PIL import Image
    from torch import Tensor
    from torch.nn.functional import mse_loss, smooth_l1_loss

    DEFAULTS = FastConfig()
    RAYS = 4096  # of a step where they are not adapted

    # -- what the photographs are of ---------------------------------------------------------------------------------

    @dataclass
    class LiftkitDataManagerConfig(VanillaDataManagerConfig):
        """What can be set as `--pipeline.datamanager.NAME`, beside what nerfstudio knows."""

        _target: type = field(default_factory=lambda: LiftkitDataManager)
        """The class of the data manager."""
        background_color: Literal["white", "black", "random"] = "white"
        """What transparent pictures stand on, whatever their dataparser says, and what is behind everything. Random:
        another colour for each ray in training, white in measuring."""
        adapt_rays: bool = True
        """Draw as many rays a step as give the same number of samples, as `gen3d nerf` does; otherwise
        `train_num_rays_per_batch`."""

    class LiftkitDataManager(VanillaDataManager):
        """nerfstudio's own, which also finds what the photographs are of.

        The model hears of it, and of the background, by the metadata of the photographs to learn from.
        """

        config: LiftkitDataManagerConfig

        def create_train_dataset(self) -> InputDataset:
            """The photographs to learn from; where their background is random, they keep their transparency."""
            dataset = super().create_train_dataset()
            color = self.config.background_color
            put_on(None if color == "random" else BACKGROUNDS[color], dataset)
            dataset.metadata |= {"background": color, "placement": placement_of(dataset)}
            return dataset

        def create_eval_dataset(self) -> InputDataset:
            """The photographs to look at."""
            dataset = super().create_eval_dataset()
            put_on(BACKGROUNDS[self.config.background_color], dataset)
            return dataset

        def get_training_callbacks(
            self, training_callback_attributes: TrainingCallbackAttributes
        ) -> list[TrainingCallback]:
            """Before each step, draw as many rays as the model asks for."""
            pipeline = training_callback_attributes.pipeline

            def adapt(step: int) -> None:
                self.train_pixel_sampler.set_num_rays_per_batch(pipeline.model.system.rays)

            before = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
            return [TrainingCallback(before, adapt, update_every_num_iters=1)] if self.config.adapt_rays else []

    def put_on(brightness: float | None, dataset: InputDataset) -> None:
        """Let the transparent pictures of a dataset stand on a grey, or with None stay transparent."""
        color = None if brightness is None else torch.full((3,), brightness)
        dataset._dataparser_outputs.alpha_color = color

    def placement_of(dataset: InputDataset) -> Placement | None:
        """Where the photographs of a dataset are put, by the rule of `gen3d nerf`; from nerfstudio's coordinates.

        None with cameras that `Lens` does not know, such as those of panoramas.
        """
        cameras = dataset.cameras
        if not set(cameras.camera_type.flatten().tolist()) <= {CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value}:
            return None
        views = [view_of(cameras, index, path) for index, path in enumerate(dataset.image_filenames)]
        points = dataset.metadata.get("points3D_xyz")  # COLMAP's
        points = points.double().numpy() if points is not None and len(points) else None
        return place(CapturedScene(Path(), "nerfstudio", tuple(views), points, ()), Photographs(views))

    def view_of(cameras: Cameras, index: int, path: Path) -> CapturedView:
        """One picture as it lies on disk, where nerfstudio may use a smaller one."""
        with Image.open(path) as picture:
            lens = lens_of(cameras, index).scaled(*picture.size)
        pose = np.eye(4)
        pose[:3] = cameras.camera_to_worlds[index].numpy()
        return CapturedView(path, pose, lens, None, "train", upright=False)  # as nerfstudio reads it

    def lens_of(cameras: Cameras, index: int) -> Lens:
        """The lens of a camera; of nerfstudio's terms the eighth power of the radius is left out."""
        names = ("width", "height", "fx", "fy", "cx", "cy")
        numbers = {name: getattr(cameras, name)[index].item() for name in names}
        bent = cameras.distortion_params
        k1, k2, k3, k4, p1, p2 = [0.0] * 6 if bent is None else bent[index].tolist()
        if int(cameras.camera_type[index]) == CameraType.FISHEYE.value:
            return Lens(**numbers, model="fisheye", distortion=(k1, k2, k3, k4))
        return Lens(**numbers, model="opencv", distortion=(k1, k2, p1, p2, k3))

    def around(box: SceneBox) -> Placement:
        """The cube around nerfstudio's scene box, for photographs of which no more is known."""
        low, high = box.aabb.double()
        x, y, z = ((low + high) / 2).tolist()
        return Placement((x, y, z), 2 / float((high - low).max()), unbounded=True)

    # -- the model ---------------------------------------------------------------------------------------------------

    @dataclass
    class LiftkitModelConfig(ModelConfig):
        """What can be set as `--pipeline.model.NAME`."""

        _target: type = field(default_factory=lambda: LiftkitModel)
        """The class of the model."""
        enable_collider: bool = False
        """Near and far planes of nerfstudio: not needed, since rays are cut where the field ends."""
        collider_params: dict[str, float] | None = None
        """Of the collider."""
        eval_num_rays_per_chunk: int = 1 << 14
        """Rays rendered together when looking."""
        unbounded: bool | None = None
        """Contract all of space around what the photographs are of; otherwise there is nothing outside of that. None:
        bounded if they have transparency, as `gen3d nerf` chooses."""
        levels: int = DEFAULTS.levels
        """Grids of growing resolution."""
        finest: int = DEFAULTS.finest
        """Vertices along a side of the last grid."""
        log2_table: int = DEFAULTS.log2_table
        """A grid has at most 2^log2_table entries."""
        width: int = DEFAULTS.width
        """Units of a hidden layer."""
        cells: int = DEFAULTS.cells
        """Of the occupancy grid, along a side."""
        samples_across: int = DEFAULTS.samples_across
        """Samples of a ray along the side of the cube; four times as many where space is unbounded."""

        def fast(self) -> FastConfig:
            """The same for our own model."""
            names = ("levels", "finest", "log2_table", "width", "cells", "samples_across")
            return FastConfig(**{name: getattr(self, name) for name in names})

    class LiftkitModel(Model):
        """`gen3d.nerf.task.FastModel` in the coordinates of nerfstudio.

        Attributes:
            system: field and occupancy grid.
            background: "white", "black" or "random", as of the data manager.
            center: (3,) in nerfstudio's units; of what the photographs are of, which is put into our [-1, 1]^3.
            scale: () model units per unit of nerfstudio.
        """

        config: LiftkitModelConfig
        background: str
        center: Tensor
        scale: Tensor

        def populate_modules(self) -> None:
            """Make field and grid; called by nerfstudio, which has seeded torch before."""
            super().populate_modules()
            seed = int(torch.randint(2**31, ()))
            metadata = self.kwargs.get("metadata", {})
            placement = metadata.get("placement") or around(self.scene_box)
            self.background = metadata.get("background", "white")
            unbounded = placement.unbounded if self.config.unbounded is None else self.config.unbounded
            self.system = FastModel(self.config.fast(), seed, unbounded)
            self.register_buffer("center", torch.tensor(placement.center))
            self.register_buffer("scale", torch.tensor(placement.scale))

        def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
            """All parameters, under the name of their optimizer."""
            return {"fields": list(self.system.parameters())}

        def get_training_callbacks(
            self, training_callback_attributes: TrainingCallbackAttributes
        ) -> list[TrainingCallback]:
            """Look at the field again, now and then, to find out where it is empty."""
            before = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
            return [TrainingCallback(before, self.update_occupancy, update_every_num_iters=OCCUPANCY_EVERY)]

        def update_occupancy(self, step: int) -> None:
            """Refresh the occupancy grid; `step` counts from 0."""
            self.system.look_around(torch.default_generator, everywhere=step < OCCUPANCY_WARM_UP)

        def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
            """What rays see.

            Args:
                ray_bundle: origins and unit directions (..., 3), in nerfstudio's units.

            Returns:
                rgb (..., 3), accumulation (..., 1) in [0, 1], depth (..., 1) along the ray in nerfstudio's units, and
                background (..., 3), the colour that lies behind rgb.
            """
            shape = ray_bundle.origins.shape[:-1]
            origins, directions = (rays.reshape(-1, 3) for rays in (ray_bundle.origins, ray_bundle.directions))
            background = torch.full_like(origins, BACKGROUNDS[self.background])
            if self.training and self.background == "random":
                background = torch.rand_like(origins)
            jitter = torch.default_generator if self.training else None
            seen = self.system.see((origins - self.center) * self.scale, directions, background, jitter)
            found = {
                "rgb": seen.color,
                "accumulation": seen.opacity[:, None],
                "depth": seen.depth[:, None] / self.scale,
            }
            return {name: value.view(*shape, -1) for name, value in {**found, "background": background}.items()}

        def get_loss_dict(
            self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
        ) -> dict[str, Tensor]:
            """Smooth L1 between the colours of rays and of their pixels."""
            return {"rgb_loss": smooth_l1_loss(outputs["rgb"], target(outputs, batch), beta=SMOOTH_L1)}

        def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
            """PSNR in dB of the rays of a step."""
            return {"psnr": psnr(outputs["rgb"].detach(), target(outputs, batch))}

        def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
            """(..., 4) colours without the background, not multiplied by alpha, and alpha; for `ns-render`."""
            opacity = outputs["accumulation"]
            color = outputs[output_name] - (1 - opacity) * outputs["background"]
            return torch.cat([(color / opacity.clamp(min=1e-6)).clamp(0, 1), opacity], dim=-1)

        def get_image_metrics_and_images(
            self, outputs: dict[str, Tensor], batch: dict[str, Any]
        ) -> tuple[dict[str, float], dict[str, Tensor]]:
            """PSNR and SSIM of a whole picture (h, w, 3), and what to show.

            The photograph is on the left of the picture; in the depth, what is near is bright.
            """
            truth, shown = target(outputs, batch), outputs["rgb"].clamp(0, 1)
            similarity = ssim(shown.movedim(-1, 0).cpu(), truth.movedim(-1, 0).cpu())
            nearness = outputs["accumulation"] / (1 + outputs["depth"])
            pictures = {"img": torch.cat([truth, shown], dim=1)}
            pictures |= {"accumulation": outputs["accumulation"].expand_as(shown), "depth": nearness.expand_as(shown)}
            return {"psnr": float(psnr(shown, truth)), "ssim": similarity}, pictures

    def target(outputs: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
        """(..., 3) photographed colours; where the picture has alpha, over the background that was drawn."""
        image = batch["image"].to(outputs["rgb"])
        if image.shape[-1] == 3:
            return image
        return torch.lerp(outputs["background"], image[..., :3], image[..., 3:])

    def psnr(seen: Tensor, truth: Tensor) -> Tensor:
        """Peak signal to noise ratio in dB, ()."""
        return -10 * mse_loss(seen, truth).clamp(min=1e-10).log10()

    liftkit_nerf = MethodSpecification(
        config=TrainerConfig(
            method_name="liftkit-nerf",
            max_num_iterations=DEFAULTS.steps,
            mixed_precision=False,
            pipeline=VanillaPipelineConfig(
                datamanager=LiftkitDataManagerConfig(
                    dataparser=NerfstudioDataParserConfig(),
                    train_num_rays_per_batch=RAYS,
                    eval_num_rays_per_batch=RAYS,
                ),
                model=LiftkitModelConfig(),
            ),
            optimizers={
                "fields": {
                    "optimizer": AdamOptimizerConfig(lr=DEFAULTS.learning_rate, eps=1e-15),
                    "scheduler": ExponentialDecaySchedulerConfig(
                        lr_final=DEFAULTS.learning_rate / 50, max_steps=DEFAULTS.steps
                    ),
                }
            },
            viewer=ViewerConfig(),
            vis="viewer",
        ),
        description="liftkit: a hash grid with an occupancy grid, on any processor, with nothing to compile.",
    )
