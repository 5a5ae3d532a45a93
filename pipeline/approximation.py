"""One front door to the methods: a matrix and a rank in, factors with their certified error out."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError
from typing_extensions import TypeAliasType

from pipeline.arithmetic import own_state
from pipeline.arrays import BlockMatrix, FloatArray, MatrixLike, as_matrix, entries_of
from pipeline.certificates import CertificateSettings, certified_bound, checked_bound
from pipeline.embedding import EmbeddingSettings, random_embedding
from pipeline.errors import InputError, one_line, shown
from pipeline.matrix import FunctionMatrix
from pipeline.minimax import MinimaxSettings, minimax
from pipeline.passes import PASSED_ENTRIES, STORED_BYTES, LocalPasses, Passes, max_error_and_norm, max_norm
from pipeline.projections import APSettings, alternating_projections
from pipeline.svd import Decompositions, SVDSettings

_FAR = 1e9  # entries of a start beyond this multiple of max|F| are refused


@dataclass(frozen=True, repr=False)
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
        Steps of the method (projections, or evaluations of the smooth maximum); 0 for a direct one.
    history : ndarray of shape (iterations,)
        max |F − G| after each step, in the working precision and the units of the matrix; of "minimax" the smallest so
        far.
    stopped : str
        Why the method ended.
    guarantee : float or None
        What a theorem promises of `max_error`, where one does.
    max_norm : float
        max |F|.
    """

    left: FloatArray
    right: FloatArray
    max_error: float
    lower_bound: float
    iterations: int
    history: FloatArray
    stopped: str
    guarantee: float | None
    max_norm: float

    @property
    def relative_error(self) -> float:
        """The max error by max |F|; 0 for a zero matrix that is met exactly."""
        return relative(self.max_error, self.max_norm)

    @own_state()
    def to_numpy(self) -> FloatArray:
        """Return all entries of G, shape (n1, n2)."""
        return self.left @ self.right.T

    def __repr__(self) -> str:
        shape = f"{len(self.left)} × {len(self.right)}"
        return f"Approximation({shape}, rank {self.left.shape[1]}, {described(self)})"


Start = TypeAliasType("Start", Approximation | tuple[npt.ArrayLike, npt.ArrayLike])
"""An approximation to begin from, or its left and right factors."""


@dataclass(frozen=True)
class Problem:
    """A matrix F with its decompositions and what else a method may know.

    Attributes
    ----------
    decompositions : Decompositions
    generated : FunctionMatrix, optional
        F with its generating function and points, where it has them.
    start : tuple of ndarray of shape (k1, q), (k2, q), optional
        Factors of an approximation of F, or of its leading rows and columns, to begin from.
    """

    decompositions: Decompositions
    generated: FunctionMatrix | None = None
    start: tuple[FloatArray, FloatArray] | None = None

    @property
    def values(self) -> FloatArray:
        """All entries of F."""
        matrix = self.decompositions.matrix
        return entries_of(matrix, slice(None), slice(None))

    def target(self, *, by_passes: bool) -> FloatArray | Passes:
        """F for an iterative method: passes beyond `PASSED_ENTRIES`, if it can do with them."""
        if by_passes and math.prod(self.decompositions.matrix.shape) > PASSED_ENTRIES:
            return self.decompositions.passes
        return self.values

    def lower_bound(self, rank: int, settings: CertificateSettings) -> float:
        """Certified lower bound of max |F − G| over all G of rank at most r."""
        return certified_bound(self.decompositions, rank, settings)


@dataclass(frozen=True)
class Factors:
    """What a method returns: left (n1 × r), right (n2 × r), and how it went."""

    left: FloatArray
    right: FloatArray
    history: FloatArray = field(default_factory=lambda: np.empty(0))
    stopped: str = "direct"
    guarantee: float | None = None


@dataclass(frozen=True)
class Method:
    """A way to find an approximation of given rank.

    Attributes
    ----------
    name, summary : str
    settings : type of a pydantic model
        What the method may be told.
    find : callable
        Maps (problem, rank, settings, seed) to Factors.
    """

    name: str
    summary: str
    settings: type[BaseModel]
    find: Callable[[Problem, int, Any, int], Factors]


