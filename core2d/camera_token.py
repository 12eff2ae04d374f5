"""The camera token: one more context token that says from where the object is seen.

It is an ordinary context token with its own small projector, in the sub-folder `camera_token/` that
`model_index.json` does not name. So the UNet stays an ordinary Stable Diffusion UNet which stock diffusers
opens, while a backbone that finds the sub-folder can be asked for a view (the idea of MVDream, 2308.16512
s3.2, which adds its camera embedding to the time embedding instead).
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

CAMERA_FEATURES = 5  # sin azimuth, cos azimuth, sin elevation, cos elevation, radius


class CameraToken(ModelMixin, ConfigMixin):
    """A two-layer MLP from the five numbers of a view to one token as wide as a text token.

    Args:
        context_dim: width of a context token, the UNet's `cross_attention_dim`.
        hidden_dim: width of the hidden layer.
    """

    @register_to_config
    def __init__(self, context_dim: int = 128, hidden_dim: int = 128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(CAMERA_FEATURES, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, context_dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(b, 5) features of `camera_features` -> (b, 1, context_dim) tokens."""
        return self.layers(features)[:, None]  # (b, 5) -> (b, 1, d)


def camera_features(camera) -> Tensor:
    """The (n, 5) numbers [sin az, cos az, sin el, cos el, radius] of a view; angles in radians, radius in
    metres.

    Args:
        camera: a `core2d.cameras.Cameras` (anything with `azimuth`, `elevation` and `radius` tensors of shape
            (n,)), or a tensor that already holds the features.
    """
    if isinstance(camera, Tensor):
        if camera.ndim != 2 or camera.shape[1] != CAMERA_FEATURES:
            raise ValueError(f"camera features have shape (n, {CAMERA_FEATURES}), got {tuple(camera.shape)}")
        return camera
    azimuth, elevation = camera.azimuth, camera.elevation  # (n,) each
    return torch.stack([azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos(), camera.radius], dim=1)
