"""What NumPy does at an overflow or a division by zero: set by this package, whatever a caller or a module has set.

NumPy's state belongs to a thread and its callers, so without this which cells of a sweep fail would depend on who had
imported what before in the same process.
"""

import importlib
import sys
import warnings
from threading import RLock
from types import ModuleType

import numpy as np

_IMPORTING = RLock()


def own_state() -> np.errstate:
    """State in which this package computes: nothing is raised or told, results that must be finite are looked at."""
    return np.errstate(all="ignore")


def users_state() -> np.errstate:
    """State in which code of a user runs: NumPy's defaults."""
    return np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")


def import_undisturbed(name: str) -> ModuleType:
    """Import a module; what it sets of NumPy's error state and printing, and of Python's warnings, ends with that."""
    with _IMPORTING:
        if name in sys.modules:
            return importlib.import_module(name)
        with np.errstate(), np.printoptions(), warnings.catch_warnings():
            return importlib.import_module(name)
