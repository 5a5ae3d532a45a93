"""The spectrum experiment: singular values, and how many of them count."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.arrays import FloatArray
from pipeline.experiment import (
    Axis,
    Case,
    Columns,
    Constraint,
    Cost,
    Expectation,
    Experiment,
    Label,
    Quantity,
    Spread,
    Theory,
)
from pipeline.experiments.generated import (
    DIMENSION,
    FUNCTION,
    SAMPLING,
    SEED,
    SHARED,
    SIZE,
    FilesOnly,
    Sizes,
    fixed_cost,
    labels_of_file,
    matrices_only,
    never_spread,
    of_functions,
    on_its_domain,
    recipe_of,
    require_entries,
)
from pipeline.passes import max_norm
from pipeline.sampling import Sampling
from pipeline.svd import singular_values

_VALUES = 2.7e-10  # seconds of singular values alone, n³


def effective_rank(values: FloatArray) -> float:
    """(Σ σ_k)² / Σ σ_k², between 1 and the number of singular values that are not zero.

    Parameters
    ----------
    values : ndarray of shape (k,)
        All singular values of a matrix, not all zero.

    Examples
    --------
    >>> import numpy as np
    >>> effective_rank(np.array([1.0, 1.0, 1.0, 0.0]))
    3.0
    """
    values = values / values.max()
    return float(values.sum() ** 2 / (values @ values))


def stable_rank(values: FloatArray) -> float:
    """‖F‖_F² / ‖F‖_2² = Σ σ_k² / σ_1² (Rudelson and Vershynin 2007), at most the effective rank.

    Parameters
    ----------
    values : ndarray of shape (k,)
        All singular values of a matrix, not all zero.
    """
    values = values / values.max()
    return float(values @ values)


def _prepare(case: Case, settings: FilesOnly, spread: Spread | None) -> FloatArray:
    matrix = recipe_of(case, settings.files).make().to_numpy()
    require_entries(case, max_norm(matrix))
    values = singular_values(matrix)
    values /= np.sqrt(matrix.size)
    return values


def _evaluate(values: FloatArray, case: Case, settings: FilesOnly) -> Mapping[str, float]:
    sigma = float(values[case["k"] - 1])
    return {
        "sigma": sigma,
        "ratio": sigma / float(values[0]),
        "effective_rank": effective_rank(values),
        "stable_rank": stable_rank(values),
    }


def _prepare_cost(columns: Columns, settings: FilesOnly) -> Cost:
    sizes = Sizes.of(columns, settings.files)
    return Cost(sizes.generation() + _VALUES * sizes.n**3, 20 * sizes.n**2 + 16 * sizes.n * sizes.m)


def _evaluate_cost(columns: Columns, settings: FilesOnly) -> Cost:
    return fixed_cost(columns, 2e-5)


def _quarter_circle(function: str, sampling: Sampling, columns: Columns) -> FloatArray | float:
    """Where entries are independent: their points differ, as on spheres of a dimension above 0."""
    distinct = (sampling.domain != "sphere") | (columns["m"] > 1)
    return np.where(distinct, (8 / (3 * np.pi)) ** 2 * columns["n"], np.nan) if function == "white_noise" else np.nan


def _settings_used(labels: Mapping[str, Sequence[Label]]) -> set[str]:
    return set()


SPECTRUM = Experiment(
    name="spectrum",
    summary="singular values and effective rank",
    revision=2,
    axes=(
        FUNCTION,
        SAMPLING,
        DIMENSION,
        SIZE,
        Axis("k", int, "number of the singular value", "k"),
        SEED,
    ),
    shared=SHARED,
    quantities=(
        Quantity(
            "sigma",
            "k-th singular value of F / sqrt(n1 n2)",
            label="singular value σ of F/n",
            comment="by Monte Carlo that of the operator of f",
        ),
        Quantity("ratio", "singular value ratio σ(k) / σ(1)", comment="k-th singular value of F, divided by the first"),
        Quantity(
            "effective_rank",
            "effective rank (Σσ)²/Σσ²",
            along=("k",),
            comment="(sum of singular values)^2 / sum of their squares",
        ),
        Quantity(
            "stable_rank",
            "stable rank Σσ²/σ(1)²",
            along=("k",),
            comment="sum of squared singular values / square of the first",
        ),
        Quantity("seconds", "computing time", units="s", comment="a share of that of all singular values"),
    ),
    main="effective_rank",
    settings=FilesOnly,
    settings_used=_settings_used,
    constraints=(
        matrices_only(),
        on_its_domain(),
        Constraint(
            ("k", "n"),
            "k <= n",
            lambda columns, _: columns["k"] <= columns["n"],
            "lower k, raise n, or add 'where: k <= n'",
        ),
    ),
    labels_of_file=labels_of_file,
    prepare=_prepare,
    evaluate=_evaluate,
    prepare_cost=_prepare_cost,
    evaluate_cost=_evaluate_cost,
    spread_cost=never_spread,
    expectations=(
        Expectation("n", "effective_rank", "power", "0 for functions of low-rank matrices, 1 for independent entries"),
        Expectation("m", "effective_rank", "power", "1 if the effective rank is in proportion to that of the input"),
    ),
    theory=(
        Theory(
            "quarter_circle",
            "(8/3π)² n, independent normal entries (Marchenko and Pastur)",
            "effective_rank",
            lambda columns: of_functions(columns, _quarter_circle),
        ),
    ),
)
