"""Running trainings of `training_task` in processes of their own, and reading what they left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from core2d.training.loop import TrainingRecipe

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "helpers" / "training_task.py"
LAUNCH = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]


def recipe(steps: int = 12, **changes) -> TrainingRecipe:
    """A short one."""
    defaults = {"batch_size": 8, "warmup_steps": 3, "checkpoint_every": 5, "log_every": 1, "precision": "no"}
    return TrainingRecipe(steps, **{**defaults, **changes})


def start(folder: Path, options: dict, launcher: list[str] | None = None) -> subprocess.Popen:
    """Train in another process, on CPUs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *(launcher or []), str(PROGRAM), str(folder), json.dumps(options)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    """Wait for its end, which is to be a good one: what it said on stderr."""
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


def read_log(folder: Path) -> list[dict]:
    """The lines that are whole."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Until the log tells of a step."""
    while not any(line["step"] >= step for line in read_log(folder)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """To the bit."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
