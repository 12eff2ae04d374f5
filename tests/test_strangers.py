"""Every command works for those who have no home, no name, and no rights to the installation."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.photographed import write_blender_scene
from helpers.tiny_zero123 import tiny_zero123
from PIL import Image

from core2d.prior.backbone import Backbone
from gen3d.zero123.formats import write_zero123
from genvideo.animatediff.formats import write_motion
from genvideo.animatediff.motion import fresh_motion

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = """
import sys
from functools import partial
from core2d.__main__ import main as core2d
from gen3d.__main__ import main as gen3d
from gen3d.dreamfusion import pipeline as text_to_mesh
from gen3d.dreamfusion.recipe import DreamFusionConfig
from gen3d.zero123.image_to_3d import command as image_to_3d
from gen3d.zero123.image_to_3d.recipe import ImageTo3DConfig
from gen3d.nerf import command as nerf
from gen3d.nerf.recipe import FastConfig
from gen3d.shaping import runs
from genvideo.__main__ import main as genvideo

small = {"steps": 2, "views": 2, "coarse_size": 16, "refine_at": 1.0}
text_to_mesh.QUALITIES = {"normal": DreamFusionConfig(**small)}
image_to_3d.IMAGE_QUALITIES = {"normal": ImageTo3DConfig(**small)}
nerf.FastConfig = partial(FastConfig, levels=4, finest=32, log2_table=12, cells=16, samples=2000, most_rays=256)
runs.build_mesh = partial(runs.build_mesh, resolution=24, face_budget=1000)
model, motion, zero123, scene, picture = sys.argv[1:]
for program, words in (
    (core2d, "models"),
    (core2d, "toybox sample -o out/sample.png"),
    (core2d, "toybox clip -o out/toybox.mp4 --frames 2"),
    (core2d, f"text-to-image mug -o out/image.png --steps 1 --model {model}"),
    (gen3d, f"text-to-mesh mug -o out/mug.glb --model {model} --turntable out/mug.mp4"),
    (gen3d, "text-to-mesh --resume out/mug.run"),
    (gen3d, f"nerf {scene} -o out/scene.run --steps 2"),
    (gen3d, "eval out/scene.run"),
    (gen3d, f"novel-views {picture} -o out/views.png --orbit 2 --steps 1 --model {zero123}"),
    (gen3d, f"image-to-3d {picture} -o out/red.glb --model {zero123}"),
    (gen3d, "export out/red.run -o out/red.obj"),
    (gen3d, "render out/mug.glb -o out/mug.png --size 16"),
    (gen3d, "mesh check out/mug.glb"),
    (genvideo, f"text-to-video mug -o out/clip.mp4 --frames 2 --steps 1 --model {model} --motion {motion}"),
):
    try:
        program(words.split())
    except SystemExit as leaving:
        assert not leaving.code, words
"""
OUTPUTS = """
clip.mp4 clip.strip.png image.png mug.glb mug.mp4 mug.png mug.run red.glb red.mtl red.obj red.run red_texture.png
sample.png scene.run toybox.mp4 views views.png
""".split()


@pytest.fixture(scope="module")
def inputs(tiny_models: ModuleType) -> Iterator[list[str]]:
    """A tiny model of each kind, a scene and a picture, where everybody can read them: pytest's folders are private."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "MAX_TOKENS", 77)
        folder = Path(place)
        model = tiny_models.save_tiny_model("sd1", folder / "model", camera=True)
        write_motion(folder / "motion", fresh_motion(Backbone.load(model).family.denoiser, heads=2))
        write_zero123(folder / "zero123", tiny_zero123(sample_size=8), "diffusers")
        write_blender_scene(folder / "scene")
        pixels = np.zeros((40, 30, 4), np.uint8)
        pixels[5:35, 8:22] = (200, 30, 30, 255)
        Image.fromarray(pixels).save(folder / "red.png")
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        yield [str(folder / name) for name in ("model", "motion", "zero123", "scene", "red.png")]


def is_open(path: Path) -> bool:
    """Whether everybody can come to a file."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


# Whose home and package cannot be written, though the user may do anything; and, where we may become them, others.
PACKAGE_OF_ROOT = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator,UserWideCacheLocator"}
STRANGERS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "no home": ({"HOME": "/proc/nowhere", **PACKAGE_OF_ROOT}, {})
}
if os.geteuid() == 0 and is_open(Path(sys.executable)) and is_open(ROOT / "core2d"):
    STRANGERS["nobody"] = {"HOME": "/nonexistent"}, {"user": 65534, "group": 65534, "extra_groups": []}
    STRANGERS["no name"] = {}, {"user": 54321, "group": 54321, "extra_groups": []}


@pytest.mark.slow
@pytest.mark.parametrize("who", STRANGERS)
def test_every_command_works_for(who: str, inputs: list[str]) -> None:
    environment, rights = STRANGERS[who]
    own = {name: value for name, value in os.environ.items()
           if name != "HOME" and not name.startswith(("XDG_", "NUMBA_", "HF_", "TORCH"))}  # fmt: skip
    place = Path(tempfile.mkdtemp())
    try:
        for folder in (place, place / "tmp", place / "work"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)
        environment = {**own, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "TMPDIR": str(place / "tmp"),
                       "PYTHONDONTWRITEBYTECODE": "1", **environment}  # fmt: skip
        command, streams = [sys.executable, "-c", COMMANDS, *inputs], {"capture_output": True, "text": True}
        done = subprocess.run(command, cwd=place / "work", env=environment, check=False, **streams, **rights)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert [path.name for path in (place / "work").iterdir()] == ["out"]  # no folder called ~, no cache
        assert sorted(path.name for path in (place / "work" / "out").iterdir()) == OUTPUTS
    finally:
        shutil.rmtree(place)
