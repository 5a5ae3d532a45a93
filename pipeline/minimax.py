"""Smoothed minimax: L-BFGS on a smooth maximum of the entrywise residual, sharpened in stages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize_scalar

from pipeline.active_set import polish
from pipeline.arrays import FloatArray
from pipeline.descent import Descent
from pipeline.orbits import search_orbits
from pipeline.passes import Passes, is_symmetric, max_error, max_norm, times
from pipeline.sampling import stream
from pipeline.smooth_maximum import Factorization
from pipeline.svd import Decomposition, lapack_svd

F = TypeVar("F", bound=Factorization)

_SMALLEST_SIZE = 1e-12  # of a singular value beside the largest, for the scale of the unknowns
BALANCE = -0.375  # 0 is plain, −1/2 scaled gradient descent; in between both slow and fast decay converge well


class MinimaxSettings(BaseModel):
    """How much work is spent, and how.

    Attributes
    ----------
    budget : {"quick", "default", "thorough"}
        Stages of sharpness, steps a stage and number of starts; "thorough" also polishes small problems.
    precision : {"single", "double"}
        Arithmetic of the products; the factors' error is always taken in double precision, and errors below 1e-3 of
        the largest entry are always pursued in it.
    symmetric : bool
        Whether a symmetric matrix whose leading eigenvalues have one sign gets a factorization ± U Uᵀ, with half the
        unknowns and fewer products.
    perturbation : float
        Random part of a start, relative to its entries and to its error: it leads away from saddle points such as the
        truncated SVD of the identity.
    warm_start : {"none", "rank", "size"}
        Where the start comes from besides the truncated SVD: nowhere, the solution at half the rank extended by
        singular directions of its residual, or that of the leading half of the rows and columns extended by least
        squares. Both are computed for the purpose, so that a case does not depend on its neighbours.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    budget: Literal["quick", "default", "thorough"] = "default"
    precision: Literal["single", "double"] = "single"
    symmetric: Annotated[bool, Field(strict=True)] = True
    perturbation: Annotated[float, Field(ge=0, le=1)] = 0.05
    warm_start: Literal["none", "rank", "size"] = "none"


@dataclass(frozen=True)
class _Budget:
    """Work of a search.

    Attributes
    ----------
    stages : tuple of int
        Sharpness of each stage, in units of 1 / error.
    steps : int
        Most steps a stage.
    work : float
        Unknowns × smaller side over all starts up to which further ones are made, at most `_MOST_STARTS`.
    polished : int
        Most unknowns of a solution that is polished.
    """

    stages: tuple[int, ...]
    steps: int
    work: float = 0
    polished: int = 0


_MOST_STARTS = 40
_PILOT_STAGES, _PILOT_STEPS = 4, 100  # where there are several starts, each gets these and the best one the rest
BUDGETS = {
    "quick": _Budget((15, 35, 80, 190, 450), 34),
    "default": _Budget((15, 30, 60, 120, 240, 480, 960), 85),
    "thorough": _Budget((10, 20, 40, 80, 160, 320, 640, 1280, 2560), 400, work=1e6, polished=400),
}


@dataclass(frozen=True)
class Minimax:
    """What the solver found.

    Attributes
    ----------
    left, right : ndarray of shape (n1, r), (n2, r)
    history : tuple of float
        Smallest max error so far after each evaluation from any start, in the units of the matrix; the last one is that
        of the factors, in double precision.
    stopped : str
        Why the search ended.
    flops : float
        Additions and multiplications of the matrix products, of all searches.
    """

    left: FloatArray = field(repr=False)
    right: FloatArray = field(repr=False)
    history: tuple[float, ...] = field(repr=False)
    stopped: str
    flops: float


@dataclass(frozen=True)
class Start(Generic[F]):
    """Where a search begins, and the error there relative to max|F|."""

    factorization: F
    x: FloatArray
    error: float


