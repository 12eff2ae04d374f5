"""Several pictures as one file: a sheet, with the single pictures in a folder beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path
from core2d.media.pictures import image_grid, is_litter, save_image

LONGEST_STEM = 60  # characters of a file name that come from a prompt


def save_sheet(
    output: Path,
    images: Tensor,
    texts: Sequence[Mapping[str, Any]],
    sheet_text: Mapping[str, Any],
    columns: int | None = None,
) -> list[Path]:
    """Write one picture as it is; of several a sheet, and `000.png`, `001.png`, ... in a folder of the same name.

    Args:
        output: picture to write; the folder is called like it, without suffix.
        images: (n, 3, H, W) in [0, 1].
        texts: what is noted in each single picture, `sheet_text` what is noted in the sheet.
        columns: of the sheet; None for about a square.

    Returns:
        What was written, the output first.
    """
    if len(images) == 1:
        return [save_image(output, images[0], texts[0])]
    folder = output.with_suffix("")
    names = [f"{index:03d}{output.suffix}" for index in range(len(images))]
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, image, text in zip(names, images, texts, strict=True):
            save_image(temporary / name, image, text)
        save_image(output, image_grid(images, columns), sheet_text)
    return [output, *(folder / name for name in names)]


def check_singles(output: Path) -> None:
    """Refuse to replace a folder that holds anything but single pictures of an earlier run."""
    folder = output.with_suffix("")
    if folder.is_dir() and all(re.fullmatch(r"\d{3,}\.\w+", one.name) or is_litter(one) for one in folder.iterdir()):
        return
    if folder.exists():
        raise InputError(f"the single images would replace {folder}, which holds something else: name another output")


def stem_of(prompt: str, without_words: str) -> str:
    """The file name of what is made of a prompt, without suffix, whatever the other prompts are.

    A prompt of plain lower-case words is its own name. Any other gets a piece of its hash, so that no two share one.
    """
    words = re.findall(r"[a-z0-9]+", prompt.lower())
    stem = "-".join(words)[:LONGEST_STEM].strip("-")
    is_plain = stem.replace("-", " ") == prompt and not re.fullmatch(r"[0-9a-f]{8}", words[-1])
    return stem if is_plain else f"{stem or without_words}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
