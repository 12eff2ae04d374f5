"""Where models lie: the bundled ones, folders of the user, and the local Hugging Face cache. No torch
here.
"""

from pathlib import Path

from core2d.app.errors import InputError


def assets_folder() -> Path:
    """The folder of bundled models and example inputs: `assets/` of a checkout, `core2d/_assets` of a
    wheel.
    """
    package = Path(__file__).resolve().parent.parent
    installed = package / "_assets"
    return installed if installed.is_dir() else package.parent / "assets"


def bundled() -> dict[str, Path]:
    """Name -> folder of the models that come with the package: every folder of the assets that has a card."""
    return {card.parent.name: card.parent for card in sorted(assets_folder().glob("*/README.md"))}


def resolve(name_or_folder: str | Path) -> Path:
    """The folder of a model: a bundled name, a local folder, or a hub id that is already in the local cache.

    Never reaches for the network. Raises InputError, naming the bundled models, if there is no such model.
    """
    models = bundled()
    if str(name_or_folder) in models:
        return models[str(name_or_folder)]
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"model {str(name_or_folder)!r} is a file; give the folder of a diffusers model")
    cached = _cached_snapshot(str(name_or_folder))
    if cached is not None:
        return cached
    known = ", ".join(models) or "none"
    raise InputError(f"no model {str(name_or_folder)!r}: not a folder, and not a bundled model (bundled: {known})")


def _cached_snapshot(hub_id: str) -> Path | None:
    """The snapshot of a hub id like `owner/name` in the local Hugging Face cache, if it was downloaded
    before.
    """
    owner, slash, name = hub_id.partition("/")
    if not (owner and slash and name) or "/" in name:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
