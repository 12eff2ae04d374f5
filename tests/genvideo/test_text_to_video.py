"""The command `genvideo text-to-video`, with a tiny model."""

import json
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter
from safetensors.torch import load_file, save_file

from core2d.app.provenance import digest, digests
from core2d.app.registry import bundled
from core2d.app.runs import locked
from core2d.media.pictures import read_image, read_image_text, save_image
from core2d.media.videos import read_video, read_video_text, write_video
from genvideo.__main__ import main
from genvideo.animatediff.command import files_of, settings_of
from genvideo.animatediff.formats import write_motion
from genvideo.animatediff.recipe import TextToVideoRecipe


class Told(NamedTuple):
    status: int
    report: dict
    said: str


@pytest.fixture
def command(
    tiny_folder: Callable[..., Path], motion_folder: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Told]:
    """`text-to-video` with a tiny model, 3 steps, --json."""

    def follow(*words: object, steps: int = 3) -> Told:
        told: Sequence[object] = ("--model", tiny_folder("sd1"), "--motion", motion_folder, "--steps", steps, *words)
        status = 0
        try:
            main(["text-to-video", *map(str, told), "--json"])
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        said = capfd.readouterr()
        return Told(status, json.loads(said.out) if said.out else {}, said.err)

    return follow


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".apng", ""])
def test_a_clip_in_every_format(command: Callable[..., Told], tmp_path: Path, suffix: str):
    path = tmp_path / f"mug{suffix}"
    told = command("a red mug", "-o", path, "--frames", 5, "--fps", "24000/1001", "--seed", 3)
    assert told.status == 0 and told.report["outputs"] == [str(path), str(tmp_path / "mug.strip.png")]
    frames, rate = read_video(path)
    assert frames.shape == (5, 16, 16, 3)
    assert rate == Fraction(24000, 1001) or (
        suffix in (".gif", ".webm") and abs(rate / Fraction(24000, 1001) - 1) < 0.05
    )
    said = read_video_text(path)
    assert said["prompts"] == ["a red mug"] and said["seed"] == 3 and said["steps"] == 3
    assert read_image(tmp_path / "mug.strip.png").shape == (16, 5 * 16, 3)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "mug.strip.png", "motion"}


