"""What the training loop asks of a task: a model, the rows of each step and their loss.

Some tasks have several optimisers, such as a generator with its critic (1406.2661):

    class Adversarial:
        phases = (Phase("critic", ("critic",), rate=0.5), Phase("generator", ("generator",)))

        def loss(self, model, batch, phase):
            return critic_loss(model, batch) if phase == "critic" else generator_loss(model, batch)

Some look at the averaged weights; see `SeesAverage`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.training.recipe import TrainingRecipe

Model = TypeVar("Model", bound=nn.Module)
Rows = dict[str, Tensor]
Losses = tuple[Tensor, dict[str, float | Tensor]]  # what is minimised, and scalars to log


class Task(Protocol[Model]):
    """What the loop needs to know. `model` holds the starting weights and, afterwards, the trained ones."""

    model: Model

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Rows `positions` (n,) of the `batch_size` rows of `step` (from 0), noise and drops included.

        A pure function: draw for all `batch_size` rows from `step_generator(seed, step)`, then index. Runs without
        gradients and, beside an accelerator, in a thread: it may not draw from torch's global generator.
        """
        ...

    def loss(self, model: Model, batch: dict[str, Tensor]) -> Losses:
        """Mean over the rows of `batch`, and named scalars to log (the same names on every process).

        `model` is `self.model`, whose parts may be called one by one; runs under autocast. Only a loss that
        is a mean over rows is independent of the number of processes: one that contrasts rows is not.
        """
        ...


@dataclass(frozen=True)
class Phase:
    """One of several optimisers of a task: which weights it moves, when, and where it differs from the recipe.

    A phase is like a training of its own: warm-up, schedule and average count its own updates. Its rate is a factor, so
    that the recipe's learning rate moves all phases together.

    Attributes:
        name: told to the loss; stands before each of its numbers in the log, as in "critic/loss".
        parts: names of submodules or parameters of the model. Those of their parameters that require a gradient are
            its own. Each such parameter of the model belongs to exactly one phase.
        every: it acts once in so many steps,
        starts_at: and first at this step. Two phases of `every=2` that start at 0 and at 1 alternate. Those of one step
            act in the order of their list, on one batch, each on the weights that the one before has left.
        rate: times the recipe's learning rate.
        warmup_steps, final_learning_rate_fraction, weight_decay, betas, epsilon, gradient_clip, ema_decay: in place of
            the recipe's, where given.

    Raises:
        InputError: a number is out of its range.
    """

    name: str
    parts: tuple[str, ...]
    every: int = 1
    starts_at: int = 0
    rate: float = 1.0
    warmup_steps: int | None = None
    final_learning_rate_fraction: float | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None
    epsilon: float | None = None
    gradient_clip: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("starts_at", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} of phase {self.name} must be at least {least}, not {getattr(self, name)}")
        if not self.rate > 0:
            raise InputError(f"rate of phase {self.name} must be above 0, not {self.rate}")
        if isinstance(self.parts, str) or not self.parts:
            raise InputError(f"parts of phase {self.name} must be a tuple of names, not {self.parts!r}")

    def acts(self, step: int) -> bool:
        """Whether it takes an update from `step` to `step + 1`."""
        return step >= self.starts_at and (step - self.starts_at) % self.every == 0

    def updates(self, steps: int) -> int:
        """How many updates of its own the first `steps` steps hold."""
        return max(0, -(-(steps - self.starts_at) // self.every))

    def owns(self, parameter: str) -> bool:
        """Whether a parameter of this name is of its parts."""
        return any(owns(part, parameter) for part in self.parts)

    def recipe(self, recipe: TrainingRecipe) -> TrainingRecipe:
        """The recipe of a training of its own, whose steps are its updates."""
        own: dict[str, Any] = {name: getattr(self, name) for name in OWN_FIELDS if getattr(self, name) is not None}
        rate = self.rate * recipe.learning_rate
        return replace(recipe, steps=self.updates(recipe.steps), learning_rate=rate, **own)


def owns(part: str, parameter: str) -> bool:
    """Whether a parameter of this name is that part or in it; "" is the whole model."""
    return part in ("", parameter) or parameter.startswith(f"{part}.")


OWN_FIELDS = (
    "warmup_steps", "final_learning_rate_fraction", "weight_decay", "betas", "epsilon", "gradient_clip", "ema_decay"
)  # fmt: skip
WHOLE = (Phase("", ("",)),)  # of a task with one optimiser


@runtime_checkable
class PhasedTask(Protocol[Model]):
    """A task with several optimisers: a generator and its critic, a field and the network that judges it.

    `model` holds the weights of all of them. Phases of one step may hand things on, such as a picture that was drawn:
    within a step their order is fixed, and a step is done as a whole or not at all.
    """

    model: Model

    @property
    def phases(self) -> Sequence[Phase]:
        """In the order in which they act."""
        ...

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """As of `Task`."""
        ...

    def loss(self, model: Model, batch: dict[str, Tensor], phase: str) -> Losses:
        """As of `Task`, of one phase. Parameters of the other phases require no gradient meanwhile."""
        ...


@runtime_checkable
class SeesAverage(Protocol):
    """A task whose loss asks the averaged weights, as a consistency model asks its target (2303.01469, algorithm 2)."""

    def see_average(self, average: nn.Module) -> None:
        """Keep `average`, a twin of the model that the loop keeps up to date: called once, before the first step.

        Its averages are float32 and require no gradient; it is in eval mode. What is not averaged, buffers too, it
        shares with the model. It is a module of its own, and not the model with other weights for a while, since
        autocast, which remembers the casts of parameters, would go on to answer with the weights that it has seen.
        """
        ...


@runtime_checkable
class Previewing(Protocol):
    """A task that draws what was learned: after a checkpoint, averaged weights, eval mode, one process."""

    def preview(self, model: nn.Module, folder: Path, step: int) -> None: ...


def phases_of(task: Task[Any] | PhasedTask[Any]) -> tuple[Phase, ...]:
    """The phases of a task; one over the whole model if it speaks of none."""
    return tuple(task.phases) if isinstance(task, PhasedTask) else WHOLE


def step_seed(*numbers: int) -> int:
    """One well-mixed 63-bit seed of several integers, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU generator from which a task draws all that is random about the global batch of `step`."""
    return torch.Generator().manual_seed(step_seed(seed, step))
