"""What `core2d models` is told. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelsRecipe:
    """List the bundled models, with their size on disk and the title of their card."""

    json: bool = False
    """Print exactly one JSON object on stdout instead of text."""

    def check(self) -> None:
        """Nothing can be wrong."""
