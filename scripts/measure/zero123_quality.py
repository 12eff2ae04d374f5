"""The items of `evaluate.py --suite zero123`: novel views and solids of one picture, against the same true objects.

The 24 objects are of the reporting seed, six of them of class-colour pairs that no generator learned from. Each is
shown from a random side; the 12 views that are asked for lie at equal steps around from there.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from measure.measure import ROOT, Item, Numbers, Record, command, say
from measure.mesh_quality import gltf_errors
from measure.suite import Suite
from torch import Tensor

from core2d.files.loading import load_model
from core2d.media.pictures import image_grid, save_image, to_uint8
from core2d.toybox.judge import load_picture_judge
from gen3d.data.toybox_matting import MattingNet
from gen3d.mesh import check_mesh, load_mesh
from gen3d.toybox.matting_task import matting_scores
from gen3d.toybox.solid_scores import extruded, solid_scores
from gen3d.toybox.view_scores import Case, cases, copied, left_out_cases, view_scores
from gen3d.zero123.pipeline import NovelViews

STEPS = 25
QUALITY = "draft"  # of the solids
NO_SOLID = {"volume_iou": 0.0, "chamfer": 0.5, "psnr": 0.0}  # half the unit box from anything
PICTURES = Path(os.environ.get("LIFTKIT_DATA", ROOT.parent / "shared" / "data")) / "images"
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
        Item("views-copied", "the baseline that gives the picture back",
             partial(baseline, assets, partial(cases, seed)), needs=(judge,)),
        Item("views-left-out-copied", "that baseline for the four classes",
             partial(baseline, assets, partial(left_out_cases, seed)), needs=(judge,)),
        Item("solids", "image-to-3d of the same 24 objects", partial(solids, assets, partial(cases, seed)),
             at_least={"volume_iou": 0.50, "psnr": 18, "valid": 24}, at_most={"chamfer": 0.07, "worst_seconds": 180},
             needs=needs),
        Item("solids-left-out", "the same of four classes that it never saw",
             partial(solids, assets, partial(left_out_cases, seed)), needs=needs),
        Item("solids-extruded", "the baseline that extrudes the silhouette", partial(extrusions, seed)),
        Item("pictures", "image-to-3d of pictures that no bundled model knows", partial(real_pictures, assets),
             at_least={"made": 4}, at_most={"gltf_errors": 0}, needs=(*needs, PICTURES)),
        Item("matting", "subjects on grounds cut out by the bundled net", partial(cut_out, assets, seed),
             needs=(assets / "toybox-matting",)),
        Item("megabytes", "of the model's own folder", partial(megabytes, model), at_most={"own": 8}, needs=(model,)),
    ]  # fmt: skip


def drawn(assets: Path, wanted: Callable[[], Sequence[Case]]) -> tuple[Numbers, list[Record]]:
    """Scores of all views, and those of each object."""
    draw, judge, shown = NovelViews.from_pretrained(assets / "toybox-zero123"), judge_of(assets), list(wanted())
    found = [draw(case.picture, case.views, num_inference_steps=STEPS, seed=0).images for case in shown]
    return scored(found, shown, judge)


def baseline(assets: Path, wanted: Callable[[], Sequence[Case]]) -> tuple[Numbers, list[Record]]:
    """Every view is the picture itself."""
    shown = list(wanted())
    return scored([copied(case.picture, case.views) for case in shown], shown, judge_of(assets))


def solids(assets: Path, wanted: Callable[[], Sequence[Case]]) -> tuple[Numbers, list[Record]]:
    """By the command in quality QUALITY, from the object cut out where it stands in its picture; seconds are of the
    whole command. `elevation_off` is how far the estimated elevation is from the true one, in degrees."""
    each = [a_solid(assets, case) for case in wanted()]
    means = {name: fmean(row[name] for row in each) for name in NO_SOLID}
    numbers = means | {"worst_seconds": max(row["seconds"] for row in each)}
    off = [row["elevation_off"] for row in each if "elevation_off" in row]
    numbers |= {"elevation_off": fmean(off)} if off else {}
    return numbers | {"valid": sum(row["valid"] for row in each), "objects": len(each)}, each


def a_solid(assets: Path, case: Case) -> Record:
    """The scores of one; `valid` where nothing is wrong with the mesh, nor with the file."""
    with tempfile.TemporaryDirectory() as folder:
        picture = save_image(Path(folder) / "picture.png", to_uint8(case.cutout[None])[0])
        path = Path(folder) / "solid.glb"
        words = ("--no-recentre", "--model", assets / "toybox-zero123", "--quality", QUALITY, "-o", path, "--json")
        row: Record = {"object": named(case), "valid": 0.0, **NO_SOLID}
        started = time.perf_counter()
        try:
            told = json.loads(command("gen3d", "image-to-3d", picture, *words))
        except RuntimeError as error:
            say(f"no solid of the {named(case)}: {error}")
            return row | {"seconds": time.perf_counter() - started}
        row["seconds"] = time.perf_counter() - started
        solid = load_mesh(path)
        faults = len(check_mesh(solid).problems) + gltf_errors([path]).get("gltf_errors", 0)
        off = abs(told["metrics"]["elevation"] - float(case.source.elevation[0].rad2deg()))
        return row | {"valid": float(not faults), "elevation_off": off, **solid_scores(solid, case)}


def extrusions(seed: int) -> tuple[Numbers, list[Record]]:
    """The true silhouette of the picture, as deep as it is wide on average."""
    each = [{"object": named(case), **solid_scores(extruded(case, case.cutout[3]), case)} for case in cases(seed)]
    return {name: fmean(row[name] for row in each) for name in ("volume_iou", "chamfer", "psnr")}, each


def real_pictures(assets: Path) -> tuple[Numbers, list[Record]]:
    """By the command, as a user would; what it says of each picture is kept."""
    each: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        for picture in sorted(PICTURES.glob("*.png")):
            path = Path(folder) / f"{picture.stem}.glb"
            words = ("--model", assets / "toybox-zero123", "--quality", "draft", "-o", path, "--json")
            told = json.loads(command("gen3d", "image-to-3d", picture, *words))
            row = {"picture": picture.stem, "seconds": told["seconds"]}
            row |= {name: told["metrics"][name] for name in ("faces", "watertight", "elevation")}
            each.append(row | {"errors": gltf_errors([path]).get("gltf_errors")})
    errors = [row["errors"] for row in each if row["errors"] is not None]
    numbers: Numbers = {"made": len(each), "worst_seconds": max(row["seconds"] for row in each)}
    return numbers | ({"gltf_errors": sum(errors)} if errors else {}), each


def cut_out(assets: Path, seed: int) -> Numbers:
    """Against true coverage; see `matting_scores`."""
    return matting_scores(load_model(MattingNet, assets / "toybox-matting", torch.float32), seed)


def named(case: Case) -> str:
    return f"{case.body.colors[0]} {case.body.name}"


def scored(found: Sequence[Tensor], shown: Sequence[Case], judge) -> tuple[Numbers, list[Record]]:
    numbers = view_scores(found, shown, judge)
    each = [
        {"object": named(case), **view_scores([pictures], [case], judge)}
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
        found = draw(case.picture, case.views[::2], num_inference_steps=STEPS, seed=0).images
        rows += [torch.cat([case.picture[None], found]), torch.cat([torch.ones_like(case.picture)[None],
                                                                    case.truth[::2]])]  # fmt: skip
    save_image(folder / "zero123.png", image_grid(torch.cat(rows), len(rows[0])))


SUITE = Suite(items_of, Path(__file__), (ROOT / "gen3d" / "zero123" / "image_to_3d" / "command.py",))
