"""Where models lie: the bundled ones, folders of the user, and the local Hugging Face cache. No torch
here.
"""

import re
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
    return {card.parent.name: card.parent for card in sorted(visible(assets_folder(), "*/README.md"))}


def visible(folder: Path, pattern: str) -> list[Path]:
    """Matching files below a folder, without hidden ones, such as the `._name` that macOS leaves beside `name`."""
    found = (path for path in folder.glob(pattern) if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def resolve(name_or_folder: str | Path) -> Path:
    """The folder of a model: a bundled name, a local folder, or a hub id that is already in the local cache.

    Never reaches for the network. Of a hub id it is the snapshot that `main` points to, however much of the model was
    fetched: diffusers fetches only the files that it needs.

    Raises:
        InputError: no such model, with the names of the bundled ones.
    """
    name, models = str(name_or_folder), bundled()
    if name in models:
        return models[name]
    try:
        folder = Path(name_or_folder).expanduser()
        if folder.is_dir():
            return folder
        is_file = folder.exists()
    except (OSError, RuntimeError) as error:  # too long, locked, or ~ of somebody unknown
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"model {name[:200]!r} cannot be looked for ({reason}): give the folder of a model") from error
    if is_file:
        raise InputError(f"model {name!r} is a file; give the folder of a diffusers model")
    known = ", ".join(models) or "none"
    if not _HUB_ID.fullmatch(name):
        raise InputError(f"no model {name!r}: not a folder, and not a bundled model (bundled: {known})")
    cached = _cached_snapshot(name)
    if cached is None:
        raise InputError(
            f"no model {name!r}: not a folder, not a bundled model (bundled: {known}), and nothing of it is in the "
            f"Hugging Face cache {_hub_cache()}: fetch it first, such as with `hf download {name}`"
        )
    return cached


_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def _hub_cache() -> Path:
    """Where Hugging Face's libraries keep what they fetched, by HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE or HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _cached_snapshot(hub_id: str) -> Path | None:
    """The snapshot of `owner/name` that `main` points to, None where nothing of the model was ever fetched.

    `huggingface_hub.snapshot_download` would refuse a snapshot that lacks any file of the repository, wanted or not.
    """
    model = _hub_cache() / f"models--{hub_id.replace('/', '--')}"
    main, snapshots = model / "refs" / "main", model / "snapshots"
    commit = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    if commit and (snapshots / commit).is_dir():
        return snapshots / commit
    others = sorted(folder for folder in snapshots.glob("*") if folder.is_dir())
    if not others:
        return None
    raise InputError(
        f"of {hub_id} the Hugging Face cache holds other revisions than main: fetch that, such as with "
        f"`hf download {hub_id}`, or give the folder of a revision, such as {others[0]}"
    )
