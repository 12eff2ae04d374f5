"""Fixtures for the tests of gen3d."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gen3d.cli import main

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
