"""What NumPy does at an overflow or a division by zero: set by this package, whatever a caller or a module has set.

NumPy's state belongs to a thread and its callers, so without this which cells of a sweep fail would depend on who had
imported what before in the same process.
"""

import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import numpy as np

_IMPORTING = threading.RLock()


def own_state() -> np.errstate:
    """State in which this package computes: nothing is raised or told, results that must be finite are looked at."""
    return np.errstate(all="ignore")


def users_state() -> np.errstate:
    """State in which code of a user runs: NumPy's defaults."""
    return np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")


def import_undisturbed(name: str) -> ModuleType:
    """Import a module; what it sets of this process, which others rely on, ends with the import.

    That is NumPy's state, Python's warnings, a lower limit of recursion, what SIGINT and SIGTERM do, and the working
    directory, from which the paths of a run are told.
    """
    with _IMPORTING:
        if name in sys.modules:
            return importlib.import_module(name)
        with np.errstate(), np.printoptions(), warnings.catch_warnings(), _process():
            return importlib.import_module(name)


@contextmanager
def _process() -> Iterator[None]:
    """Keep recursion, signals and the working directory."""
    main = threading.current_thread() is threading.main_thread()  # only this one can change handlers
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    recursion, folder = sys.getrecursionlimit(), None
    with suppress(OSError):  # it is gone
        folder = Path.cwd()
    try:
        yield
    finally:
        sys.setrecursionlimit(max(recursion, sys.getrecursionlimit()))
        for number, handler in handlers.items():
            if handler is not None:  # one that was not set in Python cannot be set again from it
                signal.signal(number, handler)
        with suppress(OSError):
            os.chdir(folder or os.curdir)
