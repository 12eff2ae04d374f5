"""The one training loop: any task, any device, any number of processes, killed and resumed at will.

A `Task` says what is trained, which rows step N sees and what their loss is. All that is random is a function
of (seed, step). So a run that is killed and resumed on a CPU ends with the bits of an unbroken one, and N
processes take the step that one process takes with N times the rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, remove
from core2d.training.checkpoints import newest_checkpoint, write_checkpoint

Model = TypeVar("Model", bound=nn.Module)
Rows = dict[str, Tensor]
FREE_FIELDS = {"minutes", "checkpoint_every", "log_every"}  # a resume may change these, not what is learned


@dataclass(frozen=True)
class TrainingRecipe:
    """How a task is trained: everything but the task and the starting weights."""

    steps: int  # optimiser steps of the whole schedule
    batch_size: int = 64  # rows of one step, over all processes together
    learning_rate: float = 1e-3  # at the end of the warm-up
    warmup_steps: int = 100
    final_learning_rate_fraction: float = 0.02  # of learning_rate, where the cosine ends
    weight_decay: float = 0.01  # of matrices and kernels; biases, norms and scalars are not decayed
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8  # of AdamW; hash grids, whose gradients are tiny, want 1e-15
    gradient_clip: float = 1.0  # largest global norm; 0 = none
    ema_decay: float = 0.999  # reached slowly, see `ema_decay`; 0 = no average
    precision: Literal["bf16", "no"] = "bf16"  # of autocast; the weights stay as they are
    seed: int = 0  # of dropout and the like; the data's seed is the task's
    minutes: float | None = None  # a call stops (and saves) after this long
    anneal: Literal["steps", "minutes"] = "steps"  # what the schedule counts; minutes are those of all calls together
    checkpoint_every: int = 200  # steps
    log_every: int = 20  # steps

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.anneal == "minutes" and self.minutes is None:
            raise InputError("a schedule that counts minutes needs to know how many: give minutes")


class Task(Protocol[Model]):
    """What the loop needs to know. `model` holds the starting weights and, afterwards, the trained ones."""

    model: Model

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Rows `positions` (n,) of the `batch_size` rows of `step` (from 0), noise and drops included.

        A pure function: draw for all `batch_size` rows from `step_generator(seed, step)`, then index. Runs without
        gradients and, beside an accelerator, in a thread: it may not draw from torch's global generator.
        """
        ...

    def loss(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Mean over the rows of `batch`, and named scalars to log (the same names on every process).

        `model` is `self.model`, whose parts may be called one by one; runs under autocast. Only a loss that
        is a mean over rows is independent of the number of processes: one that contrasts rows is not.
        """
        ...


@runtime_checkable
class Previewing(Protocol):
    """A task that draws what was learned: after a checkpoint, averaged weights, eval mode, one process."""

    def preview(self, model: nn.Module, folder: Path, step: int) -> None: ...


@dataclass(frozen=True)
class TrainingResult:
    ema: dict[str, Tensor]  # a whole state dict, averages in float32; the plain weights if ema_decay is 0
    step: int  # optimiser steps taken, resumed ones included
    finished: bool  # False: `minutes` ran out
    seconds: float  # spent, over all calls


def step_seed(*numbers: int) -> int:
    """One well-mixed 63-bit seed of several integers, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU generator from which a task draws all that is random about the global batch of `step`."""
    return torch.Generator().manual_seed(step_seed(seed, step))


def learning_rate(recipe: TrainingRecipe, step: int, seconds: float = 0.0) -> float:
    """Rate of the update from `step` to `step + 1`: a linear warm-up, then half a cosine down.

    `seconds` have passed before it, which a schedule that counts minutes goes by.
    """
    count = step + 1
    if count <= recipe.warmup_steps:
        return recipe.learning_rate * count / recipe.warmup_steps
    progress = (count - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)  # (0, 1]
    if recipe.anneal == "minutes" and recipe.minutes is not None:
        progress = max(progress, min(1.0, seconds / max(60 * recipe.minutes, 1e-9)))
    floor = recipe.final_learning_rate_fraction
    return recipe.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def ema_decay(recipe: TrainingRecipe, step: int) -> float:
    """Share of the old average that is kept after `step`: small at first, so that the start is forgotten."""
    return min(recipe.ema_decay, (1 + step) / (10 + step))


def train(
    task: Task[Any],
    recipe: TrainingRecipe,
    folder: Path,
    resume: bool = False,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> TrainingResult:
    """Train `task.model` by `recipe`, with checkpoints/, previews/ and log.jsonl in `folder`.

    With `resume` it goes on from the newest complete checkpoint, if there is one. Without, it starts from
    the weights in `task.model` and sets an earlier run's checkpoints aside in checkpoints.previous/.
    `on_log` gets each line of the log, on the main process.

    Raises InputError if the recipe does not fit the processes or the checkpoint, FloatingPointError if loss
    or gradient is not finite (the last checkpoint stays), and KeyboardInterrupt after Ctrl-C or SIGTERM, once
    the step under way is taken and saved.
    """
    begin = time.perf_counter()
    # Precision is ours (`_Loss`): accelerate's is fixed once per Python process, and stages may differ.
    # Without `cpu`, processes launched together on a machine that has no accelerator would each train alone.
    # A drop may leave a whole module out of a step: hence the unused parameters.
    accelerator = Accelerator(
        mixed_precision="no",
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    device, main = accelerator.device, accelerator.is_main_process
    processes, rank = accelerator.num_processes, accelerator.process_index
    if recipe.batch_size % processes:
        raise InputError(f"batch_size {recipe.batch_size} does not divide among {processes} processes")
    if main:
        _prepare_folder(folder, resume)
    accelerator.wait_for_everyone()
    state = _State(task.model.to(device).train(), recipe)
    if (newest := newest_checkpoint(folder / "checkpoints")) is not None:
        state.load(newest)
    saved, seconds_before = state.step, state.seconds
    log = _Log(folder / "log.jsonl", saved, on_log) if main else None
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
            state.optimizer.zero_grad()
            loss, parts = loss_module(batch)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(list(state.trained.values()), recipe.gradient_clip or math.inf)

            # One reduction carries all that the processes must agree on: the losses, and whether to stop.
            scalars = {"loss": loss.detach(), **parts, "gradient_norm": norm}
            flags = [bool(signals), time.perf_counter() >= deadline]
            numbers = torch.tensor([float(x) for x in (*scalars.values(), *flags)], device=device)
            *values, signalled, late = accelerator.reduce(numbers, "mean").tolist()  # pyright: ignore
            interrupted, expired = signalled > 0, late > 0
            means = dict(zip(scalars, values, strict=True))
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(means[name]):
                    kept = f"the checkpoint of step {saved} stays" if saved else "nothing was saved"
                    raise FloatingPointError(f"{name} is {means[name]} at step {step}; {kept}")

            state.update()
            state.seconds = seconds_before + time.perf_counter() - begin
            last = state.step == recipe.steps or interrupted or expired
            bar.update()
            if log is not None:
                log.add(means, recipe.batch_size)
                if last or state.step % recipe.log_every == 0:
                    log.write(state.step, state.rate, state.seconds)
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

    def __init__(self, task: Task[Any], precision: str) -> None:
        super().__init__()
        self.model, self.task, self.precision = task.model, task, precision

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"):
            loss, parts = self.task.loss(self.model, batch)
        return loss.float(), {k: v.detach() if isinstance(v, Tensor) else v for k, v in sorted(parts.items())}


class _State:
    """All that a checkpoint holds: weights, their average, AdamW's moments, the step and the time spent."""

    def __init__(self, model: nn.Module, recipe: TrainingRecipe) -> None:
        self.model, self.recipe, self.step, self.seconds, self.rate = model, recipe, 0, 0.0, 0.0
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        decayed = [p for p in self.trained.values() if p.ndim >= 2]
        others = [p for p in self.trained.values() if p.ndim < 2]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        settings: Any = {"betas": recipe.betas, "eps": recipe.epsilon, "weight_decay": recipe.weight_decay}
        self.optimizer = torch.optim.AdamW(groups, fused=True, **settings)
        copies = {name: p.detach().float().clone() for name, p in self.trained.items()}
        self.average = copies if recipe.ema_decay else {}

    def update(self) -> None:
        """One step of AdamW and of the average."""
        self.rate = learning_rate(self.recipe, self.step, self.seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()
        if self.average:
            now = [p.detach().float() for p in self.trained.values()]
            weight = 1 - ema_decay(self.recipe, self.step)
            torch._foreach_lerp_(list(self.average.values()), now, weight)  # pyright: ignore
        self.step += 1

    def averaged(self) -> dict[str, Tensor]:
        """A state dict of the whole model; tied parameters get their one average under each name."""
        averages = {id(p): self.average[name] for name, p in self.trained.items() if self.average}
        named: dict[str, Tensor] = self.model.state_dict(keep_vars=True)
        return {name: averages.get(id(value), value).detach().clone() for name, value in named.items()}

    @torch.no_grad()
    def preview(self, task: Previewing, folder: Path) -> None:
        kept = {name: p.clone() for name, p in self.trained.items()}
        for name, average in self.average.items():
            self.trained[name].copy_(average)
        folder.mkdir(exist_ok=True)
        task.preview(self.model.eval(), folder, self.step)
        for name, value in kept.items():
            self.trained[name].copy_(value)
        self.model.train()

    def save(self, root: Path) -> None:
        state = self.optimizer.state
        named = self.trained.items()
        moments = {f"{name}:{kind}": t for name, p in named for kind, t in state.get(p, {}).items()}
        tensors = {"model": _own_tensors(self.model), "ema": self.average, "optimizer": moments}
        facts = {"step": self.step, "seconds": self.seconds, "recipe": asdict(self.recipe)}
        write_checkpoint(root, self.step, tensors, facts)

    @torch.no_grad()
    def load(self, checkpoint: Path) -> None:
        facts = json.loads((checkpoint / "state.json").read_text())
        defaults = {field.name: field.default for field in fields(TrainingRecipe)}
        for name, value in json.loads(json.dumps(asdict(self.recipe))).items():
            before = facts["recipe"].get(name, defaults.get(name))  # older than the field: its default
            if name not in FREE_FIELDS and before != value:
                was = f"it was trained with {name} {before}"
                raise InputError(f"cannot resume {checkpoint} with {name} {value}: {was}")
        for kind, ours in (("model", _own_tensors(self.model)), ("ema", self.average)):
            saved = load_file(checkpoint / f"{kind}.safetensors")
            for name in sorted(ours.keys() | saved.keys()):
                if name not in ours or name not in saved or ours[name].shape != saved[name].shape:
                    raise InputError(f"cannot resume {checkpoint}: it is of another model, {name} differs")
            for name, tensor in ours.items():
                tensor.copy_(saved[name])
        for key, tensor in load_file(checkpoint / "optimizer.safetensors").items():
            name, _, kind = key.rpartition(":")
            p = self.trained[name]
            # fused AdamW expects moments with the strides of their parameter
            here = tensor.to(p.device) if kind == "step" else torch.empty_like(p).copy_(tensor)
            self.optimizer.state[p][kind] = here
        self.step, self.seconds = facts["step"], facts["seconds"]


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The live state dict with tied parameters once: safetensors does not write a tensor twice."""
    once = {id(value): (name, value.detach()) for name, value in model.state_dict(keep_vars=True).items()}
    return dict(once.values())


class _Log:
    """log.jsonl: every `log_every` steps one line, the means over the steps since the line before."""

    def __init__(self, path: Path, step: int, on_log: Callable[[dict[str, float]], None] | None) -> None:
        self.path, self.on_log, self.rows, self.since = path, on_log, 0, time.perf_counter()
        self.window: dict[str, list[float]] = {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # a kill can cut the last one short
        with atomic_path(path) as temporary:
            temporary.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))

    def add(self, means: dict[str, float], rows: int) -> None:
        self.rows += rows
        for name, value in means.items():
            self.window.setdefault(name, []).append(value)

    def write(self, step: int, rate: float, seconds: float) -> None:
        now = time.perf_counter()
        means = {name: fmean(values) for name, values in self.window.items()}
        speed = self.rows / (now - self.since)
        times = {"seconds": round(seconds, 3), "rows_per_second": round(speed, 2)}
        record = {"step": step, **means, "lr": rate, **times}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.rows, self.since, self.window = 0, now, {}
        if self.on_log is not None:
            self.on_log(record)


def _prepare_folder(folder: Path, resume: bool) -> None:
    checkpoints, previous = folder / "checkpoints", folder / "checkpoints.previous"
    if not resume:
        (folder / "log.jsonl").unlink(missing_ok=True)
        if newest_checkpoint(checkpoints) is not None:  # perhaps hours of work: set aside, not deleted
            remove(previous)
            checkpoints.replace(previous)
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
