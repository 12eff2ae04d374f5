"""Tiny tasks for the training loop, and a program that trains them: tests kill, interrupt and launch it.

    python tests/helpers/training_task.py FOLDER '{"kind": "plain", "recipe": {"steps": 40}, "resume": true}'

leaves the last weights and their average in FOLDER/model.safetensors and FOLDER/ema.safetensors.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from core2d.training.loop import Phase, TrainingRecipe, step_generator, train


class Prior(nn.Module):
    """A convolution, a normalisation, dropout, and two linear maps that share their weight."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.dropout = nn.Dropout(dropout)
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head = nn.Linear(64, 32)

    def forward(self, noisy: Tensor) -> Tensor:  # (b, 2, 4, 4) -> (b, 2, 4, 4)
        hidden = self.dropout(self.norm(self.convolution(noisy)).relu()).flatten(1)  # (b, 64)
        return self.head(self.second(self.first(hidden).relu())).reshape(noisy.shape)


class DenoisingTask:
    """Predict the noise that was added to random stripes."""

    def __init__(self, seed: int = 0, dropout: float = 0.1, nan_at: int = -1, delay: float = 0.0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = Prior(dropout)
        self.seed, self.nan_at, self.delay = seed, nan_at, delay
        self.previews: list[Path] = []

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        generator = step_generator(self.seed, step)
        stripes = torch.randn(batch_size, 2, 4, 1, generator=generator).expand(-1, -1, -1, 4)  # (B, 2, 4, 4)
        noise = torch.randn(batch_size, 2, 4, 4, generator=generator)
        if step == self.nan_at:
            noise[-1] = torch.nan  # in the last process's rows only
        return {"clean": stripes[positions], "noise": noise[positions]}

    def loss(self, model: Prior, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        time.sleep(self.delay)
        error = model(batch["clean"] + batch["noise"]) - batch["noise"]
        loss = functional.mse_loss(error, torch.zeros_like(error))
        return loss, {"rows": float(len(error)), "absolute_error": error.abs().mean()}

    def preview(self, model: nn.Module, folder: Path, step: int) -> None:
        torch.rand(3)  # a preview may draw random numbers: training must not notice
        save_file({"mean": next(model.parameters()).mean()[None]}, folder / f"step-{step:06d}.safetensors")


class Rivals(nn.Module):
    """A generator and its critic; what is made goes through a layer that does not learn."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 16))
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.critic = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 1))

    def make(self, noise: Tensor) -> Tensor:  # (b, 8) -> (b, 16)
        return self.frozen(self.scale * self.generator(noise))


class AdversarialTask:
    """A generator learns to make what a critic takes for stripes (1406.2661, not saturating), from step 2 on."""

    phases = (
        Phase("critic", ("critic",), rate=0.5, betas=(0.0, 0.9), weight_decay=0.0, gradient_clip=0.1, ema_decay=0.0),
        Phase("generator", ("generator", "scale"), every=2, starts_at=2, warmup_steps=2),
    )

    def __init__(self, seed: int = 0, dropout: float = 0.1, nan_at: int = -1, delay: float = 0.0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = Rivals(dropout)
        self.seed, self.nan_at, self.delay = seed, nan_at, delay

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        generator = step_generator(self.seed, step)
        stripes = torch.randn(batch_size, 4, 1, generator=generator).expand(-1, -1, 4).flatten(1)  # (B, 16)
        noise = torch.randn(batch_size, 8, generator=generator)
        broken = torch.full((batch_size,), float(step == self.nan_at))
        return {"real": stripes[positions], "noise": noise[positions], "broken": broken[positions]}

    def loss(self, model: Rivals, batch: dict[str, Tensor], phase: str) -> tuple[Tensor, dict[str, float | Tensor]]:
        time.sleep(self.delay)
        made = model.make(batch["noise"])
        if phase == "generator":
            loss = functional.softplus(-model.critic(made)).mean()
            return torch.where(batch["broken"].any(), torch.nan, loss), {}
        real, fake = model.critic(batch["real"]), model.critic(made.detach())
        loss = functional.softplus(-real).mean() + functional.softplus(fake).mean()
        return loss, {"apart": (real - fake).mean()}


class ConsistencyTask:
    """What the average makes of a little noise is what the model is to make of more (2303.01469, equation 7)."""

    def __init__(self, seed: int = 0, dropout: float = 0.1, delay: float = 0.0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = Prior(dropout)
        self.seed, self.delay = seed, delay
        self.average: nn.Module | None = None

    def see_average(self, average: nn.Module) -> None:
        self.average = average

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        generator = step_generator(self.seed, step)
        stripes = torch.randn(batch_size, 2, 4, 1, generator=generator).expand(-1, -1, -1, 4)  # (B, 2, 4, 4)
        noise = torch.randn(batch_size, 2, 4, 4, generator=generator)
        return {"less": (stripes + 0.5 * noise)[positions], "more": (stripes + noise)[positions]}

    def loss(self, model: Prior, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        time.sleep(self.delay)
        assert self.average is not None
        with torch.no_grad():
            target = self.average(batch["less"])
        return functional.mse_loss(model(batch["more"]), target), {"target": target.float().square().mean()}


KINDS = {"plain": DenoisingTask, "adversarial": AdversarialTask, "consistency": ConsistencyTask}


def main(folder: Path, options: dict) -> None:
    task = KINDS[options.get("kind", "plain")](**options.get("task", {}))
    result = train(task, TrainingRecipe(**options["recipe"]), folder, resume=options.get("resume", False))
    weights = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    save_file(result.ema, folder / "ema.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
