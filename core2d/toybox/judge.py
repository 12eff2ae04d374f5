"""Judges of Toybox pictures and clips: small CNNs that say what is shown, or that it is nothing of this world.

They are trained apart from every generator (other architecture, other seeds, all class-colour pairs) and only score:
no judge output trains a generator or picks a sample, a seed or a checkpoint on reported prompts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from core2d.app.registry import assets_folder
from core2d.toybox import world

REJECT = len(world.CLASS_NAMES)  # the class answer for what is no object of this world
SIZE = 64  # pixels that a judge looks at
CLIP_FRAMES = 16


@dataclass(frozen=True)
class Verdict:
    """What a judge reads from n pictures.

    Attributes:
        classes: (n,) index into `world.CLASS_NAMES`, or REJECT.
        colors: (n,) index into `world.COLOR_NAMES`.
        views: (n,) index into `world.VIEWS`, of the four words.
        azimuths: (n,) bin of 8, bin 0 centred on the front.
    """

    classes: Tensor
    colors: Tensor
    views: Tensor
    azimuths: Tensor

    def is_right(self, names: Sequence[str], colors: Sequence[str]) -> Tensor:
        """(n,) bool: class and colour both right; a reject is wrong."""
        wanted_classes = torch.tensor([world.CLASS_NAMES.index(name) for name in names])
        wanted_colors = torch.tensor([world.COLOR_NAMES.index(color) for color in colors])
        return (self.classes == wanted_classes) & (self.colors == wanted_colors)


class Block(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        return F.relu(x + self.layers(x))


def _down(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    )


class PictureJudge(nn.Module):
    """Reads class (or reject), colour, view word and azimuth bin."""

    def __init__(self, channels: Sequence[int] = (24, 48, 64, 96)) -> None:
        super().__init__()
        a, b, c, d = channels
        self.body = nn.Sequential(
            _down(3, a), Block(a), _down(a, b), Block(b), _down(b, c), Block(c), _down(c, d), Block(d)
        )
        answers = (len(world.CLASS_NAMES) + 1, len(world.COLOR_NAMES), len(world.VIEWS), 8)
        self.heads = nn.ModuleList(nn.Linear(2 * d, count) for count in answers)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """(n, 3, 64, 64) in [0, 1] -> logits (n, 25), (n, 10), (n, 4), (n, 8)."""
        pooled = self.pooled(pictures)  # (n, 2 d)
        return tuple(head(pooled) for head in self.heads)

    def pooled(self, pictures: Tensor) -> Tensor:
        """(n, 3, 64, 64) in [0, 1] -> (n, 2 d), what all answers are read from."""
        features = self.body(2.0 * pictures - 1.0)  # (n, d, 4, 4)
        return torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """(n, 2 d) of pictures (n, 3, h, w) in [0, 1] of any size: near where pictures look alike to the judge."""
        pictures = as_seen(pictures.float().cpu().clamp(0, 1))
        return torch.cat([self.pooled(chunk) for chunk in pictures.split(256)])

    @torch.no_grad()
    def judge(self, pictures: Tensor) -> Verdict:
        """Judge pictures (n, 3, h, w) in [0, 1] of any size."""
        pictures = as_seen(pictures.float().cpu().clamp(0, 1))
        parts = [self(chunk) for chunk in pictures.split(256)]
        return Verdict(*(torch.cat(logits).argmax(1) for logits in zip(*parts, strict=True)))


class MotionJudge(nn.Module):
    """Reads which motion a clip of 16 frames shows, its direction included."""

    def __init__(self, channels: Sequence[int] = (24, 40, 64, 80)) -> None:
        super().__init__()
        a, b, c, d = channels
        self.frames = nn.Sequential(_down(6, a), _down(a, b), Block(b), _down(b, c))
        self.time = nn.Sequential(
            nn.Conv1d(2 * c, d, 3, padding=1), nn.BatchNorm1d(d), nn.ReLU(), nn.Conv1d(d, d, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(2 * d, len(world.MOTIONS))

    def forward(self, clips: Tensor) -> Tensor:
        """(n, 3, t, 64, 64) in [0, 1] -> logits (n, motions)."""
        n, _, t = clips.shape[:3]
        small = F.avg_pool2d(clips.transpose(1, 2).flatten(0, 1), 2)  # (n t, 3, 32, 32)
        small = (2.0 * small - 1.0).unflatten(0, (n, t))
        pairs = torch.cat([small[:, :-1], small[:, 1:] - small[:, :-1]], 2)  # (n, t - 1, 6, 32, 32)
        features = self.frames(pairs.flatten(0, 1))  # (n (t - 1), c, 4, 4)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1).unflatten(0, (n, t - 1))
        over_time = self.time(pooled.transpose(1, 2))  # (n, d, t - 1)
        return self.head(torch.cat([over_time.mean(2), over_time.amax(2)], 1))

    @torch.no_grad()
    def judge(self, clips: Tensor) -> list[str]:
        """The motion of each clip (n, 3, t, h, w) in [0, 1], as words of `world.MOTIONS`."""
        n, _, t = clips.shape[:3]
        frames = as_seen(clips.float().cpu().transpose(1, 2).flatten(0, 1))
        clips = frames.unflatten(0, (n, t)).transpose(1, 2)
        return [world.MOTIONS[i] for chunk in clips.split(32) for i in self(chunk).argmax(1).tolist()]


def as_seen(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) at the size that judges look at, (n, 3, 64, 64).

    Those of 128 pixels and other multiples are averaged over areas, so that what is read of them compares with what is
    read of 64-pixel pictures.
    """
    if pictures.shape[-2:] == (SIZE, SIZE):
        return pictures
    if pictures.shape[-2] % SIZE == 0 and pictures.shape[-1] % SIZE == 0:
        return F.interpolate(pictures, (SIZE, SIZE), mode="area")
    return F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)


def load_picture_judge(folder: Path | None = None) -> PictureJudge:
    """The bundled picture judge, ready to judge."""
    judge = PictureJudge()
    _load(judge, folder or assets_folder() / "toybox-judge", "picture")
    return judge


def load_motion_judge(folder: Path | None = None) -> MotionJudge:
    """The bundled motion judge, ready to judge."""
    judge = MotionJudge()
    _load(judge, folder or assets_folder() / "toybox-judge", "motion")
    return judge


def _load(judge: nn.Module, folder: Path, name: str) -> None:
    version = json.loads((folder / "config.json").read_text())["toybox_version"]
    if version != world.VERSION:
        raise ValueError(f"{folder} judges Toybox v{version}, this is v{world.VERSION}")
    weights = load_file(folder / f"{name}.safetensors")
    judge.load_state_dict(weights)  # copies into the float32 parameters
    judge.eval().requires_grad_(False)
