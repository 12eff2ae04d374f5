"""Runs of DreamFusion that differ in their guidance alone, each made once and kept.

bench.run/runs/a-red-mug-ism-0.json   bench.run/runs/a-red-mug-ism-0.glb   ...
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core2d.app.errors import InputError
from core2d.app.outputs import plain, write_json
from core2d.media.sheets import stem_of
from core2d.prior.base import Prior
from core2d.toybox.judge import PictureJudge
from gen3d.bench_guidance.compute import counted, rows_of_a_step, steps_for
from gen3d.bench_guidance.scores import Truth, score, worst
from gen3d.bench_guidance.settings import distilling
from gen3d.dreamfusion.pipeline import text_to_mesh
from gen3d.dreamfusion.recipe import DreamFusionConfig
from gen3d.mesh import TexturedMesh, load_mesh, save_mesh

Say = Callable[[str], object]


@dataclass(frozen=True)
class Trial:
    """One run: everything that its numbers depend on, but what `source` names by its hash.

    Attributes:
        guidance: a name of `settings.KINDS`.
        truth: of the prompt.
        seed: of the field's start, the cameras and the noise.
        budget: denoiser evaluations.
        config: of DreamFusion; the steps are those that the budget pays for.
        source: what was loaded for it: hashes of the prior and of the judge.
    """

    guidance: str
    truth: Truth
    seed: int
    budget: int
    config: DreamFusionConfig
    source: dict[str, str]

    @property
    def stem(self) -> str:
        return f"{stem_of(self.truth.prompt, 'run')}-{self.guidance}-{self.seed}"

    def settings(self) -> dict[str, Any]:
        """As JSON has them."""
        return plain(asdict(self))


def record_of(folder: Path, trial: Trial) -> dict[str, Any] | None:
    """What is known of a trial; None if it was not made, with other settings, or without its mesh."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / f"{trial.stem}.json").read_text(encoding="utf-8"))
        same = isinstance(found, dict) and found.get("settings") == trial.settings()
        if same and (found["failed"] is not None or mesh_path(folder, trial).is_file()):
            return found
    return None


def mesh_path(folder: Path, trial: Trial) -> Path:
    return folder / f"{trial.stem}.glb"


def mesh_of_trial(folder: Path, trial: Trial) -> TexturedMesh | None:
    """The mesh that came of a trial, if one did."""
    path = mesh_path(folder, trial)
    return load_mesh(path) if path.is_file() else None


def steps_of(trial: Trial, prior: Prior) -> int:
    """How long a trial is.

    Raises:
        InputError: the prior has nothing for this guidance to train, or the budget is not a step.
    """
    rows = rows_of_a_step(distilling(trial.guidance), prior, trial.truth.prompt, trial.config)
    return steps_for(trial.budget, rows, trial.guidance)


def make(trial: Trial, prior: Prior, judge: PictureJudge, folder: Path) -> dict[str, Any]:
    """Follow a trial to its end and keep what came of it; a run that was stopped on the way is made anew.

    Returns:
        settings; chamfer, views_right, color_error, janus (`scores.Scores`); seconds, evaluations, steps; and `failed`,
        a sentence where no mesh came of it.
    """
    config = replace(trial.config, steps=steps_of(trial, prior))
    counting, tally = counted(prior)
    record, path = folder / f"{trial.stem}.json", mesh_path(folder, trial)
    folder.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)  # so that it never belongs to another mesh
    path.unlink(missing_ok=True)
    mesh, failed, started = None, None, time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as run:
        try:
            distill = distilling(trial.guidance)
            mesh, _ = text_to_mesh(
                trial.truth.prompt, counting, Path(run) / trial.stem, config, seed=trial.seed, distill=distill
            )
        except InputError as error:
            failed = str(error)
    seconds = time.perf_counter() - started
    if mesh is not None:
        save_mesh(path, mesh)
    found = worst(trial.truth) if mesh is None else score(load_mesh(path), judge, trial.truth)
    made = plain({
        "settings": trial.settings(), **asdict(found), "seconds": seconds, "evaluations": tally.rows,
        "steps": config.steps, "failed": failed,
    })  # fmt: skip
    write_json(record, made)
    return made


def make_missing(
    trials: list[Trial], prior_of: Callable[[Truth], Prior], judge: PictureJudge, folder: Path, say: Say
) -> list[dict[str, Any]]:
    """What is known of all trials, in their order, after those that are missing were made.

    Raises:
        InputError: one of them cannot be begun; then none was.
    """
    missing = [trial for trial in trials if record_of(folder, trial) is None]
    for trial in {trial.guidance: trial for trial in missing}.values():
        steps_of(trial, prior_of(trial.truth))
    for number, trial in enumerate(missing, 1):
        say(f"run {number} of {len(missing)}: {trial.truth.prompt} by {trial.guidance}, seed {trial.seed}")
        made = make(trial, prior_of(trial.truth), judge, folder)
        say(f"no mesh: {made['failed']}" if made["failed"] else f"chamfer {made['chamfer']:.3f}, "
            f"{made['views_right']:.0%} of the views right, {made['seconds']:.0f} s")  # fmt: skip
    found = [record_of(folder, trial) for trial in trials]
    return [record for record in found if record is not None]
