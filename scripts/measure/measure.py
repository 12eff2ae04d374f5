"""What evaluate.py, benchmark.py and gpu_check.py share: items to measure, and results that survive a kill."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, plain, remove, write_json
from core2d.app.provenance import machine, sha256, versions

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
LARGEST_PART = 16 * 2**20  # bytes of a file that a folder is split into
NOT_WEIGHTS = {"training.json"}  # a diary: a line more changes no result

Numbers = dict[str, float]
Record = dict[str, Any]
Measured = Numbers | tuple[Numbers, list[Record]]  # the second one is what is known of each sample


@dataclass(frozen=True)
class Item:
    """Something that is measured.

    Attributes:
        name: as given to `--only`.
        about: one line.
        measure: returns named numbers, and facts of each sample where it has some.
        at_least, at_most: the bar of those numbers that have one.
        needs: weights that the numbers depend on; without them the item waits.
        keeps: a folder in which a measurement that was killed finds its parts again.
    """

    name: str
    about: str
    measure: Callable[[], Measured]
    at_least: Mapping[str, float] = field(default_factory=dict)
    at_most: Mapping[str, float] = field(default_factory=dict)
    needs: tuple[Path, ...] = ()
    keeps: Path | None = None

    def bars(self, numbers: Numbers) -> dict[str, Record]:
        """The bar of each number that has one, and whether it passes (NaN does not, nor what is missing)."""
        found = {name: numbers.get(name, math.nan) for name in (*self.at_least, *self.at_most)}
        least = {name: {"at_least": bar, "passed": found[name] >= bar} for name, bar in self.at_least.items()}
        most = {name: {"at_most": bar, "passed": found[name] <= bar} for name, bar in self.at_most.items()}
        return least | most


class ResultFile:
    """`{"suite": ..., "items": {name: record}}` in one JSON file, written whole after each item."""

    def __init__(self, path: Path, suite: str) -> None:
        self.path, self.suite = path, suite
        self.records: dict[str, Record] = self._read()

    def _read(self) -> dict[str, Record]:
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            suite, records = content["suite"], dict(content["items"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} is not a file of results: remove it or name another") from error
        if suite != self.suite:
            raise InputError(f"{self.path} holds the suite {suite}, not {self.suite}: name another file")
        return records

    def is_done(self, name: str, source: Record) -> bool:
        """Whether the item was measured before from the same source (see `source_of`)."""
        record = self.records.get(name, {})
        return bool(record) and {key: record.get(key) for key in source} == plain(source)

    def add(self, name: str, record: Record) -> None:
        """Put in one item; those of a run beside this one stay."""
        self.records = {**self._read(), name: plain(record)}
        write_json(self.path, {"suite": self.suite, "items": self.records})


def run_items(items: Sequence[Item], results: ResultFile, source: Record, fresh: bool) -> bool:
    """Measure what is missing or was measured from another source.

    Args:
        source: of `source_of`, what all items depend on; each item's weights are added to it.
        fresh: measure again what is done.

    Returns:
        Whether every item was measured and holds its bars.
    """
    for item in items:
        missing = [path for path in item.needs if not path.exists()]
        if missing:
            say(f"{item.name}: waits for {missing[0]}, which is not there yet")
            continue
        own = source | {"weights": hash_files(item.needs)}
        if results.is_done(item.name, own) and not fresh:
            say(f"{item.name}: done before")
            continue
        say(f"{item.name}: {item.about}")
        if fresh and item.keeps is not None:
            remove(item.keeps)
        results.add(item.name, take(item, own))
    return all(results.records.get(item.name, {}).get("passed") for item in items)


def take(item: Item, source: Record) -> Record:
    """Measure an item; its record has the numbers, the bars, and where they come from."""
    commit, dirty = git_state()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # others at work would slow it down
    started = time.perf_counter()
    found = item.measure()
    numbers, samples = found if isinstance(found, tuple) else (found, [])
    bars = item.bars(numbers)
    return {
        "numbers": numbers,
        "bars": bars,
        "passed": all(bar["passed"] for bar in bars.values()),
        "seconds": round(time.perf_counter() - started, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "dirty": dirty,
        "load_before": load,
        **source,
        **({"samples": samples} if samples else {}),
    }


def select(items: Sequence[Item], only: Sequence[str]) -> list[Item]:
    """The items that are named, all without names; InputError for an unknown one."""
    known = {item.name: item for item in items}
    for name in only:
        if name not in known:
            raise InputError(f"no item {name!r}: the items are {', '.join(known)}")
    return [known[name] for name in only or known]


def print_list(items: Sequence[Item], results: ResultFile, source: Record) -> None:
    """A line for each item: whether it is done, out of date, not measured, or waits for weights."""
    for item in items:
        if any(not path.exists() for path in item.needs):
            state = "no weights"
        elif results.is_done(item.name, source | {"weights": hash_files(item.needs)}):
            state = "done"
        else:
            state = "out of date" if item.name in results.records else "not measured"
        print(f"{item.name:20} {state:13} {item.about}")


def print_table(items: Sequence[Item], results: ResultFile) -> None:
    """Numbers, bars and verdicts in Markdown."""
    print(table({item.name: results.records[item.name] for item in items if item.name in results.records}))


def table(records: Mapping[str, Record]) -> str:
    """A row for each number of each record: what was measured, its bar, and the verdict."""
    rows = ["| item | number | measured | bar | |", "|---|---|---|---|---|"]
    for item, record in records.items():
        for name in dict.fromkeys([*record["numbers"], *record["bars"]]):  # a bar without a number shows, too
            value, bar = record["numbers"].get(name), record["bars"].get(name, {})
            shown = "not measured" if value is None else f"{value:.4g}"
            limit = f">= {bar['at_least']:g}" if "at_least" in bar else f"<= {bar['at_most']:g}" if bar else ""
            verdict = ("met" if bar["passed"] else "**missed**") if bar else ""
            rows.append(f"| {item} | {name} | {shown} | {limit} | {verdict} |")
    return "\n".join(rows)


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


# -- where numbers come from -----------------------------------------------------------------------------------


def source_of(script: Path, seed: int, *more: Path) -> Record:
    """What numbers depend on besides the weights; a change of any of it makes them out of date.

    The code is that of the script, of `more` (such as the command that it runs), and of all that they import, read
    from the files: so an edit that is not committed counts, and a commit of other things does not.
    """
    code = hash_files(imported_files(script, Path(__file__), *more))
    return {"seed": seed, "code": code, "machine": describe_machine(), "versions": versions()}


def imported_files(*entries: Path) -> list[Path]:
    """`entries` and the files of this repository that they import, at any depth and also inside functions."""
    found, waiting = set(), [entry.resolve() for entry in entries]
    while waiting:
        if (file := waiting.pop()) not in found:
            found.add(file)
            waiting += [path for name in imported_names(file) for path in files_of(name)]
    return sorted(found)


def imported_names(file: Path) -> Iterable[str]:
    """Dotted names in the import statements of a file; of `from a import b` both a and a.b, which may be a module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(name: str) -> list[Path]:
    """The files that importing a dotted name runs, as far as they lie in this repository: packages, then the module."""
    parts = name.split(".")
    places = [(root, parts[:depth]) for root in (ROOT, ROOT / "scripts") for depth in range(1, len(parts) + 1)]
    paths = [path for root, head in places for path in (root.joinpath(*head) / "__init__.py",
                                                       root.joinpath(*head).with_suffix(".py"))]  # fmt: skip
    return [path for path in paths if path.is_file()]


