"""Function-generated matrices F[i, j] = f(x_i, y_j), made in blocks."""

from dataclasses import dataclass

import numpy as np

from pipeline.arrays import FloatArray
from pipeline.errors import InputError
from pipeline.functions import FunctionLike, as_function
from pipeline.sampling import SampledPoints, Sampling
from pipeline.tensor import FunctionTensor, TensorRecipe, sample_points


@dataclass(frozen=True, repr=False)
class FunctionMatrix(FunctionTensor):
    """The n × n matrix of a generating function on sampled points.

    Entries are computed when asked for. For the built-in functions an entry has the same value whatever block it is
    asked for in and however many threads there are, and the matrix of a symmetric draw is exactly symmetric. For a
    user's own function that is as this function makes it.

    Attributes
    ----------
    function : GeneratingFunction
    points : tuple of two ndarray, or SampledPoints, of shape (n, m)
        Row and column points; the same object under symmetric sampling.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return len(self.points[0]), len(self.points[1])

    @property
    def x(self) -> FloatArray:
        """Row points, shape (n, m)."""
        return _held(self.points[0])

    @property
    def y(self) -> FloatArray:
        """Column points, shape (n, m)."""
        return _held(self.points[1])

    def block(self, rows: slice, cols: slice) -> FloatArray:  # type: ignore[override]  # it has two modes
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
        return super().block(rows, cols)


def _held(points: FloatArray | SampledPoints) -> FloatArray:
    return points if isinstance(points, np.ndarray) else points[:]


@dataclass(frozen=True)
class MatrixRecipe(TensorRecipe):
    """What a function matrix is made of, in a form that can be sent to where it is worked on."""

    def make(self) -> FunctionMatrix:
        """The matrix."""
        return function_matrix(self.function, self.sampling, self.m, self.n, self.seed)


def function_matrix(function: FunctionLike, sampling: str | Sampling, m: int, n: int, seed: int = 0) -> FunctionMatrix:
    """Make the function-generated matrix of a sampled dataset.

    Parameters
    ----------
    function : str, mapping, callable or GeneratingFunction
        A built-in name or ``module:name``; with parameters ``{"name": "gaussian", "scale": 2}``; or a function of row
        points, shape (n, m), and column points, shape (n, m), that returns the entries, shape (n, n).
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
        If a name is unknown, a number is out of range, or the function is one of more than two points.

    Examples
    --------
    >>> F = function_matrix("exponential", "ball-symmetric", m=10, n=500, seed=0)
    >>> F.shape, float(F.block(slice(0, 1), slice(0, 1))[0, 0])
    ((500, 500), 1.0)
    >>> function_matrix(lambda X, Y: 1 / (1 + X @ Y.T), "ball-independent", m=10, n=500)
    FunctionMatrix(<lambda>, 500 × 500, m = 10)
    """
    function = as_function(function)
    if function.order != 2:
        raise InputError(f"function: {function.name} makes tensors of order {function.order}; use function_tensor")
    return FunctionMatrix(function, sample_points(sampling, m, n, seed, 2))
