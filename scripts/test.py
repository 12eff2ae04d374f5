"""Run every check: `python3 scripts/test.py [pytest arguments]`. Makes its own environment in `.venv`.

Runs the linter, the type checker and the tests, all three whatever the first ones say; the exit status is 0
only if all are content. `-m ""` runs the slow tests too. Tests run in as many processes as there are cores, each
with one thread; `-n 0` runs them in this one.
"""

import subprocess
import sys

from _setup import ROOT, environment


def main() -> int:
    python = str(environment("test"))
    checks = {
        "ruff": [python, "-m", "ruff", "check"],
        "pyright": [python, "-m", "pyright", "--pythonpath", python],
        # the tests of a file stay together: what they share is made once
        "pytest": [python, "-m", "pytest", "-n", "auto", "--dist", "loadfile", *sys.argv[1:]],
    }
    failed = []
    for name, command in checks.items():
        print(f"== {name}", flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
