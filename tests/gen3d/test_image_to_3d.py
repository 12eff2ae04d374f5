"""`gen3d image-to-3d`: what is asked of the field, the elevation, the command, and how its results are scored."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_zero123 import tiny_zero123
from PIL import Image
from torch.nn import functional as F

from core2d.app.provenance import digest
from core2d.app.runs import working_in
from core2d.media.pictures import read_image_text
from core2d.media.videos import read_video_text
from core2d.prior.cameras import orbit
from core2d.toybox import world
from core2d.toybox.judge import SIZE
from gen3d.data.single_picture import on_background
from gen3d.data.toybox_likeness import KNOWN, likeness
from gen3d.mesh import build_mesh, check_mesh, load_mesh, save_mesh
from gen3d.mesh.pictures import RADIUS, picture
from gen3d.shaping import runs as shape_runs
from gen3d.shaping.model import Model, as_pictures, look, regularisation
from gen3d.toybox.mesh_scores import chamfer, in_unit_box, surface_points
from gen3d.toybox.solid_scores import extruded, inside, solid_scores, true_body, unseen_cameras, winding
from gen3d.toybox.view_scores import cases
from gen3d.zero123.command import files_of_model
from gen3d.zero123.image_to_3d import command as picture_to_mesh
from gen3d.zero123.image_to_3d import task as image_to_3d
from gen3d.zero123.image_to_3d.recipe import IMAGE_QUALITIES, ImageTo3DConfig, ImageTo3DRecipe
from gen3d.zero123.image_to_3d.task import ImageTo3DTask, elevation_of
from gen3d.zero123.model import USUAL_ELEVATION, Zero123

Told = tuple[int, dict[str, Any], str]
QUICK = ImageTo3DConfig(steps=3, views=2, coarse_size=12, refine_at=1.0)


def subject() -> torch.Tensor:
    """(4, 16, 16) a red block, black where it is clear."""
    rgba = torch.zeros(4, 16, 16)
    rgba[0, 4:12, 5:11] = 0.8
    rgba[3, 4:12, 5:11] = 1.0
    return rgba


@pytest.fixture(params=[False, True], ids=["published", "reader"])
def zero123(request: pytest.FixtureRequest) -> Zero123:
    return Zero123(tiny_zero123(sample_size=8, reads=request.param))


# -- the optimisation ------------------------------------------------------------------------------------------


def test_the_loss_is_what_it_says(zero123: Zero123) -> None:
    """Distillation from the asked cameras, the picture and its mask from its own, and the regularisers, by weight."""
    config = replace(QUICK, picture_weight=7.0, mask_weight=3.0)
    task = ImageTo3DTask(Model(0), zero123, subject(), 0.4, config, seed=5)
    batch = task.batch(1, torch.arange(2), 2)
    loss, parts = task.loss(task.model, batch)
    cameras, white = orbit(batch["azimuth"], batch["elevation"], batch["radius"]), torch.ones(3)
    elsewhere = look(task.model, cameras, 12, white, False)
    regular, _ = regularisation(elsewhere, config, 1)
    there = look(task.model, orbit(0.0, 0.4, RADIUS), 12, white, False)
    wanted = F.interpolate(torch.cat([on_background(subject()), subject()[3:]])[None], (12, 12), mode="area")
    color = (as_pictures(there.color, 12) - wanted[:, :3]).square().mean()
    mask = (as_pictures(there.opacity[:, None], 12)[:, 0] - wanted[:, 3]).square().mean()
    numbers = 4 * 8 * 8
    rest = loss - parts["sds"]
    torch.testing.assert_close(rest, numbers * (regular + 7 * color + 3 * mask), rtol=2e-2, atol=0)  # rays are jittered


def test_steps_are_functions_of_seed_and_step(zero123: Zero123) -> None:
    """Whatever was computed before, and however the rows are shared out."""
    first, second = (ImageTo3DTask(Model(0), zero123, subject(), 0.4, QUICK, seed=5) for _ in range(2))
    second.loss(second.model, second.batch(2, torch.arange(2), 2))
    second.model.load_state_dict(first.model.state_dict())
    losses = [task.loss(task.model, task.batch(4, torch.arange(2), 2))[0] for task in (first, second)]
    assert torch.equal(*losses)
    whole = first.batch(4, torch.arange(2), 2)
    assert torch.equal(first.batch(4, torch.tensor([1]), 2)["azimuth"], whole["azimuth"][1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elevation(dtype: torch.dtype) -> None:
    """A reader sees it; for the published models it is assumed."""
    published, reads = (tiny_zero123(sample_size=8, reads=reads) for reads in (False, True))
    for parts in (published, reads):
        for module in (parts.unet, parts.vae, parts.image_encoder, parts.projection):
            torch.nn.Module.to(module, dtype)
    zero123, reads = Zero123(published), Zero123(reads)
    picture = on_background(subject())[None]
    seen = reads.see(picture)
    elevation, how = elevation_of(reads, seen)
    assert how == "estimated"
    stand: Any = reads.parts.projection.read(seen.embedding.to(dtype), seen.latents.to(dtype))[1]  # pyright: ignore
    assert elevation == pytest.approx(float(stand[0, 2].clamp(-math.pi / 2, math.pi / 2)))
    assert elevation_of(zero123, zero123.see(picture)) == (USUAL_ELEVATION, "assumed")


# -- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps on small pictures, and a coarse mesh."""
    monkeypatch.setattr(picture_to_mesh, "IMAGE_QUALITIES", dict.fromkeys(IMAGE_QUALITIES, QUICK))
    monkeypatch.setattr(shape_runs, "build_mesh", partial(build_mesh, resolution=24, face_budget=1000))


