"""Tasks with several optimisers, tasks that look at the averaged weights, and where a training is done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from helpers.training_runs import assert_same, read_log, recipe
from helpers.training_task import AdversarialTask, ConsistencyTask, DenoisingTask, Prior, Rivals
from safetensors.torch import load_file
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.training.checkpoints import newest_checkpoint
from core2d.training.loop import Phase, TrainingRecipe, ema_decay, learning_rate, step_seed, train

CRITIC, GENERATOR = AdversarialTask.phases


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def with_phases(*phases: Phase) -> AdversarialTask:
    task = AdversarialTask()
    task.phases = phases  # pyright: ignore[reportAttributeAccessIssue]
    return task


class Watched(AdversarialTask):
    """Notes who is asked when, what requires a gradient then, and how the weights are."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[tuple[str, set[str], dict[str, Tensor]]] = []

    def loss(self, model: Rivals, batch: dict[str, Tensor], phase: str) -> Any:
        learning = {name for name, p in model.named_parameters() if p.requires_grad}
        assert all(p.grad is None for p in model.parameters())
        self.seen.append((phase, learning, weights_of(model)))
        return super().loss(model, batch, phase)


def test_a_phase_moves_its_own_weights_and_no_others(tmp_path: Path) -> None:
    task = Watched()
    train(task, recipe(), tmp_path)
    turns = [phase for phase, _, _ in task.seen]
    assert turns == ["critic"] * 2 + ["critic", "generator", "critic"] * 5
    later = [weights for _, _, weights in task.seen[1:]] + [weights_of(task.model)]
    for (phase, learning, before), after in zip(task.seen, later, strict=True):
        own = {name for name in before if name.startswith(("critic",) if phase == "critic" else ("generator", "scale"))}
        assert learning == own
        assert {name for name in before if not torch.equal(before[name], after[name])} == own
    assert all(p.requires_grad for name, p in task.model.named_parameters() if not name.startswith("frozen"))


