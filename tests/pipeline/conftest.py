"""One thread for linear algebra, and a user's own module, written for one test and forgotten after it."""

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import scipy.linalg  # noqa: F401 (its library must be loaded to be limited)
from threadpoolctl import threadpool_limits

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads and lose much where other processes run."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a source text to an importable module with a name of its own; return the name."""
    names = []

    def write(source: str) -> str:
        name = f"users_functions_{next(_NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)