def _parametrise(
    matrix: FloatArray | Passes,
    scale: float,
    left: FloatArray,
    sizes: FloatArray,
    right: FloatArray,
    *,
    symmetric: bool,
) -> Start[Factorization]:
    """Start from (c / scale) U diag(sizes) Vᵀ with orthonormal U, V and the best multiple c.

    A symmetric start has the eigenvalues of F in the span of U (Rayleigh and Ritz). Where they differ in sign it is
    given up: the signs of the best G may be others.
    """
    signs = None
    if symmetric:
        product = matrix @ left if isinstance(matrix, np.ndarray) else matrix.run(times, [left]).rows
        values, vectors = np.linalg.eigh(left.T @ product)
        if values[0] >= 0 or values[-1] <= 0:
            sizes, left = np.abs(values), left @ vectors
            signs = np.full(len(values), np.sign(values.sum()) or 1.0)
            right = left * signs
    multiple, error = best_multiple(matrix, left * sizes, right)
    balance = np.maximum(sizes, max(_SMALLEST_SIZE * sizes.max(), np.finfo(np.float64).tiny)) ** BALANCE
    factorization = Factorization(len(left), balance / np.exp(np.log(balance).mean()), signs)
    root = np.sqrt(multiple / scale * sizes)
    x = factorization.unknowns(left * root, (right if signs is None else left) * root)
    return Start(factorization, x, error / scale)


def best_multiple(matrix: FloatArray | Passes, left: FloatArray, right: FloatArray) -> tuple[float, float]:
    """The c in [0.01, 2] with the smallest max|F − c G|, to one per cent, and that error."""
    found = minimize_scalar(
        lambda c: max_error(matrix, c * left, right), bounds=(0.01, 2), method="bounded", options={"xatol": 0.01}
    )
    return min((float(found.fun), float(found.x)), (max_error(matrix, left, right), 1.0))[::-1]


