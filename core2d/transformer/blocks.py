"""The parts of diffusion transformers: patches, positions, time, attention, and modulation by what is told.

DiT (Peebles and Xie, 2212.09748) modulates each block by a layer of the block's own, adaLN-Zero (section 3.2); PixArt
(Chen et al., 2310.00426) by one layer for all blocks and a table of the block's own, adaLN-single (section 2.3). What a
block does is the same otherwise, and stands here once:

    block = AdaLNZeroBlock(dim=384, heads=6)
    tokens = PatchEmbedding(4, 384, patch_size=2)(latents) + sincos_positions(16, 16, 384)  # (b, 256, d)
    tokens = block(tokens, TimestepEmbedding(384)(t))

Tokens are (b, n, d): those of a picture, row by row, or any others. A mask of keys is (b, n) bool, True where there is
a token. Modules and parameters are named as in the published checkpoints.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPSILON = 1e-6
FREQUENCIES = 256  # numbers of the sinusoidal embedding of a time or a size (2212.09748 appendix A)


# -- patches and their places --------------------------------------------------------------------------------------


class PatchEmbedding(nn.Module):
    """One token of each square of `patch_size` x `patch_size` latents (2212.09748 section 3.2, "patchify")."""

    def __init__(self, channels: int, dim: int, patch_size: int):
        super().__init__()
        self.channels, self.patch_size = channels, patch_size
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)

    def grid(self, latents: Tensor) -> tuple[int, int]:
        """How many rows and columns of patches latents (b, c, h, w) have.

        Raises:
            ValueError: they are not (b, c, h, w) with sides that patches fill.
        """
        shape, patch = tuple(latents.shape), self.patch_size
        if len(shape) != 4 or shape[1] != self.channels or shape[2] % patch or shape[3] % patch:
            raise ValueError(
                f"latents of the shape {shape}: they are to be (b, {self.channels}, h, w), "
                f"with h and w multiples of the patch size {patch}"
            )
        return shape[2] // patch, shape[3] // patch

    def forward(self, latents: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, n, d) tokens, row by row."""
        return self.proj(latents).flatten(2).transpose(1, 2)


def unpatched(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """(b, rows cols, p p c) -> (b, c, rows p, cols p): what the network says of each patch, put together."""
    (rows, columns), count = grid, patches.shape[0]  # not len(), which a tracing exporter would take for a constant
    squares = patches.reshape(count, rows, columns, patch_size, patch_size, -1)  # (b, rows, cols, p, p, c)
    picture = squares.permute(0, 5, 1, 3, 2, 4)  # (b, c, rows, p, cols, p)
    return picture.reshape(count, -1, rows * patch_size, columns * patch_size)


def sincos_positions(rows: int, columns: int, dim: int, base: int | None = None, interpolation: float = 1.0) -> Tensor:
    """(rows columns, d) float32 sines and cosines of where a patch lies: half of them of its column, half of its row.

    Args:
        base: patches along a side of the pictures that were trained on first. Any grid is laid over that square
            (2310.00426 section 2.3); if None, patches are counted.
        interpolation: how many times finer than those the patches of a larger model lie.

    Raises:
        ValueError: `dim` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"positions of two axes in sines and cosines need a multiple of 4 numbers, not {dim}")
    frequencies = 10000.0 ** (torch.arange(dim // 4, dtype=torch.float64) * (-4 / dim))  # (d / 4,)

    def along(count: int) -> Tensor:
        spacing = (1.0 if base is None else base / count) / interpolation
        angles = (torch.arange(count, dtype=torch.float64) * spacing)[:, None] * frequencies  # (count, d / 4)
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (count, d / 2)

    of_column = along(columns)[None].expand(rows, -1, -1)  # (rows, cols, d / 2)
    of_row = along(rows)[:, None].expand(-1, columns, -1)  # (rows, cols, d / 2)
    return torch.cat([of_column, of_row], dim=2).flatten(0, 1).float()


def padded(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences (n_i, d) of any lengths as rows (b, n, d), zeros behind the shorter ones, and where there are tokens,
    (b, n) bool.
    """
    rows = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)  # (b, n, d)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=rows.device)  # (b,)
    return rows, torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]