def test_the_same_seed_gives_the_same_bytes(command: Callable[..., Told], tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert command("a red mug", "-o", tmp_path / name / "x.apng", "--frames", 4, "--seed", seed).status == 0
    first, again, other = ((tmp_path / name / "x.apng").read_bytes() for name in "abc")
    assert first == again and first != other


def test_many_prompts_make_a_folder_and_what_is_done_is_kept(command: Callable[..., Told], tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("# two\na red mug\n\na blue car\n")
    words = ("--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "clips", "--frames", 4, "--format", "webm")
    told = command(*words)
    assert told.status == 0 and told.report["metrics"] == {"made": 2, "done_before": 0}
    names = {"a-red-mug.webm", "a-red-mug.strip.png", "a-blue-car.webm", "a-blue-car.strip.png", "contact-sheet.png"}
    assert {path.name for path in (tmp_path / "clips").iterdir()} == names
    assert read_image(tmp_path / "clips" / "contact-sheet.png").shape == (32, 8 * 16, 3)
    prompts = json.loads(read_image_text(tmp_path / "clips" / "contact-sheet.png")["prompts"])
    assert prompts == ["a red mug", "a blue car"]
    before = (tmp_path / "clips" / "a-red-mug.webm").stat().st_mtime_ns
    (tmp_path / "clips" / "a-blue-car.webm").unlink()
    assert command(*words).report["metrics"] == {"made": 1, "done_before": 1}
    assert (tmp_path / "clips" / "a-red-mug.webm").stat().st_mtime_ns == before
    assert command(*words, "--seed", 5).report["metrics"] == {"made": 2, "done_before": 0}


def test_other_files_of_the_same_name_make_another_clip(command: Callable[..., Told], tmp_path: Path):
    words = ("a red mug", "a blue car", "-o", tmp_path / "clips", "--frames", 3, "--image", tmp_path / "first.png")
    for value, made in ((40, 2), (40, 0), (41, 2)):
        save_image(tmp_path / "first.png", np.full((16, 16, 3), value, np.uint8))
        assert command(*words).report["metrics"] == {"made": made, "done_before": 2 - made}


def test_other_motion_modules_under_the_same_name_make_another_clip(
    command: Callable[..., Told], motion: MotionAdapter, tmp_path: Path
):
    file, listed = tmp_path / "v2.safetensors", tmp_path / "prompts.txt"
    listed.write_text("a red mug\na blue car\n")
    words = ("--prompts", listed, "-o", tmp_path / "clips", "--frames", 3, "--motion", file, "--format", "apng")
    write_motion(file, motion, "original")
    assert command(*words).report["metrics"] == {"made": 2, "done_before": 0}
    assert command(*words).report["metrics"] == {"made": 0, "done_before": 2}
    first = (tmp_path / "clips" / "a-red-mug.apng").read_bytes()
    said = read_video_text(tmp_path / "clips" / "a-red-mug.apng")
    assert said["inputs"]["motion"] == digest(file) and set(said["inputs"]) == {"model", "motion"}
    sheet = read_image_text(tmp_path / "clips" / "contact-sheet.png")
    assert json.loads(sheet["inputs"]) == {"prompts": digest(listed)}
    with torch.no_grad():
        for parameter in motion.parameters():
            parameter.mul_(-1)
    write_motion(file, motion, "original")
    told = command(*words)
    assert told.report["metrics"] == {"made": 2, "done_before": 0}
    assert "clip 1 of 2: a red mug (motion has changed)" in told.said
    assert (tmp_path / "clips" / "a-red-mug.apng").read_bytes() != first


def test_all_that_a_clip_is_drawn_from_is_recorded(
    motion_folder: Path, tiny_folder: Callable[..., Path], tmp_path: Path
):
    frames, lora = tmp_path / "frames", tmp_path / "v2.safetensors"
    frames.mkdir()
    for name in ("a.png", "b.png", "v2.safetensors", "sparse.ckpt", "frames/000000.png"):
        (tmp_path / name).write_text(name)
    model = tiny_folder("sd1")
    recipe = TextToVideoRecipe(
        prompts=("a red mug",), output=tmp_path / "x.mp4", model=str(model), motion=str(motion_folder), vae=str(model),
        lora=(f"{lora}@0.5",), image=tmp_path / "a.png", keyframes=(f"2={tmp_path / 'b.png'}",),
        sparse_control=str(tmp_path / "sparse.ckpt"), video=frames,
    )  # fmt: skip
    wanted = {
        "model": model, "motion": motion_folder, "vae": model / "vae", f"lora {lora}": lora,
        "frame 0": tmp_path / "a.png", "frame 2": tmp_path / "b.png", "sparse_control": tmp_path / "sparse.ckpt",
        "video": frames,
    }  # fmt: skip
    assert settings_of(recipe)["inputs"] == digests(wanted)
    own = TextToVideoRecipe(prompts=("a red mug",), output=tmp_path / "x.mp4")
    assert files_of(own) == {name: bundled()[f"toybox-{kind}"] for name, kind in
                             (("model", "sd"), ("motion", "motion"), ("vae", "video-vae"))}  # fmt: skip


def test_two_adapters_of_one_name_are_both_recorded(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lora.safetensors").write_text(folder)
    both = tuple(str(tmp_path / folder / "lora.safetensors") for folder in ("a", "b"))
    recipe = TextToVideoRecipe(prompts=("a red mug",), output=tmp_path / "x.mp4", lora=both)
    assert {str(path) for path in files_of(recipe).values()} >= set(both)


def test_a_folder_in_use_is_left_as_it_is(command: Callable[..., Told], tmp_path: Path):
    words = ("a red mug", "a blue car", "-o", tmp_path / "clips", "--frames", 3)
    assert command(*words).status == 0
    before = {path: path.read_bytes() for path in (tmp_path / "clips").iterdir()}
    with locked(tmp_path / "clips"):
        told = command(*words, "--seed", 1)
    used = f"{tmp_path / 'clips'} is in use by process {os.getpid()}"
    assert told.status == 2 and not told.report and told.said == f"error: {used}: wait, or name another output\n"
    assert {path: path.read_bytes() for path in (tmp_path / "clips").iterdir()} == before


def test_from_a_picture_to_another(command: Callable[..., Told], tmp_path: Path):
    for name, value in (("first", 40), ("last", 200)):
        save_image(tmp_path / f"{name}.png", np.full((24, 30, 3), value, np.uint8))
    told = command("a red mug", "-o", tmp_path / "a.apng", "--frames", 4, "--image", tmp_path / "first.png",
                   "--last", tmp_path / "last.png")  # fmt: skip
    assert told.status == 0
    assert f"{tmp_path / 'first.png'} is 30 x 24 pixels: its middle is used, at 16 x 16" in told.said
    plain = command("a red mug", "-o", tmp_path / "b.apng", "--frames", 4)
    given, free = read_video(tmp_path / "a.apng")[0], read_video(tmp_path / "b.apng")[0]
    assert plain.status == 0 and all((given[i] != free[i]).any() for i in range(4))


def test_what_a_motion_file_holds_is_said(command: Callable[..., Told], motion: MotionAdapter, tmp_path: Path):
    write_motion(tmp_path / "v2.safetensors", motion, "original")
    state = load_file(tmp_path / "v2.safetensors")
    state_and_more, settings = state | {"conv_in.weight": torch.zeros(2)}, {"liftkit_settings": '{"heads": 2}'}
    save_file(state_and_more, tmp_path / "more.safetensors", settings)
    words = ("a red mug", "-o", tmp_path / "a.apng", "--frames", 3)
    for name, others in (("v2", 0), ("more", 1)):
        told = command(*words, "--motion", tmp_path / f"{name}.safetensors")
        assert told.status == 0 and told.report["metrics"]["others_left"] == others
        assert told.report["metrics"]["motion_tensors"] == len([one for one in state if ".pos_encoder." not in one])
        assert ("1 tensors are of no motion module and were left, such as conv_in.weight" in told.said) == bool(others)


def test_a_clip_drawn_anew(command: Callable[..., Told], tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    write_video(tmp_path / "in.apng", frames, Fraction(25, 2))
    told = command("a red mug", "-o", tmp_path / "out.apng", "--video", tmp_path / "in.apng", "--strength", 0.5)
    assert told.status == 0
    drawn, rate = read_video(tmp_path / "out.apng")
    assert drawn.shape == frames.shape and rate == Fraction(25, 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a red mug", "-o", "mug.avi"), "must end in one of .mp4, .webm, .gif, .apng"),
        ((" ", "-o", "mug.mp4"), "a prompt is empty"),
        (("-o", "mug.mp4"), "no prompt"),
        (("a red mug", "-o", "mug.mp4", "--frames", "0"), "--frames 0"),
        (("a red mug", "-o", "mug.mp4", "--fps", "0"), "--fps 0"),
        (("a red mug", "-o", "mug.gif", "--fps", "60"), "a GIF shows up to 50 frames a second, not 60"),
        (("a red mug", "a blue car", "-o", "new", "--format", "gif", "--fps", "60"), "a GIF shows up to 50"),
        (("a red mug", "a blue car " * 30, "-o", "new"), "tokens and the model reads"),
        (("a red mug", "-o", "."), "name a clip, or a new folder for its frames"),
        (("a red mug", "-o", "text.png/frames"), "text.png"),
        (("a red mug", "-o", "mug.mp4", "--vae", "none"), "no model 'none'"),
        (("a red mug", "-o", "mug.mp4", "--fps", "fast"), "--fps fast: give a number or a fraction"),
        (("a red mug", "-o", "mug.mp4", "--fps", "8/0"), "--fps 8/0"),
        (("a red mug", "-o", "mug.mp4", "--fps", "1e400"), "--fps 1e400"),
        (("a red mug", "-o", "mug.mp4", "--keyframes", "\u00b2=a.png"), "give INDEX=PATH"),
        (("a red mug", "-o", "mug.mp4", "--lora", "text.png@nan"), "give a file, or FILE@STRENGTH"),
        (("a red mug", "-o", "mug.mp4", "--lora", "text.png", "text.png@2"), "it is given twice"),
        (("a red mug", "-o", "mug.mp4", "--sparse-control", "text.png"), "--sparse-control needs pictures"),
        (("a red mug", "-o", "mug.mp4", "--frames", "64", "--window", "64"), "the motion modules know up to 32"),
        (("a red mug", "-o", "mug.mp4", "--overlap", "16"), "--overlap 16"),
        (("a red mug", "-o", "mug.mp4", "--strength", "0"), "--strength 0"),
        (("a red mug", "-o", "mug.mp4", "--image", "none.png"), "--image none.png: no such file"),
        (("a red mug", "-o", "mug.mp4", "--image", "text.png"), "cannot be read as PNG"),
        (("a red mug", "-o", "mug.mp4", "--video", "text.png"), "cannot be read as a video"),
        (("a red mug", "-o", "mug.mp4", "--video", "text.png", "--last", "text.png"), "leave out --image, --last and"),
        (("a red mug", "-o", "mug.mp4", "--keyframes", "3"), "--keyframes 3: give INDEX=PATH"),
        (("a red mug", "-o", "mug.mp4", "--keyframes", "0=a.png", "--image", "b.png"), "frame 0 is given twice"),
        (("a red mug", "-o", "mug.mp4", "--keyframes", "3=a.png"), "--keyframes a.png: no such file"),
        (("a red mug", "-o", "mug.mp4", "--keyframes", "16=good.png"), "frame 16 is given, and the clip has frames 0"),
        (("a red mug", "-o", "mug.mp4", "--frames", "1", "--keyframes", "0=good.png", "-1=good.png"), "given twice"),
        (("a red mug", "-o", "mug.mp4", "--lora", "none.ckpt"), "--lora none.ckpt: no such file"),
        (("a red mug", "-o", "mug.mp4", "--lora", "text.png@much"), "give a file, or FILE@STRENGTH"),
        (("a red mug", "-o", "mug.mp4", "--lora", "text.png@0.5"), "text.png is no file of weights"),
        (("a red mug", "-o", "mug.mp4", "--sparse-control", "none", "--last", "good.png"), "none: no such file"),
        (("a red mug", "-o", "mug.mp4", "--sparse-control", "text.png", "--last", "good.png"), "is no file of weights"),
        (("a red mug", "-o", "mug.mp4", "--control-scale", "-1"), "--control-scale -1"),
        (("a red mug", "a blue car", "-o", "mug.mp4"), "several prompts make a folder"),
        (("a red mug", "-o", "full"), "holds something else than frames of ours"),
        (("a red mug", "-o", "mug.mp4", "--motion", "none"), "no motion modules at none"),
        (("a red mug", "-o", "mug.mp4", "--model", "none"), "no model 'none'"),
        (("a red mug " * 30, "-o", "mug.mp4"), "tokens and the model reads"),
        (("x" * 2000, "-o", "mug.mp4"), "2000 characters"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_bad_words_are_one_clear_error(
    command: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    save_image("good.png", np.zeros((16, 16, 3), np.uint8))
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    told = command(*words)
    assert told.status == 2 and says in told.said and not told.report
    assert told.said.strip().count("\n") == 0
    assert sorted(tmp_path.rglob("*")) == before
