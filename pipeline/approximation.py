"""One front door to the methods: a matrix and a rank in, factors with their certified error out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from pipeline.arrays import FloatArray, as_matrix, max_error
from pipeline.certificates import tail_bound
from pipeline.errors import InputError
from pipeline.projections import APSettings, alternating_projections
from pipeline.svd import Decompositions, SVDSettings


@dataclass(frozen=True)
class Approximation:
    """Factors of a low-rank approximation G = left @ right.T and what is known of its error.

    Attributes
    ----------
    left : ndarray of shape (n1, r)
    right : ndarray of shape (n2, r)
    max_error : float
        max |F − G|, computed in float64 from these factors, in the units of the matrix.
    lower_bound : float
        No approximation of rank r has a smaller max error.
    iterations : int
        Steps of the method (projections, say); 0 for a direct one.
    """

    left: FloatArray = field(repr=False)
    right: FloatArray = field(repr=False)
    max_error: float
    lower_bound: float
    iterations: int


@dataclass(frozen=True)
class Factors:
    """What a method returns: left (n1 × r), right (n2 × r) and its number of steps."""

    left: FloatArray
    right: FloatArray
    iterations: int


@dataclass(frozen=True)
class Method:
    """A way to find an approximation of given rank.

    Attributes
    ----------
    name, summary : str
    settings : type of a pydantic model
        What the method may be told.
    find : callable
        Maps (decompositions of F, rank, settings, seed) to Factors.
    """

    name: str
    summary: str
    settings: type[BaseModel]
    find: Callable[[Decompositions, int, Any, int], Factors]


def _truncated_svd(decompositions: Decompositions, rank: int, settings: SVDSettings, seed: int) -> Factors:
    return Factors(*decompositions.for_rank(rank).balanced_factors(rank), iterations=0)


def _projected(decompositions: Decompositions, rank: int, settings: APSettings, seed: int) -> Factors:
    matrix = decompositions.matrix
    values = matrix if isinstance(matrix, np.ndarray) else matrix.block(slice(None), slice(None))
    if not values.any():
        return Factors(np.zeros((values.shape[0], rank)), np.zeros((values.shape[1], rank)), 0)
    return Factors(*alternating_projections(values, rank, settings, seed))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("svd", "truncated singular value decomposition", SVDSettings, _truncated_svd),
        Method("ap", "alternating projections with bisection on epsilon", APSettings, _projected),
    )
}


def get_method(name: str) -> Method:
    """Look a method up by name.

    Raises
    ------
    InputError
        If there is no such method.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"method: {name!r} is not known; use one of {', '.join(METHODS)}")
    return METHODS[name]


def approximate(
    matrix: npt.ArrayLike, rank: int, method: str = "ap", seed: int = 0, **settings: object
) -> Approximation:
    """Approximate a matrix by one of low rank in the max norm.

    Parameters
    ----------
    matrix : array_like of shape (n1, n2)
        F, real and finite.
    rank : int
        r, between 1 and min(n1, n2).
    method : str
        "svd" or "ap".
    seed : int
        Stream of a method's random start.
    **settings
        The method's own, such as ``projection="exact"`` for "ap".

    Returns
    -------
    Approximation

    Raises
    ------
    InputError
        If an argument is out of range or unknown.

    Examples
    --------
    >>> import numpy as np
    >>> found = approximate(np.eye(6), rank=3, method="ap", projection="exact")
    >>> found.left.shape, found.lower_bound <= found.max_error
    ((6, 3), True)
    """
    values = as_matrix(matrix)
    chosen = get_method(method)
    if not isinstance(rank, int | np.integer) or isinstance(rank, bool) or not 1 <= rank <= min(values.shape):
        raise InputError(f"rank: {rank!r} is not an integer between 1 and min{values.shape} = {min(values.shape)}")
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed: {seed!r} is not a non-negative integer")
    try:
        options = chosen.settings(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = ", ".join(chosen.settings.model_fields)
        raise InputError(
            f"{name}: {first['input']!r} will not do for method {method!r} ({first['msg']}); settings: {known}"
        ) from error
    decompositions = Decompositions(values, options if isinstance(options, SVDSettings) else None, int(seed))
    factors = chosen.find(decompositions, int(rank), options, int(seed))
    return Approximation(
        factors.left,
        factors.right,
        max_error(values, factors.left, factors.right),
        tail_bound(decompositions.for_bound(), int(rank)),
        factors.iterations,
    )
