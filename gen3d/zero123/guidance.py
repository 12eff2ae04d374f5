"""Score distillation towards what one picture shows (2303.11328, section 3.3)."""

from __future__ import annotations

from torch import Tensor

from core2d.app.errors import InputError
from core2d.guidance import ScoreDistillation, ScoreDistillationConfig
from core2d.prior.cameras import Cameras, relative_view
from core2d.prior.schedule import Prediction
from gen3d.zero123.model import Reference, Zero123, nothing


class ViewDistillation(ScoreDistillation):
    """Score distillation towards what a picture shows from the camera of each render (section 3.3).

    Args:
        model: see there.
        seen: of one picture.
        source: the camera of that picture.
        config: of the distillation; its guidance scale is that of zeros for both conditions.
    """

    def __init__(
        self, model: Zero123, seen: Reference, source: Cameras, config: ScoreDistillationConfig, seed: int = 0
    ) -> None:
        if config.views != "auto":
            raise InputError(f'Zero-1-to-3 is told the view by itself: leave views at "auto", not "{config.views}"')
        super().__init__(model, config, seed)
        self.model, self.seen, self.source = model, seen, source

    def predict(self, x_t: Tensor, t: Tensor, prompt: str, cameras: Cameras | None) -> Prediction:
        if cameras is None:
            raise ValueError("Zero-1-to-3 needs to know from where a render is seen")
        condition = self.model.condition(self.seen, relative_view(self.source, cameras))
        scale, rescale = self.config.guidance_scale, self.config.rescale
        if scale == 1:
            return self.model.predict(x_t, t, condition)
        return self.model.predict_cfg(x_t, t, condition, nothing(condition), scale, rescale, rescale_on="x0")
