"""What evaluate.py and benchmark.py are: suites of items, and the arguments that they are asked for with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from measure.measure import Item, Record, ResultFile, print_list, print_table, run_items, select, source_of

from core2d.app.registry import assets_folder
from core2d.toybox import world

REPORTING_SEED = world.REPORTING_SEEDS[0]


@dataclass(frozen=True)
class Suite:
    """The items of one part of liftkit.

    Attributes:
        items: all of them, for the models in a folder and a seed.
        script: the file that defines them.
        code: files whose work is done in other processes, such as the command that is run.
    """

    items: Callable[[Path, int], list[Item]]
    script: Path
    code: tuple[Path, ...] = ()

    def source(self, seed: int) -> Record:
        """See `source_of`."""
        return source_of(self.script, seed, *self.code)


def suite_parser(about: str | None, suites: Iterable[str]) -> argparse.ArgumentParser:
    """What evaluate.py and benchmark.py can be asked for; `about` is their docstring."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=list(suites), default="prior", help="which part of liftkit")
    parser.add_argument("--only", nargs="+", default=[], metavar="ITEM", help="measure these alone; see --list")
    parser.add_argument("--fresh", action="store_true", help="measure again what is done")
    parser.add_argument("--seed", type=int, help=f"of samples and pictures ({REPORTING_SEED})")
    parser.add_argument("--list", action="store_true", help="show the items and their state, and stop")
    parser.add_argument("--output", type=Path, help="the file of results, instead of the one in benchmarks/")
    parser.add_argument("--assets", type=Path, default=assets_folder(), help="folder of the models")
    return parser


def follow(given: argparse.Namespace, suite: Suite, output: Path) -> int:
    """Show the state of the items, or measure them and print the table.

    Args:
        given: of `suite_parser`.
        output: the file of results where none is named.

    Returns:
        The exit status: 1 if a bar is missed or weights are not there yet.
    """
    seed = REPORTING_SEED if given.seed is None else given.seed
    items = select(suite.items(given.assets.resolve(), seed), given.only)
    results = ResultFile(given.output or output, given.suite)
    source = suite.source(seed)
    if given.list:
        print_list(items, results, source)
        return 0
    passed = run_items(items, results, source, given.fresh)
    print_table(items, results)
    return 0 if passed else 1
