"""The items of `evaluate.py --suite mesh`: how good the meshes are that come from a sentence.

Each mesh is saved as GLB and judged as it comes back from the file. Meshes stay in runs/mesh-quality/, each with a JSON
of what it was made from, so that an evaluation that was killed goes on with the mesh that it had begun.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from measure.measure import ROOT, Item, Numbers, Record, command, forget_peak_memory, hash_files, killed_command, say
from measure.suite import Suite
from PIL import Image

from core2d.app.devices import peak_memory_gb
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, plain, write_json
from core2d.media.pictures import image_grid, save_image, to_uint8
from core2d.prior.backbone import Backbone
from core2d.prior.base import Prior
from core2d.toybox import captions, world
from core2d.toybox.judge import load_picture_judge
from core2d.toybox.sample import mesh_of as true_mesh
from core2d.toybox.scene import portrait
from gen3d.dreamfusion.pipeline import text_to_mesh
from gen3d.dreamfusion.recipe import QUALITIES, DreamFusionConfig
from gen3d.mesh import TexturedMesh, load_mesh, render_mesh, save_mesh
from gen3d.toybox import mesh_scores as scores

WORK = ROOT / "runs" / "mesh-quality"
REPORTED = {  # a colour for each class; chair, mug, house, car, airplane and robot are held out of the prior in theirs
    "chair": "purple", "sofa": "blue", "table": "white", "lamp": "yellow", "television": "black", "mug": "green",
    "teapot": "orange", "bottle": "cyan", "house": "cyan", "windmill": "pink", "tree": "green", "cactus": "purple",
    "mushroom": "red", "car": "yellow", "truck": "blue", "train": "red", "boat": "orange", "airplane": "red",
    "rocket": "white", "dog": "black", "duck": "orange", "fish": "pink", "robot": "green", "snowman": "cyan",
}  # fmt: skip
FOR_TUNING = {"chair": "blue", "mug": "red", "car": "pink", "train": "green", "duck": "white", "mushroom": "purple"}
WAYS = (("normal", "auto", 20), ("draft", "auto", 14), ("normal", "words", 14))  # quality, views, how many are right
TURNED = ("mug", "car", "house", "robot")  # of the turntable in the README
SHEET_COLUMNS, SHEET_SIDES, SHEET_SIZE = 6, (30.0, 210.0), 128  # meshes in a row, degrees, pixels
FRAMES, FRAME_SIZE, FRAME_MILLISECONDS, GIF_COLORS = 24, 192, 100, 128
ORACLE = DreamFusionConfig(steps=300)
ORACLE_OBJECT = ("chair", "red")
KILLS = 20


@dataclass(frozen=True)
class Batch:
    """Meshes that are made in one way.

    Attributes:
        colors: the class of each mesh, and its colour.
        quality: of `gen3d.dreamfusion.recipe.QUALITIES`.
        views: how the prior is told the view, "auto" or "words".
        assets: folder of the models.
        seed: of the first mesh; the next ones have the next seeds.
        folder: where meshes and what is known of them stay.
    """

    colors: dict[str, str]
    quality: str
    views: str
    assets: Path
    seed: int
    folder: Path

    @property
    def prior(self) -> Path:
        return self.assets / "toybox-sd"

    def path(self, name: str) -> Path:
        """Where the mesh of a class lies: 05-green-mug.glb."""
        return self.folder / f"{list(self.colors).index(name):02d}-{self.colors[name]}-{name}.glb"


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`."""
    least = {"watertight_one_body": 22, "texture_coverage": 0.99}
    most = {"janus": 0.10, "dropped_share": 0.02, "gltf_errors": 0}
    return [
        *(mesh_item(batch_of(assets, seed, quality, views, REPORTED, WORK), {"right": right, **least}, most)
          for quality, views, right in WAYS),
        Item("oracle", "a known object from its exact scores", partial(oracle, assets, seed),
             at_most={"chamfer": 0.05}, needs=(assets / "toybox-judge" / "picture.safetensors",)),
        Item("killed", "drafts killed at a random moment and resumed, against one that was not",
             partial(killed, assets / "toybox-sd", seed), at_least={"identical": KILLS}, needs=(assets / "toybox-sd",)),
    ]  # fmt: skip


def tuning_items(assets: Path, seed: int) -> list[Item]:
    """The same ways on the prompts for tuning, without bars."""
    return [
        mesh_item(batch_of(assets, seed, quality, views, FOR_TUNING, WORK / "tuning")) for quality, views, _ in WAYS
    ]


def batch_of(assets: Path, seed: int, quality: str, views: str, colors: dict[str, str], work: Path) -> Batch:
    return Batch(colors, quality, views, assets, seed, work / f"{quality}-{views}")


