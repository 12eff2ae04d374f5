"""The training loop: killed, interrupted, resumed and spread over processes, it learns the same."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_runs import LAUNCH, assert_same, finish, read_log, recipe, start, wait_for_step
from helpers.training_task import KINDS, DenoisingTask
from safetensors.torch import load_file
from torch import Tensor

from core2d.app.errors import InputError
from core2d.training.checkpoints import newest_checkpoint
from core2d.training.loop import TrainingRecipe, TrainingResult, ema_decay, learning_rate, step_generator, train


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def numbers(log: list[dict]) -> list[dict]:
    """All that does not depend on the clock."""
    return [{name: value for name, value in line.items() if "second" not in name}
            for line in log]  # fmt: skip


def train_here(folder: Path, task=None, **changes) -> tuple[dict[str, Tensor], TrainingResult]:
    resume = changes.pop("resume", False)
    task = task or DenoisingTask()
    result = train(task, recipe(**changes), folder, resume=resume)
    return {name: tensor.clone() for name, tensor in task.model.state_dict().items()}, result


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_steps_and_resumed_it_ends_with_the_bits_of_an_unbroken_run(tmp_path: Path, kind: str) -> None:
    options = {
        "kind": kind,
        "recipe": {"steps": 100, "batch_size": 8, "warmup_steps": 5, "checkpoint_every": 2, "log_every": 1},
        "resume": True,
        "task": {"delay": 0.004},
    }
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    dice = random.Random()  # other moments each time; with so many checkpoints, some kills hit a write
    kills = sorted(dice.sample(range(1, 55), 3))
    unbroken = start(whole, options)
    for step in kills:
        process = start(broken, options)
        wait_for_step(broken, step, process)
        time.sleep(dice.random() * 0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, kills
    finish(start(broken, options))
    finish(unbroken)

    for name in ("model.safetensors", "ema.safetensors"):
        assert_same(load_file(broken / name), load_file(whole / name))
    assert [line["step"] for line in read_log(broken)] == list(range(1, 101))
    assert numbers(read_log(broken)) == numbers(read_log(whole))
    assert sorted(path.name for path in (broken / "checkpoints").iterdir()) == ["step-000098", "step-000100"]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_a_resume_goes_on(tmp_path: Path, kind: signal.Signals) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"

    class Interrupted(DenoisingTask):
        def loss(self, model, batch):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 7:  # in the middle of a step
                os.kill(os.getpid(), kind)
            return super().loss(model, batch)

    before = signal.getsignal(kind)
    with pytest.raises(KeyboardInterrupt, match="step 7"):
        train_here(broken, Interrupted())
    assert signal.getsignal(kind) is before
    newest = newest_checkpoint(broken / "checkpoints")
    assert newest is not None and newest.name == "step-000007"

    weights, result = train_here(broken, resume=True)
    expected, unbroken = train_here(whole)
    assert result.step == 12 and result.finished
    assert_same(weights, expected)
    assert_same(result.ema, unbroken.ema)


def test_ctrl_c_ends_the_program_with_a_checkpoint_and_no_torn_files(tmp_path: Path) -> None:
    process = start(tmp_path / "run", {"recipe": {"steps": 100000, "log_every": 1}})
    wait_for_step(tmp_path / "run", 3, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt: stopped at step" in errors
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and int(newest.name[5:]) == read_log(tmp_path / "run")[-1]["step"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_gloo_processes_take_the_steps_of_one(tmp_path: Path, kind: str) -> None:
    options = {
        "kind": kind,
        "recipe": {"steps": 20, "batch_size": 16, "warmup_steps": 3, "log_every": 1, "precision": "no"},
        "task": {"dropout": 0.0},
    }
    two, one = tmp_path / "two", tmp_path / "one"
    for process in [start(two, options, LAUNCH), start(one, options)]:
        finish(process)
    log_of_two, log_of_one = read_log(two), read_log(one)
    assert len(log_of_two) == len(log_of_one) == 20
    for ours, theirs in zip(numbers(log_of_two), numbers(log_of_one), strict=True):
        if kind == "plain":
            assert (ours.pop("rows"), theirs.pop("rows")) == (8.0, 16.0)
        assert ours == pytest.approx(theirs, rel=0, abs=1e-5)
    for name in ("model.safetensors", "ema.safetensors"):
        weights, expected = load_file(two / name), load_file(one / name)
        for key, tensor in weights.items():
            torch.testing.assert_close(tensor, expected[key], atol=1e-5, rtol=0)


def test_a_half_written_or_damaged_checkpoint_is_ignored(tmp_path: Path) -> None:
    expected, unbroken = train_here(tmp_path / "whole")
    folder = tmp_path / "run"
    train_here(folder)
    checkpoints = folder / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000010", "step-000012"]
    cut = checkpoints / "step-000012" / "optimizer.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    (checkpoints / "step-000099").mkdir()  # a deletion that was cut short
    (checkpoints / ".0123456789ab.tmp").mkdir()  # a write that was killed
    (folder / "log.jsonl").open("a").write('{"step": 13, "lo')
    newest = newest_checkpoint(checkpoints)
    assert newest is not None and newest.name == "step-000010"

    weights, result = train_here(folder, resume=True)
    assert_same(weights, expected)
    assert_same(result.ema, unbroken.ema)
    assert result.step == 12
    assert [line["step"] for line in read_log(folder)] == list(range(1, 13))
    assert not list(checkpoints.glob(".*"))


def test_resuming_what_is_finished_changes_nothing(tmp_path: Path) -> None:
    weights, result = train_here(tmp_path)
    again, resumed = train_here(tmp_path, resume=True)
    assert_same(weights, again)
    assert_same(result.ema, resumed.ema)
    assert resumed.finished and resumed.step == 12 and len(read_log(tmp_path)) == 12


def test_a_plain_rerun_starts_afresh_and_sets_the_old_checkpoints_aside(tmp_path: Path) -> None:
    train_here(tmp_path)
    train_here(tmp_path, steps=3)
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "step-000003"
    aside = tmp_path / "checkpoints.previous"
    assert newest_checkpoint(aside) == aside / "step-000012"
    assert len(read_log(tmp_path)) == 3


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.5}, {"steps": 13}, {"betas": (0.9, 0.95)}, {"precision": "bf16"}]
)
def test_a_changed_recipe_is_refused_by_the_name_of_the_field(tmp_path: Path, change: dict) -> None:
    train_here(tmp_path, steps=2)
    with pytest.raises(InputError, match=next(iter(change))):
        train_here(tmp_path, resume=True, **{"steps": 2, **change})


def test_minutes_and_intervals_may_change_on_resume(tmp_path: Path) -> None:
    expected, _ = train_here(tmp_path / "whole")
    _, result = train_here(tmp_path / "run", minutes=0.0)  # each call takes at least one step
    assert (result.step, result.finished) == (1, False)
    _, result = train_here(tmp_path / "run", resume=True, minutes=0.0, checkpoint_every=100)
    assert (result.step, result.finished) == (2, False)
    weights, result = train_here(tmp_path / "run", resume=True, log_every=7)
    assert (result.step, result.finished) == (12, True)
    assert_same(weights, expected)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train_here(tmp_path)
    task = DenoisingTask()
    task.model.register_parameter("extra", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(InputError, match="another model, extra differs"):
        train_here(tmp_path, task, resume=True)


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(tmp_path: Path) -> None:
    task = DenoisingTask(nan_at=7)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 7; the checkpoint of step 5 stays"):
        train_here(tmp_path, task)
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "step-000005"
    assert all(p.isfinite().all() for p in task.model.parameters())


def test_the_average_follows_its_formula_and_covers_tied_parameters(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watched(DenoisingTask):
        def loss(self, model, batch):
            seen.append(model.first.weight.detach().clone())  # the weights before each update
            return super().loss(model, batch)

    task: Any = Watched()
    _, result = train_here(tmp_path, task, ema_decay=0.3)
    average = seen[0].double()
    for step, weight in enumerate([*seen[1:], task.model.first.weight.detach()]):
        decay = min(0.3, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight.double()
    torch.testing.assert_close(result.ema["first.weight"].double(), average, atol=1e-6, rtol=0)
    assert torch.equal(result.ema["first.weight"], result.ema["second.weight"])
    task.model.load_state_dict(result.ema)


def test_without_an_average_the_result_is_the_weights(tmp_path: Path) -> None:
    weights, result = train_here(tmp_path, ema_decay=0.0)
    assert_same(weights, result.ema)
    again, resumed = train_here(tmp_path, ema_decay=0.0, resume=True)
    assert_same(weights, again)
    assert_same(weights, resumed.ema)


def test_learning_rate_and_decay_at_chosen_steps() -> None:
    schedule = TrainingRecipe(110, learning_rate=2.0, warmup_steps=10, final_learning_rate_fraction=0.1)
    for step, rate in [(0, 0.2), (4, 1.0), (9, 2.0), (59, 1.1), (109, 0.2)]:
        assert learning_rate(schedule, step) == pytest.approx(rate, rel=1e-12)
    quarter = 2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate(schedule, 34) == pytest.approx(quarter, rel=1e-12)
    assert learning_rate(TrainingRecipe(5, warmup_steps=0), 4) == pytest.approx(2e-5)
    decays = [ema_decay(TrainingRecipe(1, ema_decay=0.9), step) for step in (0, 10, 1000)]
    assert decays == [0.1, 11 / 20, 0.9]


def test_the_log_holds_the_rate_that_was_used_and_means_over_its_interval(tmp_path: Path) -> None:
    records: list[dict] = []
    train(DenoisingTask(), recipe(), tmp_path / "each", on_log=records.append)
    assert [line["lr"] for line in records] == [learning_rate(recipe(), step) for step in range(12)]
    assert records == read_log(tmp_path / "each")
    train_here(tmp_path / "fourth", log_every=4)
    means = [sum(line["loss"] for line in records[n : n + 4]) / 4 for n in (0, 4, 8)]
    assert [line["loss"] for line in read_log(tmp_path / "fourth")] == pytest.approx(means)
    assert all(line["rows_per_second"] > 0 for line in records)


def test_it_learns_and_only_matrices_decay(tmp_path: Path) -> None:
    train_here(tmp_path, steps=150, learning_rate=1e-2, batch_size=64)
    log = read_log(tmp_path)
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    task = DenoisingTask()
    biases = {name: p.detach().clone() for name, p in task.model.named_parameters() if p.ndim == 1}
    matrix = task.model.head.weight.detach().clone()
    task.loss = lambda model, batch: (torch.stack([p.sum() for p in model.parameters()]).sum() * 0.0, {})
    decaying = recipe(1, learning_rate=0.1, warmup_steps=0, weight_decay=0.5, final_learning_rate_fraction=1.0)
    train(task, decaying, tmp_path / "decay")
    for name, p in task.model.named_parameters():
        if p.ndim == 1:
            assert torch.equal(p, biases[name]), name
    torch.testing.assert_close(task.model.head.weight, matrix * 0.95)


def test_previews_see_the_averaged_weights_and_leave_no_trace(tmp_path: Path) -> None:
    class Quiet:
        def __init__(self) -> None:
            task = DenoisingTask()
            self.model, self.batch, self.loss = task.model, task.batch, task.loss

    weights, result = train_here(tmp_path / "with")
    names = sorted(path.name for path in (tmp_path / "with/previews").iterdir())
    assert names == ["step-000005.safetensors", "step-000010.safetensors", "step-000012.safetensors"]
    shown = load_file(tmp_path / "with/previews" / names[-1])["mean"]
    assert torch.equal(shown[0], result.ema["convolution.weight"].mean())
    expected, _ = train_here(tmp_path / "without", Quiet())
    assert_same(weights, expected)
    assert not (tmp_path / "without/previews").exists()


@pytest.mark.parametrize(("able", "precision"), [({}, "no"), ({"avx512_f": True}, "no"), ({"amx_bf16": True}, "bf16")])
def test_bf16_is_used_where_the_processor_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], precision: str
):
    expected, _ = train_here(tmp_path / "told", precision=precision)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    found, _ = train_here(tmp_path / "auto", precision="auto")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_bf16_training_keeps_float32_weights(tmp_path: Path) -> None:
    weights, result = train_here(tmp_path, precision="bf16")
    assert {tensor.dtype for tensor in (*weights.values(), *result.ema.values())} == {torch.float32}


def test_bad_recipes_are_refused() -> None:
    with pytest.raises(InputError, match="steps must be at least 1"):
        TrainingRecipe(0)
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        TrainingRecipe(1, batch_size=0)


def test_a_step_draws_the_same_numbers_whoever_asks() -> None:
    ours, theirs = (torch.rand(4, generator=step_generator(3, 5)) for _ in range(2))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, torch.rand(4, generator=step_generator(5, 3)))


def test_a_schedule_of_minutes_goes_down_with_time_and_ends_the_run_after_them_in_all(tmp_path: Path) -> None:
    schedule = TrainingRecipe(10_000, learning_rate=1.0, warmup_steps=0, minutes=2.0, anneal="minutes")
    assert learning_rate(schedule, 0, seconds=60.0) == pytest.approx(0.51)  # half of the way from 1 to 0.02
    assert learning_rate(schedule, 0, seconds=120.0) == learning_rate(schedule, 0, seconds=500.0) == pytest.approx(0.02)
    with pytest.raises(InputError, match="give minutes"):
        TrainingRecipe(10, anneal="minutes")
    minutes: dict = dict(steps=100_000, warmup_steps=0, minutes=0.01, anneal="minutes")
    _, first = train_here(tmp_path / "run", **minutes)
    _, second = train_here(tmp_path / "run", resume=True, **minutes)
    assert not first.finished and second.step == first.step + 1  # nothing was left of its time
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert records[0]["lr"] > records[-1]["lr"]
