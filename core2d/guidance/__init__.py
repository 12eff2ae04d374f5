"""Score distillation. A guidance is a function of rendered images:

loss, info = guidance(images, prompt, cameras, step)
"""

from core2d.guidance.annealing import TimeRange
from core2d.guidance.base import Guidance, Learning
from core2d.guidance.perp_neg import PerpNegDistillation
from core2d.guidance.sds import ScoreDistillation, ScoreDistillationConfig
from core2d.guidance.view_prompts import ViewPrompts

__all__ = [
    "Guidance",
    "Learning",
    "PerpNegDistillation",
    "ScoreDistillation",
    "ScoreDistillationConfig",
    "TimeRange",
    "ViewPrompts",
]
