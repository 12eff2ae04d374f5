"""Every snippet of the README runs as it stands, and every command in it is one that there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PROSE = re.sub(r"```python\n.*?```", "", README, flags=re.DOTALL)
COMMANDS = sorted(set(re.findall(r"((?:core2d|gen3d|genvideo) [a-z][a-z0-9-]*(?: check| sheet)?)", PROSE)))
SHORTER = """
from dataclasses import replace
from gen3d.dreamfusion import recipe
recipe.QUALITIES.update({name: replace(one, steps=8, coarse_size=16) for name, one in recipe.QUALITIES.items()})
"""  # a mesh of the promised quality takes a minute; what is tried here is that the snippet is right


def run(program: str, folder: Path) -> None:
    around = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=around, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def title(snippet: str) -> str:
    return re.findall(r"^from (?!pathlib|dataclasses)(\w+)", snippet, re.MULTILINE)[-1]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"{index}-{title(one)}" for index, one in enumerate(SNIPPETS)])
def test_a_snippet_runs_as_it_stands(snippet: str, tmp_path: Path):
    run((SHORTER if "text_to_mesh" in snippet else "") + snippet, tmp_path)
    for name in re.findall(r'save(?:_mesh)?\("([\w.]+)"', snippet):
        assert (tmp_path / name).stat().st_size > 500, name


def test_there_are_snippets_and_commands_to_try():
    assert len(SNIPPETS) == 4 and len(COMMANDS) >= 7


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_there(command: str):
    program, *words = command.split()
    done = subprocess.run([Path(sys.executable).parent / program, *words, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage:"), done.stderr


def test_every_picture_and_page_that_is_named_is_there():
    for page in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize("package", ["core2d", "gen3d", "genvideo"])
def test_public_names_are_there_and_cost_nothing_until_used(package: str, tmp_path: Path):
    run(
        f"import sys, {package}\n"
        f"assert not {{'torch', 'numpy', 'diffusers'}} & set(sys.modules)\n"
        f"names = {package}._HOME\n"
        f"assert set(names) <= set(dir({package}))\n"
        f"for name, home in names.items():\n"
        f"    value = getattr({package}, name)\n"
        f"    assert value is getattr(sys.modules[home], name) and not isinstance(value, type(sys)), name\n",
        tmp_path,
    )