def test_a_picture_becomes_a_mesh(quick, command: Callable[..., Told], zero123_folder, cut_out, tmp_path: Path) -> None:
    words = ("image-to-3d", cut_out, "--model", zero123_folder, "-o", tmp_path / "a" / "red.glb")
    status, told, said = command(*words, "--preview", tmp_path / "red-views.png")
    assert status == 0, said
    assert "found by alpha" in said and "20 degrees above (assumed)" in said and "3 steps" in said
    assert [Path(name).name for name in told["outputs"]] == ["red.glb", "red-views.png"]
    assert told["metrics"]["elevation"] == 20.0 and told["metrics"]["problems"] == []
    assert not check_mesh(load_mesh(tmp_path / "a" / "red.glb")).problems
    status, told, _ = command("export", tmp_path / "a" / "red.run", "-o", tmp_path / "red.obj")
    assert status == 0
    status, _, said = command(*words, "--picture-elevation", 35)
    assert status == 0 and "35 degrees above (given)" in said


def test_killed_and_gone_on_with(
    quick, command: Callable[..., Told], zero123_folder, cut_out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stopped before its mesh ends with the bytes of an unbroken one, even if the picture is gone."""
    words = ("image-to-3d", cut_out, "--model", zero123_folder, "--seed", 3)
    assert command(*words, "-o", tmp_path / "whole" / "red.glb")[0] == 0
    often = image_to_3d.training_recipe
    monkeypatch.setattr(image_to_3d, "training_recipe", lambda *given: replace(often(*given), checkpoint_every=1))
    loss = ImageTo3DTask.loss

    def stopped(task: ImageTo3DTask, model: Model, batch: Any) -> Any:
        if int(batch["step"][0]) == 2:
            raise KeyboardInterrupt
        return loss(task, model, batch)

    monkeypatch.setattr(ImageTo3DTask, "loss", stopped)
    assert command(*words, "-o", tmp_path / "parts" / "red.glb")[0] == 130
    monkeypatch.setattr(ImageTo3DTask, "loss", loss)
    cut_out.unlink()
    assert command("image-to-3d", "--resume", tmp_path / "parts" / "red.run")[0] == 0
    meshes = [(tmp_path / place / "red.glb").read_bytes() for place in ("whole", "parts")]
    assert meshes[0] == meshes[1]


def test_what_a_run_is_made_of_is_recorded_and_compared(
    quick, command: Callable[..., Told], zero123_folder, cut_out, tmp_path: Path
) -> None:
    """Picture and mask are hashed; the run has its own copy of what it took from them, and needs its model."""
    white = tmp_path / "white.png"
    Image.fromarray(np.asarray(Image.open(cut_out))[..., 3]).save(white)
    run, words = tmp_path / "red.run", (cut_out, "--model", zero123_folder, "--mask", white)
    assert command("image-to-3d", *words, "-o", tmp_path / "red.glb")[0] == 0
    inputs = {"model": digest(zero123_folder), "picture": digest(cut_out), "mask": digest(white)}
    for name in ("run.json", "result.json"):
        found = json.loads((run / name).read_text())["inputs"]
        assert found == {**inputs, "subject": digest(run / "subject.png")}
    assert command("novel-views", *words, "-o", tmp_path / "views.png", "--orbit", 2, "--steps", 1)[0] == 0
    assert json.loads(read_image_text(tmp_path / "views.png")["inputs"]) == inputs
    assert command("novel-views", *words, "-o", tmp_path / "views.mp4", "--orbit", 2, "--steps", 1)[0] == 0
    assert read_video_text(tmp_path / "views.mp4")["inputs"] == inputs

    for file in (cut_out, white):
        file.write_bytes(b"another picture")
    assert command("image-to-3d", "--resume", run)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    Image.new("RGBA", (16, 16), "red").save(run / "subject.png")
    status, told, said = command("image-to-3d", "--resume", run)
    assert status == 2 and not told and "since it began, subject has changed; start it anew" in said
    (run / "subject.png").write_bytes(before[run / "subject.png"])
    weights = zero123_folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    status, told, said = command("image-to-3d", "--resume", run)
    assert status == 2 and not told and "since it began, model has changed; start it anew" in said
    weights.write_bytes(before[weights])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_model_is_recorded_with_the_parts_that_it_borrows() -> None:
    files = files_of_model("toybox-zero123")
    assert {name: path.name for name, path in files.items()} == {
        "model": "toybox-zero123", "its vae": "vae", "its image_encoder": "toybox-clip"
    }  # fmt: skip
    assert all(path.is_dir() for path in files.values())


def test_a_run_in_use_is_left_as_it_is(
    quick, command: Callable[..., Told], zero123_folder, cut_out, tmp_path: Path
) -> None:
    words = ("image-to-3d", cut_out, "--model", zero123_folder, "-o", tmp_path / "red.glb")
    assert command(*words)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for again in ((*words, "--seed", 1), ("image-to-3d", "--resume", tmp_path / "red.run")):
        with working_in(tmp_path / "red.run"):
            status, told, said = command(*again)
        used = f"{tmp_path / 'red.run'} is in use by process {os.getpid()}"
        assert status == 2 and not told and said == f"error: {used}: wait, or name another output\n"
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_model_that_gives_no_numbers_leaves_no_run(
    quick, command: Callable[..., Told], zero123_folder, cut_out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_to_mesh, "elevation_of", lambda *_: (math.nan, "estimated"))
    words = ("image-to-3d", cut_out, "--model", zero123_folder, "-o", tmp_path / "a" / "red.glb")
    before = sorted(tmp_path.rglob("*"))
    status, told, said = command(*words)
    assert status == 2 and not told and "numbers that are not finite" in said and sorted(tmp_path.rglob("*")) == before


def test_the_front_of_the_mesh_is_the_picture(quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not its mirror image, not upside down, not another side; of a picture alone, by way of the file."""
    shown = subject()
    shown[:3, 4:12, 5:11] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    shown[:3, 4:12, 8:11] = torch.tensor([0.1, 0.1, 0.9]).view(3, 1, 1)  # to the right
    shown[:3, 4:7, 5:11] = torch.tensor([0.1, 0.8, 0.1]).view(3, 1, 1)  # on top
    config = replace(QUICK, steps=100)
    task = ImageTo3DTask(Model(0), Zero123(tiny_zero123(sample_size=8)), shown, 0.0, config)
    source = task.guidance.source

    def silent(*_: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return torch.zeros(()), {"t": torch.zeros(1)}

    silent.source = source  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(task, "guidance", silent)
    recipe = image_to_3d.training_recipe(config, 0)
    mesh, _ = shape_runs.mesh_of(shape_runs.optimise(task, recipe, tmp_path / "run", False))
    (path,) = save_mesh(tmp_path / "it.glb", mesh)
    wanted = F.interpolate(on_background(shown)[None], (32, 32), mode="area")[0]

    def off(azimuth: float, turned: torch.Tensor) -> float:
        seen = picture(load_mesh(path), orbit(math.radians(azimuth), 0.0, RADIUS), 32, lighted=False)[0]
        return (seen - turned).square().mean().item()

    right = off(0, wanted)
    assert right < 0.03
    assert min(off(0, wanted.flip(2)), off(0, wanted.flip(1)), off(180, wanted), off(90, wanted)) > 2 * right


@pytest.mark.parametrize("radius", [0.3, 0.36, 0.42])
def test_a_mesh_is_as_wide_as_the_picture(radius: float) -> None:
    """A soft ball is cut where its outline is that of the picture, to a third of a pixel; or by itself, without one."""

    def density(x: torch.Tensor, _: float) -> torch.Tensor:
        return 36 * torch.exp((0.27 - x.norm(dim=1)) / 0.05)

    model: Any = SimpleNamespace(field=SimpleNamespace(smooth_density=density))
    source = orbit(0.3, 0.4, RADIUS)
    origins, directions = source.rays(128, 128)
    closest = torch.linalg.cross(origins[:, None, None].expand_as(directions), directions).norm(dim=-1)  # (1, h, w)
    shown = torch.cat([torch.full((3, 128, 128), 0.5), (closest < radius).float()])
    level = image_to_3d.outlined_level(model, shown, source)
    assert level is not None
    pixel = 2 * RADIUS * math.tan(float(source.fov_y[0]) / 2) / image_to_3d.OUTLINE
    assert abs(0.27 + 0.05 * math.log(36 / level) - radius) < pixel / 3
    elsewhere = torch.zeros_like(shown)
    elsewhere[3, :20, :20] = 1
    assert image_to_3d.outlined_level(model, elsewhere, source) is None


def test_a_run_keeps_the_width_of_its_mesh(
    quick, command: Callable[..., Told], zero123_folder, cut_out, tmp_path: Path
) -> None:
    """What is exported later is what was written first; a run that is begun anew forgets it."""
    words = ("image-to-3d", cut_out, "--model", zero123_folder, "--steps", 60, "-o", tmp_path / "red.ply")
    assert command(*words)[0] == 0
    run = tmp_path / "red.run"
    assert json.loads((run / "level.json").read_text()) is not None
    assert command("export", run, "-o", tmp_path / "again.ply")[0] == 0
    assert (tmp_path / "again.ply").read_bytes() == (tmp_path / "red.ply").read_bytes()
    shape_runs.start_anew(run, ImageTo3DRecipe(picture=cut_out, output=tmp_path / "red.ply"))
    assert not (run / "level.json").exists()


def test_a_run_is_rendered_as_it_was_shown(
    quick, command: Callable[..., Told], zero123_folder, cut_out, tmp_path: Path
) -> None:
    """Without light: it is in the colours."""
    words = ("image-to-3d", cut_out, "--model", zero123_folder, "-o", tmp_path / "red.glb")
    assert command(*words, "--preview", tmp_path / "first.png")[0] == 0
    words = (
        "render",
        tmp_path / "red.run",
        "-o",
        tmp_path / "again.png",
        "--size",
        192,
        "--azimuth",
        *range(0, 360, 45),
    )
    assert command(*words)[0] == 0
    first, again = (np.asarray(Image.open(tmp_path / name).convert("RGB"), int) for name in ("first.png", "again.png"))
    assert first.shape == again.shape and np.abs(first - again).max() <= 1


def test_the_script_without_a_picture_says_how(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "examples" / "image_to_3d.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no picture: python scripts/examples/image_to_3d.py PICTURE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no picture: name one"),
        (("nowhere.png", "-o", "a.glb"), "no picture at nowhere.png"),
        (("red.png",), "no output: name the mesh"),
        (("red.png", "-o", "a.png"), "a.png"),
        (("red.png", "-o", "a.glb", "--steps", 0), "--steps"),
        (("red.png", "-o", "a.glb", "--picture-elevation", 91), "--picture-elevation"),
        (("--resume", "red.png"), "not a run folder"),
        (("red.png", "--resume", "a.run"), "leave yours out"),
    ],
)
def test_bad_words_are_one_clear_error(
    words,
    says: str,
    command: Callable[..., Told],
    zero123_folder,
    cut_out,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = () if "--resume" in words else ("--model", zero123_folder)
    before = sorted(tmp_path.iterdir())
    status, told, said = command("image-to-3d", *words, *model)
    assert status == 2 and not told and says in said and said.count("error:") == 1
    assert sorted(tmp_path.iterdir()) == before


# -- the scores ------------------------------------------------------------------------------------------------


def test_surfaces_wind_around_what_is_inside() -> None:
    """Once in a cube, twice where two overlap, not at all outside; to the digits of float32."""
    box = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    faces = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],
                      [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]])  # fmt: skip
    two = torch.from_numpy(np.concatenate([box[faces], box[faces] + np.float32(0.5)]))
    points = torch.tensor([[0.2, 0.3, 0.1], [0.7, 0.8, 0.6], [1.3, 1.2, 1.1], [-0.4, 0.5, 0.5], [3.0, 3.0, 3.0]])
    torch.testing.assert_close(winding(points, two).abs(), torch.tensor([1.0, 2.0, 1.0, 0.0, 0.0]), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def case():
    return cases(world.TUNING_SEEDS[0], SIZE, count=1, held_out=0)[0]


def test_the_true_body_stands_as_the_picture_shows_it(case) -> None:
    """Drawn from azimuth 0, and from the unseen cameras, it covers what the true masks cover."""
    from core2d.kernels.raster import rasterize

    vertices, faces = true_body(case)
    source = orbit(0.0, case.source.elevation, case.source.radius, float(case.source.fov_y[0]))
    homogeneous = torch.from_numpy(np.c_[vertices, np.ones(len(vertices))].astype(np.float32))
    triangles = torch.from_numpy(faces.astype(np.int32))
    offsets = torch.tensor([0, len(faces)], dtype=torch.int32)
    for cameras, masks in ((source, case.cutout[3:]), (unseen_cameras(case), case.masks[1:])):
        for matrix, mask in zip(cameras.world_to_clip(), masks, strict=True):
            drawn = rasterize(homogeneous @ matrix.T, triangles, offsets, SIZE, SIZE).mask[0]
            both, either = (drawn & (mask > 0.5)).sum(), (drawn | (mask > 0.5)).sum()
            assert both / either > 0.93  # without antialiasing


def test_scores_of_the_truth_are_the_best(case) -> None:
    vertices, faces = true_body(case)
    unit = in_unit_box(vertices)
    solid = inside(unit, faces)
    assert 0.02 < solid.float().mean() < 0.9
    points = [surface_points(unit, faces, seed=seed) for seed in (0, 1)]
    assert chamfer(*points) < 0.03
    baseline = solid_scores(extruded(case, case.cutout[3]), case)
    assert 0 < baseline["volume_iou"] < 1 and baseline["chamfer"] > 0.01 and 0 < baseline["psnr"] < 25


# -- what is not of the bundled model's world ------------------------------------------------------------------


@pytest.mark.skipif(not (Path(__file__).parents[2] / "assets" / "toybox-clip").is_dir(), reason="no bundled CLIP")
def test_likeness_knows_the_toybox() -> None:
    """Toybox objects are above the threshold, noise is below."""
    from core2d.app.registry import bundled
    from core2d.bundled.clip import normalise
    from core2d.prior.image_tower import load_image_encoder

    tower = load_image_encoder(bundled()["toybox-clip"], torch.float32)
    shown = cases(world.TUNING_SEEDS[0], SIZE, count=12, held_out=2)
    known = torch.stack([case.picture for case in shown])
    noise = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = [likeness(tower(normalise(pictures)).image_embeds) for pictures in (known, noise)]
    assert (found[0] > KNOWN).float().mean() > 0.9 and (found[1] < KNOWN).all()