def _truncated_svd(problem: Problem, rank: int, settings: SVDSettings, seed: int) -> Factors:
    return Factors(*problem.decompositions.for_rank(rank).balanced_factors(rank))


def _zero(shape: tuple[int, ...], rank: int) -> Factors:
    return Factors(np.zeros((shape[0], rank)), np.zeros((shape[1], rank)), stopped="the matrix is zero")


def _projected(problem: Problem, rank: int, settings: APSettings, seed: int) -> Factors:
    target = problem.target(by_passes=settings.projection == "subspace")
    if max_norm(target) == 0:
        return _zero(target.shape, rank)
    start = problem.decompositions.for_rank(rank).balanced_factors(rank) if settings.initial == "svd" else None
    (left, right), errors, stopped = alternating_projections(target, rank, settings, seed, start)
    return Factors(left, right, np.array(errors), stopped)


def _smoothed_minimax(problem: Problem, rank: int, settings: MinimaxSettings, seed: int) -> Factors:
    target = problem.target(by_passes=problem.start is None and settings.warm_start == "none")
    if max_norm(target) == 0:
        return _zero(target.shape, rank)
    found = minimax(target, rank, settings, problem.decompositions.for_rank(rank), seed, problem.start)
    return Factors(found.left, found.right, np.array(found.history), found.stopped)


def _embedded(problem: Problem, rank: int, settings: EmbeddingSettings, seed: int) -> Factors:
    decompositions = problem.decompositions
    left, right, guarantee = random_embedding(
        decompositions.matrix, rank, settings, seed, decompositions.complete, problem.generated
    )
    return Factors(left, right, guarantee=guarantee)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("svd", "truncated singular value decomposition", SVDSettings, _truncated_svd),
        Method("ap", "alternating projections with bisection on epsilon", APSettings, _projected),
        Method("minimax", "descent on a smooth maximum of the residual", MinimaxSettings, _smoothed_minimax),
        Method("random_embedding", "features of the points times a Gaussian matrix", EmbeddingSettings, _embedded),
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
        raise InputError(f"method: {shown(name)} is not known; use one of {', '.join(METHODS)}")
    return METHODS[name]


@own_state()
def approximate(
    matrix: MatrixLike,
    rank: int,
    method: str = "minimax",
    seed: int = 0,
    *,
    start: Start | None = None,
    bound: str = "best",
    **settings: object,
) -> Approximation:
    """Approximate a matrix by one of low rank in the max norm.

    Parameters
    ----------
    matrix : array_like of shape (n1, n2), FunctionMatrix or FileMatrix
        F, real and finite; data frames and labelled arrays are taken by their values, what would lose a mask, a unit
        or other parts is refused. Of one beyond `pipeline.passes.STORED_BYTES` that is made or read in blocks only
        blocks are held, by "svd", "ap" and "minimax": all processors make passes over it. "random_embedding", exact
        projections, `start` and `warm_start` hold it whole.
    rank : int
        r, between 1 and min(n1, n2).
    method : str
        "minimax", "ap", "svd" or "random_embedding".
    seed : int
        Stream of a method's random numbers.
    start : Approximation, or tuple of array_like of shape (k1, q), (k2, q), optional
        One, or left and right factors, that "minimax" begins from as well, of q ≤ r columns; rows beyond k1 and k2 are
        found by least squares, columns beyond q are singular directions of the residual.
    bound : {"best", "tail"}
        The certified lower bound: the best known, or the cheap one from the singular values.
    **settings
        The method's own, such as ``budget="quick"`` for "minimax" or ``projection="exact"`` for "ap".

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
    >>> found = approximate(np.eye(6), rank=3, budget="thorough")
    >>> found.left.shape, round(found.max_error, 6), round(found.lower_bound, 6)
    ((6, 3), 0.309017, 0.309017)
    """
    generated = matrix if isinstance(matrix, FunctionMatrix) else None
    values: FloatArray | LocalPasses
    if isinstance(matrix, BlockMatrix) and len(matrix.shape) == 2 and 8 * math.prod(matrix.shape) > STORED_BYTES:
        values = LocalPasses(matrix, processors())
    else:
        values = as_matrix(matrix)
    chosen = get_method(method)
    checked_rank(rank, min(values.shape), f"min{values.shape}")
    checked_seed(seed)
    options = validated(chosen, settings)
    certificate = CertificateSettings(bound=checked_bound(bound))
    if start is not None and method != "minimax":
        raise InputError(f"start: method {method!r} begins from no given factors; use 'minimax', or leave start out")
    decompositions = Decompositions(values, options if isinstance(options, SVDSettings) else None, int(seed))
    given = None if start is None else _checked_start(start, values, int(rank))
    factors = chosen.find(Problem(decompositions, generated, given), int(rank), options, int(seed))
    error, norm = max_error_and_norm(values, factors.left, factors.right)
    return Approximation(
        factors.left,
        factors.right,
        error,
        certified_bound(decompositions, int(rank), certificate),
        len(factors.history),
        factors.history,
        factors.stopped,
        factors.guarantee,
        norm,
    )


