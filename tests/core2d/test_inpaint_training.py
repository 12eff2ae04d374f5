"""Training an inpainting model: rows, the first step, a checkpoint's error, scores, and the stage in miniature."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core2d.adapters.lora_learning import low_rank
from core2d.app.registry import assets_folder
from core2d.bundled import inpaint_scores
from core2d.bundled.inpaint import INPAINT, RANK
from core2d.bundled.training import TrainingSetup
from core2d.prior.backbone import Backbone
from core2d.prior.condition import Condition
from core2d.systems.inpaint.formats import fresh_inpainter, load_inpainter
from core2d.systems.inpaint.task import EMPTY, InpaintTask
from core2d.training.log import measured
from core2d.training.loop import TrainingRecipe, train


def task_of(prior: Backbone) -> InpaintTask:
    """Learns to fill eight random pictures."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(8, 3, 16, 16, generator=generator)
    learning, layers = low_rank(fresh_inpainter(prior), 2, "all")
    first = learning.denoiser.get_submodule("conv_in")
    model = torch.nn.ModuleDict({"layers": layers, "conv_in": first}).requires_grad_(True)
    mean = prior.encode_images(pictures)
    words = torch.cat([prior.encode_text([f"a {word} mug" for word in ("red", "blue")]).tokens,
                       prior.encode_text([""]).tokens])  # fmt: skip

    def told_words(rows: torch.Tensor) -> Condition:
        return Condition(words[torch.where(rows == EMPTY, 2, rows % 2)])

    def measure() -> dict[str, float]:
        return {"first": float(first.get_parameter("weight").detach()[:, 4:].abs().mean())}

    return InpaintTask(model, learning, mean, 0.1 * torch.ones_like(mean), lambda rows: pictures[rows], told_words,
                       measure=measure, seed=1)  # fmt: skip


@pytest.fixture
def prior(tiny_folder: Callable[..., Path]) -> Backbone:
    return Backbone.load(tiny_folder("sd1"))


def test_rows_are_a_function_of_the_step_and_begin_with_what_the_prior_says(prior: Backbone) -> None:
    task = task_of(prior)
    whole = task.batch(3, torch.arange(64), 64)
    parts = [task.batch(3, torch.arange(start, start + 32), 64) for start in (0, 32)]
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([part[name] for part in parts])), name
    assert 0 < (whole["asked"] == EMPTY).float().mean() < 0.3
    assert whole["masks"].shape == (64, 1, 16, 16) and whole["pictures"].shape == (64, 3, 16, 16)
    loss, _ = task.loss(task.model, whole)
    alone = prior.network(whole["noisy"], whole["timesteps"], task.words(whole["asked"]))
    torch.testing.assert_close(loss, task.objective.loss(alone, whole)[0])  # before the first step


def test_it_learns_tells_its_error_and_a_resumed_run_is_an_unbroken_one(prior: Backbone, tmp_path: Path) -> None:
    recipe = TrainingRecipe(steps=4, batch_size=4, learning_rate=1e-2, warmup_steps=0, checkpoint_every=2)
    cpu, before = torch.device("cpu"), prior.denoiser.get_parameter("conv_in.weight").clone()
    whole = train(task_of(prior), recipe, tmp_path / "whole", device=cpu)
    broken = task_of(prior)
    take = broken.batch

    def stops(step: int, positions: torch.Tensor, batch_size: int) -> dict[str, torch.Tensor]:
        if step == 3:
            raise OSError("out of luck")
        return take(step, positions, batch_size)

    broken.batch = stops
    with pytest.raises(OSError, match="out of luck"):
        train(broken, recipe, tmp_path / "broken", device=cpu)
    resumed = train(task_of(prior), recipe, tmp_path / "broken", resume=True, device=cpu)
    assert all(torch.equal(value, resumed.ema[name]) for name, value in whole.ema.items())
    assert torch.equal(prior.denoiser.get_parameter("conv_in.weight"), before)  # the prior stays as it is
    told = measured(tmp_path / "whole")
    assert [line["step"] for line in told] == [2, 4] and 0 < told[0]["first"] < told[1]["first"]


