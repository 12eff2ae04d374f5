"""Whether pictures follow their maps, measured against the truth that the maps were drawn from.

No model reads the pictures here but the judge, which reads class and colour. Where a body is, its colours tell: it is
asked for on a white background. Where the doll's joints are, tells the true picture, which shows the same doll in the
same clothes and light: around each joint the place is sought that looks most like it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice

import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor
from torch.nn import functional as F

from core2d.bundled import scores
from core2d.bundled.scores import Scores, pictures_of
from core2d.systems.control.pipeline import Control, controlled
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import captions, world
from core2d.toybox.dataset import labels_of
from core2d.toybox.judge import SIZE, PictureJudge, as_seen
from core2d.toybox.parts import Color, Parts
from core2d.toybox.sample import seen_joints
from core2d.toybox.scene import WHITE, Scene, still

SCORED = 96  # maps
FOLLOWED = 16  # maps that are drawn at each checkpoint
DIFFERS = 0.1  # in any channel, of what is not the background
HALF, REACH = 6, 8  # pixels of 64: of a window around a joint, and how far it is sought
NEAR = 2.5  # pixels of 64 within which a joint counts as found
TROUSERS, SHIRT, HAIR = 0, 1, 4  # parts of the doll, as `core2d.toybox.doll.dress` adds them
STAYS = 1e-4  # of squared difference a pixel: what looks the same is taken to be where it should

MapsOf = Callable[[Sequence[Scene], int], Tensor]


def scored_scenes(seed: int, kind: str) -> Iterator[Scene]:
    """Stills on a white background that their prompts name; no white objects, which would not show."""
    for index in count():
        scene = still(seed, index, kind)
        if scene.ground is None and (kind == "doll" or scene.colors[0] != "white"):
            named = captions.background_phrase(None, "white")
            yield replace(scene, background=WHITE, caption=captions.sentence(_subject(scene), setting=named))


def _subject(scene: Scene) -> str:
    if scene.kind == "doll":
        hair, shirt, trousers = scene.colors
        return captions.doll_phrase(hair, shirt, trousers)
    return captions.object_phrase(scene.name, scene.colors[0], scene.size, scene.pattern)


def follow(
    pipeline: TextToImage, network: ControlNetModel, scenes: Sequence[Scene], maps_of: MapsOf, seed: int,
    weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """(n, 3, 64, 64) pictures of the prompts of scenes by their maps; sample i has the seed 1000 seed + i."""
    maps = maps_of(scenes, pipeline.backbone.image_size)  # (n, 3, H, W)
    drawing, telling = controlled(pipeline, [Control(network, maps, weight)])
    pictures = drawing(
        [scene.caption for scene in scenes], num_inference_steps=scores.STEPS, guidance_scale=scores.GUIDANCE,
        generator=[torch.Generator().manual_seed(1000 * seed + i) for i in range(len(scenes))], telling=telling,
        output_type="pt",
    ).images  # fmt: skip
    return as_seen(pictures.float().cpu())


def layout_scores(
    pipeline: TextToImage, network: ControlNetModel, maps_of: MapsOf, judge: PictureJudge | None, seed: int
) -> Scores:
    """Silhouette IoU with the true object, class and colour as judged, and the same without the map.

    `iou_of_truth` is that of the true pictures as the autoencoder gives them back: no prior can do better.
    """
    scenes = list(islice(scored_scenes(seed, "object"), SCORED))
    true, coverage = _truth(scenes)
    drawn, free = (follow(pipeline, network, scenes, maps_of, seed, weight) for weight in (1.0, 0.0))
    found = {
        "iou": silhouette_iou(drawn, coverage),
        "iou_without": silhouette_iou(free, coverage),
        "iou_of_truth": silhouette_iou(_through(pipeline, scenes), coverage),
    }
    if judge is None:
        return found
    classes, colors = torch.tensor([labels_of(scene)[:2] for scene in scenes]).T
    for name, pictures in (("", drawn), ("_without", free), ("_of_truth", true)):
        verdict = judge.judge(pictures)
        right = verdict.classes == classes, verdict.colors == colors
        found |= {f"class{name}": _share(right[0]), f"color{name}": _share(right[1]),
                  f"both{name}": _share(right[0] & right[1])}  # fmt: skip
    return found


def pose_scores(pipeline: TextToImage, network: ControlNetModel, maps_of: MapsOf, seed: int) -> Scores:
    """Where the joints of the doll are, in pixels of 64, its silhouette and clothes; and the same without the map.

    `joint_error` is the mean over the joints that are seen in the true picture, `joints_near` the share within 2.5
    pixels. A joint that is nowhere near counts as `REACH` or a little more, so errors without the map are in truth
    larger. `_of_truth` is of the true pictures as the autoencoder gives them back.
    """
    scenes = list(islice(scored_scenes(seed, "doll"), SCORED))
    true, coverage = _truth(scenes)
    joints = seen_joints(scenes, SIZE)  # (n, 18, 2)
    found: Scores = {}
    drawn, free = (follow(pipeline, network, scenes, maps_of, seed, weight) for weight in (1.0, 0.0))
    for name, pictures in (("", drawn), ("_without", free), ("_of_truth", _through(pipeline, scenes))):
        errors = joint_errors(pictures, true, torch.from_numpy(joints))
        found |= {
            f"joints_near{name}": _share(errors <= NEAR),
            f"joint_error{name}": errors.mean().item(),
            f"iou{name}": silhouette_iou(pictures, coverage),
            f"clothes{name}": clothes_right(pictures, true, scenes),
        }
    return found


def followed(pipeline: TextToImage, network: ControlNetModel, maps_of: MapsOf, kind: str, seed: int) -> Scores:
    """The same in short, of `FOLLOWED` maps: what a training tells of itself at each checkpoint."""
    scenes = list(islice(scored_scenes(seed, kind), FOLLOWED))
    true, coverage = _truth(scenes)
    drawn = follow(pipeline, network, scenes, maps_of, seed)
    found = {"iou": silhouette_iou(drawn, coverage)}
    if kind == "doll":
        joints = torch.from_numpy(seen_joints(scenes, SIZE))
        found["joint_error"] = joint_errors(drawn, true, joints).mean().item()
    return found


# -- what is read from pictures ------------------------------------------------------------------------------------


def silhouette_iou(pictures: Tensor, coverage: Tensor) -> float:
    """Mean IoU of what differs from the background (n, 3, h, w), the median of the frame, with what is covered."""
    frame = torch.cat([pictures[:, :, 0], pictures[:, :, -1], pictures[:, :, :, 0], pictures[:, :, :, -1]], dim=2)
    background = frame.median(2).values[:, :, None, None]  # (n, 3, 1, 1)
    body = (pictures - background).abs().amax(1) > DIFFERS  # (n, h, w)
    covered = coverage > 0
    both, either = (body & covered).sum((1, 2)), (body | covered).sum((1, 2))
    return (both / either.clamp(min=1)).mean().item()


def joint_errors(pictures: Tensor, true: Tensor, joints: Tensor) -> Tensor:
    """(m,) how far from each of m seen joints the place is that looks most like it, in pixels.

    Args:
        pictures, true: (n, 3, h, w).
        joints: (n, 18, 2) pixels (x, y) in the true pictures, NaN where one is not seen.
    """
    shifts = torch.cartesian_prod(*[torch.arange(-REACH, REACH + 1.0)] * 2)  # (s, 2) rows, columns
    distance = shifts.norm(dim=1)  # (s,)
    margin, side = HALF + REACH, 2 * HALF + 1
    wide = F.pad(pictures, (margin,) * 4, mode="replicate").double()  # a joint at the edge is sought beyond it, too
    narrow = F.pad(true, (HALF,) * 4, mode="replicate").double()
    errors = []
    for picture, truth, places in zip(wide, narrow, joints, strict=True):
        seen = places[places.isfinite().all(1)].floor().long().clamp(0, pictures.shape[-1] - 1).tolist()
        windows = torch.stack([truth[:, y : y + side, x : x + side] for x, y in seen])  # (j, 3, k, k)
        around = torch.stack([picture[:, y : y + 2 * margin + 1, x : x + 2 * margin + 1] for x, y in seen])
        product = F.conv2d(around.flatten(0, 1)[None], windows, groups=len(seen))[0]  # (j, 2 reach + 1, ...)
        square = F.avg_pool2d(around.square().sum(1), side, 1) * side**2  # (j, 2 reach + 1, ...)
        difference = (square - 2 * product + windows.square().sum((1, 2, 3))[:, None, None]) / windows[0].numel()
        errors.append(distance[(difference.flatten(1) + STAYS * distance).argmin(1)])
    return torch.cat(errors)


def clothes_right(pictures: Tensor, true: Tensor, scenes: Sequence[Scene]) -> float:
    """Share of hair, shirts and trousers whose colour, where they are in the true pictures, is nearest to its word."""
    palette = torch.tensor(list(world.COLORS.values()))  # (10, 3)
    right = []
    for picture, truth, scene in zip(pictures, true, scenes, strict=True):
        for word, color, where in zip(scene.colors, *_clothes(scene), strict=True):
            if where.any():
                light = truth[:, where].sum(0) / sum(color)  # (m,) what the renderer multiplied the colour with
                read = (picture[:, where] / light.clamp(min=0.1)).mean(1)  # (3,)
                right.append(world.COLOR_NAMES[int((palette - read).norm(dim=1).argmin())] == word)
    return float(np.mean(right))


def _clothes(scene: Scene) -> tuple[list[Color], list[Tensor]]:
    """Hair, shirt and trousers of a doll: their colours, and where alone they are seen (64, 64)."""
    colors = [scene.parts.colors[index] for index in (HAIR, SHIRT, TROUSERS)]
    black, white = (
        pictures_of([replace(scene, parts=_dyed(scene, color, dye), ground=None, background=WHITE)
                     for color in colors], SIZE)[0] for dye in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    )  # fmt: skip
    fully = (white - black).amax(1) > 0.35  # (3, 64, 64); light is never less
    return colors, list(fully)


def _dyed(scene: Scene, color: Color, dye: Color) -> Parts:
    parts = scene.parts
    return replace(parts, colors=[dye if one == color else one for one in parts.colors])


def _truth(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """True pictures (n, 3, 64, 64) and coverage (n, 64, 64)."""
    true, coverage = pictures_of(scenes, SIZE)
    return true, coverage[:, 0]


@torch.no_grad()
def _through(pipeline: TextToImage, scenes: Sequence[Scene]) -> Tensor:
    """The true pictures as the prior's autoencoder gives them back, (n, 3, 64, 64)."""
    prior = pipeline.backbone
    pictures, _ = pictures_of(scenes, prior.image_size)
    parts = [prior.decode(prior.encode_images(part.to(prior.device))) for part in pictures.split(32)]
    return as_seen(torch.cat(parts).float().cpu())


def _share(right: Tensor) -> float:
    return right.float().mean().item()
