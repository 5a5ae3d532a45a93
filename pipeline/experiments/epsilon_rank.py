"""The ε-rank experiment: the smallest rank at which a method meets a tolerance, and a rank below which none can."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.approximation import METHODS, Problem
from pipeline.arrays import FloatArray
from pipeline.certificates import RELIANCE, CertificateSettings, tail_bound
from pipeline.errors import InputError
from pipeline.experiment import Axis, Case, Columns, Cost, Expectation, Experiment, Label, Quantity, Spread, Theory
from pipeline.experiments.approximation import iterations_cost
from pipeline.experiments.generated import (
    DIMENSION,
    FUNCTION,
    PRODUCT,
    SAMPLING,
    SEED,
    SHARED,
    SIZE,
    SVD,
    Sizes,
    labels_of_file,
    matrices_only,
    never_spread,
    of_functions,
    on_its_domain,
    recipe_of,
    require_entries,
)
from pipeline.matrix import FunctionMatrix
from pipeline.minimax import MinimaxSettings
from pipeline.passes import max_error, max_norm
from pipeline.projections import APSettings
from pipeline.sampling import Sampling
from pipeline.svd import Decompositions, SVDSettings, truncation_errors
from pipeline.theory import embedding_rank, is_kernel, least_analytical_rank, three_stages

_SEARCHED = ("ap", "minimax")
_CURVE = 3e-10  # seconds of the errors of all truncations, n³
_EVALUATIONS = 8  # of a bisection


class ToleranceSettings(BaseModel):
    """What tolerances are meant of.

    Attributes
    ----------
    scale : {"absolute", "relative"}
        Of max|F − G|, as μ_r is, or of max|F − G| / max|F|.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Literal["absolute", "relative"] = "absolute"


class EpsilonRankSettings(BaseModel):
    """Settings of every method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tolerance: ToleranceSettings = ToleranceSettings()
    ap: APSettings = APSettings()
    minimax: MinimaxSettings = MinimaxSettings()
    certificate: CertificateSettings = CertificateSettings()
    files: Annotated[dict[str, str], Field(init=False)] = {}
    """Absolute paths of the files that stand for functions, by label; a specification does not say them here."""


@dataclass
class _Shared:
    """A matrix with what is known of it so far, each value computed once and the same whatever was asked before."""

    problem: Problem
    norm: float
    settings: EpsilonRankSettings
    seed: int
    found: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    bounds: dict[int, float] = field(default_factory=dict)

    @cached_property
    def truncations(self) -> FloatArray:
        """Errors μ_r for r = 0, 1, 2 and so on."""
        return truncation_errors(self.problem.values, self.problem.decompositions.complete())

    def error(self, method: str, rank: int) -> tuple[float, int]:
        """max|F − G| of a method's factors, and its iterations."""
        if rank == 0:
            return self.norm, 0
        if (method, rank) not in self.found:
            factors = METHODS[method].find(self.problem, rank, getattr(self.settings, method, None), self.seed)
            error = max_error(self.problem.decompositions.passes, factors.left, factors.right)
            self.found[method, rank] = error, len(factors.history)
        return self.found[method, rank]

    def bound(self, rank: int) -> float:
        """Certified lower bound of max|F − G| at a rank."""
        if rank == 0:
            return self.norm
        if rank not in self.bounds:
            self.bounds[rank] = self.problem.lower_bound(rank, self.settings.certificate)
        return self.bounds[rank]


def _prepare(case: Case, settings: EpsilonRankSettings, spread: Spread | None) -> _Shared:
    entries = recipe_of(case, settings.files).make()
    decompositions = Decompositions(entries.to_numpy(), SVDSettings(driver="lapack"), case["seed"])
    norm = require_entries(case, max_norm(decompositions.passes))
    generated = entries if isinstance(entries, FunctionMatrix) else None
    shared = _Shared(Problem(decompositions, generated), norm, settings, case["seed"])
    _ = shared.truncations  # computed here, so that its time is shared among the cases
    return shared


