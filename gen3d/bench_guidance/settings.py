"""How each guidance is asked.

A prior of Toybox is asked in its own manner by all of them (`gen3d.dreamfusion.task.manner_of`), so that they differ in
their formula and in nothing else. Priors that leave most of a picture open are asked as each guidance was published.
Noise levels, cameras, light and regularisers are those of the task for all.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from core2d.guidance import (
    ClassifierScoreDistillation,
    Guidance,
    IntervalScoreMatching,
    ScoreDistillation,
    ScoreDistillationByInversion,
    ScoreDistillationConfig,
    VariationalScoreDistillation,
)
from core2d.prior.base import Prior
from core2d.toybox import world
from gen3d.dreamfusion.task import Distill

KINDS: dict[str, type[ScoreDistillation]] = {
    "sds": ScoreDistillation,
    "vsd": VariationalScoreDistillation,
    "csd": ClassifierScoreDistillation,
    "ism": IntervalScoreMatching,
    "sdi": ScoreDistillationByInversion,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    # DreamFusion (2209.14988): guidance of 100, w = sigma^2 on the difference of noises
    "sds": {"guidance_scale": 100.0, "weighting": "sds", "form": "eps"},
    # ProlificDreamer (2305.16213): guidance of 7.5, weighted as SDS
    "vsd": {"guidance_scale": 7.5, "weighting": "sds", "form": "eps"},
    # CSD (2310.19415), equation 6: no scale to choose, weighted as SDS
    "csd": {"weighting": "sds", "form": "eps"},
    # LucidDreamer (2311.11284): guidance of 7.5; w = sigma / alpha on noises, which is 1 on pictures, in its code
    "ism": {"guidance_scale": 7.5, "weighting": "uniform", "form": "x0"},
    # SDI (2405.15891): guidance of 7.5, of -7.5 in the inversion; the squared distance to x0 in its code
    "sdi": {"guidance_scale": 7.5, "weighting": "uniform", "form": "x0"},
}


def distilling(name: str) -> Distill:
    """What makes the guidance of a run, for each background in turn: anew for each run."""
    made: list[ScoreDistillation] = []

    def distill(prior: Prior, settings: ScoreDistillationConfig, seed: int) -> Guidance:
        if prior.world != world.NAME:
            settings = replace(settings, rescale=0.0, space="latent", **PUBLISHED[name])
        if not made:
            made.append(KINDS[name](prior, settings, seed))
        one = copy.copy(made[0])  # low-rank layers of VSD are one for all backgrounds, which the prompt tells them
        one.config = settings
        return one

    return distill
