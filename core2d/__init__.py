"""core2d: one 2D latent diffusion prior, and what everything that is built on it shares.

Names are imported when they are first used, so `import core2d` costs nothing.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core2d.app.errors import InputError as InputError
    from core2d.guidance.perp_neg import PerpNegDistillation as PerpNegDistillation
    from core2d.guidance.sds import ScoreDistillation as ScoreDistillation
    from core2d.guidance.sds import ScoreDistillationConfig as ScoreDistillationConfig
    from core2d.prior.backbone import Backbone as Backbone
    from core2d.prior.base import Prior as Prior
    from core2d.prior.cameras import Cameras as Cameras
    from core2d.prior.cameras import degrees as degrees
    from core2d.prior.cameras import orbit as orbit
    from core2d.prior.condition import Adapter as Adapter
    from core2d.prior.condition import Condition as Condition
    from core2d.prior.condition import Inputs as Inputs
    from core2d.prior.oracle import OracleBackbone as OracleBackbone
    from core2d.prior.schedule import NoiseSchedule as NoiseSchedule
    from core2d.prior.schedule import Prediction as Prediction
    from core2d.systems.inpaint.pipeline import Inpaint as Inpaint
    from core2d.systems.text_to_image.pipeline import TextToImage as TextToImage
    from core2d.training.loop import train as train
    from core2d.training.recipe import TrainingRecipe as TrainingRecipe

__version__ = "0.1.0"

_HOME = {
    "Adapter": "core2d.prior.condition",
    "Backbone": "core2d.prior.backbone",
    "Cameras": "core2d.prior.cameras",
    "Condition": "core2d.prior.condition",
    "Inpaint": "core2d.systems.inpaint.pipeline",
    "InputError": "core2d.app.errors",
    "Inputs": "core2d.prior.condition",
    "NoiseSchedule": "core2d.prior.schedule",
    "OracleBackbone": "core2d.prior.oracle",
    "PerpNegDistillation": "core2d.guidance.perp_neg",
    "Prediction": "core2d.prior.schedule",
    "Prior": "core2d.prior.base",
    "ScoreDistillation": "core2d.guidance.sds",
    "ScoreDistillationConfig": "core2d.guidance.sds",
    "TextToImage": "core2d.systems.text_to_image.pipeline",
    "TrainingRecipe": "core2d.training.recipe",
    "degrees": "core2d.prior.cameras",
    "orbit": "core2d.prior.cameras",
    "train": "core2d.training.loop",
}


def lazy_names(
    home: Mapping[str, str], package: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose names are imported when they are first used.

    Args:
        home: the module in which each public name stands.
        package: `globals()` of the package, where a name is kept once it was used.
    """

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        value = getattr(import_module(home[name]), name)
        package[name] = value  # the next look-up does not come here
        return value

    return find, lambda: sorted({*package, *home})


__getattr__, __dir__ = lazy_names(_HOME, globals())
