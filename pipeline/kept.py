"""Blocks of a matrix that are needed hundreds of times: kept on disk where that is faster than making them."""

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from threading import Lock
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Matrix, RealArray, divided, entries_of

_LEFT_FREE = 0.25  # share of the space that the disk had free at first that is never taken
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
        self._matrix, self._scale, self._dtype = matrix, scale, np.dtype(dtype)
        self._folder = folder or tempfile.gettempdir()
        self._places: dict[tuple[int, int, int, int], int] = {}
        self._end = 0
        self._making, self._reading = 0.0, 0.0  # seconds an entry
        self._lock, self._full = Lock(), False
        self._file: BinaryIO | None = None
        self._free = 0
        with suppress(OSError):
            self._free = shutil.disk_usage(self._folder).free
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as this)
            weakref.finalize(self, self._file.close)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        n1, n2 = self._matrix.shape
        return n1, n2

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the entries."""
        return self._dtype

    def block(self, rows: slice, cols: slice) -> RealArray:
        """Entries of a contiguous row and column range; kept under these very bounds."""
        (top, bottom, _), (left, right, _) = (each.indices(n) for each, n in zip((rows, cols), self.shape, strict=True))
        place = self._places.get((top, bottom, left, right))
        started = perf_counter()
        if place is not None and self._reading <= self._making:
            entries = np.empty((bottom - top, right - left), self._dtype)
            if self._read(entries, place):
                self._reading = _measured(self._reading, (perf_counter() - started) / entries.size)
                return entries
        self._reading *= _FORGIVEN
        entries = divided(entries_of(self._matrix, rows, cols), self._scale, self._dtype)
        self._making = _measured(self._making, (perf_counter() - started) / max(entries.size, 1))
        if place is None:
            place = self._written(entries)
            if place is not None:
                self._places[top, bottom, left, right] = place
        return entries

    def _read(self, entries: RealArray, place: int) -> bool:
        """Fill an array from the file; whether that was possible."""
        with suppress(OSError):
            return self._file is not None and os.preadv(self._file.fileno(), [entries.data], place) == entries.nbytes
        return False

    def _written(self, entries: RealArray) -> int | None:
        """Write a block to the file; its place there, or None once the disk had no room."""
        if self._file is None or self._full:
            return None
        with self._lock:
            place = self._end
            self._end += entries.nbytes
        with suppress(OSError):
            room = shutil.disk_usage(self._folder).free - entries.nbytes > _LEFT_FREE * self._free
            if room and os.pwritev(self._file.fileno(), [entries.data], place) == entries.nbytes:
                return place
        self._full = True
        return None


def _measured(before: float, now: float) -> float:
    return _MEMORY * before + (1 - _MEMORY) * now if before else now
