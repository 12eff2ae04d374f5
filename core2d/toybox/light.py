"""The light of Toybox on surfaces, for whatever else draws in it: renderers of fields and meshes."""

import torch
from torch import Tensor

from core2d.toybox import world


def lit(normals: Tensor) -> Tensor:
    """(..., 1) how bright surfaces with unit normals (..., 3) are: ambient, a little more from above, Lambert."""
    ambient, from_above, lambert = world.LIGHT_STRENGTHS
    toward = torch.tensor(world.LIGHT, device=normals.device, dtype=normals.dtype)
    diffuse = (normals @ toward).clamp(min=0)[..., None]
    return ambient + from_above * normals[..., 2:] + lambert * diffuse
