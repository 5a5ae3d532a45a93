"""The diagnostics experiment: what of rank-r factors is identifiable, how they compress, and what signs cost.

Subspaces are compared between F(X, Y₁), the matrix of the other experiments, and F(X, Y₂), whose column points are the
third side of the same sampling scheme: drawn independently for the same row points. Under a symmetric scheme Y = X, and
there is no second draw. Where there is no gap after σ_r, or it is one of rounding (`svd_epsilon` tells), the subspaces
are arbitrary and large angles say nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arrays import FloatArray
from pipeline.diagnostics import compression, mean_sine, nonnegative_error, principal_angles, singular_value_gap
from pipeline.experiment import Case, Columns, Constraint, Cost, Experiment, Label, Quantity, Spread
from pipeline.experiments.generated import (
    DIMENSION,
    FUNCTION,
    PRODUCT,
    RANK,
    SAMPLING,
    SEED,
    SHARED,
    SIZE,
    SVD,
    Sizes,
    labels_of_file,
    matrices_only,
    never_spread,
    on_its_domain,
    require_entries,
)
from pipeline.functions import get_function
from pipeline.matrix import FunctionMatrix
from pipeline.passes import max_error, max_norm
from pipeline.sampling import SAMPLINGS
from pipeline.svd import Decomposition, lapack_svd, power_of_two
from pipeline.tensor import sample_points

_STEP = (3e-4, 2e-9, 2e-9)  # seconds of an iteration of non-negative factors: each, an n² and an n r²
_BASES = 2e-9  # seconds of the angles, n r²


class NonnegativeSettings(BaseModel):
    """When non-negative factors are good enough.

    Attributes
    ----------
    max_iter : int
        Most iterations; errors are upper bounds of the best whether or not they have converged.
    tol : float
        Part of the first iteration's violation of the optimality conditions at which to stop.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_iter: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 1000
    tol: Annotated[float, Field(gt=0, lt=1)] = 1e-4


