"""The rules of the house: style, formatting, types and the direction of imports."""

import itertools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]],
    ids=lambda command: " ".join(command),
)
def test_tree_passes(command: list[str]):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pins_cover_every_dependency():
    """Each direct dependency is pinned, so the README's commands install the versions that were tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    bare = {Requirement(spec).name.lower() for spec in wanted} - {project["name"]}
    assert {name.replace("_", "-") for name in bare} <= {name.replace("_", "-") for name in names}
