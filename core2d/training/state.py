"""All that a checkpoint of a training holds: weights, their averages, the moments of each optimiser, step and time."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.training.checkpoints import read_facts, read_tensors, write_checkpoint
from core2d.training.recipe import FREE_FIELDS, TrainingRecipe, ema_decay, learning_rate
from core2d.training.task import WHOLE, Phase, Previewing, owns


class PhaseState:
    """The parameters of one phase, their AdamW and their average.

    Attributes:
        phase, parameters: see `Phase`.
        recipe: its own, see `Phase.recipe`.
        average: float32, by the names of the parameters; empty if there is none.
        rate: of the last update.
    """

    def __init__(self, phase: Phase, parameters: dict[str, nn.Parameter], recipe: TrainingRecipe) -> None:
        self.phase, self.parameters, self.recipe, self.rate = phase, parameters, phase.recipe(recipe), 0.0
        decayed = [p for p in parameters.values() if p.ndim >= 2]
        others = [p for p in parameters.values() if p.ndim < 2]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        own = self.recipe
        settings: Any = {"betas": own.betas, "eps": own.epsilon, "weight_decay": own.weight_decay}
        self.optimizer = torch.optim.AdamW(groups, fused=True, **settings)
        copies = {name: p.detach().float().clone() for name, p in parameters.items()}
        self.average = copies if own.ema_decay else {}

    def update(self, step: int, seconds: float) -> None:
        """One step of AdamW and of the average."""
        taken = self.phase.updates(step)
        self.rate = learning_rate(self.recipe, taken, seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()
        if self.average:
            now = [p.detach().float() for p in self.parameters.values()]
            weight = 1 - ema_decay(self.recipe, taken)
            torch._foreach_lerp_(list(self.average.values()), now, weight)  # pyright: ignore

    def labelled(self, name: str) -> str:
        """What one of its numbers is called in the log."""
        return f"{self.phase.name}/{name}" if self.phase.name else name


class TrainingState:
    """A model in training.

    Attributes:
        model: on its device.
        parts: one a phase.
        step, seconds: taken and spent so far, over all calls.

    Raises:
        InputError: the phases do not fit the model or the recipe.
    """

    def __init__(self, model: nn.Module, recipe: TrainingRecipe, phases: Sequence[Phase] = WHOLE) -> None:
        self.model, self.recipe, self.phases, self.step, self.seconds = model, recipe, tuple(phases), 0, 0.0
        shares = shared_out(model, self.phases)
        check_times(self.phases, recipe.steps)
        self.parts = [PhaseState(phase, share, recipe) for phase, share in zip(self.phases, shares, strict=True)]
        self.trained = {name: p for share in shares for name, p in share.items()}
        self.average = {name: tensor for part in self.parts for name, tensor in part.average.items()}

    def acting(self) -> list[PhaseState]:
        """Whose turn it is at this step, in order."""
        return [part for part in self.parts if part.phase.acts(self.step)]

    @contextmanager
    def alone(self, part: PhaseState) -> Iterator[None]:
        """Parameters of other phases require no gradient and hold none."""
        others = [p for other in self.parts if other is not part for p in other.parameters.values()]
        for each in self.parts:
            each.optimizer.zero_grad()
        for p in others:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in others:
                p.requires_grad_(True)

    def averaged(self) -> dict[str, Tensor]:
        """A state dict of the whole model; tied parameters get their one average under each name."""
        averages = {id(self.trained[name]): average for name, average in self.average.items()}
        named: dict[str, Tensor] = self.model.state_dict(keep_vars=True)
        return {name: averages.get(id(value), value).detach().clone() for name, value in named.items()}

    def average_twin(self) -> nn.Module:
        """A module like the model whose weights are the averages, now and later; see `SeesAverage`.

        Raises:
            InputError: there are none.
        """
        if not self.average:
            raise InputError("this task looks at the averaged weights: give an ema_decay above 0")
        weights = {name: self.average.get(name, p).detach() for name, p in self.model.named_parameters()}
        instead: dict[int, Any] = {id(buffer): buffer for buffer in self.model.buffers()}
        for name, p in self.model.named_parameters():
            instead[id(p)] = nn.Parameter(weights[name], requires_grad=False)  # not a copy
        return copy.deepcopy(self.model, instead).eval()

    @torch.no_grad()
    def preview(self, task: Previewing, folder: Path) -> None:
        """Let the task draw with the averaged weights."""
        kept = {name: p.clone() for name, p in self.trained.items()}
        for name, average in self.average.items():
            self.trained[name].copy_(average)
        folder.mkdir(exist_ok=True)
        task.preview(self.model.eval(), folder, self.step)
        for name, value in kept.items():
            self.trained[name].copy_(value)
        self.model.train()

    def save(self, root: Path) -> None:
        """Write a checkpoint under `root`."""
        moments = {
            f"{name}:{kind}": tensor
            for part in self.parts
            for name, p in part.parameters.items()
            for kind, tensor in part.optimizer.state.get(p, {}).items()
        }
        tensors = {"model": _own_tensors(self.model), "ema": self.average, "optimizer": moments}
        facts: dict[str, object] = {"step": self.step, "seconds": self.seconds, "recipe": asdict(self.recipe)}
        if self.phases != WHOLE:
            facts["phases"] = [asdict(phase) for phase in self.phases]
        write_checkpoint(root, self.step, tensors, facts)

    @torch.no_grad()
    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it is damaged, of another recipe, of other phases or of another model.
        """
        facts = read_facts(checkpoint)
        _check_fields(checkpoint, self.recipe, facts["recipe"], "", FREE_FIELDS)
        self._check_phases(checkpoint, facts.get("phases", []))
        for kind, ours in (("model", _own_tensors(self.model)), ("ema", self.average)):
            saved = read_tensors(checkpoint / f"{kind}.safetensors")
            for name in sorted(ours.keys() | saved.keys()):
                if name not in ours or name not in saved or ours[name].shape != saved[name].shape:
                    raise InputError(f"cannot resume {checkpoint}: it is of another model, {name} differs")
            for name, tensor in ours.items():
                tensor.copy_(saved[name])
        optimizers = {name: part.optimizer for part in self.parts for name in part.parameters}
        for key, tensor in read_tensors(checkpoint / "optimizer.safetensors").items():
            name, _, kind = key.rpartition(":")
            p = self.trained[name]
            # fused AdamW expects moments with the strides of their parameter
            here = tensor.to(p.device) if kind == "step" else torch.empty_like(p).copy_(tensor)
            optimizers[name].state[p][kind] = here
        self.step, self.seconds = facts["step"], facts["seconds"]

    def _check_phases(self, checkpoint: Path, saved: list[dict[str, Any]]) -> None:
        ours = () if self.phases == WHOLE else self.phases
        names, before = [phase.name for phase in ours], [phase["name"] for phase in saved]
        if names != before:
            now, then = (", ".join(some) or "one optimiser" for some in (names, before))
            raise InputError(f"cannot resume {checkpoint} with {now}: it was trained with {then}")
        for phase, fields_before in zip(ours, saved, strict=True):
            _check_fields(checkpoint, phase, fields_before, f"{phase.name}'s ")


