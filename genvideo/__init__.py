"""genvideo: the 2D prior lifted into time."""

from core2d import __version__ as __version__
