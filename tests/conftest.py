"""Fixtures that run the real command line against one real Prefect server."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.server import prefect_server

FUNCTIONS = '''
"""A user's functions, some of which misbehave at m = 3."""

import os
import signal
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist

HERE = Path(__file__).parent


def counted(x, y):
    """Leave a line a matrix."""
    with open(HERE / "calls.log", "a") as log:
        log.write(f"{x.shape} {x[0, 0]!r} {y[0, 0]!r}\\n")
    return np.exp(-cdist(x, y))


def picky(x, y):
    if x.shape[1] == 3 and not (HERE / "cured").exists():
        raise ValueError("no m = 3 here")
    return counted(x, y)


def undefined(x, y):
    values = counted(x, y)
    if x.shape[1] == 3 and not (HERE / "cured").exists():
        values[1, 2] = np.nan
    return values


def deadly(x, y):
    if x.shape[1] == 3 and not (HERE / "cured").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return counted(x, y)


def deadly_once(x, y):
    if x.shape[1] == 3:
        try:
            (HERE / "killed").touch(exist_ok=False)
        except FileExistsError:
            return counted(x, y)
        os.kill(os.getpid(), signal.SIGKILL)
    return counted(x, y)


def waiting(x, y):
    """At m = 3 tell that it is there, then wait until it may go on."""
    if x.shape[1] == 3:
        (HERE / "arrived").open("w").close()
        (HERE / "go").open("r").close()
    return counted(x, y)
'''


@pytest.fixture(scope="session")
def prefect_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect home of the whole test run."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def server_environment(prefect_folder: Path) -> Iterator[dict[str, str]]:
    """Environment that points at a Prefect server, as a user's own would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(prefect_folder))
        patch.delenv("PREFECT_API_URL", raising=False)
        with prefect_server() as wait:
            wait()
            environment = os.environ | {"EPSWEEP_ALLOW_CODE": "1"}
            patch.delenv("PREFECT_API_URL")
            yield environment


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the module of misbehaving functions, which is also importable here."""
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def write_spec(workspace: Path) -> Callable[..., Path]:
    """Write a spec of one block, small unless told otherwise; returns its path."""

    def write(name: str = "small", settings: str = "{certificate: {bound: tail}}", **changes: str) -> Path:
        block = {
            "function": "['mine:counted']",
            "sampling": "[ball-independent]",
            "m": "[2, 4]",
            "n": "[20]",
            "r": "[2]",
            "method": "[svd]",
            "seeds": "2",
        } | changes
        lines = "\n".join(f"    {key}: {value}" for key, value in block.items()).replace("    ", "  - ", 1)
        path = workspace / f"{name}.yaml"
        path.write_text(f"name: {name}\nsettings: {settings}\ngrid:\n{lines}\n")
        return path

    return write


@pytest.fixture
def epsweep(workspace: Path, server_environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in the workspace."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows", *map(str, arguments)]
        return subprocess.run(
            command, cwd=workspace, env=server_environment, capture_output=True, text=True, timeout=300
        )

    return run
