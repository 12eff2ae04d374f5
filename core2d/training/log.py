"""log.jsonl: what a training says of itself."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

from core2d.app.outputs import atomic_path, write_json


def tell_measured(found: Mapping[str, float], folder: Path, step: int) -> None:
    """Say what a checkpoint measured: into `folder`/step-NNNNNN.json, and on stderr."""
    write_json(folder / f"step-{step:06d}.json", {"step": step, **found})
    said = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
    sys.stderr.write(f"\nstep {step}: {said}\n")


def measured(run: Path) -> list[dict[str, float]]:
    """What the checkpoints of a run measured (`tell_measured`), in the order of their steps."""
    files = sorted((run / "previews").glob("step-*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


class TrainingLog:
    """Every few steps one line: the means over the steps since the line before, and the last rates.

    What a phase says comes only with lines of whose steps it took one.

    Args:
        path: of the file; lines of later steps than `step` are dropped, a run that was killed left them.
        on_log: called with each line.
    """

    def __init__(self, path: Path, step: int, on_log: Callable[[dict[str, float]], None] | None) -> None:
        self.path, self.on_log, self.rows, self.since = path, on_log, 0, time.perf_counter()
        self.window: dict[str, list[float]] = {}
        self.rates: dict[str, float] = {}
        lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
        with atomic_path(path) as temporary:
            temporary.write_text("".join(line for line in lines if _is_of(line, step)))

    def add(self, means: dict[str, float], rates: dict[str, float], rows: int) -> None:
        """Take in one step."""
        self.rows += rows
        self.rates |= rates
        for name, value in means.items():
            self.window.setdefault(name, []).append(value)

    def write(self, step: int, seconds: float) -> None:
        """Write a line."""
        now = time.perf_counter()
        means = {name: fmean(values) for name, values in self.window.items()}
        speed = self.rows / (now - self.since)
        times = {"seconds": round(seconds, 3), "rows_per_second": round(speed, 2)}
        record = {"step": step, **means, **self.rates, **times}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.rows, self.since, self.window, self.rates = 0, now, {}, {}
        if self.on_log is not None:
            self.on_log(record)


def _is_of(line: str, step: int) -> bool:
    """Whether a line is whole, which a kill or a disk can keep it from, and of no later step."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