def _evaluate(shared: _Shared, case: Case, settings: EpsilonRankSettings) -> Mapping[str, float]:
    method, tolerance = case["method"], float(case["tolerance"])
    if settings.tolerance.scale == "relative":
        tolerance *= shared.norm
    rank = _rank_of_truncation(shared, tolerance)
    lower = _lower_rank(shared, tolerance, rank)
    evaluated: set[int] = set()
    if method in _SEARCHED:

        def meets(r: int) -> bool:
            evaluated.add(r)
            return shared.error(method, r)[0] <= tolerance

        rank = _bisect(meets, lower - 1, rank)
    return {
        "rank": rank,
        "lower_bound": lower,
        "error": shared.error(method if rank in evaluated else "svd", rank)[0],
        "max_norm": shared.norm,
        "iterations": sum(shared.error(method, r)[1] for r in evaluated),
    }


def _rank_of_truncation(shared: _Shared, tolerance: float) -> int:
    """Smallest r with μ_r ≤ tolerance, by the factors themselves."""
    rounding = 0.0  # by which factors were found to be worse than their μ_r
    for rank, truncation in enumerate(shared.truncations.tolist()):
        if truncation + rounding <= tolerance:
            error = shared.error("svd", rank)[0]
            if error <= tolerance:
                return rank
            rounding = max(rounding, error - truncation)
    unit = shared.norm if shared.settings.tolerance.scale == "relative" else 1.0
    given, reached = tolerance / unit, (shared.truncations.min() + rounding) / unit
    raise InputError(f"tolerance: {given:.3g} is below the rounding of the SVD ({reached:.3g}); raise it")


def _lower_rank(shared: _Shared, tolerance: float, rank: int) -> int:
    """Smallest rank that the lower bounds leave open, at most one that is known to do."""
    decomposition = shared.problem.decompositions.complete()

    def open_by_tail(r: int) -> bool:
        return (tail_bound(decomposition, r) if r else shared.norm) <= tolerance

    first = _bisect(open_by_tail, -1, rank)
    if shared.settings.certificate.bound == "tail" or first == rank:
        return first
    return _bisect(lambda r: shared.bound(r) <= tolerance, first - 1, rank)


def _bisect(holds: Callable[[int], bool], below: int, at: int) -> int:
    """A rank at which a condition holds and below which, if it is monotone, it does not.

    It is taken not to hold at `below`, and to hold at `at`. Halved are the logarithms: low ranks cost least.
    """
    while at - below > 1:
        middle = min(max(below + 1, math.isqrt(max(below, 1) * at)), at - 1)
        if holds(middle):
            at = middle
        else:
            below = middle
    return at


def _prepare_cost(columns: Columns, settings: EpsilonRankSettings) -> Cost:
    sizes = Sizes.of(columns, settings.files)
    n = sizes.n
    return Cost(sizes.generation() + (SVD + _CURVE) * n**3, 100 * n * n + 16 * n * sizes.m)


def _evaluate_cost(columns: Columns, settings: EpsilonRankSettings) -> Cost:
    sizes = Sizes.of(columns, settings.files)
    n, method = sizes.n, columns["method"]
    rank = 3 * np.sqrt(n)  # of those that are searched
    seconds = 1e-3 + PRODUCT * n * n * n / 2  # of a truncation at n/4
    for name in _SEARCHED:
        options = getattr(settings, name)
        steps = iterations_cost(
            "ap" if name == "ap" else settings.minimax.budget, n, rank, double=options.precision == "double"
        )
        seconds = seconds + np.where(method == name, _EVALUATIONS * steps, 0.0)
    memory = np.where(method == "svd", 0.0, 160 * n * n)  # ranks up to n may be tried
    if settings.certificate.bound == "best":
        seconds = seconds + _EVALUATIONS * (0.04 + n * n * (2e-6 + 9e-8 * rank))
        memory = memory + 170 * np.minimum(n, 1500) ** 2
    return Cost(seconds, memory)


