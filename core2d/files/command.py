"""The work behind `core2d models` and `core2d models get`."""

import re
from pathlib import Path
from typing import Any

from core2d.app.program import Result
from core2d.app.registry import visible
from core2d.files.recipe import ModelsGetRecipe
from core2d.files.wheels import PUBLISHED, fetch


def models(recipe: Any) -> Result:
    """Size on disk and card title of every bundled model."""
    from core2d.app.registry import bundled

    return [], {name: describe_model(folder) for name, folder in sorted(bundled().items())}


def get_model(recipe: ModelsGetRecipe) -> Result:
    """Fetch a published model; its files, and the licence under which it is."""
    published = PUBLISHED[recipe.name]
    files = fetch(recipe.name)
    return files, {"package": published.package, "licence": published.licence, "use": published.use}


def describe_model(folder: Path) -> dict[str, Any]:
    """Megabytes (1e6 bytes) in `folder`, and the first line of its card that is text."""
    size = sum(file.stat().st_size for file in visible(folder, "**/*"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)  # without the hub's front matter
    title = next((line.strip("# ") for line in text.splitlines() if line.strip("# ")), "")
    return {"megabytes": round(size / 1e6, 2), "card": title}