def _of_product(left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Singular value decomposition of left @ right.T, as U (n1 × r), s (r) and V (n2 × r)."""
    (q1, r1), (q2, r2) = np.linalg.qr(left), np.linalg.qr(right)
    u, s, vt = np.linalg.svd(r1 @ r2.T)
    return q1 @ u, s, q2 @ vt.T


def extended(matrix: FloatArray, rank: int, left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Extend factors for the leading rows and columns, or of smaller rank, to those of a matrix and rank.

    Further rows are found by least squares, further columns of the factors are leading singular directions of the
    residual.

    Parameters
    ----------
    matrix : ndarray of shape (n1, n2)
    rank : int
        r ≥ q.
    left, right : ndarray of shape (k1, q), (k2, q)
        k1 ≤ n1, k2 ≤ n2.

    Returns
    -------
    left, right : ndarray of shape (n1, r), (n2, r)
    """
    k1, k2 = len(left), len(right)
    below = np.linalg.lstsq(right, matrix[k1:, :k2].T)[0].T
    left = np.concatenate([left, below])
    beside = np.linalg.lstsq(left, matrix[:, k2:])[0].T
    right = np.concatenate([right, beside])
    missing = rank - left.shape[1]
    if missing:
        further = lapack_svd(matrix - left @ right.T).balanced_factors(missing)
        left, right = np.hstack([left, further[0]]), np.hstack([right, further[1]])
    return left, right


def _warm_start(
    matrix: FloatArray, rank: int, settings: MinimaxSettings, decomposition: Decomposition, seed: int
) -> tuple[FloatArray, FloatArray] | None:
    """Solution of a smaller problem, as the settings say."""
    if settings.warm_start == "rank" and rank > 1:
        smaller = minimax(matrix, rank // 2, settings, decomposition, seed)
    elif settings.warm_start == "size" and min(matrix.shape) >= 4 * rank:
        block = np.ascontiguousarray(matrix[: len(matrix) // 2, : matrix.shape[1] // 2])
        if not block.any():
            return None
        smaller = minimax(block, rank, settings, lapack_svd(block), seed)
    else:
        return None
    return smaller.left, smaller.right


def minimax(
    matrix: FloatArray | Passes,
    rank: int,
    settings: MinimaxSettings,
    decomposition: Decomposition,
    seed: int = 0,
    start: tuple[FloatArray, FloatArray] | None = None,
) -> Minimax:
    """Search for the rank-r matrix G with the smallest max|F − G|.

    The smooth maximum S_β of the residual of G = left @ right.T is minimised over the factors by L-BFGS, from a
    multiple of the truncated SVD, with β raised in stages relative to the error reached.

    Parameters
    ----------
    matrix : ndarray or Passes of shape (n1, n2)
        F, finite, not all zero. By passes, only the truncated SVD is begun from, and `warm_start` does not matter.
    rank : int
        r, at most min(n1, n2).
    settings : MinimaxSettings
    decomposition : Decomposition
        At least r singular triplets of F.
    seed : int
        Stream of the random part of the starts.
    start : tuple of ndarray, optional
        Factors to begin from as well; `extended` where they are of smaller rank or size.

    Returns
    -------
    Minimax
        Never worse than the truncated SVD, the start, or zero.
    """
    scale = max_norm(matrix)
    symmetric = settings.symmetric and is_symmetric(matrix)
    truncated = decomposition.u[:, :rank], decomposition.s[:rank], decomposition.vt[:rank].T
    starts = [_parametrise(matrix, scale, *truncated, symmetric=symmetric)]
    rivals = [(truncated[0] * truncated[1], truncated[2]), (0 * truncated[0], truncated[2])]
    stored = matrix if isinstance(matrix, np.ndarray) else None
    if stored is not None:
        start = start or _warm_start(stored, rank, settings, decomposition, seed)
    if stored is not None and start:
        if len(start[0]) == len(stored) and len(start[1]) == stored.shape[1]:
            padding = (0, 0), (0, rank - start[0].shape[1])
            rivals.append((np.pad(start[0], padding), np.pad(start[1], padding)))
        rivals.append(extended(stored, rank, *start))
        starts.append(_parametrise(stored, scale, *_of_product(*rivals[-1]), symmetric=False))
    search, history = descend(matrix, scale, starts, settings, seed)
    if stored is not None and symmetric and settings.budget == "thorough" and not search.resolved:
        invariant = search_orbits(stored, scale, rank, seed, settings.precision)
        if invariant:
            history += invariant[1]
            flops = search.flops + invariant[0].flops
            search = min(search, invariant[0], key=lambda found: found.error)
            search.flops = flops
    x, stopped = search.best.astype(np.float64), search.stopped
    if stored is not None and x.size <= BUDGETS[settings.budget].polished:
        x, stopped = polish(stored / scale, search.factorization, x)
    left, right = search.factorization.factors(x)
    rivals.insert(0, (np.sqrt(scale) * left, np.sqrt(scale) * right))
    found = [max_error(matrix, *factors) for factors in rivals]
    error = float(np.nanmin(found))
    history = np.maximum(scale * np.minimum.accumulate(history), error).tolist()
    return Minimax(
        *rivals[int(np.nanargmin(found))],
        history=(*history, error),
        stopped=stopped,
        flops=search.flops,
    )


def descend(
    matrix: FloatArray | Passes,
    scale: float,
    starts: Sequence[Start[Any]],
    settings: MinimaxSettings,
    seed: int,
) -> tuple[Descent, list[float]]:
    """Search from every start, randomly perturbed; where there are several, only the best is pursued to the end.

    Returns the search with the smallest error and the errors of all evaluations.
    """
    budget = BUDGETS[settings.budget]
    count = min(_MOST_STARTS, int(budget.work // (starts[0].x.size * min(matrix.shape)))) or 1
    pilots = _PILOT_STAGES if count * len(starts) > 1 else 0
    random = stream("start", seed)
    errors: list[float] = []
    flops = 0.0
    best: Descent | None = None
    for start in list(starts) * count:
        size = settings.perturbation * min(1.0, start.error) * float(np.sqrt(np.mean(start.x**2)))
        x = start.x + size * random.standard_normal(start.x.shape)
        search = Descent(matrix, scale, start.factorization, x, settings.precision)
        for sharpness in budget.stages[:pilots]:
            search.stage(sharpness, min(_PILOT_STEPS, budget.steps))
        errors += search.errors
        flops += search.flops
        if best is None or search.error < best.error:
            best = search
        if best.resolved:
            break
    if best is None:
        raise ValueError("starts: none given")
    before = len(best.errors)
    others = flops - best.flops
    for sharpness in budget.stages[pilots:]:
        best.stage(sharpness, budget.steps)
    best.flops += others
    return best, errors + best.errors[before:]
