"""How a stage of the bundled family trains, goes on after it was stopped, and keeps what got better.

A stage may have two trainings: a short one that prepares the other (`prepare`). It is done once and to its end, before
the other begins, in however many calls; `minutes_left` shares the time of a call between both.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers.utils import logging as transformers_logging

from core2d.app.outputs import write_json
from core2d.app.provenance import machine
from core2d.bundled.cards import write_card
from core2d.bundled.scores import Scores
from core2d.toybox import world
from core2d.training.checkpoints import newest_checkpoint, set_aside
from core2d.training.loop import Task, TrainingRecipe, train

DIARY = "counted.json"  # in a run folder: what `training.json` has of it
SEED = "seed.json"  # in a run folder: see `seed_of`


@dataclass(frozen=True)
class TrainingSetup:
    """Where a family of bundled models lives and how it is trained.

    Attributes:
        assets: the folder of its models (`toybox-sd`, `toybox-clip`, `toybox-judge`).
        runs: where training keeps data, checkpoints and logs.
        size: pixels of a side.
        pictures: how many pictures the generators learn from.
        fresh: start from new weights, not from those in `assets`.
        resume: go on from the run folder's newest checkpoint.
        changes: fields of the stages' recipes to replace, such as {"steps": 100, "minutes": 60}. The minutes are for
            all trainings of a stage in one call together.
        device: where it is done; the accelerator that there is, or else the CPU, if None.
    """

    assets: Path
    runs: Path
    size: int = 64
    pictures: int = 48_000
    fresh: bool = False
    resume: bool = True
    changes: tuple[tuple[str, object], ...] = ()
    device: torch.device | None = None

    def recipe(self, recipe: TrainingRecipe) -> TrainingRecipe:
        """A stage's recipe with this family's changes."""
        return replace(recipe, **dict(self.changes))  # pyright: ignore[reportArgumentType]

    @property
    def place(self) -> torch.device:
        """Where what is frozen works, beside the training."""
        return self.device or torch.accelerator.current_accelerator() or torch.device("cpu")

    @property
    def data(self) -> Path:
        """The drawn pictures, shared by the stages."""
        return self.runs / "data"

    def starts_fresh(self, weights: Path) -> bool:
        """Whether a stage has no weights to start from, or is told to ignore them."""
        return self.fresh or not weights.exists()


@dataclass(frozen=True)
class Stage:
    """One model of the family.

    Attributes:
        name: as given on the command line.
        folder: the model folder that it writes to.
        run: trains, scores and writes; returns the scores.
        main_score: the score that must not get worse.
        about: one line.
    """

    name: str
    folder: str
    run: Callable[[TrainingSetup], Scores]
    main_score: str
    about: str


@dataclass(frozen=True)
class Spent:
    """What one call of a stage added to its trainings.

    Attributes:
        steps, seconds: in this call, and in those before it that were stopped before `training.json` had them.
        diaries: what is to be written where, once `training.json` has them.
        finished: whether the trainings came to their end, or ran out of minutes.
    """

    steps: int
    seconds: float
    diaries: tuple[tuple[Path, dict[str, float]], ...] = ()
    finished: bool = True

    def __add__(self, other: Spent) -> Spent:
        diaries, finished = self.diaries + other.diaries, self.finished and other.finished
        return Spent(self.steps + other.steps, self.seconds + other.seconds, diaries, finished)


NOTHING = Spent(0, 0.0)


def run_training(setup: TrainingSetup, name: str, task: Task[Any], recipe: TrainingRecipe) -> Spent:
    """Train and leave the averaged weights in the task's model; calls that were stopped count in the one after them."""
    transformers_logging.disable_progress_bar()
    begun = has_begun(setup, name)
    if not begun:
        begin_anew(setup, name)
    result = train(task, recipe, setup.runs / name, resume=begun, device=setup.device)
    task.model.load_state_dict(result.ema)
    task.model.cpu().eval()
    return _not_counted(setup, name, result.step, result.seconds, result.finished)


def prepare(setup: TrainingSetup, name: str, then: str, wanted: Callable[[], bool], run: Callable[[], Spent]) -> Spent:
    """The training of a stage that prepares another one.

    A call that resumes goes on with it, however much of it there is; if the other training has begun already, it was
    done, or was not wanted, and the other's weights have it.

    Args:
        name, then: the run folders of this training and of the other.
        wanted: whether a stage that begins needs it.
        run: does it, by `run_training`.
    """
    if has_begun(setup, then):
        state = _newest_state(setup, name)
        return _not_counted(setup, name, state["step"], state["seconds"]) if state else NOTHING
    if has_begun(setup, name):
        return run()
    for either in (name, then):  # or a call that resumes this one would go on with the other of an earlier one
        begin_anew(setup, either)
    return run() if wanted() else NOTHING


