"""Folders of diffusers: every part's weights against the names and shapes that its config says.

Our loader refuses a folder where anything differs. Stock `from_pretrained` fills what is missing with numbers at
random, leaves what it does not know, and refuses other shapes; of the first two it writes a line to a log.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import transformers
from torch import nn

from core2d.app.errors import InputError
from core2d.files.loading import compare_with_config, quiet_libraries, read_json, weights_files
from core2d.files.manifests import Comparison, Manifest
from core2d.systems.verify.contents import Contents, read_contents
from core2d.systems.verify.loaders import Answer

LEFT_ANYWAY = "position_ids"  # that old versions of transformers saved


def parts_of(folder: Path) -> dict[str, tuple[Path, Any]]:
    """Folder and class of every model in a folder of diffusers: of its parts, or of the one model that it is.

    Raises:
        InputError: it is neither, or of a class that is not known.
    """
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        return {
            folder.name: (folder, class_of(folder, [config.get("_class_name"), *(config.get("architectures") or [])]))
        }
    if not (folder / "model_index.json").is_file():
        raise InputError(f"{folder} is no folder of a model: it has neither model_index.json nor config.json")
    index = read_json(folder / "model_index.json")
    named = {
        name: value[1] for name, value in index.items() if isinstance(value, list) and len(value) == 2 and value[1]
    }
    return {
        name: (folder / name, class_of(folder / name, [kind]))
        for name, kind in named.items()
        if (folder / name / "config.json").is_file()
    }


def class_of(folder: Path, names: list[Any]) -> Any:
    """The class of diffusers or transformers of one of these names; InputError where there is none such."""
    for name in names:
        for library in (diffusers, transformers):
            found = getattr(library, name, None) if isinstance(name, str) else None
            if isinstance(found, type) and issubclass(found, nn.Module):
                return found
    raise InputError(f"{folder} holds a {names[0]}, which is no network of diffusers or transformers")


def contents_of(folder: Path) -> list[Contents]:
    """What the weights files of a model hold."""
    files, _ = weights_files(folder)
    return [read_contents(path) for path in files]


def comparison(folder: Path, kind: Any, found: Manifest) -> Comparison:
    """How the weights differ from what the config says; InputError where that says nothing that could be built."""
    try:
        with quiet_libraries():
            return compare_with_config(kind, folder, found)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'config.json'} describes no model that could be built: {error}") from error


def answers(found: Manifest, differs: Comparison) -> dict[str, Answer]:
    """What our loader and the stock one do with one model."""
    unknown = [name for name in differs.unexpected if not name.endswith(LEFT_ANYWAY)]
    wrong = list(_told(differs._replace(unexpected=unknown)))
    taken = len(found) - len(unknown)
    mine = Answer(taken) if not wrong else Answer(error=f"does not fit its config.json: {', '.join(wrong)}")
    if differs.mismatched:
        stock = Answer(error=f"has another shape: {differs.mismatched[0]}")
    else:
        random = [f"{name} (missing: filled at random)" for name in differs.missing]
        stock = Answer(taken, (*random, *unknown), len(differs.unexpected) - len(unknown))
    return {"liftkit": mine, "diffusers": stock}


def _told(differs: Comparison) -> Iterator[str]:
    for names, what in zip(differs, ("missing", "unexpected", "of another shape"), strict=True):
        if names:
            yield f"{len(names)} tensors {what} (such as {names[0]})"
