"""The camera token: one more context token that says from where the object is seen.

It is an ordinary context token with its own small projector, in the sub-folder `camera_token/` that
`model_index.json` does not name. So the UNet stays an ordinary Stable Diffusion UNet which stock diffusers
opens, while a backbone that finds the sub-folder can be asked for a view (the idea of MVDream, 2308.16512
s3.2, which adds its camera embedding to the time embedding instead).
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

CAMERA_FEATURES = 5  # sin azimuth, cos azimuth, sin elevation, cos elevation, radius


class CameraToken(ModelMixin, ConfigMixin):
    """One token, as wide as a text token, from the five numbers of a view and the words of the prompt.

    What a view looks like depends on what is seen. The token asks the words about that, by one query that the view
    poses, so that a small UNet need not put the two together on its own.

    Args:
        context_dim: width of a context token, the UNet's `cross_attention_dim`.
        subject_dim: numbers that the words answer with.
        hidden_dim: width of the hidden layer.
        heads: of the attention to the words.
    """

    @register_to_config
    def __init__(self, context_dim: int = 128, subject_dim: int = 64, hidden_dim: int = 96, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.view = nn.Linear(CAMERA_FEATURES, context_dim)
        self.query, self.key, self.value = (nn.Linear(context_dim, subject_dim, bias=False) for _ in range(3))
        self.layers = nn.Sequential(
            nn.Linear(context_dim + subject_dim, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, context_dim),
            nn.LayerNorm(context_dim),  # as long as the text encoder's tokens: softmax weighs them against each other
        )

    def forward(self, features: Tensor, context: Tensor) -> Tensor:
        """(b, 5) features of `camera_features` and (b, n, context_dim) words -> (b, 1, context_dim) tokens."""
        view = F.silu(self.view(features))  # (b, d)
        query, keys, values = (  # (b, heads, 1 or n, s)
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, view[:, None]), (self.key, context), (self.value, context))
        )
        attention = (query @ keys.mT / query.shape[-1] ** 0.5).softmax(-1)  # (b, heads, 1, n)
        subject = (attention @ values).flatten(1)  # (b, heads s)
        return self.layers(torch.cat([view, subject], dim=1))[:, None]  # (b, 1, d)


def camera_features(camera) -> Tensor:
    """The (n, 5) numbers [sin az, cos az, sin el, cos el, radius] of a view; angles in radians, radius in
    metres.

    Args:
        camera: a `core2d.prior.cameras.Cameras` (anything with `azimuth`, `elevation` and `radius` tensors of shape
            (n,)), or a tensor that already holds the features.
    """
    if isinstance(camera, Tensor):
        if camera.ndim != 2 or camera.shape[1] != CAMERA_FEATURES:
            raise ValueError(f"camera features have shape (n, {CAMERA_FEATURES}), got {tuple(camera.shape)}")
        return camera
    azimuth, elevation = camera.azimuth, camera.elevation  # (n,) each
    return torch.stack([azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos(), camera.radius], dim=1)
