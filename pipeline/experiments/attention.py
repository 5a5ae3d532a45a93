"""The attention experiment: what an entrywise error of attention's weights does to its output.

Attention is D⁻¹ A V with A = exp(Q Kᵀ/√m) and D the diagonal of its row sums (Budzinskiy, section 1.4). Queries, keys
and values are √m times the points of three sides of one sampling scheme, so that A is the matrix of the function
"attention" in the other experiments. Under a symmetric scheme all three sides are the same points: Q = K = V.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import numpy as np

from pipeline.approximation import Problem, get_method
from pipeline.arrays import FloatArray, Matrix
from pipeline.certificates import RELIANCE
from pipeline.errors import InputError
from pipeline.experiment import Case, Columns, Constraint, Cost, Experiment, Quantity, Spread
from pipeline.experiments.approximation import (
    APPROXIMATION,
    METHOD,
    RANK_WITHIN_SIZE,
    ApproximationSettings,
    settings_used,
)
from pipeline.experiments.generated import DIMENSION, PRODUCT, RANK, SAMPLING, SEED, SIZE, never_spread
from pipeline.growth import constants
from pipeline.matrix import function_matrix
from pipeline.passes import STORED_BYTES, Piece, max_error, max_norm, no_columns, tiles, times
from pipeline.sampling import SAMPLINGS, get_sampling
from pipeline.svd import Decompositions
from pipeline.theory import BUILT_IN_BOUNDS, embedding_rank

_FUNCTION = "attention"
_WEIGHT = 3e-9  # seconds of the error of a weight, the product aside


@dataclass(frozen=True)
class _Shared:
    """A with its max norm, values V, row sums, exact output, and the lower bounds found so far, by rank."""

    problem: Problem
    norm: float
    values: FloatArray
    sums: FloatArray
    output: FloatArray
    bounds: dict[int, float] = field(default_factory=dict)


def attention_of_factors(left: FloatArray, right: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Attention D̃⁻¹ Ã V with Ã = left rightᵀ and its own row sums D̃, in O(n r m): Ã is never formed.

    A common factor of a row cancels, so a row of which the sum is negative has an output too, though not one that
    averages values.

    Parameters
    ----------
    left : ndarray of shape (n1, r)
    right : ndarray of shape (n2, r)
    values : ndarray of shape (n2, m)
        V.

    Returns
    -------
    output : ndarray of shape (n1, m)
    sums : ndarray of shape (n1,)
        The diagonal of D̃.

    Raises
    ------
    InputError
        If a row sums to 0.

    Examples
    --------
    >>> import numpy as np
    >>> attention_of_factors(np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]]), np.array([[0.0], [1.0]]))[0]
    array([[0.75],
           [0.75]])
    """
    sums: FloatArray = left @ right.sum(axis=0)
    if not sums.all():
        row = int(np.flatnonzero(sums == 0)[0])
        raise InputError(f"r: row {row} of the approximation sums to 0, so it has no output; raise r or lower m")
    return left @ (right.T @ values) / sums[:, None], sums


def largest_weight_error(
    matrix: Matrix, rows: slice, shared: tuple[FloatArray, ...], by_rows: tuple[FloatArray, ...]
) -> Piece:
    """Kernel of max_i Σ_j |A_ij/D_i − Ã_ij/D̃_i|, with Ã = left rightᵀ, of shared = (right,), by_rows = (left, D, D̃)."""
    (right,), (left, sums, approximate_sums) = shared, by_rows
    errors = np.zeros(len(sums))
    for within, cols, entries in tiles(matrix, rows):
        difference = left[within] @ right[cols].T
        difference /= approximate_sums[within, None]
        difference -= entries / sums[within, None]
        errors[within] += np.abs(difference, out=difference).sum(axis=1)
    return Piece(no_columns(rows), largest=float(errors.max()))


def theorem_rank(sampling: str, m: int, n: int, error: float) -> float:
    """Rank at which Theorem 3.8 (Budzinskiy) promises an error of A in the max norm; inf where it promises none.

    Parameters
    ----------
    sampling : str
        The theorem's constants are for points in the unit ball or on its sphere.
    m, n : int
        Latent dimension and size.
    error : float
        max|A − Ã|, in the units of A.

    Examples
    --------
    >>> theorem_rank("ball-independent", 4, 1000, 0.1) > 1000
    True
    >>> theorem_rank("gaussian-independent", 4, 1000, 0.1)
    inf
    """
    domain = get_sampling(sampling).domain
    relative = error * math.exp(-math.sqrt(m))  # ‖f‖ = exp(√m) in the ball
    if (domain != "ball" and domain != "sphere") or relative == 0:
        return math.inf
    growth = constants(_FUNCTION, "Theorem 3.8", m, domain)
    if growth is None:
        return math.inf
    return float(BUILT_IN_BOUNDS["Theorem 3.8"].rank_for_error(relative, partial(embedding_rank, n, n), growth))


