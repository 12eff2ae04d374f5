"""See what it does: `python3 scripts/demo.py`. Makes its own environment in `.venv`.

Draws pictures and a clip from text and makes a textured mesh from a sentence, into `demo/`, with the bundled models: no
weights are downloaded. The mesh is of draft quality and takes some minutes.
"""

import subprocess
import sys
from pathlib import Path

from _setup import ROOT, environment

FOLDER = ROOT / "demo"
PICTURES = [
    "a red mug",
    "a striped blue teapot, side view",
    "a yellow duck, on grass",
    "a doll with black hair, a red shirt and blue trousers",
]
CLIP = "a red mug spinning clockwise"
OBJECT = "a red chair"


def main() -> int:
    programs = environment().parent
    names = ("text-to-image.png", "clip.mp4", "mesh.glb", "mesh.mp4", "mesh.png")
    sheet, clip, mesh, film, preview = (FOLDER / name for name in names)
    print(f"drawing {len(PICTURES)} prompts, a row for each", flush=True)
    status = run(programs / "core2d", "text-to-image", *PICTURES, "--num-images", "4", "-o", sheet)
    if status == 0:
        print(f"\ndrawing a clip of {CLIP!r}", flush=True)
        status = run(programs / "genvideo", "text-to-video", CLIP, "-o", clip)
    if status == 0:
        print(f"\nmaking a mesh of {OBJECT!r}: some minutes", flush=True)
        files = ("-o", mesh, "--turntable", film, "--preview", preview)
        status = run(programs / "gen3d", "text-to-mesh", OBJECT, "--quality", "draft", *files)
    if status == 0:
        print(f"\npictures       {sheet}\nclip           {clip}\ntextured mesh  {mesh}")
        print(f"turntable      {film}\npreview        {preview}")
        print(f"More: {', '.join(f'{programs / name} --help' for name in ('core2d', 'gen3d', 'genvideo'))}")
    return status


def run(*words: str | Path) -> int:
    return subprocess.run([str(word) for word in words], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
