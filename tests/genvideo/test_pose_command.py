"""`genvideo pose`: what it reads, writes and refuses; people in ordinary pictures where the models are there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut, coffee

from core2d.app.errors import InputError
from core2d.files.wheels import CACHE, fetched
from core2d.media.videos import read_video, write_video
from genvideo.__main__ import main
from genvideo.pose.drawing import draw_poses
from genvideo.pose.formats import read_poses
from genvideo.pose.keypoints import Poses


def walker(frames: int = 3) -> Poses:
    from core2d.toybox.doll import JOINTS, joints_of, pose_of

    seen = [[joints_of(pose_of("waving", frame / 8))[name] for name in JOINTS] for frame in range(frames)]
    joints = np.array(seen)  # (t, 18, 3) metres
    points = np.stack([128 + 230 * joints[..., 1], 250 - 230 * joints[..., 2], np.ones(joints.shape[:2])], -1)
    return Poses(points[:, None], 256, 256)


def test_a_skeleton_clip_becomes_json_and_a_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = draw_poses(walker())
    write_video(tmp_path / "skeleton.apng", drawn, fps=8)
    out, again = tmp_path / "pose.json", tmp_path / "again.apng"
    main(["pose", str(tmp_path / "skeleton.apng"), "-o", str(out), "--drawn", str(again), "--json"])
    said = json.loads(capsys.readouterr().out)["metrics"]
    assert said["read_as"] == "drawn skeletons" and said["frames"] == 3 and said["people"] == 1
    assert said["joints_found"] > 0.98
    poses = read_poses(out)
    assert poses.fps == 8 and np.abs(poses.body - walker().body)[..., :2].max() <= 0.5
    assert (read_video(again)[0] == drawn).all(-1).mean() > 0.99  # a pixel's middle is where a joint is drawn again
    main(["pose", str(out), "-o", str(tmp_path / "copy.json")])
    assert (tmp_path / "copy.json").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.mp4", "-o", "pose.json"], "no film"), (["skeleton.apng", "-o", "pose.txt"], ".json"),
        (["skeleton.apng", "-o", "pose.json", "--person", "2"], "1 people"),
        (["skeleton.apng", "-o", "pose.json", "--height", "8"], "belong together"),
        (["skeleton.apng", "-o", "pose.json", "--drawn", "a.txt"], ".mp4"),
        (["black.apng", "-o", "pose.json", "--drawn-skeleton"], "nobody"),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("skeleton.apng", draw_poses(walker(1)), fps=8)
    write_video("black.apng", np.zeros((1, 64, 64, 3), np.uint8), fps=8)
    with pytest.raises(SystemExit) as leaving:
        main(["pose", *words])
    assert leaving.value.code == 2 and said in capsys.readouterr().err
    assert not Path("pose.json").exists()


def test_without_models_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genvideo.pose.people import PeopleReader

    monkeypatch.setenv(CACHE, str(tmp_path))
    with pytest.raises(InputError, match="core2d models get pose"):
        PeopleReader()


def test_people_in_photographs() -> None:
    """Joints of scikit-image's astronaut, who is seen to her hips, by eye; nobody in a cup of coffee."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("LiteRT is not installed (the extra `photos`)")
    try:
        fetched("pose")
    except InputError:
        pytest.skip("the models are not on this machine (core2d models get pose)")
    from genvideo.pose.people import PeopleReader

    reader = PeopleReader()
    assert reader.read([coffee()]).people == 0
    (body,) = reader.people(astronaut())
    by_eye = {0: (213, 122), 14: (192, 100), 15: (237, 102), 2: (106, 230), 5: (304, 244)}  # nose, eyes, shoulders
    for joint, place in by_eye.items():
        assert body[joint, 2] > 0.5 and np.hypot(*(body[joint, :2] - place)) < 25
    assert (body[[8, 9, 10, 11, 12, 13], 2] == 0).all()  # below the picture
    two = np.concatenate([astronaut(), astronaut()[:, ::-1]], 1)
    assert len(reader.people(two)) == 2
