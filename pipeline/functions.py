"""Generating functions f(x, y): the built-in ones and a user's own."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from pipeline.arrays import FloatArray
from pipeline.errors import InputError, one_line, shown

_DIRECT_DIMENSION = 16  # up to here direct differences cost no more than the product formula
_CLOSE = 1e-2  # squared distances below this share of ‖x‖² + ‖y‖² are recomputed from differences
_GATHER_BYTES = 8 * 2**20

PairFunction = Callable[[FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class GeneratingFunction:
    """A function of two points of R^m, evaluated on all pairs of two point sets.

    Attributes
    ----------
    name : str
        Label in specs and stores.
    formula : str
        Plain-text formula.
    source : str
        Where it is defined.
    pairs : callable
        Maps X of shape (n1, m) and Y of shape (n2, m) to the entries, shape (n1, n2).
    symmetric : bool
        Whether f(x, y) = f(y, x).
    """

    name: str
    formula: str
    source: str
    pairs: PairFunction
    symmetric: bool = True

    def __call__(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Evaluate on all pairs and check shape and type.

        Raises
        ------
        InputError
            If a user's function returns something other than real numbers of shape (n1, n2).
        """
        values = np.asarray(self.pairs(x, y))
        if values.shape != (len(x), len(y)) or values.dtype.kind not in "fiub":
            raise InputError(
                f"function: {self.name} returned {values.dtype} of shape {values.shape} for points of shapes "
                f"{x.shape} and {y.shape}; return real numbers of shape {(len(x), len(y))}"
            )
        return values.astype(np.float64, copy=False)


def squared_distances(x: FloatArray, y: FloatArray) -> FloatArray:
    """Squared Euclidean distances between all pairs, accurate for close points.

    In many dimensions ‖x‖² + ‖y‖² − 2 x·y costs one matrix product but cancels for close points; those pairs are
    recomputed from differences, so equal points are at distance exactly zero.

    Parameters
    ----------
    x : ndarray of shape (n1, m)
    y : ndarray of shape (n2, m)

    Returns
    -------
    ndarray of shape (n1, n2)
    """
    m = x.shape[1]
    if m <= _DIRECT_DIMENSION:
        return cdist(x, y, "sqeuclidean")
    scale = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", y, y)
    squares: FloatArray = x @ y.T
    squares *= -2.0
    squares += scale
    scale *= _CLOSE
    close_x, close_y = np.nonzero(squares < scale)
    step = max(1, _GATHER_BYTES // (8 * m))
    for start in range(0, len(close_x), step):
        i, j = close_x[start : start + step], close_y[start : start + step]
        difference = x[i] - y[j]
        squares[i, j] = np.einsum("ij,ij->i", difference, difference)
    return squares


def _of_distance(profile: Callable[[FloatArray], FloatArray]) -> PairFunction:
    """Make f(x, y) = profile(‖x − y‖²)."""
    return lambda x, y: profile(squared_distances(x, y))


def _attention(x: FloatArray, y: FloatArray) -> FloatArray:
    """exp(q·k/√m) with q = √m x and k = √m y."""
    product: FloatArray = x @ y.T
    product *= np.sqrt(x.shape[1])
    return np.exp(product, out=product)


BUILT_IN: dict[str, GeneratingFunction] = {
    function.name: function
    for function in (
        GeneratingFunction(
            "exponential",
            "exp(-|x - y|)",
            "Budzinskiy, section 7.2, f1",
            _of_distance(lambda d: np.exp(-np.sqrt(d))),
        ),
        GeneratingFunction(
            "quartic_gaussian",
            "exp(-|x - y|^4)",
            "Budzinskiy, section 7.2, f2",
            _of_distance(lambda d: np.exp(-(d * d))),
        ),
        GeneratingFunction(
            "gaussian",
            "exp(-|x - y|^2)",
            "Udell and Townsend, section 5",
            _of_distance(lambda d: np.exp(-d)),
        ),
        GeneratingFunction(
            "cauchy", "1 / (1 + |x - y|^2)", "rational quadratic kernel", _of_distance(lambda d: 1.0 / (1.0 + d))
        ),
        GeneratingFunction("inner_product", "x . y", "Budzinskiy, section 1.3", lambda x, y: x @ y.T),
        GeneratingFunction(
            "attention",
            "exp(q . k / sqrt(m)), q = sqrt(m) x, k = sqrt(m) y",
            "Budzinskiy, section 1.4",
            _attention,
        ),
    )
}


def get_function(name: str) -> GeneratingFunction:
    """Look up a built-in function, or import a user's own given as ``module:name``.

    A user's function takes X of shape (n1, m) and Y of shape (n2, m) and returns an array of shape (n1, n2).

    Raises
    ------
    InputError
        If the name is neither built in nor importable.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(BUILT_IN)
        raise InputError(f"function: {shown(name)} is not known; use one of {known}, or your own as module:name")
    try:
        pairs = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"function: {shown(name)} cannot be imported ({type(error).__name__}: {one_line(error)}); "
            f"put {one_line(module_name, 80)}.py beside the spec, in the working directory or on PYTHONPATH"
        ) from error
    if not callable(pairs):
        raise InputError(f"function: {shown(name)} is a {type(pairs).__name__}; name a function f(X, Y)")
    return GeneratingFunction(name, f"{attribute}(X, Y)", module_name, pairs, symmetric=False)
