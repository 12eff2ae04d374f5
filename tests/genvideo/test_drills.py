"""What `train_bundled.py motion` drills before it trains: words that the modules do not hear yet."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core2d.app.outputs import write_json
from core2d.bundled.training import Spent, TrainingSetup
from core2d.prior.backbone import Backbone
from core2d.toybox import world
from core2d.toybox.clips import words_of
from core2d.training.checkpoints import write_checkpoint
from genvideo.animatediff.motion import fresh_motion, inflate
from genvideo.animatediff.task import EncodedClips, MotionTask
from genvideo.toybox import bundled
from genvideo.toybox.bundled import DRILL, DRILL_RECIPE, DRILLS, HEARD, RUN, drill, told_apart, turned_round


@pytest.fixture
def task(tiny_folder: Any) -> MotionTask:
    flat = Backbone.load(tiny_folder("sd1"))
    torch.manual_seed(0)
    words = torch.randn(6, *flat.encode_text(["a red mug"]).tokens.shape[1:]).half()
    unet = flat.family.denoiser
    channels, side = int(unet.config["in_channels"]), int(unet.config["sample_size"])
    clips = EncodedClips(torch.randn(6, channels, 3, side, side).half(), words, words[:1])
    return MotionTask(inflate(unet, fresh_motion(unet, heads=2)), clips, flat.schedule)


def test_opposite_captions_differ_in_one_word() -> None:
    captions, motions = words_of(0, 400)
    drilled = {motion for group in DRILLS.values() for motion in group}
    assert drilled < set(world.MOTIONS)
    for caption, motion in zip(captions, motions, strict=True):
        turned = turned_round(caption, motion)
        differ = [(a, b) for a, b in zip(caption.split(), turned.split(), strict=True) if a != b]
        assert len(differ) == (motion in drilled)
        assert turned_round(turned, turned_round(motion, motion)) == caption
    assert turned_round("a red car sliding left, on grass", "sliding left") == "a red car sliding right, on grass"
    assert turned_round("a tree, camera zooming in, on grass", "camera zooming in").endswith("zooming out, on grass")


def test_what_other_words_cost(task: MotionTask) -> None:
    """No difference for the same words; one for others, which is undone when the two change places."""
    assert told_apart(task, task.clips.words) == 0.0
    other = task.clips.words.flip(0)
    forth, back = (
        told_apart(task, other),
        told_apart(replace(task, clips=replace(task.clips, words=other)), task.clips.words),
    )
    assert forth != 0.0 and (1 + forth) * (1 + back) == pytest.approx(1.0)


@pytest.mark.parametrize("least", [2 * HEARD, HEARD / 2])
def test_one_word_that_is_not_heard_makes_a_drill_in_all(
    task: MotionTask, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In equal shares, undecided, and with nothing else given."""
    seen: list[Any] = []

    def train(setup: TrainingSetup, name: str, task: MotionTask, recipe: Any) -> Spent:
        seen.append(task)
        return Spent(recipe.steps, 1.0)

    shares = itertools.cycle([0.5, 0.5, least])
    monkeypatch.setattr(bundled, "told_apart", lambda *_: next(shares))
    monkeypatch.setattr(bundled, "run_training", train)
    zooms = [f"camera zooming {way}" for way in ("in", "out", "in")]
    motions = ["growing", zooms[0], "still", zooms[1], "camera panning left", zooms[2]]
    setup = TrainingSetup(tmp_path, tmp_path)
    heard = least > HEARD
    assert drill(setup, task, task.clips.words, motions).steps == (0 if heard else DRILL_RECIPE.steps)
    assert len(seen) == (0 if heard else 1)
    for alone in seen:
        assert (alone.blind, alone.undecided, alone.given) == (0.0, 1.0, (0.0, 0.0, 0.0))
        assert torch.equal(alone.clips.latents, task.clips.latents[[0, 0, 0, 1, 3, 5, 4, 4, 4]])
    assert drill(setup, task, task.clips.words, ["still"] * 6).steps == 0  # no such clips


def test_what_goes_on_after_its_drill_is_not_drilled_again(
    task: MotionTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it asked what it hears: the weights that it starts from are not those that it goes on with."""
    for name, steps in ((DRILL, 40), (RUN, 7)):
        facts: dict[str, object] = {"step": steps, "seconds": 2.0 * steps, "recipe": {}}
        weights = {"model": {"weight": torch.zeros(1)}}
        write_checkpoint(tmp_path / name / "checkpoints", steps, weights, facts)
    monkeypatch.setattr(bundled, "told_apart", None)
    monkeypatch.setattr(bundled, "run_training", None)
    setup, motions = TrainingSetup(tmp_path, tmp_path), ["growing"] * 6
    spent = drill(setup, task, task.clips.words, motions)
    assert (spent.steps, spent.seconds, spent.finished) == (40, 80.0, True)  # as no call has counted it
    (diary, total), = spent.diaries  # fmt: skip
    write_json(diary, total)
    assert drill(setup, task, task.clips.words, motions).steps == 0
