"""Fixtures for the tests of gen3d."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_zero123 import tiny_zero123
from PIL import Image

from gen3d.__main__ import main
from gen3d.zero123.formats import write_zero123

Told = tuple[int, dict[str, Any], str]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Follow `gen3d WORDS --json`: exit status, report, and what stderr says."""

    def follow(*words: object) -> Told:
        status: Any = 0
        try:
            main([*map(str, words), "--json"])
        except SystemExit as leaving:
            status = leaving.code
        said = capfd.readouterr()
        return status, json.loads(said.out) if said.out else {}, said.err

    return follow


@pytest.fixture
def zero123_folder(tmp_path: Path) -> Path:
    """A tiny random Zero-1-to-3 that draws 16 pixels."""
    write_zero123(tmp_path / "model", tiny_zero123(sample_size=8), "diffusers")
    return tmp_path / "model"


@pytest.fixture
def cut_out(tmp_path: Path) -> Path:
    """A red block on a clear ground."""
    pixels = np.zeros((40, 30, 4), np.uint8)
    pixels[5:35, 8:22] = (200, 30, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    return tmp_path / "red.png"
