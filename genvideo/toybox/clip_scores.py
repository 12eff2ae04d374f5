"""How good clips are: what `scripts/evaluate.py --suite video` says of them, and what training keeps weights by.

The motion judge reads the motion, the picture judge class and colour of every frame. Nothing here makes clips or
chooses among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from core2d.toybox import world
from core2d.toybox.captions import background_phrase, object_phrase, sentence
from core2d.toybox.judge import CLIP_FRAMES, MotionJudge, PictureJudge


@dataclass(frozen=True)
class Asked:
    """What a clip should show.

    Attributes:
        name, color: of the object.
        motion: a word of `world.MOTIONS`.
        seen: whether class and motion were shown together in training.
    """

    name: str
    color: str
    motion: str
    seen: bool = True

    @property
    def prompt(self) -> str:
        """The object, its motion, and a plain ground; a camera's motion needs a ground to be seen against."""
        ground = background_phrase("grass" if self.motion.startswith("camera") else None, "white")
        return sentence(object_phrase(self.name, self.color), self.motion, setting=ground)


def asked(seed: int, count: int = 30) -> list[Asked]:
    """Objects in motions that training has shown; every motion of objects and cameras is asked equally often."""
    random, motions = Random(f"video/{seed}"), (*world.OBJECT_MOTIONS, *world.CAMERA_MOTIONS)
    chosen = []
    while len(chosen) < count:
        one = Asked(
            random.choice(world.CLASS_NAMES), random.choice(world.COLOR_NAMES), motions[len(chosen) % len(motions)]
        )
        if not world.is_held_out(one.name, one.color) and is_drawn(one.name, one.motion):
            chosen.append(one)
    return chosen


def asked_unseen(seed: int) -> list[Asked]:
    """The ten pairs of class and motion that generators never see, each in a colour that they know of the class."""
    random = Random(f"video/{seed}/unseen")
    pairs = sorted(world.HELD_OUT_MOTIONS)
    known = {name: [color for color in world.COLOR_NAMES if not world.is_held_out(name, color)] for name, _ in pairs}
    return [Asked(name, random.choice(known[name]), motion, seen=False) for name, motion in pairs]


def is_drawn(name: str, motion: str) -> bool:
    """Whether clips of generators show it: the spin of a round thing cannot be seen, and some pairs are held out."""
    spins = motion.startswith("spinning")
    return (name, motion) not in world.HELD_OUT_MOTIONS and (not spins or name in world.SPINNING)


@dataclass(frozen=True)
class ClipScores:
    """What judges read in n clips.

    Attributes:
        motions: what moves, as words.
        motion_right: (n,) bool, direction included.
        frames_right: (n,) share of frames with class and colour right.
    """

    motions: list[str]
    motion_right: Tensor
    frames_right: Tensor


def score_clips(
    clips: Sequence[Tensor], wanted: Sequence[Asked], motion_judge: MotionJudge, judge: PictureJudge
) -> ClipScores:
    """Scores of clips (f, 3, h, w) in [0, 1]; the motion is read from the first 16 frames."""
    stacked = torch.stack([clip[:CLIP_FRAMES] for clip in clips])  # (n, f, 3, h, w)
    motions = motion_judge.judge(stacked.transpose(1, 2))
    right = [
        judge.judge(clip).is_right([one.name] * len(clip), [one.color] * len(clip)).float().mean()
        for clip, one in zip(clips, wanted, strict=True)
    ]
    said = torch.tensor([motion == one.motion for motion, one in zip(motions, wanted, strict=True)])
    return ClipScores(motions, said, torch.stack(right))


STATIC_WITHIN = 0.1  # of its median over time: where nothing passes, however much it flickers


def flicker(clip: Tensor) -> float:
    """Mean absolute difference of neighbouring frames of a clip (f, 3, h, w) where nothing moves.

    Nothing moves where a pixel stays within STATIC_WITHIN of its median over all frames: one rule for generated and for
    true clips.
    """
    away = (clip - clip.median(0, keepdim=True).values).abs().amax(1)  # (f, h, w)
    static = (away <= STATIC_WITHIN).all(0)  # (h, w)
    if not static.any():
        return float("nan")
    return (clip[1:] - clip[:-1]).abs().mean(1)[:, static].mean().item()


def seam_ratio(clip: Tensor, seams: Sequence[int]) -> float:
    """How much more neighbouring frames of a clip (f, 3, h, w) differ at seams than elsewhere.

    Args:
        seams: frames that are the first on the other side of one.
    """
    differences = (clip[1:] - clip[:-1]).abs().mean((1, 2, 3))  # (f - 1,)
    at = torch.zeros(len(differences), dtype=torch.bool)
    at[[seam - 1 for seam in seams]] = True
    return (differences[at].mean() / differences[~at].mean()).item()


def frame_difference(clip: Tensor) -> float:
    """Mean absolute difference of neighbouring frames of a clip (f, 3, h, w)."""
    return (clip[1:] - clip[:-1]).abs().mean().item()