# -- scores and the stage ------------------------------------------------------------------------------------------


def test_a_seam_is_zero_of_the_truth_and_the_height_of_a_step() -> None:
    random = np.random.default_rng(0)
    true = random.integers(100, 120, (3, 16, 16, 3)).astype(np.uint8)
    masks = np.zeros((3, 16, 16), bool)
    masks[:, 4:12, 4:] = True
    assert inpaint_scores.steeper(true, true, masks) == 0
    flat, stepped = np.full_like(true, 100), np.full_like(true, 100)
    stepped[masks] += 30
    assert inpaint_scores.steeper(stepped, flat, masks) == 30
    inside = true.copy()
    inside[:, 6:10, 6:14] = 0  # no neighbour of the edge
    assert inpaint_scores.steeper(inside, true, masks) == 0
    ramp = np.broadcast_to(np.arange(0, 64, 4, dtype=np.uint8)[:, None], (3, 16, 16, 3)).copy()  # 4 levels a column
    ramp = np.ascontiguousarray(ramp.swapaxes(1, 2) // 2 + ramp // 2)  # 2 levels to either neighbour
    assert inpaint_scores.seam(ramp, masks) == pytest.approx(1)
    ramp[masks] += 6  # up or down by 6 more across the edge
    assert inpaint_scores.seam(ramp, masks) > 2


@pytest.mark.parametrize("kind", inpaint_scores.KINDS)
def test_scored_masks_have_something_of_both(kind: str) -> None:
    body = np.zeros((64, 64), bool)
    body[20:40, 25:45] = True
    for seed in range(8):
        mask = inpaint_scores.mask_of(kind, body, np.random.default_rng(seed))
        assert mask.shape == body.shape and mask.any() and not mask.all()
    if kind == "object":
        assert mask.sum() == 26 * 26 and mask[17:43, 22:48].all()


@pytest.mark.parametrize("way", [(wider, side) for wider in (25, 50) for side in inpaint_scores.SIDES], ids=str)
def test_a_cut_picture_is_to_be_drawn_on_by_what_it_lost(way: tuple[int, str]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    canvas, mask = inpaint_scores.cut_and_widened(picture, way)
    assert canvas.shape == picture.shape and np.array_equal(canvas[~mask], picture[~mask])
    assert mask.sum() == (12 if way[0] == 25 else 20) * 60  # 12 of 48, 20 of 40
    lost = {"left": mask[:, 0], "right": mask[:, -1], "top": mask[0], "bottom": mask[-1]}[way[1]]
    assert lost.all()


@pytest.mark.slow
def test_the_stage_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the prior, then from what stands; the folder is small and loads."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(inpaint_scores, "SCORED", 8)
    monkeypatch.setattr(inpaint_scores, "FOLLOWED", 2)
    monkeypatch.setattr(inpaint_scores.scores, "STEPS", 2)
    for name in ("toybox-sd", "toybox-judge"):
        (tmp_path / "assets").mkdir(exist_ok=True)
        (tmp_path / "assets" / name).symlink_to(assets_folder() / name)
    changes = (("steps", 2), ("batch_size", 4), ("checkpoint_every", 2))
    setup = TrainingSetup(tmp_path / "assets", tmp_path / "runs", pictures=16, changes=changes,
                          device=torch.device("cpu"))  # fmt: skip
    for resume in (True, False):
        found = INPAINT.run(replace(setup, resume=resume))
        assert 0 <= found["both"] <= 1 and found["changed"] == found["out50_changed_prior"] == 0
    folder = setup.assets / INPAINT.folder
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2.2e6
    assert load_inpainter(folder).takes_mask and RANK == 20
    assert "| inpaint | both |" in (folder / "README.md").read_text()
    assert len(json.loads((folder / "training.json").read_text())) == 2
    errors = measured(setup.runs / "inpaint")
    assert errors and {"masked_error", "bare_seam"} <= errors[0].keys()
