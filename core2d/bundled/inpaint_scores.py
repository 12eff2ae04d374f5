"""How well parts of Toybox pictures are drawn anew, by masks of four kinds, and how pictures are drawn on.

    found = inpaint_scores(pipeline, judge, seed) | outpaint_scores(pipeline, judge, seed)

Every picture is a still that nothing was trained on, drawn over by its own caption and put together as the commands do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from core2d.bundled import scores
from core2d.bundled.scores import Scores, pictures_of
from core2d.systems.inpaint.canvas import widened
from core2d.systems.inpaint.masks import boxes, strokes
from core2d.systems.inpaint.pipeline import FEATHER, Inpaint
from core2d.systems.inpaint.seam import joined
from core2d.toybox.dataset import labels_of
from core2d.toybox.judge import PictureJudge, as_seen
from core2d.toybox.scene import Scene, still

SCORED = 96  # masks, and as many wider canvases: a multiple of eight
FOLLOWED = 16  # masks that are drawn at each checkpoint
KINDS = ("box", "strokes", "half", "object")
SIDES = ("left", "right", "top", "bottom")
WIDER = (25, 50)  # per cent of what is kept
GROWN = 3  # pixels of 64 by which a mask of the object's shape is larger than the object


def inpaint_scores(pipeline: Inpaint, judge: PictureJudge | None, seed: int) -> Scores:
    """Of `SCORED` masks, each kind as often: what the judge reads of the whole result, and its seams (`_found`)."""
    scenes, true, masks = scored(pipeline, seed, SCORED)
    drawn = redrawn(pipeline, scenes, true, masks, seed)
    results = np.stack([joined(*one, _feather(true)) for one in zip(true, drawn, masks, strict=True)])
    found = _found(results, true, masks, scenes, judge)
    for number, kind in enumerate(KINDS):
        rows = slice(number, None, len(KINDS))
        part = _found(results[rows], true[rows], masks[rows], scenes[rows], judge)
        found |= {f"{name}_{kind}": part[name] for name in ("both", "seam") if name in part}
    return found


def outpaint_scores(pipeline: Inpaint, judge: PictureJudge | None, seed: int) -> Scores:
    """The same of `SCORED` pictures that lost a strip on one side, so that they are to be 25 % or 50 % wider."""
    scenes = _stills(seed + 1, SCORED)
    true, _ = _bytes(scenes, pipeline.backbone.image_size)
    ways = [(wider, side) for wider in WIDER for side in SIDES]
    told = [ways[index % len(ways)] for index in range(len(scenes))]
    canvases, masks = (np.stack(part) for part in zip(*map(cut_and_widened, true, told), strict=True))
    drawn = redrawn(pipeline, scenes, canvases, masks, seed + 1)
    results = np.stack([joined(*one, _feather(true)) for one in zip(canvases, drawn, masks, strict=True)])
    found: Scores = {}

    def add(name: str, chosen: Callable[[tuple[int, str]], bool], only: Sequence[str] | None = None) -> None:
        rows = [index for index, way in enumerate(told) if chosen(way)]
        part = _found(results[rows], true[rows], masks[rows], [scenes[row] for row in rows], judge)
        found.update({f"out{name}_{key}": value for key, value in part.items() if only is None or key in only})

    for wider in WIDER:
        add(f"{wider}", lambda way, wider=wider: way[0] == wider)
        for side in SIDES:
            add(f"{wider}_{side}", lambda way, asked=(wider, side): way == asked, ("both", "seam"))
    return found


def followed(pipeline: Inpaint, seed: int) -> Scores:
    """In short, of `FOLLOWED` masks: the mean squared error in them, of [0, 1], and the seam without any fit."""
    scenes, true, masks = scored(pipeline, seed, FOLLOWED)
    drawn = redrawn(pipeline, scenes, true, masks, seed)
    error = ((drawn.astype(np.float64) - true)[masks] / 255) ** 2
    bare = np.stack([joined(*one, 0) for one in zip(true, drawn, masks, strict=True)])
    return {"masked_error": float(error.mean()), "bare_seam": seam(bare, masks)}


# -- pictures and masks --------------------------------------------------------------------------------------------


def scored(pipeline: Inpaint, seed: int, count: int) -> tuple[list[Scene], np.ndarray, np.ndarray]:
    """Stills, their pictures (n, h, w, 3) of uint8 and masks (n, h, w), of the four kinds in turn."""
    scenes = _stills(seed, count)
    true, bodies = _bytes(scenes, pipeline.backbone.image_size)
    masks = [mask_of(KINDS[i % len(KINDS)], body, np.random.default_rng((seed, i))) for i, body in enumerate(bodies)]
    return scenes, true, np.stack(masks)


def mask_of(kind: str, body: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(h, w): a mask of a kind, for a picture with a body (h, w)."""
    height, width = body.shape
    if kind == "object" and body.any():
        grown = max(1, round(GROWN * height / 64))
        wide = np.pad(body, grown)
        span = range(2 * grown + 1)
        return np.any([wide[y : y + height, x : x + width] for y in span for x in span], axis=0)
    if kind == "half":
        mask = np.zeros(body.shape, bool)
        mask[:, : width // 2] = True
        turned = np.rot90(mask, int(random.integers(4))) if height == width else mask
        return np.ascontiguousarray(turned)
    return (strokes if kind == "strokes" else boxes)(height, width, random)


def cut_and_widened(picture: np.ndarray, way: tuple[int, str]) -> tuple[np.ndarray, np.ndarray]:
    """A picture without a strip at one side as a canvas of its old size, and the mask of the strip."""
    wider, side = way
    share = wider / (100 + wider)
    length = round(share * picture.shape[1 if side in ("left", "right") else 0])
    height, width = picture.shape[:2]
    top, bottom = (length if side == name else 0 for name in ("top", "bottom"))
    left, right = (length if side == name else 0 for name in ("left", "right"))
    return widened(picture[top : height - bottom, left : width - right], left, right, top, bottom)


def redrawn(
    pipeline: Inpaint, scenes: Sequence[Scene], pictures: np.ndarray, masks: np.ndarray, seed: int
) -> np.ndarray:
    """(n, h, w, 3) uint8 that the model draws by the captions of scenes; sample i has the seed 1000 seed + i."""
    drawn = pipeline.redraw(
        [scene.caption for scene in scenes],
        torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255,
        torch.from_numpy(masks)[:, None].float(),
        num_inference_steps=scores.STEPS,
        guidance_scale=scores.GUIDANCE,
        generator=[torch.Generator().manual_seed(1000 * seed + i) for i in range(len(scenes))],
    )
    return (drawn.float().cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _stills(seed: int, count: int) -> list[Scene]:
    return [still(seed, index, kind="object") for index in range(count)]


def _bytes(scenes: Sequence[Scene], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, h, w, 3) of uint8, and where bodies are (n, h, w)."""
    rgb, coverage = pictures_of(scenes, size)
    return (rgb * 255).round().byte().permute(0, 2, 3, 1).numpy(), (coverage[:, 0] > 0).numpy()


def _feather(pictures: np.ndarray) -> float:
    """As of a picture that the model is shown whole."""
    return FEATHER * min(pictures.shape[1:3])


# -- what is read --------------------------------------------------------------------------------------------------


def _found(
    results: np.ndarray, true: np.ndarray, masks: np.ndarray, scenes: Sequence[Scene], judge: PictureJudge | None
) -> Scores:
    """What the judge reads, "seam" of results and of the true pictures with the same masks, "steeper", and "changed":
    how many bytes outside of the masks are others than before.
    """
    found: Scores = {
        "seam": seam(results, masks),
        "seam_of_truth": seam(true, masks),
        "steeper": steeper(results, true, masks),
        "changed": float((results != true)[~masks].sum()),
    }
    if judge is None:
        return found
    pictures: Tensor = torch.from_numpy(results).permute(0, 3, 1, 2).float() / 255
    verdict = judge.judge(as_seen(pictures))
    classes, colors = torch.tensor([labels_of(scene)[:2] for scene in scenes]).T
    right = verdict.classes == classes, verdict.colors == colors
    named = {"class": right[0], "color": right[1], "both": right[0] & right[1]}
    return {name: value.float().mean().item() for name, value in named.items()} | found


def seam(pictures: np.ndarray, masks: np.ndarray) -> float:
    """How steep pictures are across the edges of their masks, over how steep they are elsewhere.

    Of all pairs of neighbours, side by side or one above the other: the mean absolute difference over channels of those
    of which one is masked, over that of the others. What is below 1 lies in flat places, as around an object.

    Args:
        pictures: (n, h, w, 3) of uint8.
        masks: (n, h, w).
    """
    across, elsewhere = [], []
    for axis in (1, 2):
        steep = np.abs(np.diff(pictures.astype(np.float64), axis=axis)).mean(-1)  # (n, ...)
        edge = np.diff(masks, axis=axis)  # of bool: where neighbours differ
        across.append(steep[edge])
        elsewhere.append(steep[~edge])
    return float(np.concatenate(across).mean() / np.concatenate(elsewhere).mean())


def steeper(results: np.ndarray, true: np.ndarray, masks: np.ndarray) -> float:
    """Levels of 255 by which results are steeper across the edges of their masks than the true pictures in the same
    places. 0 is no seam; arguments as for `seam`.
    """
    levels = []
    for axis in (1, 2):
        edge = np.diff(masks, axis=axis)
        ours, theirs = (np.abs(np.diff(part.astype(np.float64), axis=axis))[edge] for part in (results, true))
        levels.append(ours - theirs)  # (pairs, 3)
    return float(np.concatenate(levels).mean())
