"""What NumPy does at an overflow or a division by zero: set by this package, whatever a caller or a module has set.

NumPy's state belongs to a thread and its callers, so without this which cells of a sweep fail would depend on who had
imported what before in the same process.
"""

import importlib
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Import a module; what it sets of NumPy's state, Python's warnings and signal handlers ends with the import."""
    with _IMPORTING:
        if name in sys.modules:
            return importlib.import_module(name)
        with np.errstate(), np.printoptions(), warnings.catch_warnings(), _signal_handlers():
            return importlib.import_module(name)


@contextmanager
def _signal_handlers() -> Iterator[None]:
    """Keep what SIGINT and SIGTERM do in this process; only the main thread can have changed it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in held.items():
            if handler is not None:  # one that was not set in Python cannot be set again from it
                signal.signal(number, handler)
