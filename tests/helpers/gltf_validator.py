"""Khronos' own glTF-Validator, an npm package that node runs; it is installed once, into the user's cache."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

VERSION = "2.0.0-dev.3.10"
PROGRAM = """
const validator = require(process.argv[1]);
const bytes = new Uint8Array(require("fs").readFileSync(process.argv[2]));
validator.validateBytes(bytes).then(report => console.log(JSON.stringify(report)));
"""


def validate(path: Path) -> dict[str, Any]:
    """The report on a glTF file: `issues` has numErrors, numWarnings, numInfos, numHints and messages."""
    command = ["node", "-e", PROGRAM, str(_installed()), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def _installed() -> Path:
    """The folder of the package. Without node or network the test is skipped, or fails where CI is set."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liftkit"
    package = cache / f"gltf-validator-{VERSION}"
    if shutil.which("node") is None:
        _give_up("node is not installed")
    if not package.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder]
            command = ["npm", "install", *options, f"gltf-validator@{VERSION}"]
            try:
                subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
            except (OSError, subprocess.SubprocessError) as error:
                _give_up(f"npm cannot install gltf-validator: {getattr(error, 'stderr', None) or error}")
            if not package.is_dir():  # another test process may have been faster
                (Path(folder) / "node_modules" / "gltf-validator").rename(package)
    return package


def _give_up(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
