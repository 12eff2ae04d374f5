"""PixArt: a transformer that denoises latents by captions (alpha: Chen et al., 2310.00426; Sigma: 2403.04692).

    model = PixArt(**SIZES["alpha-1024"])
    said = model.denoise(x_t, t, captions, caption_mask, resolution, aspect_ratio)  # (b, 8, h, w)

It is a DiT whose blocks share one modulation by time (adaLN-single) and look at the tokens of T5. Called as
diffusers' `PixArtTransformer2DModel` is, it answers as that does, so that a prior can draw with either:

    prior = Backbone.load(folder)
    prior = prior.with_denoiser(read_pixart(folder / "transformer"))  # core2d.transformer.files

A pipeline is saved for others with the model of diffusers in it again (`layouts.pixart_to_diffusers`).
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from core2d.transformer.blocks import (
    AdaLNSingleBlock,
    AdaLNSingleOutput,
    CaptionEmbedding,
    PatchEmbedding,
    TimestepEmbedding,
    as_batch,
    sincos_positions,
    start,
    unpatched,
)
from core2d.transformer.dit import check_captions

# As published, by the side of the pictures; all have one width and depth (2310.00426 section 2.3).
SIZES: dict[str, dict[str, Any]] = {
    "alpha-256": {"sample_size": 32, "null_tokens": 120},
    "alpha-512": {"sample_size": 64, "null_tokens": 120},
    "alpha-1024": {"sample_size": 128, "interpolation_scale": 2.0, "micro_conditions": True, "null_tokens": 120},
    "sigma-256": {"sample_size": 32, "interpolation_scale": 0.5, "null_tokens": 300},
    "sigma-512": {"sample_size": 64, "null_tokens": 300},
    "sigma-1024": {"sample_size": 128, "interpolation_scale": 2.0, "null_tokens": 300},
    "sigma-2048": {"sample_size": 256, "interpolation_scale": 4.0, "null_tokens": 300},
}


class PixArt(ModelMixin, ConfigMixin):
    """Latents (b, c, h, w) of any size that patches fill; a fresh one answers 0 to everything.

    Args:
        sample_size: side of the latents that it is trained on; positions of other sizes are laid over it.
        patch_size: side of the square of latents that is one token.
        in_channels: of the latents.
        out_channels: of the answer; twice as many as `in_channels` where it learns a variance too.
        dim, depth, heads: width, blocks and attention heads.
        caption_dim: width of the caption tokens.
        interpolation_scale: how many times finer patches lie than those of the model of 512 pixels.
        micro_conditions: whether it is told the size and aspect of the picture (as alpha of 1024 pixels is).
        null_tokens: see `CaptionEmbedding`.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        patch_size: int = 2,
        in_channels: int = 4,
        out_channels: int = 8,
        dim: int = 1152,
        depth: int = 28,
        heads: int = 16,
        caption_dim: int = 4096,
        interpolation_scale: float = 1.0,
        micro_conditions: bool = False,
        null_tokens: int = 0,
    ):
        super().__init__()
        if micro_conditions and dim % 3:
            raise ValueError(f"height, width and aspect share a vector evenly, which {dim} numbers do not allow")
        self.dim, self.patch_size, self.base = dim, patch_size, sample_size // patch_size
        self.interpolation_scale, self.use_additional_conditions = interpolation_scale, micro_conditions
        self.x_embedder = PatchEmbedding(in_channels, dim, patch_size)
        self.t_embedder = TimestepEmbedding(dim)
        self.csize_embedder = TimestepEmbedding(dim // 3) if micro_conditions else None
        self.ar_embedder = TimestepEmbedding(dim // 3) if micro_conditions else None
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = CaptionEmbedding(caption_dim, dim, null_tokens)
        self.blocks = nn.ModuleList([AdaLNSingleBlock(dim, heads, cross=True) for _ in range(depth)])
        self.final_layer = AdaLNSingleOutput(dim, patch_size**2 * out_channels)
        start(self)

    def denoise(
        self,
        x_t: Tensor,
        t: Tensor | float,
        captions: Tensor,
        caption_mask: Tensor | None = None,
        resolution: Tensor | None = None,
        aspect_ratio: Tensor | None = None,
    ) -> Tensor:
        """What it says of noisy latents.

        Args:
            x_t: (b, c, h, w).
            t: () or (b,) in steps of the schedule.
            captions: (b, m, caption_dim) tokens of the text encoder.
            caption_mask: (b, m), 0 where a token only fills the row.
            resolution: (b, 2) height and width of the picture in pixels, for a model that is told them.
            aspect_ratio: (b, 1) height by width, likewise.

        Returns:
            (b, out_channels, h, w).

        Raises:
            ValueError: shapes that do not fit, or sizes are missing.
        """
        grid, count = self.x_embedder.grid(x_t), x_t.shape[0]
        check_captions(captions, caption_mask, count, self.config["caption_dim"])
        tokens = self.x_embedder(x_t)  # (b, n, d)
        positions = sincos_positions(*grid, self.dim, self.base, self.interpolation_scale)  # (n, d)
        tokens = tokens + positions.to(tokens)
        condition = self.t_embedder(as_batch(t, count, x_t.device))  # (b, d)
        if self.csize_embedder is not None:
            condition = condition + self._of_size(count, resolution, aspect_ratio)
        modulation = self.t_block(condition).unflatten(1, (6, -1))  # (b, 6, d)
        context = self.y_embedder(captions)  # (b, m, d)
        mask = None if caption_mask is None else caption_mask.bool()  # (b, m)
        for block in self.blocks:
            tokens = block(tokens, modulation, context, mask)
        return unpatched(self.final_layer(tokens, condition), grid, self.patch_size)

    def _of_size(self, count: int, resolution: Tensor | None, aspect_ratio: Tensor | None) -> Tensor:
        """(b, d): a third of the height, one of the width, one of the aspect."""
        assert self.csize_embedder is not None and self.ar_embedder is not None
        for told, numbers, what in ((resolution, 2, "resolution"), (aspect_ratio, 1, "aspect_ratio")):
            shape = None if told is None else tuple(told.shape)
            if shape != (count, numbers):
                raise ValueError(f"this model is told sizes: {what} is to be ({count}, {numbers}), and is {shape}")
        assert resolution is not None and aspect_ratio is not None
        sides = self.csize_embedder(resolution.flatten()).reshape(count, -1)  # (b, 2 d / 3)
        return torch.cat([sides, self.ar_embedder(aspect_ratio.flatten())], dim=1)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor | None] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """`denoise` by the names of diffusers; `added_cond_kwargs` holds "resolution" and "aspect_ratio"."""
        said = self.denoise(
            hidden_states, timestep, encoder_hidden_states, encoder_attention_mask, **(added_cond_kwargs or {})
        )
        return Transformer2DModelOutput(sample=said) if return_dict else (said,)