# -- what is told --------------------------------------------------------------------------------------------------


def sinusoids(values: Tensor, count: int = FREQUENCIES, shift: float = 0.0) -> Tensor:
    """(b,) numbers -> (b, count) float32: cosines, then sines, of frequencies from 1 down to 1 / 10000.

    Args:
        shift: 0 leaves out the lowest frequency itself, as ADM (2105.05233) does, and DiT and PixArt after it; 1 ends
            with it, as DDPM (2006.11239) does.
    """
    half = count // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values.float()[:, None] * torch.exp(-math.log(10000.0) * steps / (half - shift))  # (b, count / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimestepEmbedding(nn.Module):
    """A vector of a time, or of any one number, from its sinusoids (2212.09748 appendix A)."""

    def __init__(self, dim: int, shift: float = 0.0):
        super().__init__()
        self.shift = shift
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """(b,) -> (b, d)."""
        return self.mlp(sinusoids(t, shift=self.shift).to(next(self.parameters()).dtype))


class LabelEmbedding(nn.Module):
    """A vector of a class. One more row stands for no class: what guidance starts from (2207.12598)."""

    def __init__(self, classes: int, dim: int):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, dim)

    def forward(self, labels: Tensor) -> Tensor:
        """(b,) in [0, classes], of which `classes` is none -> (b, d)."""
        return self.embedding_table(labels)


class Mlp(nn.Module):
    """Two layers with a GELU (its tanh approximation) between them."""

    def __init__(self, dim: int, hidden: int, out: int | None = None):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, out or dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class CaptionEmbedding(nn.Module):
    """Tokens of a text encoder, as wide as the transformer's own (2310.00426 section 2.3).

    Args:
        null_tokens: if above 0, how many tokens stand for no caption in a published checkpoint; they are kept in
            `y_embedding` (null_tokens, caption_dim), and not trained.
    """

    y_embedding: Tensor

    def __init__(self, caption_dim: int, dim: int, null_tokens: int = 0):
        super().__init__()
        self.y_proj = Mlp(caption_dim, dim, dim)
        if null_tokens:
            self.register_buffer("y_embedding", torch.randn(null_tokens, caption_dim) / caption_dim**0.5)

    def forward(self, captions: Tensor) -> Tensor:
        """(b, m, caption_dim) -> (b, m, d)."""
        return self.y_proj(captions)


# -- attention -----------------------------------------------------------------------------------------------------


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """(b, heads, n, k) queries over (b, heads, m, k) keys and values -> (b, n, heads k).

    `mask` (b, m) bool hides the keys where it is False.
    """
    hidden = None if mask is None else mask[:, None, None]  # (b, 1, 1, m)
    seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=hidden)  # (b, heads, n, k)
    return seen.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Each token looks at all tokens of its row."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = _checked(heads, dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, n, d) -> (b, n, d); `mask` (b, n) bool hides tokens where it is False."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, b, heads, n, k)
        return self.proj(attend(parts[0], parts[1], parts[2], mask))