def mesh_item(batch: Batch, at_least: dict[str, float] | None = None, at_most: dict[str, float] | None = None) -> Item:
    """What measures a batch: meshes-normal, meshes-draft, meshes-words-normal."""
    name = "-".join(["meshes", *(["words"] if batch.views == "words" else []), batch.quality])
    told = "in words" if batch.views == "words" else "by the camera token"
    return Item(
        name, f"{len(batch.colors)} prompts at quality {batch.quality}, views told {told}", partial(meshes, batch),
        at_least or {}, at_most or {}, (batch.prior, batch.assets / "toybox-judge" / "picture.safetensors"),
        batch.folder,
    )  # fmt: skip


# -- items -----------------------------------------------------------------------------------------------------


def meshes(batch: Batch) -> tuple[Numbers, list[Record]]:
    """Make what is missing of a batch, then judge all of it; `right`, `held_out_right` and `failed` are counts."""
    facts = make(batch)
    judge = load_picture_judge(batch.assets / "toybox-judge")
    found = {}
    for name, color in batch.colors.items():
        failed = facts[name]["failed"]
        seen = None if failed else load_mesh(batch.path(name))
        found[name] = scores.score_mesh(seen, judge, name, color, batch.seed) if seen else scores.NO_MESH
        say(f"{captions.object_phrase(name, color)}: {found[name].views_both} of {len(scores.AZIMUTHS)} views are right"
            + (f"; {failed}" if failed else ""))  # fmt: skip
    made = [batch.path(name) for name, row in facts.items() if not row["failed"]]
    held_out = [found[name].right for name, color in batch.colors.items() if world.is_held_out(name, color)]
    numbers = scores.summary(list(found.values())) | {"held_out_right": sum(held_out)}
    numbers |= gltf_errors(made) | making(list(facts.values()))
    samples = [
        {"prompt": captions.object_phrase(name, color), "right": found[name].right, **asdict(found[name])}
        | {fact: facts[name][fact] for fact in ("seconds", "failed")}
        for name, color in batch.colors.items()
    ]
    return numbers, samples


def making(facts: Sequence[Record]) -> Numbers:
    """What it took to make meshes, from what `make` knows of each; `failed` counts prompts that none came of."""
    seconds = [row["seconds"] for row in facts]
    dropped = [row["dropped_share"] for row in facts if not row["failed"]]
    return {
        "dropped_share": max(dropped, default=float("nan")),
        "failed": len(facts) - len(dropped),
        "meshes": len(facts),
        "seconds_mean": sum(seconds) / len(seconds),
        "seconds_max": max(seconds),
        "peak_memory_gb": max(row["peak_memory_gb"] for row in facts),
    }


def oracle(assets: Path, seed: int) -> Numbers:
    """The whole way, with exact scores of a red chair as the prior; the Chamfer distance is in metres."""
    name, color = ORACLE_OBJECT
    scene = portrait(name, color, 0, scores.ELEVATION, seed, 0)
    body = true_mesh(scene)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        mesh, build = text_to_mesh(scene.caption, scores.oracle_of(scene), Path(folder), ORACLE, seed=seed)
    seconds = time.perf_counter() - started
    verdict = scores.look(mesh, load_picture_judge(assets / "toybox-judge"))
    truth = scores.surface_points(np.asarray(body.vertices), np.asarray(body.faces))
    return {
        "chamfer": scores.chamfer(scores.surface_points(mesh.vertices, mesh.faces), truth),
        "views_right": int(verdict.is_right([name] * len(scores.AZIMUTHS), [color] * len(scores.AZIMUTHS)).sum()),
        "watertight_one_body": float(scores.is_one_body(build.report)),
        "seconds": seconds,
    }


