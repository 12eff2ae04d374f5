"""The work behind `genvideo pose`."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core2d.app.errors import InputError
from core2d.media.videos import read_frames, video_rate, write_video
from genvideo.pose.drawing import draw_frame
from genvideo.pose.formats import read_poses, write_poses
from genvideo.pose.keypoints import SEEN, Poses
from genvideo.pose.people import PeopleReader
from genvideo.pose.reading_back import is_skeleton, read_skeletons
from genvideo.pose.recipe import PoseRecipe

LOOKED_AT = 8  # frames at the beginning that tell whether a film shows drawn skeletons


def follow(recipe: PoseRecipe) -> tuple[list[Path], Mapping[str, Any]]:
    """Follow `genvideo pose`: one person's poses as JSON, and drawn where that is wished."""
    recipe.check()
    source = recipe.source.expanduser()
    poses, kind = poses_of(source, recipe)
    if not (poses.body[..., 2] >= SEEN).any():
        raise InputError(f"{source} shows nobody that was found: give a film in which a person is large enough")
    one = poses.person(recipe.person)
    write_poses(recipe.output, one)
    outputs = [recipe.output]
    if recipe.drawn is not None:
        rate = one.fps or Fraction(recipe.fps).limit_denominator(1001)
        write_video(recipe.drawn, (draw_frame(one, frame) for frame in range(one.frames)), rate)
        outputs.append(recipe.drawn)
    seen = one.body[..., 2] >= SEEN  # (frames, 1, 18)
    return outputs, {
        "read_as": kind, "frames": one.frames, "people": poses.people, "joints_found": float(seen.mean()),
        "frames_without_anybody": int((~seen.any((1, 2))).sum()),
    }  # fmt: skip


def poses_of(source: Path, recipe: PoseRecipe) -> tuple[Poses, str]:
    """The poses of everybody in a file or folder, and what it was taken for: poses, drawn skeletons, a film."""
    is_folder_of_json = source.is_dir() and any(source.glob("*.json")) and not (source / "video.json").is_file()
    if source.suffix.lower() == ".json" or is_folder_of_json:
        size = None if recipe.height is None or recipe.width is None else (recipe.height, recipe.width)
        return read_poses(source, size), "poses"
    fps, frames = video_rate(source), read_frames(source)
    first = list(islice(frames, LOOKED_AT))
    shown = tqdm(chain(first, frames), desc="frames", unit="frame")
    if recipe.drawn_skeleton or any(map(is_skeleton, first)):
        return read_skeletons(shown, fps), "drawn skeletons"
    return PeopleReader().read(shown, fps), "a film"
