"""How good novel views are, against true renders of the same objects: the numbers of the card and of the suite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from random import Random

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from core2d.bundled.scores import pictures_of
from core2d.prior.cameras import Cameras, relative_view
from core2d.toybox import world
from core2d.toybox.dataset import azimuth_bin
from core2d.toybox.judge import PictureJudge
from core2d.toybox.render import render
from core2d.toybox.scene import Scene
from gen3d.toybox.views import LEFT_OUT, bodies, cameras_of, seen_from

VIEWS = 12
SEEN_FROM = 20.0  # degrees of elevation of the asked views
NOT_WHITE = 0.1  # of a channel: an autoencoder's white is not quite white; what differs by more is the object

Draw = Callable[[Tensor, Tensor], Tensor]  # a picture (3, h, w) and views (n, 4) -> (n, 3, h, w)


@dataclass(frozen=True)
class Case:
    """One object: a picture of it, and 12 others that have to be found.

    Attributes:
        body: as it stands in Toybox.
        picture: (3, s, s) on white, and `cutout` (4, s, s) its object alone; colours not multiplied by alpha.
        source: the camera of the picture, one.
        views: (12, 4) from it to the others, whose cameras are `cameras`.
        truth: (12, 3, s, s) true renders, and `masks` (12, s, s).
    """

    body: Scene
    picture: Tensor
    cutout: Tensor
    source: Cameras
    views: Tensor
    cameras: Cameras
    truth: Tensor
    masks: Tensor


def cases(seed: int, size: int = 64, count: int = 24, held_out: int = 6) -> list[Case]:
    """`count` objects of a seed that no model learned from, the last `held_out` of held-out class-colour pairs."""
    known = (body for body in bodies(seed) if not world.is_held_out(body.name, body.colors[0]))
    unseen = (body for body in bodies(seed) if world.is_held_out(body.name, body.colors[0]))
    chosen = chain(islice(known, count - held_out), islice(unseen, held_out))
    return [case_of(body, Random(f"zero123/{seed}/{number}"), size) for number, body in enumerate(chosen)]


def left_out_cases(seed: int, size: int = 64, count: int = 12) -> list[Case]:
    """Objects of the four classes that Zero-1-to-3 never saw."""
    known = [name for name in world.CLASS_NAMES if name not in LEFT_OUT]
    chosen = islice(bodies(seed, left_out=known), count)
    return [case_of(body, Random(f"zero123/{seed}/left out/{number}"), size) for number, body in enumerate(chosen)]


def case_of(body: Scene, lot: Random, size: int) -> Case:
    """The picture is taken from a random side, the 12 others at equal steps around from there."""
    azimuth, elevation = lot.uniform(0, 2 * math.pi), math.radians(lot.uniform(0.0, 35.0))
    radius = sum(world.CAMERA_RADIUS) / 2
    source = seen_from(body, azimuth, elevation, radius)
    step = 2 * math.pi / VIEWS
    others = [seen_from(body, azimuth + i * step, math.radians(SEEN_FROM), radius) for i in range(VIEWS)]
    (picture,), _ = pictures_of([source], size)
    cutout = torch.from_numpy(render([source], size).rgba[0]).movedim(-1, 0)
    truth, masks = pictures_of(others, size)
    camera, cameras = cameras_of([source]), cameras_of(others)
    return Case(body, picture, cutout, camera, relative_view(camera, cameras), cameras, truth, masks[:, 0])


def view_scores(found: Sequence[Tensor], wanted: Sequence[Case], judge: PictureJudge) -> dict[str, float]:
    """Scores of 12 pictures (12, 3, s, s) for each case.

    `psnr` is of the true foreground's pixels in dB, the mean over pictures; `mask_iou` of what is not white, holes
    filled; `class_and_color` and `azimuth` (classes with a front) as the judge reads them.
    """
    pictures, truth = torch.cat(list(found)), torch.cat([case.truth for case in wanted])
    masks = torch.cat([case.masks for case in wanted])
    verdict = judge.judge(pictures)
    names = [case.body.name for case in wanted for _ in range(VIEWS)]
    colors = [case.body.colors[0] for case in wanted for _ in range(VIEWS)]
    azimuths = torch.cat([case.cameras.azimuth for case in wanted]).rad2deg().tolist()
    fronted = torch.tensor([name in world.FRONTED for name in names])
    sides = torch.tensor([azimuth_bin(angle) for angle in azimuths])
    return {
        "psnr": foreground_psnr(pictures, truth, masks).mean().item(),
        "mask_iou": mask_iou(foreground(pictures), masks > 0.5).mean().item(),
        "class_and_color": verdict.is_right(names, colors).float().mean().item(),
        "azimuth": (verdict.azimuths == sides)[fronted].float().mean().item(),
    }


def foreground_psnr(pictures: Tensor, truth: Tensor, masks: Tensor) -> Tensor:
    """(n,) dB over the pixels of the true mask (n, s, s); pictures (n, 3, s, s)."""
    error = (pictures - truth).square().mean(1)  # (n, s, s)
    inside = (error * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)
    return -10 * inside.clamp(min=1e-10).log10()


def foreground(pictures: Tensor) -> Tensor:
    """(n, s, s) bool: what is not white, and what that encloses."""
    drawn = ((1 - pictures).amax(1) > NOT_WHITE).numpy()
    return torch.stack([torch.from_numpy(np.asarray(binary_fill_holes(one))) for one in drawn])


def mask_iou(found: Tensor, wanted: Tensor) -> Tensor:
    """(n,) intersection over union of bool masks (n, s, s)."""
    both, either = (found & wanted).sum((1, 2)), (found | wanted).sum((1, 2))
    return both / either.clamp(min=1)


def copied(picture: Tensor, views: Tensor) -> Tensor:
    """The baseline that gives the picture back for every view."""
    return picture.expand(len(views), *picture.shape)
