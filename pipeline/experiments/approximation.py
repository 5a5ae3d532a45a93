"""The approximation experiment: the smallest known max-norm error at given rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from pipeline.approximation import get_method
from pipeline.arrays import Matrix, max_error, max_norm
from pipeline.certificates import tail_bound
from pipeline.errors import InputError
from pipeline.experiment import Axis, Case, Columns, Cost, Experiment, Label, Quantity
from pipeline.functions import get_function
from pipeline.matrix import function_matrix
from pipeline.projections import APSettings
from pipeline.sampling import get_sampling
from pipeline.svd import Decompositions, SVDSettings

_STORED_BYTES = 2 * 2**30  # larger matrices are made anew in each pass

# Predicted times, fitted on one core of a 2026 server: seconds an operation.
_PRODUCT = 3e-11  # multiplication and addition of a matrix product, double precision
_SVD = 3.2e-10  # n³ of a full decomposition
_GENERATION = 1.6e-8  # entry of a matrix, the inner product aside
_PROJECTIONS = 800
_PROJECTION_PRODUCT = 6e-11  # n² r of a projection step, single precision
_PROJECTION_ENTRY = 9.5e-10  # n²
_PROJECTION_BASIS = 2.1e-10  # n r²

Floats = npt.NDArray[np.float64]


class ApproximationSettings(BaseModel):
    """Settings of every method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    svd: SVDSettings = SVDSettings()
    ap: APSettings = APSettings()


@dataclass(frozen=True)
class _Shared:
    """A matrix with its max norm and decompositions."""

    matrix: Matrix
    norm: float
    decompositions: Decompositions


def _prepare(case: Case, settings: ApproximationSettings) -> _Shared:
    generated = function_matrix(case["function"], case["sampling"], case["m"], case["n"], case["seed"])
    stored = 8 * case["n"] ** 2 <= _STORED_BYTES
    matrix: Matrix = generated.to_numpy() if stored else generated
    norm = max_norm(matrix)
    if norm == 0:
        raise InputError(f"function {case['function']}: the matrix is zero, so a relative error has no meaning")
    decompositions = Decompositions(matrix, settings.svd, case["seed"])
    decompositions.for_bound()  # computed here, so that its time is shared among the cases
    return _Shared(matrix, norm, decompositions)


def _evaluate(shared: _Shared, case: Case, settings: ApproximationSettings) -> Mapping[str, float]:
    method, rank = case["method"], case["r"]
    factors = get_method(method).find(shared.decompositions, rank, getattr(settings, method), case["seed"])
    return {
        "epsilon": max_error(shared.matrix, factors.left, factors.right) / shared.norm,
        "lower_bound": tail_bound(shared.decompositions.for_bound(), rank) / shared.norm,
        "max_norm": shared.norm,
        "iterations": factors.iterations,
    }


def _as_floats(columns: Columns, *names: str) -> list[Floats]:
    return [columns[name].astype(np.float64) for name in names]


def _uses_lapack(n: Floats, r: Floats, settings: ApproximationSettings) -> npt.NDArray[np.bool_]:
    pairs, where = np.unique(np.stack([n, r]), axis=1, return_inverse=True)
    used = np.array([settings.svd.uses_lapack(int(size), int(rank)) for size, rank in pairs.T], dtype=bool)
    return used[where.ravel()]


def _prepare_cost(columns: Columns, settings: ApproximationSettings) -> Cost:
    m, n = _as_floats(columns, "m", "n")
    side = np.where(_uses_lapack(n, np.ones_like(n), settings), n, np.minimum(n, settings.svd.dense_limit))
    seconds = 4e-4 + n * n * (_GENERATION + _PRODUCT * m) + 4e-8 * n * m + _SVD * side**3
    return Cost(seconds, np.minimum(8 * n * n, _STORED_BYTES) + 16 * n * m + 60 * side * side)


def _evaluate_cost(columns: Columns, settings: ApproximationSettings) -> Cost:
    n, r = _as_floats(columns, "n", "r")
    width = np.array([settings.svd.sketch_width(int(rank)) for rank in r.ravel()], dtype=np.float64)
    passes = np.where(_uses_lapack(n, r, settings), 0, 2 + 2 * settings.svd.power_iterations)
    step = 3e-5 + n * n * (_PROJECTION_PRODUCT * r + _PROJECTION_ENTRY) + _PROJECTION_BASIS * n * r * r
    if settings.ap.projection == "exact":
        step = _SVD / 2 * n**3
    if settings.ap.precision == "double":
        step = step * 2
    is_ap = columns["method"] == "ap"
    late = ~is_ap & (passes == 0) & ~_uses_lapack(n, np.ones_like(n), settings)  # complete, for this rank alone
    basis = (settings.svd.power_iterations + 1) * width
    seconds = 2e-4 + n * n * _PRODUCT * r + np.where(is_ap, _PROJECTIONS * step, 2 * passes * n * n * width * _PRODUCT)
    memory = np.where(late, 60 * n * n, np.minimum(8 * n * n, _STORED_BYTES) + 48 * n * np.minimum(n, basis))
    return Cost(seconds + np.where(late, _SVD * n**3, 0.0), np.where(is_ap, 40 * n * n, memory))


def _settings_used(labels: Mapping[str, Sequence[Label]]) -> set[str]:
    return {"svd", *map(str, labels["method"])}  # the lower bound rests on the decomposition


APPROXIMATION = Experiment(
    name="approximation",
    summary="relative max-norm error of rank-r approximations",
    revision=1,
    axes=(
        Axis("function", str, "generating function", "function", check=get_function),
        Axis("sampling", str, "sampling scheme", "sampling", check=get_sampling),
        Axis("m", int, "latent dimension", "m"),
        Axis("n", int, "matrix size", "n"),
        Axis("r", int, "rank of the approximation", "r"),
        Axis("method", str, "approximation method", "method", check=get_method),
        Axis("seed", int, "trial number", "seeds", least=0),
    ),
    shared=("function", "sampling", "m", "n", "seed"),
    quantities=(
        Quantity("epsilon", "relative max-norm error max|F - G| / max|F|, an upper bound of the best possible"),
        Quantity("lower_bound", "certified lower bound of the best possible relative max-norm error"),
        Quantity("max_norm", "largest absolute entry of F"),
        Quantity("iterations", "steps of the method", dtype="int32"),
        Quantity("seconds", "computing time, with a share of the matrix and its decomposition", units="s"),
    ),
    main="epsilon",
    settings=ApproximationSettings,
    settings_used=_settings_used,
    constraints=(("r <= n", "lower r, raise n, or add 'where: r <= n'"),),
    prepare=_prepare,
    evaluate=_evaluate,
    prepare_cost=_prepare_cost,
    evaluate_cost=_evaluate_cost,
)
