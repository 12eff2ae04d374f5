"""Windows: every frame is covered, seams move, and where one suffices nothing changes."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genvideo.animatediff.windows import blend, window_starts, window_weights


@given(st.integers(1, 200), st.integers(1, 32), st.integers(0, 31), st.integers(0, 60))
def test_every_frame_lies_in_a_window_and_neighbours_overlap(frames: int, window: int, overlap: int, step: int):
    overlap = min(overlap, window - 1)
    starts = window_starts(frames, window, overlap, step)
    if frames <= window:
        assert starts == [0]
        return
    assert starts[0] == 0 and starts[-1] == frames - window and starts == sorted(set(starts))
    assert all(0 < after - before <= window - overlap for before, after in pairwise(starts))


def test_seams_move():
    inner = [frozenset(window_starts(64, 16, 4, step)[1:-1]) for step in range(8)]
    assert len(set(inner)) == 8
    assert not frozenset.intersection(*inner)


@given(st.integers(1, 16), st.integers(0, 15))
def test_weights_are_even_and_never_zero(window: int, overlap: int):
    weights = window_weights(window, min(overlap, window - 1))
    assert torch.equal(weights, weights.flip(0)) and weights.min() > 0 and weights.max() <= 1


def test_windows_that_agree_are_put_together_unchanged():
    clip = torch.randn(2, 4, 40, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    for step in range(5):
        starts = window_starts(40, 16, 4, step)
        parts = [clip[:, :, start : start + 16] for start in starts]
        torch.testing.assert_close(blend(parts, starts, 40, window_weights(16, 4)), clip, atol=1e-12, rtol=0)
    assert blend([clip], [0], 40, window_weights(40, 4)) is clip


def test_an_overlap_that_is_not_possible():
    with pytest.raises(ValueError, match="windows of 16 frames cannot overlap by 16"):
        window_starts(64, 16, 16, 0)
