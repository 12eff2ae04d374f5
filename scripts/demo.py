"""See what it does: `python3 scripts/demo.py`. Makes its own environment in `.venv`.

Draws a sheet of pictures from text into `demo/`, with the bundled model: no weights are downloaded.
"""

import subprocess
import sys

from _setup import ROOT, environment

PROMPTS = [
    "a red mug",
    "a striped blue teapot, side view",
    "a yellow duck, on grass",
    "a doll with black hair, a red shirt and blue trousers",
]


def main() -> int:
    python = environment()
    output = ROOT / "demo" / "text-to-image.png"
    core2d = [str(python.parent / "core2d"), "text-to-image"]
    print(f"drawing {len(PROMPTS)} prompts with the bundled model, a row for each", flush=True)
    done = subprocess.run([*core2d, *PROMPTS, "--num-images", "4", "-o", str(output)], cwd=ROOT, check=False)
    if done.returncode == 0:
        print(f"\nThe pictures are in {output}\nMore: {python.parent / 'core2d'} --help")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
