"""A sentence becomes a mesh, by the library: `python scripts/examples/text_to_mesh.py "a red mug" mug.glb`.

The command `gen3d text-to-mesh` does the same and more: see its --help.
"""

import sys
from dataclasses import replace
from pathlib import Path

from core2d import Backbone
from core2d.app.program import main_guard
from core2d.media.pictures import save_image
from gen3d.dreamfusion.pipeline import text_to_mesh
from gen3d.dreamfusion.recipe import QUALITIES
from gen3d.mesh import load_mesh, render_mesh, save_mesh
from gen3d.mesh.pictures import around


def main(prompt: str = "a red mug", output: str = "mug.glb") -> None:
    prior = Backbone.load("toybox-sd", device="auto")  # or the folder of a published model: SD 1.x, 2.x, SDXL
    config = replace(QUALITIES["draft"], steps=200)  # any setting of a quality can be changed
    run = Path(output).with_suffix(".run")  # checkpoints and a log; resume=True goes on from them
    mesh, build = text_to_mesh(prompt, prior, run, config, seed=0)
    save_mesh(output, mesh)  # .glb, .obj, .ply or .stl
    print(f"{build.report.faces} faces; {'; '.join(build.report.problems) or 'no problem'}")
    pictures = render_mesh(load_mesh(output), around(8), size=192)  # (8, 4, h, w): colour and coverage
    save_image(Path(output).with_suffix(".png"), pictures[:, :3])


if __name__ == "__main__":
    with main_guard():
        main(*sys.argv[1:])