def _embedding(function: str, sampling: Sampling, columns: Columns) -> FloatArray | float:
    """Rank of the random embedding, of inner products of points of norm at most 1 and of kernels."""
    product = function in ("inner_product", "identity") and sampling.domain in ("ball", "sphere")
    if not (product or is_kernel(function)):
        return np.nan
    inside = columns["tolerance"] < 1
    tolerance = np.where(inside, columns["tolerance"], 0.5)
    return np.where(inside, embedding_rank(columns["n"], columns["n"], tolerance), np.nan)


def _three_stages(function: str, sampling: Sampling, columns: Columns) -> FloatArray | float:
    """Least of n, the rank of the random embedding and one that holds whatever n."""
    embedding = _embedding(function, sampling, columns)
    if sampling.domain not in ("ball", "sphere") or np.isnan(embedding).all():
        return np.nan
    tolerance = np.where(columns["tolerance"] < 1, columns["tolerance"], 0.5)
    analytical = least_analytical_rank(function, columns["m"], tolerance, sampling.domain)
    return three_stages(columns["n"], lambda n: np.asarray(embedding), analytical)


def _absolute(settings: Mapping[str, Any]) -> bool:
    """Whether tolerances are of max|F − G|, which the theorems are about."""
    return bool(settings.get("tolerance", {}).get("scale") != "relative")


def _settings_used(labels: Mapping[str, Sequence[Label]]) -> set[str]:
    return {"tolerance", "certificate", *map(str, labels["method"])} - {"svd"}


def _get_method(name: str) -> Any:
    if name not in ("svd", *_SEARCHED):
        raise InputError(f"method: {name!r} does not search for a rank; use one of svd, {', '.join(_SEARCHED)}")
    return METHODS[name]


EPSILON_RANK = Experiment(
    name="epsilon_rank",
    summary="smallest rank that meets a tolerance in every entry",
    revision=3,
    axes=(
        FUNCTION,
        SAMPLING,
        DIMENSION,
        SIZE,
        Axis("tolerance", float, "largest error of an entry", "tolerance", least=0),
        Axis("method", str, "method that meets it", "method", check=_get_method),
        SEED,
    ),
    shared=SHARED,
    quantities=(
        Quantity(
            "rank",
            "rank that meets the tolerance",
            dtype="int32",
            comment="the smallest found, an upper bound of the ε-rank",
        ),
        Quantity(
            "lower_bound",
            "certified lower bound of the ε-rank",
            dtype="int32",
            comment=f"no smaller rank meets it; {RELIANCE}",
        ),
        Quantity("error", "max|F - G|", comment="of the factors of that rank"),
        Quantity("max_norm", "largest absolute entry of F"),
        Quantity("iterations", "steps of the method", dtype="int32", comment="over all ranks tried"),
        Quantity("seconds", "computing time", units="s", comment="with a share of the matrix and its decomposition"),
    ),
    main="rank",
    settings=EpsilonRankSettings,
    settings_used=_settings_used,
    constraints=(matrices_only(), on_its_domain()),
    labels_of_file=labels_of_file,
    prepare=_prepare,
    evaluate=_evaluate,
    prepare_cost=_prepare_cost,
    evaluate_cost=_evaluate_cost,
    spread_cost=never_spread,
    expectations=(
        Expectation(
            "n", "rank", "growth", "1 for small n or tolerance, then towards 0 (Udell and Townsend, Figure 5.1)"
        ),
        Expectation("tolerance", "rank", "power", "between 0 and -2 (Budzinskiy, Theorem 1.3)"),
    ),
    theory=(
        Theory("size", "n", "rank", lambda columns: columns["n"].astype(np.float64), listed=False),
        Theory(
            "embedding",
            "9 log(3n²)/ε² (Budzinskiy, Theorems 1.3 and 5.2)",
            "rank",
            lambda columns: of_functions(columns, _embedding),
            _absolute,
        ),
        Theory(
            "three_stages",
            "min(n, 9 log(3n²)/ε², β₂) (Budzinskiy, Figure 1)",
            "rank",
            lambda columns: of_functions(columns, _three_stages),
            _absolute,
        ),
    ),
)
