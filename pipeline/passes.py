"""Passes over a matrix too large to be held: each entry is made where it is needed, used, and forgotten.

A pass gives every group of rows to a kernel, which goes through their entries tile by tile and returns what it found.
Groups and tiles depend on the shape alone, so a pass yields the same numbers whoever works on the groups: the caller, a
few threads, or a cluster.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.arrays import BlockMatrix, FloatArray, Matrix

STORED_BYTES = 2 * 2**30
"""Matrices beyond this are made anew in each pass."""
GROUP_ROWS = 1024
_GROUP_ENTRIES = 2**22
TILE_COLUMNS = 2048


@dataclass(frozen=True)
class Piece:
    """What a kernel finds in a group of rows, or a pass in all.

    Attributes
    ----------
    rows : ndarray of shape (number of rows, k)
        A row for each row of the matrix; k may be 0.
    largest : float
        A maximum over entries; NaN if one of them is.
    """

    rows: FloatArray
    largest: float = 0.0


Kernel: TypeAlias = Callable[[Matrix, slice, tuple[FloatArray, ...], tuple[FloatArray, ...]], Piece]
"""Maps (matrix, rows, arrays that all groups share, rows' parts of arrays of n1 rows) to a piece; a plain function."""


class Passes(Protocol):
    """A matrix, and who works on its groups of rows."""

    matrix: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        ...

    def run(
        self,
        kernel: Kernel,
        shared: Sequence[FloatArray] = (),
        by_rows: Sequence[FloatArray] = (),
        *,
        transposed: bool = False,
    ) -> Piece:
        """Make one pass.

        Parameters
        ----------
        kernel : callable
        shared : sequence of ndarray
            What every group needs.
        by_rows : sequence of ndarray of shape (n1, …)
            What each group needs its own rows of.
        transposed : bool
            Whether the pass is over the transpose: its rows are the columns of the matrix, so that products with both
            are found row by row, and nothing of the size of the product has to be added up.
        """
        ...


def row_groups(shape: tuple[int, int]) -> list[slice]:
    """Groups of rows that a kernel is given; they depend on the shape alone."""
    step = max(GROUP_ROWS, _GROUP_ENTRIES // shape[1] // 256 * 256)
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def joined(pieces: Sequence[Piece]) -> Piece:
    """Piece of all groups, given in order."""
    return Piece(np.concatenate([piece.rows for piece in pieces]), float(np.max([piece.largest for piece in pieces])))


@dataclass(frozen=True)
class Transposed:
    """The transpose of a matrix."""

    matrix: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        n1, n2 = self.matrix.shape
        return n2, n1

    def block(self, rows: slice, cols: slice) -> FloatArray:
        """Entries of a contiguous row and column range."""
        return (self.matrix[cols, rows] if isinstance(self.matrix, np.ndarray) else self.matrix.block(cols, rows)).T


class LocalPasses:
    """Passes made by threads of this process.

    Parameters
    ----------
    matrix : array or BlockMatrix of shape (n1, n2)
    threads : int
    """

    def __init__(self, matrix: Matrix, threads: int = 1) -> None:
        self.matrix = matrix
        self._threads = threads

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        n1, n2 = self.matrix.shape
        return n1, n2

    def run(
        self,
        kernel: Kernel,
        shared: Sequence[FloatArray] = (),
        by_rows: Sequence[FloatArray] = (),
        *,
        transposed: bool = False,
    ) -> Piece:
        """Make one pass."""
        matrix = Transposed(self.matrix) if transposed else self.matrix

        def work(rows: slice) -> Piece:
            return kernel(matrix, rows, tuple(shared), tuple(each[rows] for each in by_rows))

        groups = row_groups((matrix.shape[0], matrix.shape[1]))
        if self._threads == 1 or len(groups) == 1:
            return joined(list(map(work, groups)))
        with threadpool_limits(1), ThreadPoolExecutor(self._threads) as pool:
            return joined(list(pool.map(work, groups)))


def as_passes(matrix: "Matrix | Passes") -> Passes:
    """Passes over a matrix by one thread, unless they are given."""
    return LocalPasses(matrix) if isinstance(matrix, np.ndarray | BlockMatrix) else matrix


def tiles(matrix: Matrix, rows: slice) -> Iterator[tuple[slice, slice, FloatArray]]:
    """Go through the entries of a group: rows within the group, columns, and the entries.

    A stored matrix has the same tiles as another one, so that products of both are rounded alike.
    """
    for top in range(rows.start, rows.stop, GROUP_ROWS):
        bottom = min(top + GROUP_ROWS, rows.stop)
        for left in range(0, matrix.shape[1], TILE_COLUMNS):
            block = slice(top, bottom), slice(left, min(left + TILE_COLUMNS, matrix.shape[1]))
            entries = matrix[block] if isinstance(matrix, np.ndarray) else matrix.block(*block)
            yield slice(top - rows.start, bottom - rows.start), block[1], entries


def times(matrix: Matrix, rows: slice, shared: tuple[FloatArray, ...], by_rows: tuple[FloatArray, ...]) -> Piece:
    """Kernel of F @ thin."""
    (thin,) = shared
    product = np.zeros((rows.stop - rows.start, thin.shape[1]))
    for within, cols, entries in tiles(matrix, rows):
        product[within] += entries @ thin[cols]
    return Piece(product)


def largest_entry(
    matrix: Matrix, rows: slice, shared: tuple[FloatArray, ...], by_rows: tuple[FloatArray, ...]
) -> Piece:
    """Kernel of max |F|."""
    largest = np.max([_max_abs(entries) for _, _, entries in tiles(matrix, rows)])
    return Piece(_no_columns(rows), largest=float(largest))


def largest_residual(
    matrix: Matrix, rows: slice, shared: tuple[FloatArray, ...], by_rows: tuple[FloatArray, ...]
) -> Piece:
    """Kernel of max |F − left @ right.T|."""
    (right,), (left,) = shared, by_rows
    found = []
    for within, cols, entries in tiles(matrix, rows):
        residual = left[within] @ right[cols].T
        residual -= entries
        found.append(_max_abs(residual))
    return Piece(_no_columns(rows), largest=float(np.max(found)))


def max_norm(matrix: Matrix | Passes) -> float:
    """Return the largest absolute value of an entry, ‖F‖_max."""
    return as_passes(matrix).run(largest_entry).largest


def max_error(matrix: Matrix | Passes, left: FloatArray, right: FloatArray) -> float:
    """Return max |F − left @ right.T| in float64.

    Parameters
    ----------
    matrix : array, BlockMatrix or Passes of shape (n1, n2)
    left : ndarray of shape (n1, r)
    right : ndarray of shape (n2, r)
    """
    return as_passes(matrix).run(largest_residual, [right], [left]).largest


def _no_columns(rows: slice) -> FloatArray:
    return np.empty((rows.stop - rows.start, 0))


def _max_abs(entries: FloatArray) -> float:
    return float(np.max([entries.max(), -entries.min()])) + 0.0  # no negative zero; keeps NaN
