"""gen3d: the 2D prior lifted into space."""

from core2d import __version__ as __version__
