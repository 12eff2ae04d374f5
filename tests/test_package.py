"""The package as a whole: what is imported when, who may import whom, what a wheel holds."""

import ast
import hashlib
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import core2d

ROOT = Path(__file__).resolve().parents[1]


def python(program: str, **settings: object) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, **settings).stdout  # type: ignore


@pytest.mark.parametrize("package", ["core2d", "gen3d", "genvideo"])
def test_importing_a_package_costs_nothing(package: str):
    loaded = python(f"import sys; before = set(sys.modules); import {package}; print(*set(sys.modules) - before)")
    outside = {name for name in loaded.split() if name.split(".")[0] not in (*sys.stdlib_module_names, package)}
    assert outside <= {"core2d"}


@pytest.mark.parametrize("name", core2d._HOME)
def test_every_exported_name_is_there(name: str):
    value = getattr(core2d, name)
    assert value.__name__ == name and value.__module__ == core2d._HOME[name]
    assert name in dir(core2d)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = core2d.Nonsense
    with pytest.raises(ImportError):
        from core2d import Nonsense  # noqa: F401 # pyright: ignore


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("core2d", {"gen3d", "genvideo"}), ("gen3d", {"genvideo"}), ("genvideo", {"gen3d"})],
)
def test_arrows_point_down(package: str, forbidden: set[str]):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
                assert node.level == 0, f"{file} line {node.lineno}: a relative import"
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            imported = {name.split(".")[0] for name in names}
            assert not imported & forbidden, f"{file} line {node.lineno} imports {imported & forbidden}"


def test_what_git_ignores():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    kept = """
        gen3d/data/blender.py core2d/models/reader.py gen3d/mesh/build.py core2d/env/x.py genvideo/runs/x.py
        tests/gen3d/data/test_blender.py benchmarks/quality-prior.json core2d/run.py .ci/run
        assets/toybox-sd/unet/diffusion_pytorch_model.safetensors
    """.split()
    ignored = """
        .venv/bin/python core2d/__pycache__/x.pyc dist/x.whl demo/mug.png runs/1/log.jsonl a/mug.run/run.json
        .pytest_cache/x .ruff_cache/x liftkit.egg-info/x
    """.split()
    command = ["git", "check-ignore", "--no-index", *kept, *ignored]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert sorted(done.stdout.split()) == sorted(ignored)


def test_the_scripts_ask_for_a_torch_that_the_package_allows():
    text = (ROOT / "scripts" / "_setup.py").read_text()
    pinned = next(line for line in text.splitlines() if line.startswith("PINNED_TORCH")).split('"')[1]
    floor = next(
        requirement
        for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if requirement.startswith("torch>=")
    )
    version = [int(part) for part in pinned.removeprefix("torch==").split(".")]
    assert version >= [int(part) for part in floor.removeprefix("torch>=").split(".")]


# -- the wheel -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_wheel_holds_the_packages_the_assets_and_nothing_else(wheel: Path):
    assert {path.name for path in wheel.iterdir()} == {
        "core2d",
        "gen3d",
        "genvideo",
        "liftkit-0.1.0.dist-info",
    }
    for package in ("core2d", "gen3d", "genvideo"):
        found = {name: digest for name, digest in digests(wheel / package).items() if not name.startswith("_assets/")}
        assert found == digests(ROOT / package) and "py.typed" in found
    assert digests(wheel / "core2d" / "_assets") == digests(ROOT / "assets")
    licenses = {path.name for path in (wheel / "liftkit-0.1.0.dist-info" / "licenses").iterdir()}
    assert licenses == {"LICENSE", "NOTICE"}


def test_the_bundled_models_are_found_in_a_checkout_and_in_a_wheel(wheel: Path, tmp_path: Path):
    program = (
        "import json; from core2d.app.registry import assets_folder, bundled, resolve\n"
        "models = bundled()\n"
        "assert all(resolve(name) == folder for name, folder in models.items())\n"
        "print(json.dumps([str(assets_folder()), sorted(models)]))"
    )
    names = sorted(card.parent.name for card in (ROOT / "assets").glob("*/README.md"))
    assert {"toybox-clip", "toybox-sd"} <= set(names)
    for place, assets in ((ROOT, ROOT / "assets"), (wheel, wheel / "core2d" / "_assets")):
        found = python(program, cwd=tmp_path, env={"PYTHONPATH": str(place)})
        assert json.loads(found) == [str(assets), names]


def test_everything_bundled_stays_small():
    size = sum(path.stat().st_size for path in (ROOT / "assets").rglob("*") if path.is_file())
    assert 0 < size <= 48 * 2**20