def _prepare(case: Case, settings: ApproximationSettings, spread: Spread | None) -> _Shared:
    sampling, m, n, seed = (case[axis] for axis in ("sampling", "m", "n", "seed"))
    entries = function_matrix(_FUNCTION, sampling, m, n, seed)
    decompositions = Decompositions(entries.to_numpy() if 8 * n * n <= STORED_BYTES else entries, settings.svd, seed)
    values = np.sqrt(m) * get_sampling(sampling).points(2, m, seed, 0, n)
    product = decompositions.passes.run(times, [np.column_stack([values, np.ones(n)])]).rows
    norm, sums = max_norm(decompositions.passes), product[:, -1].copy()
    decompositions.for_bound()  # computed here, so that its time is shared among the cases
    return _Shared(Problem(decompositions, entries), norm, values, sums, product[:, :-1] / sums[:, None])


def _evaluate(shared: _Shared, case: Case, settings: ApproximationSettings) -> Mapping[str, float]:
    method, rank = get_method(case["method"]), case["r"]
    problem = shared.problem
    started = perf_counter()
    factors = method.find(problem, rank, getattr(settings, method.name), case["seed"])
    seconds = perf_counter() - started
    left, right, passes = factors.left, factors.right, problem.decompositions.passes
    error = max_error(passes, left, right)
    output, sums = attention_of_factors(left, right, shared.values)
    if rank not in shared.bounds:
        shared.bounds[rank] = problem.lower_bound(rank, settings.certificate)
    promised = theorem_rank(case["sampling"], case["m"], case["n"], error)
    return {
        "output_error": float(np.abs(shared.output - output).max() / np.abs(shared.output).max()),
        "weight_error": passes.run(largest_weight_error, [right], [left, shared.sums, sums]).largest,
        "row_sum_error": float(np.abs(sums / shared.sums - 1).max()),
        "negative_rows": int(np.count_nonzero(sums < 0)),
        "epsilon": error / shared.norm,
        "epsilon_bound": shared.bounds[rank] / shared.norm,
        "max_norm": shared.norm,
        "iterations": len(factors.history),
        "seconds": seconds,
        **({"theorem_rank": promised} if math.isfinite(promised) else {}),
    }


def _of_function(columns: Columns) -> Columns:
    """Labels of the same cells in the approximation experiment."""
    return {**columns, "function": np.full(columns["n"].shape, _FUNCTION)}


def _prepare_cost(columns: Columns, settings: ApproximationSettings) -> Cost:
    cost, n, m = APPROXIMATION.prepare_cost(_of_function(columns), settings), *_floats(columns, "n", "m")
    return Cost(cost.seconds + 4e-8 * n * m + PRODUCT * n * n * m, cost.memory + 40 * n * m)


def _evaluate_cost(columns: Columns, settings: ApproximationSettings) -> Cost:
    cost, n, m, r = APPROXIMATION.evaluate_cost(_of_function(columns), settings), *_floats(columns, "n", "m", "r")
    weights, output = n * n * (_WEIGHT + PRODUCT * r), n * m * (1e-8 + 2 * PRODUCT * r)
    return Cost(cost.seconds + 2e-3 + weights + output, cost.memory + 16 * n * m)


def _floats(columns: Columns, *axes: str) -> list[FloatArray]:
    return [columns[axis].astype(np.float64) for axis in axes]


_BOUNDED = [name for name, sampling in SAMPLINGS.items() if sampling.domain in ("ball", "sphere")]
ATTENTION = Experiment(
    name="attention",
    summary="error of attention's output under rank-r approximations of its matrix",
    revision=2,
    axes=(
        SAMPLING,
        DIMENSION,
        SIZE,
        RANK,
        METHOD,
        SEED,
    ),
    shared=("sampling", "m", "n", "seed"),
    quantities=(
        Quantity(
            "output_error",
            "relative error of D⁻¹AV",
            comment="max-norm error of attention's output D^-1 A V / its max norm",
        ),
        Quantity("weight_error", "largest ℓ1 error of a row of D⁻¹A", comment="the weights of a query"),
        Quantity("row_sum_error", "largest relative error of a row sum of A", comment="above 1 if one is negative"),
        Quantity(
            "negative_rows",
            "rows with a negative sum",
            dtype="int32",
            comment="rows of which the approximation sums to less than 0",
        ),
        Quantity(
            "epsilon",
            "relative max-norm error of A",
            label="relative error ε of A",
            comment="max|A - G| / max|A|, an upper bound of the best possible",
        ),
        Quantity("epsilon_bound", "certified lower bound of ε", comment=f"of the best possible; {RELIANCE}"),
        Quantity(
            "theorem_rank",
            "rank of Theorem 3.8",
            optional=True,
            comment="rank at which Budzinskiy's Theorem 3.8 promises that error of A",
        ),
        Quantity("max_norm", "largest entry of A"),
        Quantity("iterations", "steps of the method", dtype="int32"),
        Quantity(
            "seconds",
            "computing time",
            units="s",
            comment="of the approximation, with a share of the matrix, its decomposition and the exact output",
        ),
    ),
    main="output_error",
    settings=ApproximationSettings,
    settings_used=settings_used,
    constraints=(
        RANK_WITHIN_SIZE,
        Constraint(
            ("sampling",),
            "the rule that queries and keys, sqrt(m) times the points, are of norm sqrt(m) at most",
            lambda columns, _: np.isin(columns["sampling"], _BOUNDED),
            f"use one of {', '.join(_BOUNDED)}",
        ),
    ),
    labels_of_file=lambda path: {},
    prepare=_prepare,
    evaluate=_evaluate,
    prepare_cost=_prepare_cost,
    evaluate_cost=_evaluate_cost,
    spread_cost=never_spread,
)
