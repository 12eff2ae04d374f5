"""Time hot operations and whole commands: `python scripts/benchmark.py --suite prior`.

    python scripts/benchmark.py --suite mesh --list
    python scripts/benchmark.py --suite prior --only help raster

Writes benchmarks/speed-SUITE.json after each item and prints a table of numbers and bars. What was measured before on
this machine with the same weights, code and versions is not measured again. Run it on a machine that does nothing else:
each item notes the load that it found. Exit status 1 if a bar is missed or weights are not there yet.
"""

from __future__ import annotations

import sys

from measure import adapters_speed as adapters
from measure import mesh_speed as mesh
from measure import nerf_speed as nerf
from measure import prior_speed as prior
from measure import raster_speed as dreamcraft3d
from measure import video_speed as video
from measure import zero123_speed as zero123
from measure.measure import ROOT
from measure.suite import follow, suite_parser

from core2d.app.program import main_guard

SUITES = {"prior": prior.SUITE, "mesh": mesh.SUITE, "nerf": nerf.SUITE, "zero123": zero123.SUITE,
          "video": video.SUITE, "adapters": adapters.SUITE, "dreamcraft3d": dreamcraft3d.SUITE}  # fmt: skip


def main() -> int:
    given = suite_parser(__doc__, SUITES).parse_args()
    return follow(given, SUITES[given.suite], ROOT / "benchmarks" / f"speed-{given.suite}.json")


if __name__ == "__main__":
    with main_guard():
        sys.exit(main())