def killed(prior: Path, seed: int) -> Numbers:
    """How many of `KILLS` drafts that get a `kill -9` end, once resumed, with the bytes of one that ran through.

    The moments are spread over the whole command, from its imports to its files; before there is a run to resume, the
    command is given again, as a user would.
    """
    dice, kills, resumed, identical = random.Random(seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as place:

        def words(name: str) -> list[object]:
            return ["text-to-mesh", "a red mug", "-o", Path(place) / name / "mug.glb", "--model", prior,
                    "--device", "cpu", "--quality", "draft", "--seed", seed]  # fmt: skip

        begun = time.perf_counter()
        command("gen3d", *words("whole"))
        seconds = time.perf_counter() - begun
        whole = (Path(place) / "whole" / "mug.glb").read_bytes()
        for turn in range(KILLS):
            moment = dice.uniform(0, seconds)
            was_killed = killed_command("gen3d", *words(str(turn)), after=moment)
            run = Path(place) / str(turn) / "mug.run"
            resumes = was_killed and run.is_dir()
            if was_killed:
                command("gen3d", *(["text-to-mesh", "--resume", run] if resumes else words(str(turn))))
            same = (Path(place) / str(turn) / "mug.glb").read_bytes() == whole
            kills, resumed, identical = kills + was_killed, resumed + resumes, identical + same
            say(f"killed after {moment:.1f} of {seconds:.1f} s: {'the same bytes' if same else 'OTHER BYTES'}")
    return {"identical": identical, "resumed": resumed, "killed": kills, "seconds_unbroken": seconds}


def gltf_errors(paths: Sequence[Path]) -> Numbers:
    """Errors that Khronos' validator finds in all files together; no number where it cannot run, and why on stderr."""
    if (tests := str(ROOT / "tests")) not in sys.path:
        sys.path.append(tests)  # it is a helper of theirs
    try:
        import pytest
        from helpers.gltf_validator import validate
    except ImportError as error:
        say(f"gltf_errors is not measured: {error}")
        return {}
    try:
        return {"gltf_errors": sum(validate(path)["issues"]["numErrors"] for path in paths)}
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        say(f"gltf_errors is not measured: {missing}")
        return {}


# -- making ----------------------------------------------------------------------------------------------------


def make(batch: Batch) -> dict[str, Record]:
    """Make those meshes of a batch that are not there yet, or were made from another source.

    Returns:
        For each class what is known of its mesh: source, seconds, peak_memory_gb, dropped_share, and `failed`, a
        sentence where no mesh came of it.
    """
    source = plain(SUITE.source(batch.seed) | {"weights": hash_files([batch.prior])})
    prior, facts = None, {}
    for index, (name, color) in enumerate(batch.colors.items()):
        path = batch.path(name)
        known = read_facts(path)
        if known.get("source") != source or not (path.is_file() or known["failed"]):
            prior = prior or Backbone.load(batch.prior, "auto")
            prompt = captions.object_phrase(name, color)
            say(f"{index + 1} of {len(batch.colors)}: {prompt}")
            path.with_suffix(".json").unlink(missing_ok=True)  # so that it never belongs to another mesh
            known = {"source": source, **make_one(batch, prior, prompt, batch.seed + index, path)}
            write_json(path.with_suffix(".json"), known)
        facts[name] = known
    return facts


def make_one(batch: Batch, prior: Prior, prompt: str, seed: int, path: Path) -> Record:
    """One mesh into its file; a prompt that no mesh comes of has `failed`, and is not the end of the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    forget_peak_memory()
    started, failed, dropped = time.perf_counter(), None, None
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        try:
            run = Path(folder) / path.stem
            mesh, build = text_to_mesh(prompt, prior, run, QUALITIES[batch.quality], batch.views, seed)
            save_mesh(path, mesh)
            dropped = build.cleaning.dropped_share
        except InputError as error:
            failed = str(error)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_memory_gb": peak_memory_gb(), "dropped_share": dropped, "failed": failed}


def read_facts(path: Path) -> Record:
    """What is known of the mesh at `path`; nothing of one that is not there."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return {}


# -- pictures --------------------------------------------------------------------------------------------------


def write_pictures(assets: Path, seed: int, folder: Path) -> None:
    """meshes.png (each reported mesh from two sides) and turntable.gif, of the meshes of meshes-normal.

    Those that are not there yet are made first.
    """
    batch = batch_of(assets, seed, "normal", "auto", REPORTED, WORK)
    facts = make(batch)
    seen = {name: load_mesh(batch.path(name)) for name in REPORTED if not facts[name]["failed"]}
    nothing = np.full((len(SHEET_SIDES), SHEET_SIZE, SHEET_SIZE, 3), 255, np.uint8)  # where no mesh came of a prompt
    views = np.concatenate(
        [drawn(seen[name], SHEET_SIDES, SHEET_SIZE) if name in seen else nothing for name in REPORTED]
    )
    save_image(folder / "meshes.png", image_grid(views, SHEET_COLUMNS * len(SHEET_SIDES)))
    turn = [360.0 * frame / FRAMES for frame in range(FRAMES)]
    turned = [drawn(seen[name], turn, FRAME_SIZE) for name in TURNED if name in seen]
    save_gif(folder / "turntable.gif", np.concatenate(turned, axis=2))  # (t, s, 4 s, 3)
    for name in ("meshes.png", "turntable.gif"):
        say(f"wrote {folder / name}")


def drawn(mesh: TexturedMesh, azimuths: Sequence[float], size: int) -> np.ndarray:
    """(n, size, size, 3) uint8 pictures on white from azimuths in degrees."""
    return to_uint8(render_mesh(mesh, scores.cameras(azimuths), size)[:, :3])


def save_gif(path: Path, frames: np.ndarray) -> None:
    """Write (t, h, w, 3) uint8 as an endless GIF; all frames share one palette, which keeps it small and still."""
    strip = Image.fromarray(np.concatenate(list(frames[:: max(1, len(frames) // 8)])))
    palette = strip.quantize(GIF_COLORS)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with atomic_path(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=FRAME_MILLISECONDS, loop=0)


SUITE = Suite(items_of, Path(__file__))
TUNING = Suite(tuning_items, Path(__file__))
