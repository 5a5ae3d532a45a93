"""Passes over a matrix too large to be held: each entry is made where it is needed, used, and forgotten.

A pass gives every group of rows to a kernel, which goes through their entries tile by tile and returns what it found.
Groups, tiles and the tree in which pieces are joined depend on the shape alone, so a pass yields the same
numbers whoever works on the groups: the caller, a few threads, or a cluster.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, TypeAlias

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.arithmetic import own_state
from pipeline.arrays import BlockMatrix, FloatArray, Matrix, RealArray, divided, entries_of
from pipeline.kept import ScaledMatrix

STORED_BYTES = 2 * 2**30
"""Matrices beyond this are made anew in each pass."""
PASSED_ENTRIES = 2**24
"""Iterative methods that can do with passes make them beyond this many entries, so that their results are the same
whether a matrix fits where they run or not."""
GROUP_ROWS = 1024
_GROUP_ENTRIES = 2**22
TILE_COLUMNS = 2048
PANEL_ROWS = 256
"""Of the tiles that iterative methods go through, whose work arrays are of the height of a tile."""


@dataclass(frozen=True)
class Piece:
    """What a kernel finds in a group of rows, or a pass in all.

    Attributes
    ----------
    rows : ndarray of shape (number of rows, k)
        A row for each row of the matrix; k may be 0.
    largest : float
        A maximum over entries; NaN if one of them is.
    totals : tuple of ndarray
        Sums over rows, such as a product with the transpose.
    """

    rows: RealArray
    largest: float = 0.0
    totals: tuple[RealArray, ...] = ()


Kernel: TypeAlias = Callable[[Matrix, slice, tuple[RealArray, ...], tuple[RealArray, ...]], Piece]
"""Maps (matrix, rows, arrays that all groups share, rows' parts of arrays of n1 rows) to a piece; a plain function."""


class Passes(Protocol):
    """A matrix, and who works on its groups of rows.

    Attributes
    ----------
    matrix : Matrix
    dtype : dtype
        Of its entries.
    """

    matrix: Matrix

    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        ...

    def run(
        self,
        kernel: Kernel,
        shared: Sequence[RealArray] = (),
        by_rows: Sequence[RealArray] = (),
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

    def scaled(self, scale: float, dtype: type[np.floating[Any]]) -> "Passes":
        """Passes over F / scale in a precision, for a method that makes hundreds of them: entries are kept on disk.

        They are kept by whoever works on their rows, where reading them takes less time than making them.
        """
        ...


def row_groups(shape: tuple[int, int]) -> list[slice]:
    """Groups of rows that a kernel is given; they depend on the shape alone."""
    step = max(GROUP_ROWS, _GROUP_ENTRIES // shape[1] // 256 * 256)
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


class Joining:
    """Joins the pieces of groups of rows two by two, in a tree whose shape depends on their number alone.

    Pieces may come in any order, and those of 2^k groups, the first a multiple of 2^k, or of what is left at the end,
    already joined elsewhere.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], Piece] = {}  # by height in the tree and number there

    def put(self, first: int, count: int, piece: Piece) -> None:
        """Take the piece of `count` groups from number `first` on."""
        height = (count - 1).bit_length()
        number = first >> height
        while (sibling := self._held.pop((height, number ^ 1), None)) is not None:
            piece = _joined(sibling, piece) if number % 2 else _joined(piece, sibling)
            height, number = height + 1, number >> 1
        self._held[height, number] = piece

    def whole(self) -> Piece:
        """Piece of all groups."""
        places = sorted(self._held, key=lambda place: place[1] << place[0])
        return reduce(lambda after, before: _joined(before, after), (self._held[place] for place in places[::-1]))


def _joined(before: Piece, after: Piece) -> Piece:
    rows = np.concatenate([before.rows, after.rows])
    totals = tuple(one + other for one, other in zip(before.totals, after.totals, strict=True))
    return Piece(rows, float(np.max([before.largest, after.largest])), totals)


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
        return entries_of(self.matrix, cols, rows).T


class LocalPasses:
    """Passes made by threads of this process.

    Parameters
    ----------
    matrix : array or BlockMatrix of shape (n1, n2)
    threads : int
    """

    def __init__(self, matrix: Matrix, threads: int = 1) -> None:
        self.matrix = matrix
        self.dtype = np.dtype(getattr(matrix, "dtype", np.float64))
        self._threads = threads
        self._scaled: dict[tuple[float, type[np.floating[Any]]], LocalPasses] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        n1, n2 = self.matrix.shape
        return n1, n2

    def run(
        self,
        kernel: Kernel,
        shared: Sequence[RealArray] = (),
        by_rows: Sequence[RealArray] = (),
        *,
        transposed: bool = False,
    ) -> Piece:
        """Make one pass."""
        matrix = Transposed(self.matrix) if transposed else self.matrix

        @own_state()  # threads of a pool begin with NumPy's defaults
        def work(rows: slice) -> Piece:
            return kernel(matrix, rows, tuple(shared), tuple(each[rows] for each in by_rows))

        groups, joining = row_groups((matrix.shape[0], matrix.shape[1])), Joining()
        if self._threads == 1 or len(groups) == 1:
            for index, rows in enumerate(groups):
                joining.put(index, 1, work(rows))
            return joining.whole()
        with threadpool_limits(1), ThreadPoolExecutor(self._threads) as pool:
            window: deque[tuple[int, Future[Piece]]] = deque()  # so that pieces do not wait in numbers
            for index, rows in enumerate(groups):
                window.append((index, pool.submit(work, rows)))
                if len(window) > self._threads:
                    first, future = window.popleft()
                    joining.put(first, 1, future.result())
            for index, future in window:
                joining.put(index, 1, future.result())
        return joining.whole()

    def scaled(self, scale: float, dtype: type[np.floating[Any]]) -> "LocalPasses":
        """Passes over F / scale in a precision; of a stored matrix over a copy."""
        if (scale, dtype) not in self._scaled:
            self._scaled.clear()  # memory, or a file, of the one before
            if isinstance(self.matrix, np.ndarray):
                matrix: Matrix = divided(self.matrix, scale, dtype)
            else:
                matrix = ScaledMatrix(self.matrix, scale, dtype)
            self._scaled[scale, dtype] = LocalPasses(matrix, self._threads)
        return self._scaled[scale, dtype]


def as_passes(matrix: "Matrix | Passes") -> Passes:
    """Passes over a matrix by one thread, unless they are given."""
    return LocalPasses(matrix) if isinstance(matrix, np.ndarray | BlockMatrix) else matrix


def tiles(matrix: Matrix, rows: slice) -> Iterator[tuple[slice, slice, FloatArray]]:
    """Go through the entries of a group: rows within the group, columns, and the entries.

    A stored matrix has the same tiles as another one, so that products of both are rounded alike.
    """
    for top in range(rows.start, rows.stop, GROUP_ROWS):
        bottom = min(top + GROUP_ROWS, rows.stop)
        for cols in columns(matrix):
            yield slice(top - rows.start, bottom - rows.start), cols, entries_of(matrix, slice(top, bottom), cols)


def panels(rows: slice) -> Iterator[slice]:
    """Parts of a group of rows that are no higher than `PANEL_ROWS`."""
    for top in range(rows.start, rows.stop, PANEL_ROWS):
        yield slice(top, min(top + PANEL_ROWS, rows.stop))


def columns(matrix: Matrix) -> Iterator[slice]:
    """Ranges of columns of the tiles."""
    for left in range(0, matrix.shape[1], TILE_COLUMNS):
        yield slice(left, min(left + TILE_COLUMNS, matrix.shape[1]))


def times(matrix: Matrix, rows: slice, shared: tuple[FloatArray, ...], by_rows: tuple[FloatArray, ...]) -> Piece:
    """Kernel of F @ thin."""
    (thin,) = shared
    product = np.zeros((rows.stop - rows.start, thin.shape[1]))
    for within, cols, entries in tiles(matrix, rows):
        product[within] += entries @ thin[cols]
    return Piece(product)


def times_and_back(matrix: Matrix, rows: slice, shared: tuple[RealArray, ...], by_rows: tuple[RealArray, ...]) -> Piece:
    """Kernel of Y = F @ thin and of Fᵀ Y, which each entry is made once for."""
    (thin,) = shared
    product, total = np.zeros((rows.stop - rows.start, thin.shape[1])), np.zeros(thin.shape)
    held = np.empty((min(PANEL_ROWS, len(product)), matrix.shape[1]))
    for panel in panels(rows):
        within = slice(panel.start - rows.start, panel.stop - rows.start)
        for _, cols, entries in tiles(matrix, panel):
            held[: len(entries), cols] = entries
            product[within] += entries @ thin[cols]
        for cols in columns(matrix):
            total[cols] += held[: panel.stop - panel.start, cols].T @ product[within]
    return Piece(product, totals=(total,))


def largest_entry(
    matrix: Matrix, rows: slice, shared: tuple[FloatArray, ...], by_rows: tuple[FloatArray, ...]
) -> Piece:
    """Kernel of max |F|."""
    largest = np.max([_max_abs(entries) for _, _, entries in tiles(matrix, rows)])
    return Piece(no_columns(rows), largest=float(largest))


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
    return Piece(no_columns(rows), largest=float(np.max(found)))


def largest_residual_and_entry(
    matrix: Matrix, rows: slice, shared: tuple[FloatArray, ...], by_rows: tuple[FloatArray, ...]
) -> Piece:
    """Kernel of max |F − left @ right.T|, and in rows of max |F|: both in one pass, because entries may be dear."""
    (right,), (left,) = shared, by_rows
    found, norms = [], np.zeros((rows.stop - rows.start, 1))
    for within, cols, entries in tiles(matrix, rows):
        norms[within] = np.maximum(norms[within], _max_abs(entries))
        residual = left[within] @ right[cols].T
        residual -= entries
        found.append(_max_abs(residual))
    return Piece(norms, largest=float(np.max(found)))


def largest_asymmetry(
    matrix: Matrix, rows: slice, shared: tuple[RealArray, ...], by_rows: tuple[RealArray, ...]
) -> Piece:
    """Kernel of max |F − Fᵀ|."""
    mirrored = Transposed(matrix)
    pairs = zip(tiles(matrix, rows), tiles(mirrored, rows), strict=True)
    return Piece(
        no_columns(rows), float(np.max([_max_abs(entries - others) for (_, _, entries), (_, _, others) in pairs]))
    )


def max_norm(matrix: Matrix | Passes) -> float:
    """Return the largest absolute value of an entry, ‖F‖_max."""
    return as_passes(matrix).run(largest_entry).largest


def is_symmetric(matrix: FloatArray | Passes) -> bool:
    """Whether F = Fᵀ exactly."""
    n1, n2 = matrix.shape
    if n1 != n2:
        return False
    if isinstance(matrix, np.ndarray):
        return np.array_equal(matrix, matrix.T)
    return matrix.run(largest_asymmetry).largest == 0


def max_error(matrix: Matrix | Passes, left: FloatArray, right: FloatArray) -> float:
    """Return max |F − left @ right.T| in float64.

    Parameters
    ----------
    matrix : array, BlockMatrix or Passes of shape (n1, n2)
    left : ndarray of shape (n1, r)
    right : ndarray of shape (n2, r)
    """
    return as_passes(matrix).run(largest_residual, [right], [left]).largest


def max_error_and_norm(matrix: Matrix | Passes, left: FloatArray, right: FloatArray) -> tuple[float, float]:
    """Return max |F − left @ right.T|, as `max_error` does, and max |F|."""
    piece = as_passes(matrix).run(largest_residual_and_entry, [right], [left])
    return piece.largest, float(piece.rows.max())


def no_columns(rows: slice) -> FloatArray:
    """What a kernel returns that finds nothing row by row."""
    return np.empty((rows.stop - rows.start, 0))


def _max_abs(entries: FloatArray) -> float:
    return float(np.max([entries.max(), -entries.min()])) + 0.0  # no negative zero; keeps NaN
