"""The items of `evaluate.py --suite zero123`: novel views of one picture, against true renders of the same objects.

The 24 objects are of the reporting seed, six of them of class-colour pairs that no generator learned from. Each is
shown from a random side; the 12 views that are asked for lie at equal steps around from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from _measure import Item, Numbers, Record
from _suite import Suite
from torch import Tensor

from core2d.media import image_grid, save_image
from core2d.toybox.judge import load_picture_judge
from gen3d.zero123 import NovelViews
from gen3d.zero123_scores import Case, cases, copied, left_out_cases, view_scores

STEPS = 25
SHEET = (0, 3, 8, 14, 19, 22)  # of the 24, on the sheet of the README


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`. The bars of GPU-trained weights are higher."""
    model, judge = assets / "toybox-zero123", assets / "toybox-judge" / "picture.safetensors"
    needs = (model, assets / "toybox-sd" / "vae", assets / "toybox-clip", judge)
    return [
        Item("views", "12 novel views of 24 objects", partial(drawn, assets, partial(cases, seed)),
             at_least={"psnr": 18, "mask_iou": 0.80, "class_and_color": 0.85, "azimuth": 0.85}, needs=needs),
        Item("views-left-out", "the same of four classes that it never saw",
             partial(drawn, assets, partial(left_out_cases, seed)), needs=needs),
        Item("views-copied", "the baseline that gives the picture back", partial(baseline, assets, seed),
             needs=(judge,)),
        Item("megabytes", "of the model's own folder", partial(megabytes, model), at_most={"own": 8}, needs=(model,)),
    ]  # fmt: skip


def drawn(assets: Path, wanted: Callable[[], Sequence[Case]]) -> tuple[Numbers, list[Record]]:
    """Scores of all views, and those of each object."""
    draw, judge, shown = NovelViews.from_pretrained(assets / "toybox-zero123"), judge_of(assets), list(wanted())
    found = [draw(case.picture, case.views, num_inference_steps=STEPS) for case in shown]
    return scored(found, shown, judge)


def baseline(assets: Path, seed: int) -> tuple[Numbers, list[Record]]:
    """Every view is the picture itself."""
    shown = cases(seed)
    return scored([copied(case.picture, case.views) for case in shown], shown, judge_of(assets))


def scored(found: Sequence[Tensor], shown: Sequence[Case], judge) -> tuple[Numbers, list[Record]]:
    numbers = view_scores(found, shown, judge)
    each = [
        {"object": f"{case.body.colors[0]} {case.body.name}", **view_scores([pictures], [case], judge)}
        for pictures, case in zip(found, shown, strict=True)
    ]
    return numbers, each


def judge_of(assets: Path):
    return load_picture_judge(assets / "toybox-judge")


def megabytes(folder: Path) -> Numbers:
    """Of all files in the folder."""
    return {"own": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6}


def write_pictures(assets: Path, seed: int, folder: Path) -> None:
    """zero123.png: for six objects the picture, then every other view as it is drawn, and the truth below."""
    draw, shown = NovelViews.from_pretrained(assets / "toybox-zero123"), cases(seed)
    rows = []
    for case in (shown[i] for i in SHEET):
        found = draw(case.picture, case.views[::2], num_inference_steps=STEPS)
        rows += [torch.cat([case.picture[None], found]), torch.cat([torch.ones_like(case.picture)[None],
                                                                    case.truth[::2]])]  # fmt: skip
    save_image(folder / "zero123.png", image_grid(torch.cat(rows), len(rows[0])))


SUITE = Suite(items_of, Path(__file__))
