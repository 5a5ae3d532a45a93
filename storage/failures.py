"""The failed cells of a store, one by one and by their message."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from storage.grid_files import values_at
from storage.results import open_results
from storage.schema import Status


@dataclass(frozen=True)
class FailureGroup:
    """Failed cells with one message.

    Attributes
    ----------
    message : str
    cells : int
        How many there are.
    first : str
        Labels of the first of them.
    """

    message: str
    cells: int
    first: str

    def __str__(self) -> str:
        """One line for people."""
        if self.cells == 1:
            return f"{self.first}: {self.message}"
        return f"{self.cells} cells: {self.message}; first: {self.first}"


def failures(path: str | Path) -> list[str]:
    """Name each failed cell of a store with its message."""
    return [f"{labels}: {message}" for labels, message in _failed(open_results(path))]


def failure_groups(path: str | Path) -> list[FailureGroup]:
    """Failed cells of a store by their message, those with most cells first."""
    return grouped_failures(open_results(path))


def grouped_failures(ds: xr.Dataset) -> list[FailureGroup]:
    """Failed cells of a dataset by their message, those with most cells first."""
    found: dict[str, list[str]] = {}
    for labels, message in _failed(ds):
        found.setdefault(message, []).append(labels)
    groups = [FailureGroup(message, len(cells), cells[0]) for message, cells in found.items()]
    return sorted(groups, key=lambda group: -group.cells)


def _failed(ds: xr.Dataset) -> Iterator[tuple[str, str]]:
    """Labels and message of each failed cell."""
    failed = np.flatnonzero(ds["status"].values == Status.FAILED)
    if not len(failed):
        return
    axes = ds["status"].dims
    for *labels, message in zip(*values_at(ds, [*axes, "message"], failed).values(), strict=True):
        yield ", ".join(f"{axis}={label}" for axis, label in zip(axes, labels, strict=True)), str(message)