def shared_out(model: nn.Module, phases: Sequence[Phase]) -> list[dict[str, nn.Parameter]]:
    """The parameters of each phase by their names: those of its parts that require a gradient.

    Raises:
        InputError: a parameter would learn in no phase or in several, or a phase has none.
    """
    names = [phase.name for phase in phases]
    if not names or len(set(names)) < len(names):
        raise InputError(f"a task needs one or more phases with names of their own, not {names}")
    called: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):  # tied ones have several names
        called.setdefault(id(p), []).append(name)
    for phase in phases:
        for part in phase.parts:
            if not any(owns(part, name) for some in called.values() for name in some):
                raise InputError(f"phase {phase.name!r} is to train {part}, which is no part of the model")
    shares: list[dict[str, nn.Parameter]] = [{} for _ in phases]
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        owners = [phase for phase in phases if any(map(phase.owns, called[id(p)]))]
        if len(owners) != 1:
            those = " and ".join(phase.name for phase in owners) or "no phase"
            raise InputError(f"{name} would learn in {those}: give it to one phase, or let it require no gradient")
        shares[phases.index(owners[0])][name] = p
    for phase, share in zip(phases, shares, strict=True):
        if not share:
            raise InputError(f"phase {phase.name!r} has nothing to train: no {' or '.join(phase.parts)} with gradients")
    return shares


def check_times(phases: Sequence[Phase], steps: int) -> None:
    """Whether each phase acts within so many steps, and one of them at each.

    Raises:
        InputError: not so.
    """
    for phase in phases:
        if phase.starts_at >= steps:
            late = f"phase {phase.name} would start at step {phase.starts_at} of {steps}"
            raise InputError(f"{late}: give more steps, or let it start earlier")
    repeats = max(phase.starts_at for phase in phases) + math.lcm(*(phase.every for phase in phases))
    for step in range(min(steps, repeats)):
        if not any(phase.acts(step) for phase in phases):
            raise InputError(f"no phase acts at step {step}: let one start earlier or act more often")


def _check_fields(
    checkpoint: Path,
    now: TrainingRecipe | Phase,
    before: dict[str, Any],
    whose: str,
    free: set[str] | frozenset[str] = frozenset(),
) -> None:
    """Refuse what was trained with other numbers; a checkpoint older than a field was trained with its default."""
    defaults = json.loads(json.dumps({field.name: field.default for field in fields(now)}, default=str))
    for name, value in json.loads(json.dumps(asdict(now))).items():
        was = before.get(name, defaults[name])
        if name not in free and was != value:
            told = f"it was trained with {whose}{name} {was}"
            raise InputError(f"cannot resume {checkpoint} with {whose}{name} {value}: {told}")


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The live state dict with tied parameters once: safetensors does not write a tensor twice."""
    once = {id(value): (name, value.detach()) for name, value in model.state_dict(keep_vars=True).items()}
    return dict(once.values())
