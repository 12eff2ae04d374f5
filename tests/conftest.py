"""Fixtures for all tests."""

import os
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

# Tests are of tiny tensors, where a second thread costs more than it brings; those that they start inherit it.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network is wrong
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

TinyFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_models() -> ModuleType:
    """The module `tests/helpers/tiny_models.py`, which importlib mode does not put on the path."""
    path = Path(__file__).parent / "helpers" / "tiny_models.py"
    spec = spec_from_file_location("tiny_models", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_folder(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> TinyFolder:
    """`tiny_folder("sd1", camera=True)` is a random diffusers folder of a family: sd1, sd2, sdxl or pixart.

    It is made once and shared by all tests: copy it before changing a file.
    """
    made: dict[tuple[str, bool], Path] = {}

    def folder(family: str, camera: bool = False) -> Path:
        if (family, camera) not in made:
            path = tmp_path_factory.mktemp(family) / "model"
            made[family, camera] = tiny_models.save_tiny_model(family, path, camera=camera)
        return made[family, camera]

    return folder
