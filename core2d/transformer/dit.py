"""DiT: a transformer that denoises latents, modulated by time and class (Peebles and Xie, 2212.09748).

    model = DiT(**SIZES["XL"])  # DiT-XL/2 of ImageNet at 256 pixels
    said = model(x_t, t, labels)  # (b, 8, h, w)
    noise, variance = said.chunk(2, dim=1)  # of learned sigma (2102.09672 section 3.1)

It may be told captions in place of classes, by cross-attention in each block (section 3.2, "cross-attention block",
with modulation by time kept). What it predicts is up to what it is trained with (`core2d.training`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from core2d.transformer.blocks import (
    AdaLNZeroBlock,
    AdaLNZeroOutput,
    CaptionEmbedding,
    LabelEmbedding,
    PatchEmbedding,
    TimestepEmbedding,
    as_batch,
    padded,
    sincos_positions,
    start,
    unpatched,
)

SIZES: dict[str, dict[str, Any]] = {  # 2212.09748 table 1: 33, 130, 458 and 675 million parameters
    "S": {"dim": 384, "depth": 12, "heads": 6},
    "B": {"dim": 768, "depth": 12, "heads": 12},
    "L": {"dim": 1024, "depth": 24, "heads": 16},
    "XL": {"dim": 1152, "depth": 28, "heads": 16},
}


class DiT(ModelMixin, ConfigMixin):
    """Latents (b, c, h, w) of any size that patches fill; a fresh one answers 0 to everything.

    Args:
        sample_size: side of the latents that it is trained on; positions of other sizes are laid over it.
        patch_size: side of the square of latents that is one token.
        in_channels: of the latents.
        learn_sigma: whether it answers with a variance too, in as many channels again.
        dim, depth, heads: width, blocks and attention heads, see `SIZES`.
        classes: that it may be told; the label `classes` is none of them, for guidance. None if it is told no class.
        caption_dim: width of the caption tokens that it is told. None if it is told no captions.
        frequency_shift: of the sinusoids of time, see `sinusoids`: 0 as published, 1 where diffusers runs it.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        learn_sigma: bool = True,
        dim: int = 1152,
        depth: int = 28,
        heads: int = 16,
        classes: int | None = 1000,
        caption_dim: int | None = None,
        frequency_shift: float = 0.0,
    ):
        super().__init__()
        self.dim, self.patch_size, self.base = dim, patch_size, sample_size // patch_size
        self.out_channels = in_channels * (2 if learn_sigma else 1)
        self.x_embedder = PatchEmbedding(in_channels, dim, patch_size)
        self.t_embedder = TimestepEmbedding(dim, frequency_shift)
        self.y_embedder = None if classes is None else LabelEmbedding(classes, dim)
        self.caption_embedder = None if caption_dim is None else CaptionEmbedding(caption_dim, dim)
        cross = caption_dim is not None
        self.blocks = nn.ModuleList([AdaLNZeroBlock(dim, heads, cross) for _ in range(depth)])
        self.final_layer = AdaLNZeroOutput(dim, patch_size**2 * self.out_channels)
        start(self)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor | float,
        labels: Tensor | None = None,
        captions: Tensor | None = None,
        caption_mask: Tensor | None = None,
    ) -> Tensor:
        """What it says of noisy latents.

        Args:
            x_t: (b, c, h, w).
            t: () or (b,) in steps of the schedule.
            labels: (b,) classes, for a model of classes.
            captions: (b, m, caption_dim) tokens, for a model of captions.
            caption_mask: (b, m), 0 where a token only fills the row.

        Returns:
            (b, c, h, w), or (b, 2 c, h, w) with a learned variance behind.

        Raises:
            ValueError: shapes that do not fit, or something is told that it does not hear or not told that it needs.
        """
        grid = self.x_embedder.grid(x_t)
        said = self.transform(self.embed(x_t), t, labels, captions, caption_mask)  # (b, n, p p out)
        return unpatched(said, grid, self.patch_size)

    def mixed(
        self,
        x_t: Sequence[Tensor],
        t: Tensor | float,
        labels: Tensor | None = None,
        captions: Tensor | None = None,
        caption_mask: Tensor | None = None,
    ) -> list[Tensor]:
        """The same of b latents (c, h_i, w_i), each of its own size, in one pass: shorter rows are filled and masked.

        Returns:
            b answers (out, h_i, w_i), each what the latents alone would get.
        """
        grids = [self.x_embedder.grid(one[None]) for one in x_t]
        tokens, mask = padded([self.embed(one[None])[0] for one in x_t])  # (b, n, d), (b, n)
        said = self.transform(tokens, t, labels, captions, caption_mask, mask)  # (b, n, p p out)
        return [
            unpatched(row[None, : grid[0] * grid[1]], grid, self.patch_size)[0]
            for row, grid in zip(said, grids, strict=True)
        ]

    def embed(self, x_t: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, n, d) tokens that know their places."""
        positions = sincos_positions(*self.x_embedder.grid(x_t), self.dim, self.base)  # (n, d)
        tokens = self.x_embedder(x_t)  # (b, n, d)
        return tokens + positions.to(tokens)

    def transform(
        self,
        tokens: Tensor,
        t: Tensor | float,
        labels: Tensor | None = None,
        captions: Tensor | None = None,
        caption_mask: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(b, n, d) tokens, of which `mask` (b, n) hides some -> (b, n, p p out) what is said of each patch."""
        count = tokens.shape[0]
        self._check(count, labels, captions, caption_mask)
        condition = self.t_embedder(as_batch(t, count, tokens.device))  # (b, d)
        if self.y_embedder is not None:
            condition = condition + self.y_embedder(labels)
        context = None if self.caption_embedder is None else self.caption_embedder(captions)  # (b, m, d)
        hides = None if caption_mask is None else caption_mask.bool()  # (b, m)
        for block in self.blocks:
            tokens = block(tokens, condition, context, hides, mask)
        return self.final_layer(tokens, condition)

    def _check(self, count: int, labels: Tensor | None, captions: Tensor | None, caption_mask: Tensor | None) -> None:
        for told, hears, what in (
            (labels, self.config["classes"], "classes"),
            (captions, self.config["caption_dim"], "captions"),
        ):
            if (told is None) != (hears is None):
                raise ValueError(f"this model hears {'no' if hears is None else 'of'} {what}, and is told "
                                 f"{'nothing' if told is None else tuple(told.shape)} of them")  # fmt: skip
        if labels is not None and tuple(labels.shape) != (count,):
            raise ValueError(f"labels of the shape {tuple(labels.shape)} for {count} rows: they are to be ({count},)")
        if captions is not None:
            check_captions(captions, caption_mask, count, self.config["caption_dim"])


def check_captions(captions: Tensor, mask: Tensor | None, count: int, dim: int) -> None:
    """Whether captions are (count, m, dim), and their mask (count, m).

    Raises:
        ValueError: not so.
    """
    shape = tuple(captions.shape)
    if len(shape) != 3 or shape[0] != count or shape[2] != dim:
        raise ValueError(f"captions of the shape {shape} for {count} rows: they are to be ({count}, tokens, {dim})")
    if mask is not None and tuple(mask.shape) != shape[:2]:
        raise ValueError(f"a caption mask of the shape {tuple(mask.shape)} for captions {shape}: give {shape[:2]}")


def guided(conditional: Tensor, unconditional: Tensor, scale: float, channels: int) -> Tensor:
    """Guidance of an answer (b, out, h, w) in its first `channels`; a variance behind stays as it is (2207.12598)."""
    said, nothing = conditional[:, :channels], unconditional[:, :channels]
    return torch.cat([nothing + scale * (said - nothing), conditional[:, channels:]], dim=1)
