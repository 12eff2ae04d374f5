"""Score the bundled models, or what is made with them: `python scripts/evaluate.py --suite prior`.

    python scripts/evaluate.py --suite mesh --list
    python scripts/evaluate.py --suite prior --only samples views
    python scripts/evaluate.py --suite mesh --tuning --only meshes-draft
    python scripts/evaluate.py --suite prior --pictures docs

Writes benchmarks/quality-SUITE.json after each item and prints a table of numbers and bars. What was measured before
with the same weights, code, versions and machine is not measured again, and a mesh that was made before is not made
again. The seeds and prompts are those kept for reporting; recipes are chosen on others (`--tuning`). Exit status 1 if
a bar is missed or weights are not there yet.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from measure import adapters_quality as adapters
from measure import mesh_quality as mesh
from measure import nerf_quality as nerf
from measure import prior_quality as prior
from measure import video_quality as video
from measure import zero123_quality as zero123
from measure.measure import ROOT
from measure.suite import REPORTING_SEED, follow, suite_parser

from core2d.app.errors import InputError
from core2d.app.program import main_guard
from core2d.toybox import world

MODULES = {"prior": prior, "adapters": adapters, "mesh": mesh, "nerf": nerf, "zero123": zero123, "video": video}
SUITES = {name: module.SUITE for name, module in MODULES.items()}


def main() -> int:
    parser = suite_parser(__doc__, SUITES)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the sheets of the README, and stop")
    instead.add_argument("--tuning", action="store_true", help="meshes of other prompts and another seed, for "
                         "choosing recipes: the numbers are printed, and kept out of benchmarks/")  # fmt: skip
    given = parser.parse_args()
    if given.seed is None:
        given.seed = world.TUNING_SEEDS[0] if given.tuning else REPORTING_SEED
    if given.pictures:
        MODULES[given.suite].write_pictures(given.assets.resolve(), given.seed, given.pictures)
        return 0
    if given.tuning:
        check_tuning(given)
        return follow(given, mesh.TUNING, mesh.WORK / "tuning.json")
    return follow(given, SUITES[given.suite], ROOT / "benchmarks" / f"quality-{given.suite}.json")


def check_tuning(given: argparse.Namespace) -> None:
    if given.suite != "mesh" or given.output:
        raise InputError("--tuning is of --suite mesh, and what it finds has its own place: leave --output out")
    if given.seed not in world.TUNING_SEEDS:
        raise InputError(f"--seed {given.seed} is not for tuning: give one of {world.TUNING_SEEDS}")


if __name__ == "__main__":
    with main_guard():
        sys.exit(main())