class DiagnosticsSettings(BaseModel):
    """Settings of the non-negative factors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nonnegative: NonnegativeSettings = NonnegativeSettings()
    files: Annotated[dict[str, str], Field(init=False)] = {}
    """Always empty: a file has no second draw, which its constraint says."""


@dataclass(frozen=True)
class _Shared:
    """F(X, Y₁) with its max norm and decomposition, and the left singular vectors of F(X, Y₂)."""

    matrix: FloatArray
    norm: float
    decomposition: Decomposition
    other: FloatArray


def _prepare(case: Case, settings: DiagnosticsSettings, spread: Spread | None) -> _Shared:
    function = get_function(case["function"])
    rows, *columns = sample_points(case["sampling"], case["m"], case["n"], case["seed"], order=3)
    matrix, other = (FunctionMatrix(function, (rows, each)).to_numpy() for each in columns)
    require_entries(case, max_norm(other))
    return _Shared(matrix, require_entries(case, max_norm(matrix)), lapack_svd(matrix), lapack_svd(other).u)


def _evaluate(shared: _Shared, case: Case, settings: DiagnosticsSettings) -> Mapping[str, float]:
    rank, matrix, found = case["r"], shared.matrix, shared.decomposition
    angles = principal_angles(found.u[:, :rank], shared.other[:, :rank])
    unit = power_of_two(float(found.s[0]))
    gap = singular_value_gap(found.s / unit, rank)
    values = found.s / found.s[0]
    diagnostics = {
        "angle": float(angles[-1]),
        "mean_sine": mean_sine(angles),
        "gap": unit * gap.absolute,
        "relative_gap": gap.relative,
        "compression": compression(matrix.shape, rank),
        "svd_epsilon": max_error(matrix, *found.balanced_factors(rank)) / shared.norm,
        "svd_frobenius": float(np.linalg.norm(values[rank:]) / np.linalg.norm(values)),
    }
    if matrix.min() < 0:
        return diagnostics
    options = settings.nonnegative
    signed = nonnegative_error(matrix, rank, case["seed"], options.max_iter, options.tol, found)
    return {
        **diagnostics,
        "nonnegative_epsilon": signed.epsilon,
        "nonnegative_frobenius": signed.frobenius_error,
        "nonnegative_iterations": signed.iterations,
    }


def _prepare_cost(columns: Columns, settings: DiagnosticsSettings) -> Cost:
    sizes = Sizes.of(columns, settings.files)
    n = sizes.n
    return Cost(2 * (sizes.generation() + SVD * n**3), 90 * n * n + 24 * n * sizes.m)


def _evaluate_cost(columns: Columns, settings: DiagnosticsSettings) -> Cost:
    sizes = Sizes.of(columns, settings.files)
    n, r = sizes.n, sizes.r
    each, of_entries, of_columns = _STEP
    step = each + n * n * (of_entries + 2 * PRODUCT * r) + n * r * r * of_columns
    signed = settings.nonnegative.max_iter / 3 * step  # as if no entry were negative; most converge before
    seconds = 1e-3 + _BASES * n * r * r + n * n * (1e-9 + PRODUCT * r) + signed
    return Cost(seconds, 15 * n * n + 40 * n * r)


def _drawn_twice(columns: Columns, settings: DiagnosticsSettings) -> npt.NDArray[np.bool_]:
    return np.isin(columns["sampling"], [name for name, sampling in SAMPLINGS.items() if not sampling.symmetric])


def _settings_used(labels: Mapping[str, Sequence[Label]]) -> set[str]:
    return {"nonnegative"}


DIAGNOSTICS = Experiment(
    name="diagnostics",
    summary="angles between leading subspaces of two draws, spectral gap, compression, non-negative factors",
    revision=2,
    axes=(FUNCTION, SAMPLING, DIMENSION, SIZE, RANK, SEED),
    shared=SHARED,
    quantities=(
        Quantity(
            "angle",
            "largest principal angle",
            units="rad",
            label="largest principal angle (radians)",
            comment="between the leading left singular subspaces of F(X, Y1) and F(X, Y2)",
        ),
        Quantity(
            "mean_sine",
            "mean sine of the principal angles",
            comment="0 for one subspace, 1 for orthogonal ones",
        ),
        Quantity("gap", "gap σ(r) − σ(r+1)", comment="singular value r less singular value r + 1 of F(X, Y1)"),
        Quantity(
            "relative_gap",
            "relative gap (σ(r) − σ(r+1)) / σ(r)",
            comment="gap divided by singular value r; the leading subspace is arbitrary at 0",
        ),
        Quantity("compression", "entries of F by those of its factors", along=("function", "sampling", "m", "seed")),
        Quantity("svd_epsilon", "max-norm error of the truncated SVD", comment="relative, of F(X, Y1)"),
        Quantity(
            "svd_frobenius",
            "Frobenius error of the truncated SVD",
            comment="relative, of F(X, Y1), the least at rank r",
        ),
        Quantity(
            "nonnegative_epsilon",
            "max-norm error of the NMF",
            optional=True,
            comment="relative, of non-negative factors of F(X, Y1), where no entry is negative",
        ),
        Quantity(
            "nonnegative_frobenius",
            "Frobenius error of the NMF",
            optional=True,
            comment="relative, of non-negative factors of F(X, Y1), an upper bound of the least",
        ),
        Quantity(
            "nonnegative_iterations",
            "iterations of the NMF",
            optional=True,
            comment="not converged where as many as nonnegative.max_iter",
        ),
        Quantity(
            "seconds", "computing time", units="s", comment="with a share of both matrices and their decompositions"
        ),
    ),
    main="angle",
    settings=DiagnosticsSettings,
    settings_used=_settings_used,
    constraints=(
        Constraint(
            ("function", "sampling"),
            "the rule that column points are drawn twice for the same row points",
            _drawn_twice,
            "use an independent sampling, such as ball-independent, and functions rather than files",
        ),
        matrices_only(),
        on_its_domain(),
        Constraint(
            ("r", "n"),
            "r < n",
            lambda columns, _: columns["r"] < columns["n"],
            "lower r, raise n, or add 'where: r < n'",
        ),
    ),
    labels_of_file=labels_of_file,
    prepare=_prepare,
    evaluate=_evaluate,
    prepare_cost=_prepare_cost,
    evaluate_cost=_evaluate_cost,
    spread_cost=never_spread,
)
