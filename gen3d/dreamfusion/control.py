"""Meshes that follow a coarse shape: ControlNets of depth (Zhang et al. 2023, 2302.05543) in score distillation.

A map holds for one view only, and a mesh is seen from all sides. So what is followed is another mesh: at each step its
depth is drawn from the cameras of that step, as maps of the ControlNet's training were drawn.

    prior, tell = following(prior, recipe.controls())
    mesh, build = text_to_mesh("a red mug", prior, Path("mug.run"), tell=tell)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor

from core2d.adapters.controlnet import ControlNet
from core2d.adapters.controlnet_files import read_controlnet
from core2d.guidance.base import Tell
from core2d.prior.base import LatentPrior
from core2d.prior.cameras import Cameras
from core2d.prior.condition import Condition
from core2d.systems.control.maps import depth_map
from core2d.systems.control.recipe import Told
from gen3d.mesh import TexturedMesh, load_mesh
from gen3d.mesh.pictures import in_view
from gen3d.mesh.render import render_depth

AnyPrior = TypeVar("AnyPrior", bound=LatentPrior)


def following(prior: AnyPrior, controls: Iterable[Told]) -> tuple[AnyPrior, Tell | None]:
    """The same prior with ControlNets, and what tells it the depth of their meshes; None where none counts.

    A mesh of another size or place than our cameras see is centred and scaled to fit. One of weight 0 is left out.

    Raises:
        InputError: a ControlNet of another model, or a file that cannot be read.
    """
    adapters, meshes = [], {}
    for number, one in enumerate(controls):
        name = f"control_{number}"
        network, mesh = read_controlnet(one.network), in_view(load_mesh(one.map))
        adapter = ControlNet(network, name, one.weight, num_train_timesteps=prior.num_train_timesteps)
        adapter.check_fit(prior)
        if one.weight:
            adapters.append(adapter)
            meshes[name] = mesh
    if not adapters:
        return prior, None

    def tell(condition: Condition, images: Tensor, cameras: Cameras | None) -> Condition:
        if cameras is None:
            raise ValueError("the depth of a mesh needs cameras")
        height, width = images.shape[-2:]
        return condition.telling(**{name: depth_maps(mesh, cameras, height, width) for name, mesh in meshes.items()})

    return prior.with_adapters(*adapters), tell


def depth_maps(mesh: TexturedMesh, cameras: Cameras, height: int, width: int) -> Tensor:
    """(n, 3, height, width) maps of a mesh as ControlNets of depth are told them, one for each camera."""
    return depth_map(render_depth(mesh, cameras, height, width))
