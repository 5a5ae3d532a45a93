"""Blocks of a matrix that are needed hundreds of times: kept on disk where that is faster than making them."""

import os
import shutil
import tempfile
import weakref
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Matrix, RealArray, divided, entries_of

_LEFT_FREE = 0.25  # share of the free space of the disk that is never taken
_MEMORY = 0.9  # weight of what was measured before
_FORGIVEN = 0.99  # what reading took counts less each time that a block is made, so that it is tried again


class ScaledMatrix:
    """F / scale in a precision, in blocks that are made once and then read, if reading is the faster.

    They are in a file without a name, which goes with the process, and which the operating system holds in memory as
    long as there is some to spare. How long an entry takes to be made and to be read is measured all the time.

    Parameters
    ----------
    matrix : ndarray or BlockMatrix
        F.
    scale : float
    dtype : dtype
        Of the entries.
    folder : str, optional
        Of the file; by default the system's for temporary ones.
    """

    def __init__(self, matrix: Matrix, scale: float, dtype: npt.DTypeLike, folder: str | None = None) -> None:
        self._matrix, self._scale, self._dtype, self._folder = matrix, scale, np.dtype(dtype), folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as this)
        weakref.finalize(self, self._file.close)
        self._places: dict[tuple[int, int, int, int], int] = {}
        self._end = 0
        self._making, self._reading = 0.0, 0.0  # seconds an entry
        self._lock = Lock()
        self._full = False

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        n1, n2 = self._matrix.shape
        return n1, n2

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the entries."""
        return self._dtype

    @property
    def kept_bytes(self) -> int:
        """Size of the file."""
        return self._end

    def block(self, rows: slice, cols: slice) -> RealArray:
        """Entries of a contiguous row and column range; kept under these very bounds."""
        key = rows.start, rows.stop, cols.start, cols.stop
        place = self._places.get(key)
        started = perf_counter()
        if place is not None and self._reading <= self._making:
            entries = np.empty((rows.stop - rows.start, cols.stop - cols.start), self._dtype)
            if os.preadv(self._file.fileno(), [entries.data], place) == entries.nbytes:
                self._reading = _measured(self._reading, (perf_counter() - started) / entries.size)
                return entries
        self._reading *= _FORGIVEN
        entries = divided(entries_of(self._matrix, rows, cols), self._scale, self._dtype)
        self._making = _measured(self._making, (perf_counter() - started) / entries.size)
        if place is None and not self._full:
            self._keep(key, entries)
        return entries

    def _keep(self, key: tuple[int, int, int, int], entries: RealArray) -> None:
        """Write a block to the file, unless the disk has no room for it."""
        with self._lock:
            place = self._end
            self._end += entries.nbytes
        try:
            usage = shutil.disk_usage(self._folder or tempfile.gettempdir())
            if usage.free - entries.nbytes > _LEFT_FREE * (usage.free + place):
                self._full = os.pwritev(self._file.fileno(), [entries.data], place) != entries.nbytes
            else:
                self._full = True
        except OSError:
            self._full = True
        if not self._full:
            self._places[key] = place


def _measured(before: float, now: float) -> float:
    return _MEMORY * before + (1 - _MEMORY) * now if before else now