class CrossAttention(nn.Module):
    """Each token looks at what is told, such as the words of a caption."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = _checked(heads, dim)
        self.q_linear, self.kv_linear, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, n, d) and context (b, m, d) -> (b, n, d); `mask` (b, m) bool hides context where it is False."""
        queries = self.q_linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, n, k)
        parts = self.kv_linear(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (2, b, heads, m, k)
        return self.proj(attend(queries, parts[0], parts[1], mask))


def _checked(heads: int, dim: int) -> int:
    if dim % heads:
        raise ValueError(f"{heads} heads cannot share {dim} numbers evenly")
    return heads


# -- blocks --------------------------------------------------------------------------------------------------------


def norm(dim: int) -> nn.LayerNorm:
    """Without weights of its own: what follows it scales and shifts by what is told."""
    return nn.LayerNorm(dim, NORM_EPSILON, elementwise_affine=False)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(b, n, d) scaled and shifted by (b, 1, d) each; a scale of 0 leaves it as it is."""
    return x * (1 + scale) + shift


class ModulatedBlock(nn.Module):
    """Self-attention, cross-attention if anything is told, and an MLP. Where modulation comes from, subclasses know.

    Cross-attention is not modulated and not normalised before (2310.00426 section 2.3); a fresh one adds nothing.
    """

    def __init__(self, dim: int, heads: int, cross: bool = False, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm = norm(dim)  # has no weights: one for both
        self.attn = SelfAttention(dim, heads)
        self.cross_attn = CrossAttention(dim, heads) if cross else None
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def apply_modulated(
        self,
        x: Tensor,
        modulation: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(b, n, d) -> (b, n, d).

        Args:
            modulation: (b, 6, d) shift, scale and gate of attention, then those of the MLP.
            context: (b, m, d) what cross-attention looks at; left out if None.
            context_mask, mask: (b, m) and (b, n) bool, False where there is no token; all are there if None.
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=1)  # (b, 1, d) each
        x = x + gate * self.attn(modulated(self.norm(x), shift, scale), mask)
        if self.cross_attn is not None and context is not None:
            x = x + self.cross_attn(x, context, context_mask)
        return x + mlp_gate * self.mlp(modulated(self.norm(x), mlp_shift, mlp_scale))


class AdaLNZeroBlock(ModulatedBlock):
    """A block that modulates itself by a vector that it is told (2212.09748 section 3.2); a fresh one does nothing."""

    def __init__(self, dim: int, heads: int, cross: bool = False, mlp_ratio: float = 4.0):
        super().__init__(dim, heads, cross, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """As `apply_modulated`, of a `condition` (b, d)."""
        modulation = self.adaLN_modulation(condition).unflatten(1, (6, -1))  # (b, 6, d)
        return self.apply_modulated(x, modulation, context, context_mask, mask)


class AdaLNSingleBlock(ModulatedBlock):
    """A block that adds a table of its own to the modulation of all blocks (2310.00426 section 2.3)."""

    def __init__(self, dim: int, heads: int, cross: bool = False, mlp_ratio: float = 4.0):
        super().__init__(dim, heads, cross, mlp_ratio)
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """As `apply_modulated`, of the `modulation` (b, 6, d) that all blocks share."""
        return self.apply_modulated(x, self.scale_shift_table + modulation, context, context_mask, mask)


class AdaLNZeroOutput(nn.Module):
    """From tokens to what is said of a patch (2212.09748 section 3.2, "transformer decoder"); a fresh one says 0."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.norm, self.linear = norm(dim), nn.Linear(dim, out)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(b, n, d) and (b, d) -> (b, n, out)."""
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=2)  # (b, 1, d) each
        return self.linear(modulated(self.norm(x), shift, scale))


class AdaLNSingleOutput(nn.Module):
    """The same with a table of its own, added to the vector of the time itself."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.norm, self.linear = norm(dim), nn.Linear(dim, out)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(b, n, d) and (b, d) -> (b, n, out)."""
        shift, scale = (self.scale_shift_table + condition[:, None]).chunk(2, dim=1)  # (b, 1, d) each
        return self.linear(modulated(self.norm(x), shift, scale))


# -- fresh weights -------------------------------------------------------------------------------------------------


def start(model: nn.Module) -> None:
    """Fresh weights as a vision transformer's (2212.09748 section 3.2), and 0 wherever a layer is to say nothing yet:
    what adds words, the modulation of adaLN-Zero, and the output.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))  # of a patch as of a row: a view of the weights
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    for module in model.modules():
        silent = []
        if isinstance(module, CrossAttention):
            silent = [module.proj]
        elif isinstance(module, AdaLNZeroBlock):
            silent = [module.adaLN_modulation[1]]
        elif isinstance(module, AdaLNZeroOutput):
            silent = [module.adaLN_modulation[1], module.linear]
        elif isinstance(module, AdaLNSingleOutput):
            silent = [module.linear]
        for layer in silent:
            nn.init.zeros_(layer.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]


def as_batch(t: Tensor | float, count: int, device: torch.device) -> Tensor:
    """(count,) times of one time or of as many.

    Raises:
        ValueError: there is another number of them.
    """
    times = torch.as_tensor(t, device=device)
    if times.ndim > 1 or (times.ndim == 1 and times.shape[0] not in (1, count)):
        raise ValueError(f"times of the shape {tuple(times.shape)} for {count} rows: they are to be () or ({count},)")
    return times.expand(count)