def relative(error: float, norm: float) -> float:
    """An error by the norm of what is approximated; 0 where both are 0."""
    return error / norm if norm else 0.0 if error == 0 else math.inf


def described(found: Any) -> str:
    """What the printed form of a result says of its error."""
    return (
        f"max_error {found.max_error:.4g} ({found.relative_error:.4g} of max|F|), lower_bound {found.lower_bound:.4g}, "
        f"{found.iterations} iterations, stopped: {found.stopped}"
    )


def processors() -> int:
    """Number of processors that this process may use: of its affinity, and of the quota of its control group."""
    from joblib import cpu_count  # takes a tenth of a second to load

    return int(cpu_count())


def checked_rank(rank: object, largest: int, name: str) -> None:
    """Raise InputError unless 1 ≤ rank ≤ `largest`, which has a name."""
    if not isinstance(rank, int | np.integer) or isinstance(rank, bool) or not 1 <= rank <= largest:
        raise InputError(f"rank: {shown(rank)} is not an integer between 1 and {name} = {largest}")


def checked_seed(seed: object) -> None:
    """Raise InputError unless it is a non-negative integer."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed: {shown(seed)} is not a non-negative integer")


def validated(method: Method, settings: Mapping[str, object]) -> BaseModel:
    """Settings of a method, or one clear line."""
    try:
        return method.settings(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = one_line(".".join(map(str, first["loc"])))
        known = ", ".join(method.settings.model_fields)
        raise InputError(
            f"{name}: {shown(first['input'])} will not do for method {method.name!r} ({first['msg']}); settings: "
            f"{known}"
        ) from error


def parts_of_start(start: Any, remedy: str) -> list[Any]:
    """The arrays that a start is given as; InputError with the remedy for anything but a sequence."""
    try:
        return list(start)
    except TypeError as error:
        raise InputError(f"start: {shown(start)} will not do; {remedy}") from error


def _checked_start(start: Start, matrix: FloatArray | Passes, rank: int) -> tuple[FloatArray, FloatArray]:
    remedy = "pass (left, right) or an Approximation"
    pair = [start.left, start.right] if isinstance(start, Approximation) else parts_of_start(start, remedy)
    if len(pair) != 2:
        raise InputError(f"start: {len(pair)} factors are no pair; {remedy}")
    try:
        left, right = as_matrix(pair[0], "left factor"), as_matrix(pair[1], "right factor")
    except InputError as error:
        raise InputError(f"start: not a pair of real, finite factors ({error}); {remedy}") from error
    (k1, q), (k2, columns) = left.shape, right.shape
    if q != columns or q > rank or k1 > matrix.shape[0] or k2 > matrix.shape[1]:
        raise InputError(
            f"start: factors of shapes {left.shape} and {right.shape} do not extend to rank {rank} and shape "
            f"{matrix.shape}; pass equally many columns, at most the rank, and at most as many rows as the matrix"
        )
    require_near(float(np.abs(left).max()) * float(np.abs(right).max()) * q, max_norm(matrix))
    return left, right


def require_near(reach: float, largest: float) -> None:
    """Raise InputError for a start whose entries may reach far beyond the largest of F, unless F is zero."""
    if largest and not reach <= _FAR * largest:
        raise InputError(
            f"start: its entries may reach {reach:.3g}, far above max|F| = {largest:.3g}; pass that of an "
            "approximation, with columns of like size"
        )
