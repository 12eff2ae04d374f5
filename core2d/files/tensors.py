"""All tensors of one file, whatever kind it is, and what its metadata say; no pickle is ever run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from core2d.app.errors import InputError
from core2d.files.loading import read_manifest
from core2d.files.pickles import read_state

PICKLES = (".ckpt", ".pth", ".pt", ".bin")


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """All tensors of a .safetensors file, or of a pickle through the allow-list reader.

    Raises:
        InputError: it is damaged, or of no such kind.
    """
    if path.suffix == ".safetensors":
        read_manifest([path])  # says what is wrong with a damaged one
        return load_file(path)
    if path.suffix in PICKLES:
        return read_state(path)
    raise InputError(f"{path} is no file of weights: give .safetensors or {', '.join(PICKLES)}")


def read_metadata(path: Path) -> Mapping[str, str]:
    """The metadata of a .safetensors file that can be read; other kinds have none."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_settings(path: Path, name: str) -> dict[str, Any] | None:
    """What the metadata of a file say under a name, which is to be a JSON object; None where they say nothing.

    Raises:
        InputError: it is none.
    """
    said = read_metadata(path).get(name)
    if not said:
        return None
    try:
        settings = json.loads(said)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds {name} that are no JSON object: it is damaged")
    return settings
