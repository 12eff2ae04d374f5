"""Clips as rows of pictures, and back: what is written for pictures sees the frames of clips side by side."""

from __future__ import annotations

from torch import Tensor


def as_clips(rows: Tensor, frames: int) -> Tensor:
    """(b f, c, h, w) -> (b, c, f, h, w)."""
    return rows.unflatten(0, (-1, frames)).transpose(1, 2)


def as_rows(clips: Tensor) -> Tensor:
    """(b, c, f, h, w) -> (b f, c, h, w)."""
    return clips.transpose(1, 2).flatten(0, 1)