def minutes_left(recipe: TrainingRecipe, since: float) -> TrainingRecipe:
    """The recipe of a stage's next training: with what is left of its minutes since `time.perf_counter()` said so."""
    if recipe.minutes is None:
        return recipe
    return replace(recipe, minutes=max(0.0, recipe.minutes - (time.perf_counter() - since) / 60))


def seed_of(setup: TrainingSetup, name: str, fresh: int) -> int:
    """The seed of a training's rows: the one it began with if this call goes on with it, or else `fresh`."""
    path = setup.runs / name / SEED
    if setup.resume and path.is_file():
        return json.loads(path.read_text())
    if processes().is_main_process:
        write_json(path, fresh)
    return fresh


def has_begun(setup: TrainingSetup, name: str) -> bool:
    """Whether this call goes on with a training."""
    return setup.resume and _newest_state(setup, name) is not None


def begin_anew(setup: TrainingSetup, name: str) -> None:
    """Leave nothing in a run folder that a later call would go on with."""
    if processes().is_main_process:
        set_aside(setup.runs / name)
        (setup.runs / name / DIARY).unlink(missing_ok=True)


def _newest_state(setup: TrainingSetup, name: str) -> dict[str, Any] | None:
    newest = newest_checkpoint(setup.runs / name / "checkpoints")
    return json.loads((newest / "state.json").read_text()) if newest else None


def _not_counted(setup: TrainingSetup, name: str, step: int, seconds: float, finished: bool = True) -> Spent:
    """What of a training's steps and seconds, over all calls, `training.json` does not have yet."""
    diary = setup.runs / name / DIARY
    counted = json.loads(diary.read_text()) if diary.is_file() else {"steps": 0, "seconds": 0.0}
    total = {"steps": step, "seconds": seconds}
    return Spent(step - counted["steps"], seconds - counted["seconds"], ((diary, total),), finished)


def processes() -> PartialState:
    """Which of how many processes this is."""
    return PartialState(cpu=not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))


def keep(
    setup: TrainingSetup,
    stage: Stage,
    recipe: TrainingRecipe,
    spent: Spent,
    found: Scores,
    save: Callable[[], None],
    shipped: Scores | None = None,
    facts: dict[str, object] | None = None,
) -> Scores:
    """Write the weights if their main score is the best so far; note the training either way. Main process only.

    `shipped` are the scores of the weights that stand, where those in the diary may be out of date; `facts` go into it.
    """
    if not processes().is_main_process:
        return found
    folder = setup.assets / stage.folder
    before = None if setup.fresh else (shipped or state_of(setup, stage)).get(stage.main_score)
    now = found.get(stage.main_score)
    kept = not isinstance(before, float) or (now is not None and now > before)
    if now is not None and not math.isfinite(now):
        raise FloatingPointError(f"the {stage.main_score} of {stage.name} is {now}: the weights in {folder} stay")
    folder.mkdir(parents=True, exist_ok=True)
    if kept:
        save()
    line = {
        "stage": stage.name,
        "kept": kept,
        "finished": spent.finished,
        "steps": spent.steps,
        "seconds": round(spent.seconds, 1),
        "pictures": setup.pictures,
        "size": setup.size,
        "toybox_version": world.VERSION,
        "recipe": asdict(recipe),
        "machine": machine(),
        **(facts or {}),
        "scores": {key: round(value, 4) for key, value in found.items()},
    }
    earlier = [entry for entry in history_of(folder) if not (setup.fresh and entry["stage"] == stage.name)]
    write_json(folder / "training.json", [*earlier, line])
    for diary, total in spent.diaries:
        write_json(diary, total)
    write_card(folder)
    return found


def state_of(setup: TrainingSetup, stage: Stage) -> dict[str, object]:
    """What the last kept training of a stage says: steps, hours and scores over all its calls."""
    lines = [line for line in history_of(setup.assets / stage.folder) if line["stage"] == stage.name]
    if not lines:
        return {"stage": stage.name, "state": "not trained", "about": stage.about}
    total = {"steps": sum(line["steps"] for line in lines), "hours": sum(line["seconds"] for line in lines) / 3600}
    kept = [line for line in lines if line["kept"]][-1:]
    return {"stage": stage.name, "state": "trained", **total, **(kept[0]["scores"] if kept else {})}


def history_of(folder: Path) -> list[dict]:
    """The lines of a folder's `training.json`."""
    path = folder / "training.json"
    return json.loads(path.read_text()) if path.is_file() else []
