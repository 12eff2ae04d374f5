"""genvideo: the 2D prior lifted into time.

Names are imported when they are first used, so `import genvideo` costs nothing.
"""

from typing import TYPE_CHECKING

from core2d import __version__ as __version__
from core2d import lazy_names

if TYPE_CHECKING:
    from core2d.media.videos import read_video as read_video
    from core2d.media.videos import write_video as write_video
    from genvideo.animatediff.formats import read_motion as read_motion
    from genvideo.animatediff.formats import write_motion as write_motion
    from genvideo.animatediff.motion import MotionBackbone as MotionBackbone
    from genvideo.animatediff.motion import fresh_motion as fresh_motion
    from genvideo.animatediff.pipeline import AnimateDiff as AnimateDiff
    from genvideo.animatediff.sparse_control import SparseControl as SparseControl
    from genvideo.animatediff.sparse_control import read_sparse_control as read_sparse_control
    from genvideo.animatediff.task import MotionTask as MotionTask


_HOME = {
    "AnimateDiff": "genvideo.animatediff.pipeline",
    "MotionBackbone": "genvideo.animatediff.motion",
    "MotionTask": "genvideo.animatediff.task",
    "SparseControl": "genvideo.animatediff.sparse_control",
    "fresh_motion": "genvideo.animatediff.motion",
    "read_motion": "genvideo.animatediff.formats",
    "read_sparse_control": "genvideo.animatediff.sparse_control",
    "read_video": "core2d.media.videos",
    "write_motion": "genvideo.animatediff.formats",
    "write_video": "core2d.media.videos",
}

__getattr__, __dir__ = lazy_names(_HOME, globals())