def describe_machine() -> Record:
    """`core2d.app.provenance.machine` with the names of the processor and of the GPU."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {**machine(), "cpu": cpu_model(), "threads": torch.get_num_threads(), "gpu": gpu}


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_state() -> tuple[str | None, bool | None]:
    """The commit of the checkout, and whether tracked files (but results and pictures) differ; None outside git."""
    changed = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks", ":!docs"]
    try:
        commit, status = (_git(*words) for words in (["rev-parse", "HEAD"], changed))
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(status)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def hash_files(paths: Iterable[Path], suffixes: Sequence[str] = (".safetensors", ".json")) -> str:
    """SHA-256 of the names and contents of files, and of those files in folders that have one of the suffixes."""
    digest = hashlib.sha256()
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else []
        for file in [path] if path.is_file() else inside:
            if path.is_file() or (file.suffix in suffixes and file.name not in NOT_WEIGHTS):
                digest.update(f"{file.relative_to(path.parent).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


# -- what is measured in several scripts -----------------------------------------------------------------------


def command(program: str, *words: object, **environment: str) -> str:
    """Run `core2d`, `gen3d` or `genvideo` in a process of its own; returns what it says on stdout.

    Args:
        words: what the user would type after the program's name.
        environment: variables beside those of this process.

    Raises:
        RuntimeError: it failed; its last line of stderr is in the message.
    """
    said, complaints, status = told(started(program, *words, **environment))
    if status:
        complaint = complaints.strip().splitlines()[-1:] or ["nothing on stderr"]
        raise RuntimeError(f"{program} {' '.join(map(str, words))} failed: {complaint[0]}")
    return said


def killed_command(program: str, *words: object, after: float) -> bool:
    """Start a command as `command` does, and `kill -9` it after so many seconds; False if it was done before that."""
    process = started(program, *words)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after)
    process.kill()
    return told(process)[2] == -signal.SIGKILL


def started(program: str, *words: object, **environment: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", f"from {program}.__main__ import main; main()", *map(str, words)]
    around = {**os.environ, **environment}
    return subprocess.Popen(call, cwd=ROOT, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    """What a process said on stdout and stderr until its end, and its exit status."""
    said, complaints = process.communicate()
    return said, complaints, process.returncode


def best_of(runs: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def forget_peak_memory() -> None:
    """Let `core2d.app.devices.peak_memory_gb` begin anew with what the process holds now, where Linux allows that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def packed_stills(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first `count` objects of a seed for `rasterize`: clip (v, 4), faces (f, 3), face_offsets (count + 1,)."""
    import numpy as np
    import torch

    from core2d.prior.cameras import Cameras
    from core2d.toybox import world
    from core2d.toybox.render import camera_to_world, expand
    from core2d.toybox.scene import still

    scenes = [still(seed, index, kind="object") for index in range(count)]
    geometry = expand(scenes)
    view = torch.full((count,), math.radians(world.FIELD_OF_VIEW))
    projection = Cameras(torch.from_numpy(camera_to_world(scenes)), view).world_to_clip()  # (b, 4, 4)
    owner = np.repeat(np.arange(count), np.diff(geometry.vertex_offsets))
    position = torch.nn.functional.pad(torch.from_numpy(geometry.position), (0, 1), value=1.0)  # (v, 4)
    clip = torch.einsum("vij,vj->vi", projection[torch.from_numpy(owner)], position)  # (v, 4)
    return clip, torch.from_numpy(geometry.faces), torch.from_numpy(geometry.face_offsets)


def stock_pipeline(folder: Path) -> Any:
    """diffusers' StableDiffusionPipeline of a folder in float32, without a progress bar."""
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    stock = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    return stock


# -- folders as files of bounded size --------------------------------------------------------------------------


def split_folder(folder: Path, target: Path, largest: int = LARGEST_PART) -> list[Path]:
    """Pack `folder` into `target`/NAME.tar.000, .001, ... of at most `largest` bytes, with a NAME.json of their hashes.

    Parts of an earlier split into the same place are replaced.
    """
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob(f"{folder.name}.tar.*"):
        old.unlink()
    parts: list[Path] = []
    with atomic_path(target / f"{folder.name}.json") as facts:
        archive = facts.with_suffix(".tar")
        try:
            with tarfile.open(archive, "w") as tar:
                tar.add(folder, arcname=".")
            with archive.open("rb") as file:
                while chunk := file.read(largest):
                    parts.append(target / f"{folder.name}.tar.{len(parts):03d}")
                    parts[-1].write_bytes(chunk)
        finally:
            archive.unlink(missing_ok=True)
        facts.write_text(json.dumps({part.name: sha256(part) for part in parts}, indent=2) + "\n")
    return parts


def join_folder(facts: Path, folder: Path) -> None:
    """Unpack what `split_folder` left (`facts` is its NAME.json) into a new `folder`, whole or not at all.

    Raises:
        InputError: a part is missing or damaged, or `folder` exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists: name a new folder")
    hashes = json.loads(facts.read_text())
    for name, expected in hashes.items():
        part = facts.with_name(name)
        if not part.is_file() or sha256(part) != expected:
            raise InputError(f"{part} is missing or damaged")
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        archive = temporary.with_suffix(".tar")
        try:
            with archive.open("wb") as file:
                for name in hashes:
                    file.write(facts.with_name(name).read_bytes())
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
        finally:
            archive.unlink(missing_ok=True)
