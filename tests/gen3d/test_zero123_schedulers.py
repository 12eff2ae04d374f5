"""Scheduler configs of Zero-1-to-3 folders that say less than those of today."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_zero123 import tiny_zero123

from gen3d.zero123.formats import PUBLISHED_SCHEDULER, read_zero123, write_zero123
from gen3d.zero123.pipeline import NovelViews, orbit_views


def draw(folder: Path, scheduler: str | None = None) -> torch.Tensor:
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    pipeline = NovelViews.from_pretrained(folder)
    return pipeline(picture, orbit_views(2), num_inference_steps=3, seed=0, scheduler=scheduler).images


@pytest.mark.parametrize("scheduler", [None, "ddim"])
@pytest.mark.parametrize("said", [{}, {"clip_sample": True, "steps_offset": 0}])
def test_outdated_configs_are_mended_as_by_the_pipeline_of_diffusers(
    tmp_path: Path, said: dict[str, Any], scheduler: str | None
) -> None:
    for name in ("today", "old"):
        write_zero123(tmp_path / name, tiny_zero123(), "diffusers")
    silent = {"set_alpha_to_one": False, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    (tmp_path / "old" / "scheduler" / "scheduler_config.json").write_text(json.dumps(silent | said))
    index = {"_class_name": "Zero1to3StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    (tmp_path / "old" / "model_index.json").write_text(json.dumps(index))
    found = read_zero123(tmp_path / "old")[0].scheduler_config
    assert found == PUBLISHED_SCHEDULER | said if said else found.items() < PUBLISHED_SCHEDULER.items()
    today, old = draw(tmp_path / "today", scheduler), draw(tmp_path / "old", scheduler)
    assert torch.equal(today, old) and today.isfinite().all() and today.std() > 0.01
