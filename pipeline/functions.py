"""Generating functions f(x, y), and of more points f(x, y, z): the built-in ones and a user's own."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from pipeline.arrays import FloatArray
from pipeline.errors import InputError, one_line, shown

_DIRECT_DIMENSION = 7  # up to here direct differences cost no more than the product formula, where many pairs are close
_CLOSE = 1e-2  # squared distances below this share of ‖x‖² + ‖y‖² are recomputed from differences
_GATHER_BYTES = 8 * 2**20

EntryFunction = Callable[..., FloatArray]


@dataclass(frozen=True)
class GeneratingFunction:
    """A function of two or more points of R^m, evaluated on all combinations of as many point sets.

    Attributes
    ----------
    name : str
        Label in specs and stores.
    formula : str
        Plain-text formula.
    source : str
        Where it is defined.
    entries : callable
        Maps X of shape (n1, m), Y of shape (n2, m) and so on to the entries, shape (n1, n2, …).
    symmetric : bool
        Whether f(x, y) = f(y, x).
    order : int
        Number of points: 2 for the entries of a matrix, d for those of a tensor of order d.
    """

    name: str
    formula: str
    source: str
    entries: EntryFunction
    symmetric: bool = True
    order: int = 2

    def __call__(self, *points: FloatArray) -> FloatArray:
        """Evaluate on all combinations and check shape and type.

        Raises
        ------
        InputError
            If a user's function returns something other than real numbers of shape (n1, n2, …).
        """
        values = np.asarray(self.entries(*points))
        shape = tuple(map(len, points))
        if values.shape != shape or values.dtype.kind not in "fiub":
            raise InputError(
                f"function: {self.name} returned {values.dtype} of shape {values.shape} for points of shapes "
                f"{' and '.join(str(each.shape) for each in points)}; return real numbers of shape {shape}"
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
    scale = np.add.outer(np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y))
    squares: FloatArray = x @ (-2.0 * y).T
    squares += scale
    if squares.min(initial=np.inf) >= _CLOSE * scale.max(initial=0.0):
        return squares
    scale *= _CLOSE
    close_x, close_y = np.nonzero(squares < scale)
    step = max(1, _GATHER_BYTES // (8 * m))
    for start in range(0, len(close_x), step):
        i, j = close_x[start : start + step], close_y[start : start + step]
        difference = x[i] - y[j]
        squares[i, j] = np.einsum("ij,ij->i", difference, difference)
    return squares


def multilinear_product(*points: FloatArray) -> FloatArray:
    """Multilinear products of all combinations of points, sums over a of x_a y_a z_a … (Budzinskiy, section 6).

    Parameters
    ----------
    *points : ndarray of shape (n_k, m)
        Two or more point sets.

    Returns
    -------
    ndarray of shape (n_1, n_2, …)

    Examples
    --------
    >>> import numpy as np
    >>> multilinear_product(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([[5.0, 6.0], [1.0, 1.0]]))
    array([[[63., 11.]]])
    """
    first, second, *others = points
    if not others:
        product: FloatArray = first @ second.T
        return product
    return np.stack([multilinear_product(point * second, *others) for point in first])


def _of_distance(profile: Callable[[FloatArray], FloatArray]) -> EntryFunction:
    """Make f(x, y) = profile(‖x − y‖²), which may be computed in place."""
    return lambda x, y: profile(squared_distances(x, y))


def _exp_of_minus(exponents: FloatArray) -> FloatArray:
    np.negative(exponents, out=exponents)
    return np.exp(exponents, out=exponents)


def _attention(*points: FloatArray) -> FloatArray:
    """exp(<q, k, …>/√m) with q = √m x, k = √m y and so on."""
    product = multilinear_product(*points)
    product *= np.sqrt(points[0].shape[1]) ** (len(points) - 1)
    return np.exp(product, out=product)


def _sinh_product(*points: FloatArray) -> FloatArray:
    product = multilinear_product(*points)
    return np.sinh(product, out=product)


BUILT_IN: dict[str, GeneratingFunction] = {
    function.name: function
    for function in (
        GeneratingFunction(
            "exponential",
            "exp(-|x - y|)",
            "Budzinskiy, section 7.2, f1",
            _of_distance(lambda d: _exp_of_minus(np.sqrt(d, out=d))),
        ),
        GeneratingFunction(
            "quartic_gaussian",
            "exp(-|x - y|^4)",
            "Budzinskiy, section 7.2, f2",
            _of_distance(lambda d: _exp_of_minus(np.square(d, out=d))),
        ),
        GeneratingFunction(
            "gaussian",
            "exp(-|x - y|^2)",
            "Udell and Townsend, section 5",
            _of_distance(_exp_of_minus),
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
        GeneratingFunction(
            "sinh_product",
            "sinh(sum of x_a y_a z_a)",
            "Budzinskiy, section 7.2, f3",
            _sinh_product,
            order=3,
        ),
        GeneratingFunction(
            "tensor_attention",
            "exp(sum of q_a k_a l_a / sqrt(m)), q = sqrt(m) x, k = sqrt(m) y, l = sqrt(m) z",
            "Budzinskiy, section 1.4, higher-order attention",
            _attention,
            order=3,
        ),
    )
}


def get_function(name: str) -> GeneratingFunction:
    """Look up a built-in function, or import a user's own given as ``module:name``.

    A user's function takes X of shape (n1, m) and Y of shape (n2, m) and returns an array of shape (n1, n2). One that
    takes d > 2 arrays of points defines a tensor of order d and returns an array of shape (n1, …, nd).

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
        entries = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"function: {shown(name)} cannot be imported ({type(error).__name__}: {one_line(error)}); "
            f"put {one_line(module_name, 80)}.py beside the spec, in the working directory or on PYTHONPATH"
        ) from error
    if not callable(entries):
        raise InputError(f"function: {shown(name)} is a {type(entries).__name__}; name a function f(X, Y)")
    order = _order(entries)
    arguments = ", ".join(["X", "Y", "Z"][:order] if order <= 3 else [f"X{k + 1}" for k in range(order)])
    return GeneratingFunction(name, f"{attribute}({arguments})", module_name, entries, symmetric=False, order=order)


def _order(entries: EntryFunction) -> int:
    """Number of point sets that a function must be given; 2 where it does not say."""
    try:
        parameters = inspect.signature(entries).parameters.values()
    except (TypeError, ValueError):
        return 2
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    required = [each for each in parameters if each.kind in positional and each.default is inspect.Parameter.empty]
    return max(2, len(required))
