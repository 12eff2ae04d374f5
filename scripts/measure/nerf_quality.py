"""The items of `evaluate.py --suite nerf`: fields from photographs of a real scene's views that were never trained on.

The scene is `nerf_chair_200` in the folder that LIFTKIT_DATA names (100 training and 10 test views of 200x200).
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure.measure import ROOT, Item, Numbers, command
from measure.suite import Suite

from core2d.media.pictures import image_grid, read_image, save_image
from gen3d.data.pictures import read_picture
from gen3d.mesh import check_mesh, load_mesh, render_mesh
from gen3d.nerf.command import STRIP, load_run
from gen3d.nerf.export import cameras_of

DATA = Path(os.environ.get("LIFTKIT_DATA", ROOT.parent / "shared" / "data"))
SCENE = DATA / "nerf_chair_200"
WORK = ROOT / "runs" / "nerf-quality"
LONG, SHORT, VANILLA = 8, 2, 10  # minutes


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite; they use no bundled model."""
    fast = partial(trained, seed, "fast", 1)
    return [
        Item("fast-2-minutes", "all 10 test views of the chair on white", partial(fast, SHORT),
             at_least={"psnr": 31}, at_most={"peak_memory_gb": 4}, needs=(SCENE,)),
        Item("fast-8-minutes", "the same, for longer", partial(fast, LONG),
             at_least={"psnr": 34}, at_most={"peak_memory_gb": 4}, needs=(SCENE,)),
        Item("mesh", "the chair of fast-8-minutes as a mesh, against the silhouettes of the test views",
             partial(mesh, fast, LONG), at_least={"silhouette_f_score": 0.97}, at_most={"bodies": 1}, needs=(SCENE,)),
        Item("vanilla", "the networks of the first paper at 100x100", partial(trained, seed, "vanilla", 2, VANILLA),
             needs=(SCENE,)),
    ]  # fmt: skip


def run_of(system: str, minutes: float) -> Path:
    """Where a run lies."""
    return WORK / f"{system}-{minutes:g}.run"


def trained(seed: int, system: str, downscale: int, minutes: float) -> Numbers:
    """The command, and what it says of the held-out views; `seconds` are those of the whole process' work."""
    told = json.loads(command(
        "gen3d", "nerf", SCENE, "-o", run_of(system, minutes), "--system", system, "--minutes", minutes,
        "--downscale", downscale, "--background", "white", "--seed", seed, "--json",
    ))  # fmt: skip
    metrics = told["metrics"]
    numbers = {name: metrics[name] for name in ("psnr", "ssim", "views", "steps", "seconds_of_training")}
    return numbers | {"seconds": told["seconds"], "peak_memory_gb": told["peak_memory_gb"]}


def mesh(train: partial[Numbers], minutes: float) -> Numbers:
    """Export the chair and hold its silhouettes against the photographs' alpha."""
    run = run_of("fast", minutes)
    if not (run / "metrics.json").exists():
        train(minutes)
    path = WORK / "chair.glb"
    told = json.loads(command("gen3d", "export", run, "-o", path, "--json"))
    chair, found = load_mesh(path), load_run(run)
    views = found.scene.of("test")
    size = views[0].lens.width
    seen = render_mesh(chair, cameras_of(found, "test"), size)[:, 3] > 0.5
    true = torch.stack([torch.from_numpy(np.array(read_picture(view.path)[0][..., 3])) > 127 for view in views])
    report = check_mesh(chair)
    return {
        "silhouette_f_score": float(np.mean([f_score(one, other) for one, other in zip(seen, true, strict=True)])),
        "bodies": float(report.bodies),
        "watertight": float(report.watertight),
        "faces": float(report.faces),
        "dropped_share": told["metrics"]["dropped_share"],
        "seconds": told["seconds"],
    }


def f_score(seen: torch.Tensor, true: torch.Tensor) -> float:
    """Harmonic mean of precision and recall of the pixels of a silhouette."""
    both = float((seen & true).sum())
    return 2 * both / max(1.0, float(seen.sum() + true.sum()))


def write_pictures(assets: Path, seed: int, folder: Path) -> None:
    """nerf.png: test views of the chair (photographs above), and its mesh below, of fast-8-minutes."""
    run = run_of("fast", LONG)
    strip = read_image(run / STRIP)
    found, chair = load_run(run), load_mesh(WORK / "chair.glb")
    cameras = cameras_of(found, "test")
    rows = np.linspace(0, len(cameras) - 1, 4).round().astype(int).tolist()
    pictures = render_mesh(chair, cameras, 200)[rows, :3]
    save_image(folder / "nerf.png", np.concatenate([strip, image_grid(pictures, 4)]))


SUITE = Suite(items_of, Path(__file__), (ROOT / "gen3d" / "nerf" / "command.py", ROOT / "gen3d" / "nerf" / "export.py"))
