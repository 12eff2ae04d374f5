"""Score distillation towards what one picture shows (2303.11328, section 3.3)."""

from __future__ import annotations

from core2d.app.errors import InputError
from core2d.guidance import ScoreDistillation, ScoreDistillationConfig
from core2d.guidance.sds import Told
from core2d.prior.cameras import Cameras, relative_view
from core2d.prior.condition import Condition
from gen3d.zero123.model import Reference, Zero123, nothing


class ViewDistillation(ScoreDistillation):
    """Score distillation towards what a picture shows from the camera of each render (section 3.3).

    Args:
        model: see there.
        reference: of one picture.
        source: the camera of that picture.
        config: of the distillation; its guidance scale is that of zeros for both conditions.
    """

    def __init__(
        self, model: Zero123, reference: Reference, source: Cameras, config: ScoreDistillationConfig, seed: int = 0
    ) -> None:
        if config.views != "auto":
            raise InputError(f'Zero-1-to-3 is told the view by itself: leave views at "auto", not "{config.views}"')
        super().__init__(model, config, seed)
        self.model, self.reference, self.source = model, reference, source

    def describe(self, told: Told) -> Condition:
        if told.cameras is None:
            raise ValueError("Zero-1-to-3 needs to know from where a render is seen")
        return self.model.condition(self.reference, relative_view(self.source, told.cameras))

    def unconditional(self, condition: Condition) -> Condition:
        return nothing(condition)
