"""What is asked of clips, and how they are scored."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from core2d.toybox import world
from core2d.toybox.captions import without_motion
from core2d.toybox.clips import words_of
from core2d.toybox.judge import MotionJudge, PictureJudge, Verdict
from genvideo.toybox.clip_scores import (
    Asked,
    asked,
    asked_unseen,
    flicker,
    frame_difference,
    is_drawn,
    score_clips,
    seam_ratio,
)


def test_what_is_asked_was_shown_and_what_is_unseen_was_not():
    wanted = asked(3000, 32)
    assert wanted == asked(3000, 32) and wanted != asked(3001, 32)
    assert set(Counter(one.motion for one in wanted).values()) == {2}  # all 16 motions alike
    for one in wanted:
        assert is_drawn(one.name, one.motion) and not world.is_held_out(one.name, one.color) and one.seen
        assert one.color in one.prompt and one.name in one.prompt
    unseen = asked_unseen(3000)
    assert {(one.name, one.motion) for one in unseen} == set(world.HELD_OUT_MOTIONS) and len(unseen) == 10
    assert not any(world.is_held_out(one.name, one.color) or one.seen for one in unseen)


def test_prompts_without_their_motion():
    captions, motions = words_of(0, 60)
    for caption, motion in zip(captions, motions, strict=True):
        rest = without_motion(caption, motion)
        word = "standing still" if motion == "still" else motion
        assert word in caption and word not in rest and len(caption) - len(rest) in (len(word) + 1, len(word) + 2)


def moving_square(flicker: float = 0.0) -> Tensor:
    """A black square that crosses a white ground, (8, 3, 16, 16); every other frame is a little darker."""
    clip = torch.ones(8, 3, 16, 16)
    clip[1::2] -= flicker
    for frame in range(8):
        clip[frame, :, 6:10, 2 * frame : 2 * frame + 2] = 0
    return clip


def test_flicker_is_what_changes_where_nothing_moves():
    assert flicker(moving_square()) == 0 and frame_difference(moving_square()) > 0.02
    assert flicker(moving_square(0.03)) == pytest.approx(0.03, abs=1e-6)
    noise = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert flicker(noise) != flicker(noise)  # moves everywhere: not a number


def test_seams_are_compared_with_the_others():
    clip = torch.zeros(10, 3, 2, 2)
    clip[4:] += 0.2  # a jump into frame 4, steps of 0.1 elsewhere
    clip += 0.1 * torch.arange(10).view(-1, 1, 1, 1)
    assert seam_ratio(clip, [4]) == pytest.approx(3.0)
    assert seam_ratio(clip, [4, 6]) == pytest.approx(2.0)
    assert seam_ratio(clip, [7]) == pytest.approx(0.1 / ((0.3 + 7 * 0.1) / 8))


class Says(nn.Module):
    """Judges that read what is painted: the class in red, the colour in green, the motion in the frames' order."""

    def judge(self, pictures: Tensor):
        if pictures.ndim == 5:
            return ["bouncing" if clip[2, 0].mean() < clip[2, -1].mean() else "still" for clip in pictures]
        classes = (255 * pictures[:, 0].mean((1, 2))).round().long()
        colors = (255 * pictures[:, 1].mean((1, 2))).round().long()
        return Verdict(classes, colors, torch.zeros_like(classes), torch.zeros_like(classes))


def test_scores_of_clips():
    def painted(name: str, color: str, right: int) -> Tensor:
        clip = torch.zeros(16, 3, 4, 4)
        clip[:right, 0] = world.CLASS_NAMES.index(name) / 255
        clip[right:, 0] = len(world.CLASS_NAMES) / 255  # rejected
        clip[:, 1] = world.COLOR_NAMES.index(color) / 255
        return clip

    rising = painted("mug", "red", 12)
    rising[:, 2] = torch.linspace(0, 1, 16).view(-1, 1, 1)
    clips = [rising, painted("car", "blue", 16), painted("car", "blue", 16)]
    wanted = [Asked("mug", "red", "bouncing"), Asked("car", "blue", "bouncing"), Asked("car", "pink", "still")]
    judge: PictureJudge = Says()  # pyright: ignore[reportAssignmentType]
    motion_judge: MotionJudge = Says()  # pyright: ignore[reportAssignmentType]
    found = score_clips(clips, wanted, motion_judge, judge)
    assert found.motions == ["bouncing", "still", "still"]
    assert found.motion_right.tolist() == [True, False, True]
    assert found.frames_right.tolist() == [0.75, 1.0, 0.0]
