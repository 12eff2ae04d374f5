"""Trainings of a stage: counted once, stopped and gone on with, one preparing the other, in the minutes of a call."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_runs import assert_same, recipe
from helpers.training_task import DenoisingTask
from torch import Tensor

from core2d.app.outputs import write_json
from core2d.bundled import training
from core2d.bundled.training import Spent, TrainingSetup, minutes_left, prepare, run_training, seed_of
from core2d.training.loop import TrainingResult

FIRST, SECOND = recipe(4, checkpoint_every=2), recipe(6, checkpoint_every=3)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


class Steps(DenoisingTask):
    """Notes its steps in a list, and stops as Ctrl-C does once it has so many."""

    def __init__(self, name: str, seen: list[tuple[str, int]], most: int) -> None:
        super().__init__(seed=0)
        self.name, self.seen, self.most = name, seen, most

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        if len(self.seen) == self.most:
            raise KeyboardInterrupt
        self.seen.append((self.name, step))
        return super().batch(step, positions, batch_size)


def call(
    runs: Path, resume: bool = True, minutes: float | None = None, most: int = -1, wanted: bool | None = True
) -> tuple[Spent, list[tuple[str, int]], dict[str, Tensor]]:
    """One call of a stage with two trainings: what it spent, its steps, the weights; None is not to be asked."""
    setup = TrainingSetup(runs, runs, resume=resume, changes=(("minutes", minutes),))
    seen: list[tuple[str, int]] = []
    first, second = Steps("first", seen, most), Steps("second", seen, most)
    second.model, second.seed = first.model, 1

    def is_wanted() -> bool:
        assert wanted is not None
        return wanted

    started = training.time.perf_counter()
    spent = prepare(
        setup, "first", "second", is_wanted, lambda: run_training(setup, "first", first, setup.recipe(FIRST))
    )
    if spent.finished:
        spent += run_training(setup, "second", second, minutes_left(setup.recipe(SECOND), started))
    for diary, total in spent.diaries:  # as `keep` does once `training.json` has them
        write_json(diary, total)
    return spent, seen, {name: tensor.clone() for name, tensor in second.model.state_dict().items()}


WHOLE = [*(("first", step) for step in range(4)), *(("second", step) for step in range(6))]


def test_calls_of_no_time_take_all_steps_once_and_end_where_one_call_does(tmp_path: Path) -> None:
    """Each call takes one step of what is next; the second training waits until the first is done."""
    spent, seen, weights = call(tmp_path / "whole")
    assert (spent.steps, spent.finished, seen) == (10, True, WHOLE)
    calls = [call(tmp_path / "parts", minutes=0.0, wanted=True if n == 0 else None) for n in range(9)]
    assert [seen for _, seen, _ in calls] == [[step] for step in WHOLE[:3]] + [WHOLE[3:5]] + [[s] for s in WHOLE[5:]]
    assert [spent.finished for spent, _, _ in calls] == [False] * 8 + [True]
    assert [spent.steps for spent, _, _ in calls] == [1, 1, 1, 2, 1, 1, 1, 1, 1]
    assert_same(calls[-1][2], weights)
    spent, seen, again = call(tmp_path / "parts", wanted=None)
    assert (spent.steps, seen) == (0, [])
    assert_same(again, weights)


@pytest.mark.parametrize("most", [1, 3, 4, 5, 6, 7, 9])
def test_a_stage_that_was_stopped_neither_loses_nor_repeats_its_first_training(tmp_path: Path, most: int) -> None:
    """Stopped within the first, between both, and within the second; what was not saved is taken again."""
    _, _, weights = call(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path / "parts", most=most)
    spent, seen, resumed = call(tmp_path / "parts")
    assert seen == WHOLE[{1: 0, 3: 2, 4: 4, 5: 4, 6: 4, 7: 7, 9: 7}[most] :]
    assert spent.steps == 10  # those of the call that was stopped too: nothing had counted them
    assert_same(resumed, weights)


def test_what_was_not_wanted_is_not_asked_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path, most=4, wanted=False)
    spent, seen, _ = call(tmp_path, wanted=None)
    assert (spent.steps, seen) == (6, [("second", step) for step in range(3, 6)])


@pytest.mark.parametrize("most", [3, 5])
def test_a_fresh_call_leaves_nothing_of_an_earlier_one_to_go_on_with(tmp_path: Path, most: int) -> None:
    """Neither its second training, which the first of the fresh one has not prepared, nor what it has counted."""
    call(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path, resume=False, most=most)
    spent, seen, _ = call(tmp_path)
    assert (spent.steps, seen) == (10, WHOLE[2 if most == 3 else 4 :])
    call(tmp_path, resume=False, wanted=False)
    spent, seen, _ = call(tmp_path, wanted=None)
    assert (spent.steps, seen) == (0, [])
    assert (tmp_path / "first" / "checkpoints.previous" / "step-000004").is_dir()  # set aside


def test_trainings_share_the_minutes_of_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the first takes, the second has less; together they take what the call was given."""
    clock, asked = itertools.count(), []
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def train(task: Any, settings: Any, folder: Path, resume: bool, device: Any) -> TrainingResult:
        wanted = 600.0 if folder.name == "first" else 10_000.0
        took = min(wanted, 60 * settings.minutes)
        asked.append((folder.name, settings.minutes))
        now[0] += took
        return TrainingResult(task.model.state_dict(), next(clock), took == wanted, took)

    monkeypatch.setattr(training, "train", train)
    spent, _, _ = call(tmp_path / "long", minutes=30.0)
    assert asked == [("first", 30.0), ("second", 20.0)] and spent.seconds == 1800.0
    asked.clear()
    spent, _, _ = call(tmp_path / "short", minutes=5.0)
    assert asked == [("first", 5.0)] and spent.seconds == 300.0 and not spent.finished
    assert minutes_left(replace(SECOND, minutes=2.0), now[0] - 600).minutes == 0.0
    assert minutes_left(SECOND, now[0] - 600) is SECOND


def test_rows_go_on_from_the_seed_that_a_run_began_with(tmp_path: Path) -> None:
    fresh, resumed = (TrainingSetup(tmp_path, tmp_path, resume=resume) for resume in (False, True))
    assert [seed_of(fresh, "run", 3), seed_of(resumed, "run", 4), seed_of(fresh, "run", 5)] == [3, 3, 5]
    assert [seed_of(resumed, "run", 6), seed_of(resumed, "other", 7), seed_of(resumed, "other", 8)] == [5, 7, 7]


def test_a_chosen_device_is_that_of_the_training_and_of_what_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = DenoisingTask()
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    assert TrainingSetup(tmp_path, tmp_path).place == torch.device("meta")
    setup = TrainingSetup(tmp_path, tmp_path, device=torch.device("cpu"))
    assert setup.place == torch.device("cpu")
    used: list[Any] = []

    def train(task: Any, settings: Any, folder: Path, resume: bool, device: Any) -> TrainingResult:
        used.append(device)
        return TrainingResult(task.model.state_dict(), 1, True, 1.0)

    monkeypatch.setattr(training, "train", train)
    run_training(setup, "run", task, FIRST)
    assert used == [torch.device("cpu")]


def test_processes_that_are_launched_for_the_cpu_work_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch --cpu` says so in the environment, which PartialState alone does not read."""
    asked: list[bool] = []
    monkeypatch.setattr(training, "PartialState", lambda cpu: asked.append(cpu))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for value in ("false", "true"):
        monkeypatch.setenv("ACCELERATE_USE_CPU", value)
        training.processes()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    training.processes()
    assert asked == [False, True, True]
