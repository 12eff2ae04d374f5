"""Clips longer than a motion module knows: overlapping windows, whose predictions are averaged in every step.

The seams move from step to step, so that no frame lies at one for long, as in the context schedules that the users of
AnimateDiff have settled on.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOVE = 5 / 8  # of the stride, from one step to the next: odd enough that seams come back to a place late


def window_starts(frames: int, window: int, overlap: int, step: int) -> list[int]:
    """First frames of the windows of a step, ascending; every frame lies in one, the first and last window at the ends.

    Args:
        frames: of the whole clip.
        window: frames of a window.
        overlap: frames that neighbours share, at least; less than `window`.
        step: of the denoising.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"windows of {window} frames cannot overlap by {overlap}")
    if frames <= window:
        return [0]
    stride, last = window - overlap, frames - window
    shift = round(step * MOVE * stride) % stride
    return sorted({min(max(start, 0), last) for start in range(-shift, last + stride, stride)})


def window_weights(window: int, overlap: int) -> Tensor:
    """(window,) how much a window's frames count where it overlaps with another: rising and falling at its ends."""
    place = torch.arange(window)
    from_the_end = torch.minimum(place, window - 1 - place) + 1.0
    return (from_the_end / (overlap + 1)).clamp(max=1.0)


def blend(parts: list[Tensor], starts: list[int], frames: int, weights: Tensor) -> Tensor:
    """Weighted mean (b, c, frames, h, w) of windows (b, c, w, h, w) that start at `starts`."""
    if len(parts) == 1:
        return parts[0]
    shape = (*parts[0].shape[:2], frames, *parts[0].shape[3:])
    total, weight = parts[0].new_zeros(shape), parts[0].new_zeros(frames)
    shares = weights.to(parts[0])
    for part, start in zip(parts, starts, strict=True):
        covered = slice(start, start + len(shares))
        total[:, :, covered] += part * shares[:, None, None]
        weight[covered] += shares
    return total / weight[:, None, None]
