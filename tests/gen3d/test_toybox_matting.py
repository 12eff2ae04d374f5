"""The matting net: any size in and out, what it learns from, and what the bundled one finds."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_zero123 import tiny_zero123

from core2d.app.errors import InputError
from core2d.app.registry import bundled
from core2d.files.loading import load_model, save_model
from core2d.media.pictures import save_image
from core2d.toybox import world
from core2d.toybox.dataset import Pictures
from core2d.toybox.render import render
from gen3d.data.toybox_matting import FOLDER, MattingNet, load_matting
from gen3d.toybox.matting_task import MattingTask, matting_scores, on_grounds, zoomed
from gen3d.toybox.view_scores import mask_iou
from gen3d.zero123.command import subject_of
from gen3d.zero123.model import Zero123
from gen3d.zero123.recipe import NovelViewsRecipe

SMALL = (4, 6)
is_bundled = pytest.mark.skipif(FOLDER not in bundled(), reason="toybox-matting is not trained yet")


def pictures(count: int = 8) -> Pictures:
    """Discs on noise; what is known beside their coverage is not looked at."""
    lot, (y, x) = np.random.default_rng(0), np.mgrid[:16, :16]
    mask = np.stack([255 * ((x - 8) ** 2 + (y - 8) ** 2 < radius**2) for radius in range(3, 3 + count)]).astype(
        np.uint8
    )
    rgb = lot.integers(0, 128, (count, 3, 16, 16), dtype=np.uint8) + mask[:, None] // 2
    nothing = np.zeros(count)
    return Pictures(rgb, mask, nothing, nothing, nothing, [""] * count)


@pytest.mark.parametrize("sides", [(64, 64), (1, 1), (71, 53), (300, 5), (8, 500)])
def test_alpha_of_any_size(sides: tuple[int, int]) -> None:
    net = MattingNet(SMALL).eval()
    shown = torch.rand((2, 3, *sides), generator=torch.Generator().manual_seed(0))
    alpha = net(shown)
    assert alpha.shape == (2, 1, *sides) and 0 <= alpha.min() and alpha.max() <= 1
    assert torch.allclose(net(shown[1:]), alpha[1:], atol=1e-6)
    if sides == (64, 64):
        assert torch.equal(alpha, net.logits(shown).sigmoid())  # nothing is resampled at the size it learned from


def test_what_is_written_is_read(tmp_path: Path) -> None:
    net, shown = MattingNet(SMALL).eval(), torch.rand(1, 3, 24, 40)
    save_model(net, tmp_path)
    assert torch.equal(load_model(MattingNet, tmp_path, torch.float32)(shown), net(shown))
    save_model(MattingNet((4, 8)), tmp_path / "other")
    (tmp_path / "config.json").write_bytes((tmp_path / "other" / "config.json").read_bytes())
    with pytest.raises(InputError):
        load_model(MattingNet, tmp_path, torch.float32)


def test_picture_and_coverage_are_moved_alike() -> None:
    shown = torch.rand((64, 1, 16, 16), generator=torch.Generator().manual_seed(0)).expand(-1, 4, -1, -1)
    moved = zoomed(shown, torch.Generator().manual_seed(1))
    assert moved.shape == shown.shape
    torch.testing.assert_close(moved[:, 0], moved[:, 3], rtol=0, atol=0)
    assert all(not torch.equal(one, other) for one, other in zip(moved, shown, strict=True))
    assert torch.equal(zoomed(shown, torch.Generator().manual_seed(1)), moved)


def test_a_zoom_out_keeps_the_whole_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen3d.toybox.matting_task.ZOOM", (2.0, 2.0))
    shown = torch.zeros(64, 1, 32, 32)
    shown[:, :, 2:-2, 2:-2] = 1
    moved = zoomed(shown, torch.Generator().manual_seed(0))
    assert torch.allclose(
        moved.sum((1, 2, 3)), torch.tensor(28 * 28 / 4), rtol=0.02
    )  # a quarter of its area, all of it


def test_a_batch_is_of_its_step_alone() -> None:
    task = MattingTask(MattingNet(SMALL), pictures())
    whole, part = task.batch(3, torch.arange(6), 6), task.batch(3, torch.tensor([4, 1]), 6)
    assert all(torch.equal(part[name], whole[name][[4, 1]]) for name in whole)
    assert not torch.equal(task.batch(4, torch.arange(6), 6)["pictures"], whole["pictures"])
    assert set(whole["alpha"].unique().tolist()) >= {0.0, 1.0} and whole["pictures"].shape == (6, 3, 16, 16)


def test_it_learns() -> None:
    torch.manual_seed(0)
    task = MattingTask(MattingNet(SMALL), pictures())
    optimizer = torch.optim.Adam(task.model.parameters(), 0.02)
    losses = []
    for step in range(60):
        loss, told = task.loss(task.model, task.batch(step, torch.arange(16), 16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0] and float(told["iou"]) > 0.8


def on_grass(folder: Path, number: int = 3) -> tuple[Path, np.ndarray]:
    """A picture of something on a ground, and its coverage (s, s)."""
    scene = next(iter(islice(on_grounds(world.TUNING_SEEDS[0]), number, None)))
    renders = render([scene], 128)
    return save_image(folder / "it.png", np.rint(255 * renders.rgb[0]).astype(np.uint8)), renders.mask[0]


@is_bundled
def test_the_bundled_net_cuts_out_what_stands_on_a_ground(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Of pictures twice as large as those that it learned from, by the way of the commands."""
    model, overlaps = Zero123.load("toybox-zero123"), []
    for number in range(6):
        picture, coverage = on_grass(tmp_path, number)
        subject = subject_of(NovelViewsRecipe(picture=picture, output=tmp_path / "a.png", recentre=False), model)
        assert subject.found_by == "matting net" and "found by matting net" in capsys.readouterr().err
        true = torch.from_numpy(coverage).view(1, 64, 2, 64, 2).mean((2, 4))
        overlaps.append(mask_iou(subject.rgba[None, 3] > 0.5, true > 0.5).item())
    assert sum(overlaps) / 6 > 0.85 and min(overlaps) > 0.6, overlaps


@is_bundled
def test_published_models_are_not_given_cut_outs_of_a_net_for_toys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    picture, _ = on_grass(tmp_path)
    recipe = NovelViewsRecipe(picture=picture, output=tmp_path / "views.png")
    with pytest.raises(InputError, match="no subject was found"):
        subject_of(recipe, Zero123(tiny_zero123(sample_size=8, reads=False)))


@is_bundled
def test_the_bundled_net_on_pictures_kept_for_reporting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen3d.toybox.matting_task.SCORED", 60)
    found = matting_scores(load_matting(), world.REPORTING_SEEDS[0])
    assert found["iou"] > 0.85 and found["error"] < 0.05
