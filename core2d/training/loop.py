"""The one training loop: any task, any device, any number of processes, killed and resumed at will.

A `Task` says what is trained, which rows step N sees and what their loss is. All that is random is a function
of (seed, step). So a run that is killed and resumed on a CPU ends with the bits of an unbroken one, and N
processes take the step that one process takes with N times the rows.

A task may have several optimisers (`PhasedTask`: each with its own weights, rate and turns) and may ask the averaged
weights (`SeesAverage`). What holds for a task with one optimiser holds for these too.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from tqdm import tqdm

from core2d.app.devices import has_bfloat16
from core2d.app.errors import InputError
from core2d.app.outputs import remove
from core2d.training.checkpoints import newest_checkpoint, set_aside
from core2d.training.log import TrainingLog
from core2d.training.recipe import TrainingRecipe, ema_decay, learning_rate
from core2d.training.state import PhaseState, TrainingState
from core2d.training.task import (
    Phase,
    PhasedTask,
    Previewing,
    Rows,
    SeesAverage,
    Task,
    phases_of,
    step_generator,
    step_seed,
)

__all__ = [  # what a task and its caller need
    "Phase", "PhasedTask", "Previewing", "SeesAverage", "Task", "TrainingRecipe", "TrainingResult",
    "ema_decay", "learning_rate", "step_generator", "step_seed", "train",
]  # fmt: skip


@dataclass(frozen=True)
class TrainingResult:
    ema: dict[str, Tensor]  # a whole state dict, averages in float32; the plain weights if ema_decay is 0
    step: int  # optimiser steps taken, resumed ones included
    finished: bool  # False: `minutes` ran out
    seconds: float  # spent, over all calls


def train(
    task: Task[Any] | PhasedTask[Any],
    recipe: TrainingRecipe,
    folder: Path,
    resume: bool = False,
    on_log: Callable[[dict[str, float]], None] | None = None,
    device: torch.device | None = None,
) -> TrainingResult:
    """Train `task.model` by `recipe`, with checkpoints/, previews/ and log.jsonl in `folder`.

    With `resume` it goes on from the newest complete checkpoint, if there is one. Without, it starts from
    the weights in `task.model` and sets an earlier run's checkpoints aside in checkpoints.previous/.
    `on_log` gets each line of the log, on the main process. `device` is where it is done; the accelerator that there
    is, or else the CPU, if None. Of processes that were launched together each works on its own device of that kind.

    Raises InputError if the recipe does not fit the processes, the task or the checkpoint, or the device the
    processes, FloatingPointError if loss or gradient is not finite (the last checkpoint stays), and KeyboardInterrupt
    after Ctrl-C or SIGTERM, once the step under way is taken and saved.
    """
    begin = time.perf_counter()
    accelerator, device = _processes(device)
    main, processes, rank = accelerator.is_main_process, accelerator.num_processes, accelerator.process_index
    if recipe.batch_size % processes:
        raise InputError(f"batch_size {recipe.batch_size} does not divide among {processes} processes")
    state = TrainingState(task.model.to(device).train(), recipe, phases_of(task))
    if isinstance(task, SeesAverage):
        task.see_average(state.average_twin())
    if main:
        _prepare_folder(folder, resume)
    accelerator.wait_for_everyone()
    if (newest := newest_checkpoint(folder / "checkpoints")) is not None:
        state.load(newest)
    saved, seconds_before = state.step, state.seconds
    log = TrainingLog(folder / "log.jsonl", saved, on_log) if main else None
    loss_module = accelerator.prepare(_Loss(task, recipe.precision))

    share = recipe.batch_size // processes
    positions = torch.arange(rank * share, (rank + 1) * share)  # (share,) this process's rows
    spent = seconds_before if recipe.anneal == "minutes" else 0.0  # such a run has so many minutes in all
    deadline = math.inf if recipe.minutes is None else begin + 60 * recipe.minutes - spent
    interrupted = expired = False
    prepare = torch.no_grad()(lambda step: task.batch(step, positions, recipe.batch_size))
    batches = _batches(prepare, range(saved, recipe.steps), ahead=device.type != "cpu")
    bar = tqdm(total=recipe.steps, initial=saved, desc=folder.name, disable=None if main else True)
    with _signals() as signals, closing(batches), bar:
        for step, rows in enumerate(batches, saved):
            batch = {name: values.to(device, non_blocking=True) for name, values in rows.items()}
            torch.manual_seed(step_seed(recipe.seed, step, rank))  # dropout too is a function of the step
            means: dict[str, float] = {}
            rates: dict[str, float] = {}
            for part in state.acting():
                scalars = _descend(accelerator, loss_module, state, part, batch)
                flags = (bool(signals), time.perf_counter() >= deadline)
                numbers, (interrupted, expired) = _agree(accelerator, scalars, flags, device)
                _check_finite(part, numbers, step, saved)
                part.update(step, state.seconds)
                means |= numbers
                rates[part.labelled("lr")] = part.rate
            state.step += 1
            state.seconds = seconds_before + time.perf_counter() - begin
            last = state.step == recipe.steps or interrupted or expired
            bar.update()
            if log is not None:
                log.add(means, rates, recipe.batch_size)
                if last or state.step % recipe.log_every == 0:
                    log.write(state.step, state.seconds)
            if last or state.step % recipe.checkpoint_every == 0:
                saved = state.step
                if main:
                    state.save(folder / "checkpoints")
                    if isinstance(task, Previewing) and not interrupted:
                        state.preview(task, folder / "previews")
                accelerator.wait_for_everyone()
            if interrupted or expired:
                break
    if interrupted or signals:
        raise KeyboardInterrupt(f"stopped at step {state.step}, saved in {folder}")
    task.model.eval()
    return TrainingResult(state.averaged(), state.step, state.step >= recipe.steps, state.seconds)


def _processes(device: torch.device | None) -> tuple[Accelerator, torch.device]:
    """What binds this process to those launched with it, and where it works.

    accelerate decides once per Python process where the work is done, so a chosen device goes past it.
    """
    # Precision is ours (`_Loss`): accelerate's is fixed once per Python process, and stages may differ.
    # Without `cpu`, processes launched together on a machine that has no accelerator would each train alone.
    # A drop may leave a whole module out of a step: hence the unused parameters.
    accelerator = Accelerator(
        device_placement=False,
        mixed_precision="no",
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    own = accelerator.device
    if device is None or (accelerator.num_processes > 1 and device.type == own.type):
        return accelerator, own
    if accelerator.num_processes > 1:
        launched = f"{accelerator.num_processes} processes were launched to work on {own.type}, not on {device.type}"
        option = "with" if device.type == "cpu" else "without"
        raise InputError(f"{launched}: use accelerate launch {option} --cpu, or one process")
    return accelerator, device


def _descend(
    accelerator: Accelerator, loss_module: nn.Module, state: TrainingState, part: PhaseState, batch: Rows
) -> dict[str, float | Tensor]:
    """Give the parameters of a phase, and no others, the clipped gradient of its loss: what it says of this step."""
    with state.alone(part):
        loss, parts = loss_module(batch, part.phase.name)
        accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(list(part.parameters.values()), part.recipe.gradient_clip or math.inf)
    scalars = {"loss": loss.detach(), **parts, "gradient_norm": norm}
    return {part.labelled(name): value for name, value in scalars.items()}


def _agree(
    accelerator: Accelerator, scalars: dict[str, float | Tensor], flags: Sequence[bool], device: torch.device
) -> tuple[dict[str, float], list[bool]]:
    """One reduction carries all that the processes must agree on: means of scalars, and whether any raised a flag."""
    numbers = torch.tensor([float(x) for x in (*scalars.values(), *flags)], device=device)
    reduced: list[float] = accelerator.reduce(numbers, "mean").tolist()  # pyright: ignore
    means, raised = reduced[: len(scalars)], reduced[len(scalars) :]
    return dict(zip(scalars, means, strict=True)), [share > 0 for share in raised]


def _check_finite(part: PhaseState, means: dict[str, float], step: int, saved: int) -> None:
    for name in map(part.labelled, ("loss", "gradient_norm")):
        if not math.isfinite(means[name]):
            kept = f"the checkpoint of step {saved} stays" if saved else "nothing was saved"
            raise FloatingPointError(f"{name} is {means[name]} at step {step}; {kept}")


def _batches(prepare: Callable[[int], Rows], steps: range, ahead: bool) -> Generator[Rows, None, None]:
    """The rows of each step; `ahead` prepares the next ones in a thread while an accelerator works.

    On a CPU that thread would only take cores from the step, and its own OpenMP team slows all loops of the first.
    """
    if not ahead:
        yield from map(prepare, steps)
        return
    with ThreadPoolExecutor(1) as background:
        upcoming = [background.submit(prepare, step) for step in steps[:1]]
        for step in steps:
            rows = upcoming.pop().result()
            upcoming += [background.submit(prepare, later) for later in steps[step - steps.start + 1 :][:1]]
            yield rows


class _Loss(nn.Module):
    """The task's loss as one module: DDP sees one forward, the task calls parts of its model as it likes."""

    def __init__(self, task: Task[Any] | PhasedTask[Any], precision: str) -> None:
        super().__init__()
        self.model, self.precision = task.model, precision
        self.loss = task.loss if isinstance(task, PhasedTask) else lambda model, batch, phase: task.loss(model, batch)

    def forward(self, batch: dict[str, Tensor], phase: str) -> tuple[Tensor, dict[str, float | Tensor]]:
        device = next(self.model.parameters()).device
        halved = has_bfloat16(device) if self.precision == "auto" else self.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=halved):
            loss, parts = self.loss(self.model, batch, phase)
        return loss.float(), {k: v.detach() if isinstance(v, Tensor) else v for k, v in sorted(parts.items())}


def _prepare_folder(folder: Path, resume: bool) -> None:
    checkpoints = folder / "checkpoints"
    if not resume:
        (folder / "log.jsonl").unlink(missing_ok=True)
        set_aside(folder)
    checkpoints.mkdir(parents=True, exist_ok=True)
    for half_written in (*checkpoints.glob(".*"), *folder.glob(".*.tmp.jsonl")):  # by a run that was killed
        remove(half_written)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them (Python: in the main thread only)."""
    received: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {kind: signal.signal(kind, lambda number, frame: received.append(number)) for kind in kinds}
    try:
        yield received
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
