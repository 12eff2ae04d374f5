"""core2d: one 2D latent diffusion prior, and what everything that is built on it shares.

Names are imported when they are first used, so `import core2d` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core2d.backbone import Backbone as Backbone
    from core2d.cameras import Cameras as Cameras
    from core2d.errors import InputError as InputError
    from core2d.schedule import NoiseSchedule as NoiseSchedule
    from core2d.schedule import Prediction as Prediction
    from core2d.text_to_image import TextToImage as TextToImage

__version__ = "0.1.0"

_HOME = {
    "Backbone": "core2d.backbone",
    "Cameras": "core2d.cameras",
    "InputError": "core2d.errors",
    "NoiseSchedule": "core2d.schedule",
    "Prediction": "core2d.schedule",
    "TextToImage": "core2d.text_to_image",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'core2d' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
