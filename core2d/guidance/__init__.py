"""Score distillation. A guidance is a function of rendered images:

loss, info = guidance(images, prompt, cameras, step)
"""

from core2d.guidance.annealing import TimeRange
from core2d.guidance.base import Guidance, Learning
from core2d.guidance.csd import ClassifierScoreDistillation
from core2d.guidance.ism import IntervalScoreMatching
from core2d.guidance.perp_neg import PerpNegDistillation
from core2d.guidance.sdi import ScoreDistillationByInversion
from core2d.guidance.sds import ScoreDistillation, ScoreDistillationConfig
from core2d.guidance.view_prompts import ViewPrompts
from core2d.guidance.vsd import VariationalScoreDistillation

__all__ = [
    "ClassifierScoreDistillation",
    "Guidance",
    "IntervalScoreMatching",
    "Learning",
    "PerpNegDistillation",
    "ScoreDistillation",
    "ScoreDistillationByInversion",
    "ScoreDistillationConfig",
    "TimeRange",
    "VariationalScoreDistillation",
    "ViewPrompts",
]
