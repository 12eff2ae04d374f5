"""A step of score distillation from stock parts: what `sds-step` of `benchmark.py --suite mesh` is held against.

It is what one writes with PyTorch and diffusers and no kernel of one's own: a hash grid that gathers the eight corners
of each level, `linear` networks, 64 samples on every ray, cumulative products over (rays, 64), and diffusers' own UNet,
VAE and noise schedule. Field, cameras, pixels, light, losses and optimiser are those of
`gen3d.dreamfusion.task`. Three things are in its favour: no occupancy grid to keep, fewer samples along the cube's
side (64 from end to end of a ray, where ours has 96 steps), and no camera token, so that its UNet reads a word less.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize, relu

from core2d.prior.cameras import Cameras
from core2d.toybox.light import lit
from gen3d.dreamfusion.recipe import DreamFusionConfig
from gen3d.fields.hash_grid_field import TETRAHEDRON, HashGridField
from gen3d.kernels.hash_grid import torch_twin
from gen3d.render.images import camera_rays
from gen3d.render.rays import intersect_box
from gen3d.shaping.model import binary_entropy

TIMES = (100, 840)  # from which the noise level of a step is drawn: those of the middle of an optimisation
SAMPLES = 64  # on each ray, from where it enters the cube to where it leaves


class StockStep:
    """Optimisation steps of a field by stock parts.

    Args:
        field: what is optimised, in place.
        pipeline: diffusers' StableDiffusionPipeline, whose network predicts the noise.
        prompt: what the pictures should show.
        config: weights of the losses.
        bfloat16: whether networks run under autocast.

    Raises:
        ValueError: a field or a pipeline of another kind than this knows.
    """

    def __init__(
        self, field: HashGridField, pipeline: Any, prompt: str, config: DreamFusionConfig, bfloat16: bool = False
    ) -> None:
        if pipeline.scheduler.config.prediction_type != "epsilon":
            raise ValueError("the stock step knows networks that predict the noise")
        if field.config.view_dependent or field.config.density != "exp":
            raise ValueError("the stock step knows fields of albedo with exponential density")
        self.field, self.config, self.bfloat16 = field, config, bfloat16
        self.unet, self.vae, self.scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
        for model in (self.unet, self.vae):
            model.requires_grad_(False).eval()
        with torch.no_grad():
            self.words = pipeline.encode_prompt(prompt, torch.device("cpu"), 1, False)[0]  # (1, n, d)
        self.optimizer = torch.optim.AdamW(
            field.parameters(), config.learning_rate, eps=1e-15, weight_decay=0, fused=True
        )

    def __call__(self, cameras: Cameras, size: int, background: Tensor, shaded: bool, progress: float) -> float:
        """One whole step: pictures of `size` pixels, losses, gradients, update. Returns the loss."""
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            loss = self.loss(cameras, size, background, shaded, progress)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def loss(self, cameras: Cameras, size: int, background: Tensor, shaded: bool, progress: float) -> Tensor:
        """The losses of `gen3d.dreamfusion.task.DreamFusionTask.loss`, at `progress` in [0, 1] of the optimisation."""
        color, opacity, turned = self.render(cameras, size, background, shaded)
        pictures = color.unflatten(0, (len(cameras), size, size)).movedim(-1, 1)  # (n, 3, h, w)
        t = torch.randint(*TIMES, (len(cameras),))
        latent_size = self.unet.config.sample_size
        noise = torch.randn(len(cameras), self.unet.config.in_channels, latent_size, latent_size)
        config = self.config
        regular = config.opacity_weight * (opacity.square() + 0.01).sqrt().mean()
        regular = regular + config.entropy_weight * progress * binary_entropy(opacity).mean()
        regular = regular + config.orientation_weight * turned
        return self.distil(pictures, t, noise) + noise[0].numel() * regular

    # -- pictures ----------------------------------------------------------------------------------------------

    def render(self, cameras: Cameras, size: int, background: Tensor, shaded: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Colour (r, 3) and opacity (r,) of all pixels of n cameras, and how far normals point away (a scalar)."""
        origins, directions = camera_rays(cameras, size, size)  # (r, 3) each
        bound = self.field.config.bound
        near, far = intersect_box(origins, directions, torch.full((3,), -bound), torch.full((3,), bound))
        length = (far - near).clamp(min=0) / SAMPLES  # (r,) of an interval
        steps = torch.arange(SAMPLES) + torch.rand(len(near), SAMPLES)  # (r, s) a random place in each interval
        t = near[:, None] + length[:, None] * steps  # (r, s)
        x = (origins[:, None] + t[..., None] * directions[:, None]).reshape(-1, 3)  # (r s, 3)
        encoding = self.encode(x)
        density = torch.exp(self.number(x, encoding) - 1).view_as(t)  # (r, s)
        albedo = torch.sigmoid(self.network(encoding, self.field.color_network.weights)).view(*t.shape, 3)

        alpha = 1 - torch.exp(-density * length[:, None])  # (r, s)
        clear = torch.cumprod(1 - alpha + 1e-10, dim=1)  # (r, s) what gets through each sample and those before
        weights = alpha * torch.cat([torch.ones_like(clear[:, :1]), clear[:, :-1]], dim=1)  # (r, s)
        turned = torch.zeros(())
        if shaded:
            normal = self.normal(x).view(*t.shape, 3)
            away = (normal * directions[:, None]).sum(-1).clamp(min=0)  # (r, s)
            turned = (weights.detach() * away.square()).sum() / len(t)
            color = albedo * lit(normal)
        else:
            color = albedo
        opacity = weights.sum(1)
        return (weights[..., None] * color).sum(1) + (1 - opacity)[:, None] * background, opacity, turned

    def encode(self, x: Tensor) -> Tensor:
        """(n, 3) metres to (n, features) by gathering."""
        unit = (x / (2 * self.field.config.bound) + 0.5).clamp(0, 1)
        return torch_twin.encode(unit, self.field.table, self.field.layout)

    def number(self, x: Tensor, encoding: Tensor) -> Tensor:
        """(n,) the logarithm of density, plus 1, with the ball that every field starts from."""
        config = self.field.config
        ball = config.blob * (1 - x.norm(dim=1) / config.blob_radius)
        return config.gain * self.network(encoding, self.field.density_network.weights)[:, 0].float() + ball

    def normal(self, x: Tensor) -> Tensor:
        """(n, 3) by finite differences, with the four looks that ours takes."""
        corners = torch.tensor(TETRAHEDRON)  # (4, 3)
        epsilon = 2 * self.field.config.bound / self.field.config.grid.finest
        around = (x[:, None] + epsilon * corners).reshape(-1, 3)  # (4 n, 3)
        return normalize(-(self.number(around, self.encode(around)).view(-1, 4) @ corners), dim=1)

    def network(self, x: Tensor, weights: Any) -> Tensor:
        for weight in weights[:-1]:
            x = relu(linear(x, weight))
        return linear(x, weights[-1])

    # -- score distillation ------------------------------------------------------------------------------------

    def distil(self, pictures: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """SDS towards the decoded x0 with w(t) = sigma^2, as ours asks a prior that it tells everything: a scalar.

        Args:
            pictures: (n, 3, h, w) of the size that the VAE and the UNet were made for.
            t: (n,) times; noise: (n, c, h, w) of the latents.
        """
        scale = self.vae.config.scaling_factor
        with torch.inference_mode():
            latents = self.vae.encode(2 * pictures - 1).latent_dist.mean.float() * scale
            noisy = self.scheduler.add_noise(latents, noise, t)
            words = self.words.expand(len(latents), -1, -1)  # (n, words, d)
            eps = self.unet(noisy, t, encoder_hidden_states=words).sample.float()
            clean = self.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)  # alpha^2
            x0 = (noisy - (1 - clean).sqrt() * eps) / clean.sqrt()
            target = (self.vae.decode(x0 / scale).sample.float() / 2 + 0.5).clamp(0, 1)
            wish = torch.lerp(pictures, target, 1 - clean)
        return 0.5 * (pictures - wish).square().sum() / len(pictures)
