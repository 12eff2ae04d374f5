"""A tiny training of a ControlNet, and a program that does it: a test kills and launches it.

    python tests/helpers/control_training.py FOLDER MODEL '{"steps": 8}' [resume]

leaves the last weights in FOLDER/model.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from core2d.adapters.controlnet import fresh_controlnet
from core2d.prior.backbone import Backbone
from core2d.prior.condition import Condition
from core2d.systems.control.task import ControlTask
from core2d.training.loop import TrainingRecipe, train

PROMPTS = ["a red mug", "a blue car", "a dog", ""]  # the last is told where a prompt is dropped


def recipe(steps: int = 8, **changes: Any) -> TrainingRecipe:
    """A short one."""
    settings: dict[str, Any] = {"batch_size": 4, "warmup_steps": 2, "checkpoint_every": 2, "log_every": 1,
                                "precision": "no", "learning_rate": 1e-2}  # fmt: skip
    return TrainingRecipe(steps, **{**settings, **changes})


def control_task(prior: Backbone, **options: Any) -> ControlTask:
    """Three pictures with maps, all random."""
    generator = torch.Generator().manual_seed(5)
    side, size = prior.latent_size, prior.image_size
    mean = torch.randn(3, prior.latent_channels, side, side, generator=generator)
    maps = torch.rand(3, 3, size, size, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = fresh_controlnet(prior)

    def told(rows: Tensor) -> Condition:
        return prior.encode_text(PROMPTS)[rows.tolist()]

    return ControlTask(model, prior, mean, 0.1 * torch.ones_like(mean), lambda rows: maps[rows], told, **options)


def main(folder: Path, model: str, options: str, *resume: str) -> None:
    task = control_task(Backbone.load(model))
    train(task, recipe(**json.loads(options)), folder, resume=bool(resume), device=torch.device("cpu"))
    save_file(task.model.state_dict(), folder / "model.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
