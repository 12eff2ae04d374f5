"""What a prior is told."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Encoded prompts, one row each: opaque to guidance, which only stacks, picks and repeats rows.

    tokens: (b, n, d) context of the denoiser.
    pooled: (b, p) summary of the prompt, where the family uses one (SDXL).
    mask: (b, n) 1 where a token is real, where the family hides padding (PixArt).
    latents: (b, c, h, w) joined to the noisy latents along the channels, where a picture is told too (Zero-1-to-3).
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    latents: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """The same change of every part."""
        parts = (None if part is None else change(part) for part in (self.pooled, self.mask, self.latents))
        return Condition(change(self.tokens), *parts)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> "Condition":
        """Some of the rows; a condition again, so ask with a slice or a list."""
        return self.map(lambda part: part[rows])

    def repeat_interleave(self, times: int) -> "Condition":
        """Every row `times` times, one after the other: (b, ...) -> (b times, ...)."""
        return self.map(lambda part: part.repeat_interleave(times, dim=0))

    def expand(self, rows: int) -> "Condition":
        """One row seen as many; as it is if it has that many already."""
        if len(self) not in (1, rows):
            raise ValueError(f"{len(self)} conditions for {rows} samples; give one, or one for each")
        return self if len(self) == rows else self.map(lambda part: part.expand(rows, *part.shape[1:]))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Condition":
        """On a device, tokens and pooled in a dtype."""
        pooled, latents = (None if part is None else part.to(device, dtype) for part in (self.pooled, self.latents))
        mask = None if self.mask is None else self.mask.to(device)
        return Condition(self.tokens.to(device, dtype), pooled, mask, latents)

    def append(self, tokens: Tensor) -> "Condition":
        """With more context tokens (b, m, d) after the text."""
        mask = self.mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1)  # (b, n + m)
        return replace(self, tokens=torch.cat([self.tokens, tokens.to(self.tokens.dtype)], dim=1), mask=mask)

    @staticmethod
    def cat(conditions: "list[Condition]") -> "Condition":
        """All rows of several conditions of one backbone."""
        pooled = [one.pooled for one in conditions if one.pooled is not None]
        masks = [one.mask for one in conditions if one.mask is not None]
        latents = [one.latents for one in conditions if one.latents is not None]
        return Condition(
            torch.cat([one.tokens for one in conditions]),
            pooled=torch.cat(pooled) if pooled else None,
            mask=torch.cat(masks) if masks else None,
            latents=torch.cat(latents) if latents else None,
        )
