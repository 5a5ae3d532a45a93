"""Function-generated matrices F[i, j] = f(x_i, y_j), made in blocks."""

from dataclasses import dataclass, field

import numpy as np

from pipeline.arrays import FloatArray, check_finite
from pipeline.errors import InputError
from pipeline.functions import GeneratingFunction, get_function
from pipeline.sampling import Sampling, get_sampling

TILE = 256  # entries are always computed in whole tiles, so a block's size never changes a value


@dataclass(frozen=True)
class FunctionMatrix:
    """The n × n matrix of a generating function on sampled points.

    Entries are computed when asked for. An entry has the same value whatever block it is asked for in, and the
    matrix of a symmetric draw is exactly symmetric for the built-in functions.

    Attributes
    ----------
    function : GeneratingFunction
    x, y : ndarray of shape (n, m)
        Row and column points; the same object under symmetric sampling.
    """

    function: GeneratingFunction
    x: FloatArray = field(repr=False)
    y: FloatArray = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return len(self.x), len(self.y)

    @property
    def dtype(self) -> np.dtype[np.float64]:
        """Type of the entries."""
        return np.dtype(np.float64)

    def block(self, rows: slice, cols: slice) -> FloatArray:
        """Compute the entries of a contiguous row range and column range.

        Parameters
        ----------
        rows, cols : slice
            Ranges with step 1; the usual meaning of None and of negative bounds.

        Returns
        -------
        ndarray of shape (number of rows, number of columns)

        Raises
        ------
        InputError
            If a step is not 1, or an entry is NaN or infinite.
        """
        (top, bottom, row_step), (left, right, col_step) = rows.indices(self.shape[0]), cols.indices(self.shape[1])
        if (row_step, col_step) != (1, 1):
            raise InputError(f"block: steps {row_step} and {col_step}; ask for contiguous ranges (step 1)")
        block = np.empty((max(bottom - top, 0), max(right - left, 0)))
        for i in range(top // TILE, -(-bottom // TILE)) if block.size else ():
            for j in range(left // TILE, -(-right // TILE)):
                tile = self._tile(i, j)
                row, col = i * TILE, j * TILE
                part = tile[max(top - row, 0) : bottom - row, max(left - col, 0) : right - col]
                at_row, at_col = max(row - top, 0), max(col - left, 0)
                block[at_row : at_row + part.shape[0], at_col : at_col + part.shape[1]] = part
        check_finite(block, f"function {self.function.name}", top, left)
        return block

    def to_numpy(self) -> FloatArray:
        """Compute the whole matrix.

        Raises
        ------
        InputError
            If an entry is NaN or infinite.
        """
        return self.block(slice(None), slice(None))

    def _tile(self, i: int, j: int) -> FloatArray:
        """Tile (i, j); below the diagonal of a symmetric draw the transpose of its mirror image."""
        if self.x is self.y and i > j and self.function.symmetric:
            return self._tile(j, i).T
        return self.function(self.x[i * TILE : (i + 1) * TILE], self.y[j * TILE : (j + 1) * TILE])


def function_matrix(
    function: str | GeneratingFunction, sampling: str | Sampling, m: int, n: int, seed: int = 0
) -> FunctionMatrix:
    """Make the function-generated matrix of a sampled dataset.

    Parameters
    ----------
    function : str or GeneratingFunction
        A built-in name or ``module:name``.
    sampling : str or Sampling
        A sampling scheme, such as ``"ball-independent"``.
    m : int
        Latent dimension.
    n : int
        Size; the matrix is n × n.
    seed : int
        Trial number.

    Returns
    -------
    FunctionMatrix

    Raises
    ------
    InputError
        If a name is unknown or a number is out of range.

    Examples
    --------
    >>> F = function_matrix("exponential", "ball-symmetric", m=10, n=500, seed=0)
    >>> F.shape, float(F.block(slice(0, 1), slice(0, 1))[0, 0])
    ((500, 500), 1.0)
    """
    for name, value, least in (("m", m, 1), ("n", n, 1), ("seed", seed, 0)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise InputError(f"{name}: {value!r} is not an integer of at least {least}")
    function = get_function(function) if isinstance(function, str) else function
    sampling = get_sampling(sampling) if isinstance(sampling, str) else sampling
    x = sampling.points("x", int(m), int(seed), 0, int(n))
    y = x if sampling.symmetric else sampling.points("y", int(m), int(seed), 0, int(n))
    for points in (x, y):
        points.setflags(write=False)  # a user's function cannot change them
    return FunctionMatrix(function, x, y)