def test_two_optimisers_take_the_steps_of_two_that_are_written_out(tmp_path: Path) -> None:
    """Bit by bit: rates, warm-up, betas, decay, clipping and average, all counted in the updates of a phase."""
    settings = recipe(12, learning_rate=1e-2, warmup_steps=3, ema_decay=0.6)
    trained, written = AdversarialTask(), AdversarialTask()
    result = train(trained, settings, tmp_path)

    model = written.model.train()
    named = {"critic": [], "generator": []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            named["critic" if name.startswith("critic") else "generator"].append(p)
    averages = [p.detach().clone() for p in named["generator"]]
    optimizers = {}
    for phase, betas, decay in (("critic", (0.0, 0.9), 0.0), ("generator", (0.9, 0.99), 0.01)):
        matrices, others = ([p for p in named[phase] if (p.ndim >= 2) == large] for large in (True, False))
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        optimizers[phase] = torch.optim.AdamW(groups, betas=betas, weight_decay=decay, fused=True)
    critic = replace(settings, learning_rate=5e-3)
    generator = replace(settings, steps=5, warmup_steps=2)
    rates: list[dict[str, float]] = []
    for step in range(12):
        torch.manual_seed(step_seed(settings.seed, step, 0))
        batch = written.batch(step, torch.arange(8), 8)
        turns = [("critic", critic, step, 0.1)]
        if step >= 2 and step % 2 == 0:
            turns.append(("generator", generator, (step - 2) // 2, 1.0))
        rates.append({})
        for phase, own, taken, clip in turns:
            model.zero_grad()
            written.loss(model, batch, phase)[0].backward()
            torch.nn.utils.clip_grad_norm_(named[phase], clip)
            rate = rates[-1][f"{phase}/lr"] = learning_rate(own, taken)
            for group in optimizers[phase].param_groups:
                group["lr"] = rate
            optimizers[phase].step()
            if phase == "generator":
                weight = 1 - ema_decay(own, taken)
                averages = [a.lerp(p.detach(), weight) for a, p in zip(averages, named[phase], strict=True)]

    assert_same(weights_of(trained.model), weights_of(model))
    names = [name for name, p in model.named_parameters() if any(p is own for own in named["generator"])]
    expected = weights_of(model) | dict(zip(names, averages, strict=True))  # the critic is not averaged
    assert_same(result.ema, expected)
    log = read_log(tmp_path)
    assert [{name: value for name, value in line.items() if name.endswith("/lr")} for line in log] == rates
    assert {"critic/loss", "critic/apart", "critic/gradient_norm"} < log[1].keys()
    assert not any(name.startswith("generator") for name in log[1]) and "generator/loss" in log[2]
    assert not {"loss", "lr", "gradient_norm"} & log[2].keys()


def test_phases_may_take_turns(tmp_path: Path) -> None:
    task = Watched()
    turns = (replace(CRITIC, every=2), replace(GENERATOR, every=2, starts_at=1))
    task.phases = turns  # pyright: ignore[reportAttributeAccessIssue]
    train(task, recipe(7), tmp_path)
    assert [phase for phase, _, _ in task.seen] == ["critic", "generator"] * 3 + ["critic"]


def test_a_phase_counts_its_own_updates() -> None:
    phase = Phase("a", ("",), every=3, starts_at=2, rate=0.5, betas=(0.5, 0.6))
    for steps in range(20):
        assert phase.updates(steps) == sum(map(phase.acts, range(steps)))
    assert [step for step in range(10) if phase.acts(step)] == [2, 5, 8]
    settings = TrainingRecipe(10, learning_rate=0.2)
    assert phase.recipe(settings) == replace(settings, steps=3, learning_rate=0.1, betas=(0.5, 0.6))


def test_a_loss_that_is_not_finite_names_its_phase(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"^generator/loss is nan at step 6; the checkpoint of step 5 stays"):
        train(AdversarialTask(nan_at=6), recipe(), tmp_path)
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "step-000005"


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ((), "one or more phases"),
        ((CRITIC, replace(GENERATOR, name="critic")), "names of their own"),
        ((CRITIC, replace(GENERATOR, parts=("generator", "scales"))), "scales, which is no part of the model"),
        ((CRITIC, replace(GENERATOR, parts=("generator",))), "scale would learn in no phase"),
        ((CRITIC, replace(GENERATOR, parts=("",))), "critic.0.weight would learn in critic and generator"),
        ((CRITIC, GENERATOR, Phase("still", ("frozen",))), "'still' has nothing to train"),
        ((CRITIC, replace(GENERATOR, starts_at=12)), "generator would start at step 12 of 12"),
        ((replace(CRITIC, every=3), GENERATOR), "no phase acts at step 1"),
        ((replace(CRITIC, starts_at=4), replace(GENERATOR, every=1)), "no phase acts at step 0"),
    ],
)
def test_phases_that_do_not_fit_are_refused_and_nothing_is_touched(
    tmp_path: Path, phases: tuple[Phase, ...], said: str
) -> None:
    train(DenoisingTask(), recipe(2), tmp_path)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=said):
        train(with_phases(*phases), recipe(), tmp_path)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_tied_weights_belong_to_one_phase(tmp_path: Path) -> None:
    class Tied(DenoisingTask):
        phases = (Phase("one", ("convolution", "norm", "first")), Phase("two", ("second", "head")))

    with pytest.raises(InputError, match=r"first\.weight would learn in one and two"):
        train(Tied(), recipe(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"every": 0}, "every of phase critic must be at least 1, not 0"),
        ({"starts_at": -1}, "starts_at of phase critic must be at least 0"),
        ({"rate": 0.0}, "rate of phase critic must be above 0"),
        ({"rate": float("nan")}, "rate of phase critic must be above 0"),
        ({"parts": "critic"}, "parts of phase critic must be a tuple of names"),
        ({"parts": ()}, "parts of phase critic must be a tuple of names"),
    ],
)
def test_bad_phases_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(CRITIC, **changes)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ((replace(CRITIC, rate=0.25), GENERATOR), "critic's rate 0.25: it was trained with critic's rate 0.5"),
        ((replace(CRITIC, betas=(0.0, 0.5)), GENERATOR), r"critic's betas \[0.0, 0.5\]"),
        ((CRITIC, replace(GENERATOR, every=1)), "generator's every 1"),
        ((CRITIC, replace(GENERATOR, ema_decay=0.5)), "generator's ema_decay 0.5"),
        ((GENERATOR, CRITIC), "generator, critic: it was trained with critic, generator"),
        ((Phase("both", ("",)),), "both: it was trained with critic, generator"),
    ],
)
def test_changed_phases_are_refused_on_resume(tmp_path: Path, now: tuple[Phase, ...], said: str) -> None:
    train(AdversarialTask(), recipe(4), tmp_path)
    with pytest.raises(InputError, match=said):
        train(with_phases(*now), recipe(4), tmp_path, resume=True)


def test_one_optimiser_does_not_go_on_as_several(tmp_path: Path) -> None:
    train(DenoisingTask(), recipe(2), tmp_path / "plain")
    state = json.loads((tmp_path / "plain/checkpoints/step-000002/state.json").read_text())
    assert state.keys() == {"step", "seconds", "recipe", "files"}  # as it always was
    with pytest.raises(InputError, match="with critic, generator: it was trained with one optimiser"):
        train(with_phases(CRITIC, replace(GENERATOR, starts_at=1)), recipe(2), tmp_path / "plain", resume=True)


