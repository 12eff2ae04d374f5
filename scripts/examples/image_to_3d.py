"""A picture becomes a mesh, in the words of the library: `python scripts/examples/image_to_3d.py mug.png mug.glb`.

The command `gen3d image-to-3d` does the same and more: see its --help.
"""

import sys
from dataclasses import replace
from pathlib import Path

from core2d.app.errors import InputError
from core2d.app.program import main_guard
from core2d.media.pictures import save_image
from gen3d.data.single_picture import read_subject
from gen3d.mesh import load_mesh, render_mesh, save_mesh
from gen3d.mesh.pictures import around
from gen3d.zero123.image_to_3d.recipe import IMAGE_QUALITIES
from gen3d.zero123.image_to_3d.task import image_to_3d
from gen3d.zero123.model import Zero123


def main(picture: str = "", output: str = "object.glb") -> None:
    if not picture:
        raise InputError("no picture: python scripts/examples/image_to_3d.py PICTURE [MESH]")
    model = Zero123.load("toybox-zero123")  # or a published checkpoint, such as "zero123-xl.ckpt"
    subject = read_subject(Path(picture), model.image_size, margin=model.parts.margin)  # found, cut out, centred
    config = replace(IMAGE_QUALITIES["draft"], steps=200)  # any setting of a quality can be changed
    run = Path(output).with_suffix(".run")  # checkpoints and a log; resume=True goes on from them
    mesh, build = image_to_3d(subject.rgba, model, run, config, seed=0)
    save_mesh(output, mesh)  # .glb, .obj, .ply or .stl; its front is where the picture was taken from
    print(f"{build.report.faces} faces; {'; '.join(build.report.problems) or 'no problem'}")
    pictures = render_mesh(load_mesh(output), around(8), size=192, lighted=False)  # (8, 4, h, w)
    save_image(Path(output).with_suffix(".png"), pictures[:, :3])


if __name__ == "__main__":
    with main_guard():
        main(*sys.argv[1:])
