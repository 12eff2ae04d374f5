"""The synthetic scenes of NeRF: transforms_train.json, and for val and test if they are there.

Source: NeRF (2003.08934), its data release; camera axes and world (Z up) are ours already.
"""

from __future__ import annotations

from pathlib import Path

from gen3d.data.nerfstudio import SPLITS, frames_of, read_json
from gen3d.data.pictures import Description, Split

DESCRIBED_IN = ("transforms_*.json",)  # beside the pictures, in the folder of a scene


def is_here(folder: Path) -> bool:
    """Whether a folder has this format."""
    return _path(folder, "train").is_file()


def read(folder: Path) -> Description:
    """Read the transforms of all splits. With the one for training alone, nothing is said of splits.

    Raises:
        InputError: not JSON, or not of this format; the file and the frame are named.
    """
    found: list[Split] = [split for split in SPLITS if _path(folder, split).is_file()]
    frames = []
    for split in found:
        path = _path(folder, split)
        frames += frames_of(path, read_json(path), split if len(found) > 1 else None)
    return Description(frames)


def _path(folder: Path, split: Split) -> Path:
    return folder / f"transforms_{split}.json"