# -- averages ------------------------------------------------------------------------------------------


class WatchedConsistency(ConsistencyTask):
    """Notes the averages that it sees, and what they make of a batch after the model has been asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]] = []

    def loss(self, model: Prior, batch: dict[str, Tensor]) -> Any:
        assert self.average is not None
        model(batch["less"])  # autocast now remembers its casts
        made = self.average(batch["less"])
        self.seen.append((weights_of(model), weights_of(self.average), batch["less"], made))
        return super().loss(model, batch)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_task_sees_the_average_of_this_moment(tmp_path: Path, precision: str) -> None:
    task = WatchedConsistency()
    result = train(task, recipe(ema_decay=0.5, precision=precision), tmp_path)
    expected = {name: value.double() for name, value in task.seen[0][0].items()}
    for step, (weights, average, noisy, made) in enumerate(task.seen):
        if step:
            decay = min(0.5, step / (9 + step))  # of the update before
            expected = {n: decay * e + (1 - decay) * weights[n].double() for n, e in expected.items()}
        for name, value in average.items():
            torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=0)
        alone = Prior(dropout=0.1).eval()
        alone.load_state_dict(average)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            assert torch.equal(alone(noisy), made) and not made.requires_grad
    assert not torch.equal(task.seen[-1][0]["head.weight"], task.seen[-1][1]["head.weight"])
    twin = task.average
    assert isinstance(twin, Prior) and not twin.training and not any(p.requires_grad for p in twin.parameters())
    assert twin.first.weight is twin.second.weight
    assert_same(weights_of(twin), result.ema)


def test_what_is_not_averaged_the_twin_shares(tmp_path: Path) -> None:
    class Seeing(AdversarialTask):
        def see_average(self, average: Rivals) -> None:
            self.average = average

    task = Seeing()
    task.model.register_buffer("count", torch.zeros(()))
    result = train(task, recipe(), tmp_path)
    assert_same(weights_of(task.average), result.ema)
    shared = {
        name for name, value in task.average.state_dict().items()
        if value.data_ptr() == task.model.state_dict()[name].data_ptr()
    }  # fmt: skip
    assert shared == {name for name in result.ema if name.startswith(("critic", "frozen", "count"))}
    saved = load_file(tmp_path / "checkpoints/step-000012/ema.safetensors")
    assert saved.keys() == {
        name for name, _ in task.model.named_parameters() if name.startswith(("generator", "scale"))
    }


def test_a_resumed_task_sees_the_average_that_was_saved(tmp_path: Path) -> None:
    whole = WatchedConsistency()
    train(whole, recipe(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(WatchedConsistency(), recipe(), tmp_path / "parts", on_log=_stop_at(7))
    resumed = WatchedConsistency()
    train(resumed, recipe(), tmp_path / "parts", resume=True)
    assert len(resumed.seen) == 7  # from the checkpoint of step 5 on
    for (weights, average, *_), (then, average_then, *_) in zip(resumed.seen, whole.seen[5:], strict=True):
        assert_same(weights, then)
        assert_same(average, average_then)


def _stop_at(step: int) -> Any:
    def follow(line: dict[str, float]) -> None:
        if line["step"] == step:
            raise KeyboardInterrupt

    return follow


def test_a_task_that_looks_at_the_average_needs_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ema_decay above 0"):
        train(ConsistencyTask(), recipe(ema_decay=0.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- where it is done ----------------------------------------------------------------------------------


def test_a_chosen_device_is_used_whatever_accelerate_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = DenoisingTask()
    train(usual, recipe(), tmp_path / "usual")
    monkeypatch.setattr(Accelerator, "device", torch.device("meta"))
    chosen, accelerates = DenoisingTask(), DenoisingTask()
    result = train(chosen, recipe(), tmp_path / "chosen", device=torch.device("cpu"))
    assert_same(weights_of(chosen.model), weights_of(usual.model))
    assert result.ema["head.bias"].device.type == "cpu"
    with pytest.raises((RuntimeError, NotImplementedError)):
        train(accelerates, recipe(), tmp_path / "accelerates")
    assert accelerates.model.head.weight.device.type == "meta"


def test_processes_that_were_launched_for_another_device_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(InputError, match=r"2 processes were launched to work on cpu, not on cuda: .* without --cpu"):
        train(DenoisingTask(), recipe(), tmp_path / "run", device=torch.device("cuda"))
    assert not (tmp_path / "run").exists()
