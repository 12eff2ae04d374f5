"""core2d: one 2D latent diffusion prior, and what everything that is built on it shares.

Names are imported when they are first used, so `import core2d` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core2d.app.errors import InputError as InputError
    from core2d.prior.backbone import Backbone as Backbone
    from core2d.prior.cameras import Cameras as Cameras
    from core2d.prior.schedule import NoiseSchedule as NoiseSchedule
    from core2d.prior.schedule import Prediction as Prediction
    from core2d.systems.text_to_image.pipeline import TextToImage as TextToImage

__version__ = "0.1.0"

_HOME = {
    "Backbone": "core2d.prior.backbone",
    "Cameras": "core2d.prior.cameras",
    "InputError": "core2d.app.errors",
    "NoiseSchedule": "core2d.prior.schedule",
    "Prediction": "core2d.prior.schedule",
    "TextToImage": "core2d.systems.text_to_image.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'core2d' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
