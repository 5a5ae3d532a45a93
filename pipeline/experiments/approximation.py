"""The approximation experiment: the smallest known max-norm error at given rank."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.approximation import Problem, get_method
from pipeline.arrays import FloatArray, Matrix
from pipeline.certificates import RELIANCE, CertificateSettings
from pipeline.embedding import CLOSED_FORMS, EmbeddingSettings
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
    SpreadCost,
    Theory,
)
from pipeline.experiments.generated import (
    DIMENSION,
    FUNCTION,
    GENERATION,
    PRODUCT,
    RANK,
    SAMPLING,
    SEED,
    SHARED,
    SIZE,
    SVD,
    Sizes,
    labels_of_file,
    of_functions,
    on_its_domain,
    orders,
    recipe_of,
    require_entries,
)
from pipeline.matrix import FunctionMatrix
from pipeline.minimax import MinimaxSettings
from pipeline.passes import (
    GROUP_ROWS,
    PANEL_ROWS,
    PASSED_ENTRIES,
    STORED_BYTES,
    TILE_COLUMNS,
    Passes,
    max_error,
    max_norm,
)
from pipeline.projections import APSettings
from pipeline.sampling import HELD_BYTES, Sampling
from pipeline.svd import Decompositions, SVDSettings
from pipeline.tensor_approximation import TRAIN_METHODS, TensorProblem, find_train
from pipeline.tensor_train import unfolding
from pipeline.theory import embedding_error, is_semidefinite, limit_error

# Predicted times, fitted on one core of a 2026 server.
# Iterations of a method: their number, and seconds an n² r, an n², an n r², an n r, and each.
_STEPS = {
    "ap": (800, 6e-11, 9.5e-10, 2.1e-10, 0.0, 3e-5),
    "quick": (210, 5e-11, 1.2e-9, 0.0, 1.4e-8, 1.2e-4),
    "default": (640, 5e-11, 1.2e-9, 0.0, 1.4e-8, 1.2e-4),
    "thorough": (3000, 5e-11, 1.2e-9, 0.0, 1.4e-8, 1.2e-4),
}
_BOUND = (0.04, 2e-6, 9e-8)  # of the improved lower bound: each, an n² and an n² r
_BOUND_ENTRIES = 1500**2  # of the largest block that it works on where a tensor is unfolded
# The same for tensors of N entries.
_TRAIN_SVD = 6e-10  # N times the smaller side of an unfolding
_TRAIN_STEPS = {  # number of iterations, and seconds an N, an N r, and each
    "ap": (500, 2.1e-9, 4.5e-11, 2e-4),
    "quick": (250, 2.6e-9, 1.4e-10, 2e-4),
    "default": (690, 2.6e-9, 1.4e-10, 2e-4),
    "thorough": (3000, 2.6e-9, 1.4e-10, 2e-4),
}

# The same for passes over matrices that are not stored: number, and seconds an n² and an n² r.
_PASSED_STEPS = {
    "ap": (1000, 4.5e-9, 6e-11),
    "quick": (250, 3.2e-9, 5e-11),
    "default": (700, 3.2e-9, 5e-11),
    "thorough": (3000, 3.2e-9, 5e-11),
}


class ApproximationSettings(BaseModel):
    """Settings of every method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    svd: SVDSettings = SVDSettings()
    ap: APSettings = APSettings()
    minimax: MinimaxSettings = MinimaxSettings()
    random_embedding: EmbeddingSettings = EmbeddingSettings()
    certificate: CertificateSettings = CertificateSettings()
    files: Annotated[dict[str, str], Field(init=False)] = {}
    """Absolute paths of the files that stand for functions, by label; a specification does not say them here."""


@dataclass(frozen=True)
class _Shared:
    """A matrix or tensor with its max norm, its decompositions and the lower bounds found so far, by rank."""

    norm: float
    problem: Problem | TensorProblem
    bounds: dict[int, float] = field(default_factory=dict)


def _prepare(case: Case, settings: ApproximationSettings, spread: Spread | None) -> _Shared:
    problem: Problem | TensorProblem
    recipe = recipe_of(case, settings.files)
    entries = recipe.make()
    if len(entries.shape) > 2:
        tensor = entries.to_numpy()
        norm = max_norm(unfolding(tensor, 1))
        problem = TensorProblem(tensor, settings.svd, case["seed"])
        decomposed = problem.unfoldings
    else:
        matrix: Matrix | Passes = entries
        if spread is not None:
            matrix = spread(recipe)
        elif 8 * math.prod(entries.shape) <= STORED_BYTES:
            matrix = entries.to_numpy()
        norm = max_norm(matrix)
        generated = entries if isinstance(entries, FunctionMatrix) else None
        problem = Problem(Decompositions(matrix, settings.svd, case["seed"]), generated)
        decomposed = [problem.decompositions]
    require_entries(case, norm)
    for each in decomposed:
        each.for_bound()  # computed here, so that its time is shared among the cases
    return _Shared(norm, problem)


def _evaluate(shared: _Shared, case: Case, settings: ApproximationSettings) -> Mapping[str, float]:
    method, rank, seed = get_method(case["method"]), case["r"], case["seed"]
    problem, options, guarantee = shared.problem, getattr(settings, method.name), None
    started = perf_counter()
    if isinstance(problem, TensorProblem):
        cores, errors, _ = find_train(problem, rank, method.name, options, seed)
        seconds = perf_counter() - started
        error, iterations = problem.error(cores), len(errors)
    else:
        factors = method.find(problem, rank, options, seed)
        seconds = perf_counter() - started
        error = max_error(problem.decompositions.passes, factors.left, factors.right)
        iterations, guarantee = len(factors.history), factors.guarantee
    if rank not in shared.bounds:
        shared.bounds[rank] = problem.lower_bound(rank, settings.certificate)
    values = {
        "epsilon": error / shared.norm,
        "lower_bound": shared.bounds[rank] / shared.norm,
        "max_norm": shared.norm,
        "iterations": iterations,
        "seconds": seconds,
    }
    return values if guarantee is None else {**values, "guarantee": guarantee / shared.norm}


def _prepare_cost(columns: Columns, settings: ApproximationSettings) -> Cost:
    sizes = Sizes.of(columns, settings.files)
    order, n, m = sizes.order, sizes.n, sizes.m
    sizes = replace(sizes, r=np.ones_like(n))
    side = np.where(sizes.lapack(settings.svd), n, np.minimum(n, settings.svd.dense_limit))
    seconds = sizes.generation() + np.where(
        order == 2, SVD * side**3, _TRAIN_SVD * n**order * _unfolded_sides(n, order)
    )
    memory = np.where(order == 2, 8 * n * n + 60 * side * side, 32 * n**order)
    return Cost(seconds, memory + 8 * order * n * m)


def _unfolded_sides(n: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
    """Sum over the bonds of a tensor of the smaller side of its unfolding there."""
    bonds = range(1, int(order.max()))
    sides = [np.where(bond < order, n ** np.minimum(bond, order - bond), 0.0) for bond in bonds]
    return np.asarray(np.sum(sides, axis=0), dtype=np.float64)


def _train_cost(columns: Columns, settings: ApproximationSettings) -> Cost:
    """Cost of the methods for tensors, their matrices' decompositions and bounds aside."""
    sizes = Sizes.of(columns, settings.files)
    order, n, r, method = sizes.order, sizes.n, sizes.r, columns["method"]
    entries = n**order
    seconds = 2e-4 + 4e-10 * entries * r
    for name, chosen, precision in (
        ("ap", "ap", settings.ap.precision),
        ("minimax", settings.minimax.budget, settings.minimax.precision),
    ):
        count, of_entries, of_ranks, each = _TRAIN_STEPS[chosen]
        step = each + entries * (of_entries + of_ranks * r) * (2 if precision == "double" else 1)
        if name == "ap" and settings.ap.projection == "exact":
            step = step + _TRAIN_SVD * entries * _unfolded_sides(n, order)
        seconds = seconds + np.where(method == name, count * step, 0.0)
    return Cost(seconds, 40 * entries)


def iterations_cost(name: str, n: FloatArray, r: FloatArray, *, double: bool) -> FloatArray:
    """Seconds of an iterative method."""
    count, of_nnr, of_nn, of_nrr, of_nr, each = _STEPS[name]
    step = each + n * n * (of_nnr * r + of_nn) + n * r * (of_nrr * r + of_nr)
    return np.asarray(count * step * (2 if double else 1))


def _embedding_cost(columns: Columns, n: FloatArray, settings: EmbeddingSettings) -> tuple[FloatArray, FloatArray]:
    """Seconds and bytes of random embeddings."""
    first = [CLOSED_FORMS.get(name, ["factorization"])[0] for name in columns["function"].ravel().tolist()]
    features = np.array(first).reshape(columns["function"].shape)
    if settings.features != "auto":
        features = np.full_like(features, settings.features)
    gram = (features == "taylor") & (columns["function"] != "inner_product") & (2 * n <= settings.gram_limit)
    factored = features == "factorization"
    seconds = np.where(factored, (1 + settings.reweightings) * SVD * n**3, np.where(gram, SVD * n**3, 0.0))
    return seconds, np.where(factored, 100 * n * n, np.where(gram, 32 * (2 * n) ** 2, 0.0))


def _evaluate_cost(columns: Columns, settings: ApproximationSettings) -> Cost:
    sizes = Sizes.of(columns, settings.files)
    order, n, r, method = sizes.order, sizes.n, sizes.r, columns["method"]
    lapack, always = sizes.lapack(settings.svd), replace(sizes, r=np.ones_like(r)).lapack(settings.svd)
    width = np.array([settings.svd.sketch_width(int(rank)) for rank in r.ravel()], dtype=np.float64)
    passes = np.where(lapack, 0, 2 + 2 * settings.svd.power_iterations)
    late = (method != "ap") & lapack & ~always  # for this rank alone
    basis = (settings.svd.power_iterations + 1) * width
    seconds = 2e-4 + n * n * PRODUCT * r + np.where(late, SVD * n**3, 2 * passes * n * n * width * PRODUCT)
    memory = np.where(late, 60 * n * n, np.minimum(8 * n * n, STORED_BYTES) + 48 * n * np.minimum(n, basis))
    ap = iterations_cost("ap", n, r, double=settings.ap.precision == "double")
    if settings.ap.projection == "exact":
        ap = _STEPS["ap"][0] * SVD / 2 * n**3
    minimax = iterations_cost(settings.minimax.budget, n, r, double=settings.minimax.precision == "double")
    embedding, embedding_memory = _embedding_cost(columns, n, settings.random_embedding)
    for name, more in {"ap": ap, "minimax": minimax, "random_embedding": embedding}.items():
        seconds = seconds + np.where(method == name, more, 0.0)
    memory = np.where(method == "random_embedding", np.maximum(memory, embedding_memory), memory)
    iterative = (method == "ap") | (method == "minimax")
    memory = np.where(iterative, np.maximum(memory, 40 * n * n + 120 * n * r), memory)
    train = _train_cost(columns, settings)
    seconds = np.where(order == 2, seconds, train.seconds)
    memory = np.where(order == 2, memory, train.memory)
    if settings.certificate.bound == "best":  # once a rank, for whichever method comes first
        block = np.where(order == 2, np.minimum(n, settings.svd.dense_limit) ** 2, np.minimum(n**order, _BOUND_ENTRIES))
        bound = _BOUND[0] + block * (_BOUND[1] + _BOUND[2] * r)
        seconds = seconds + bound / max(1, len(np.unique(method)))
        memory = np.maximum(memory, 170 * block)
    return Cost(seconds, memory)


def _spread_cost(columns: Columns, settings: ApproximationSettings) -> SpreadCost:
    sizes = Sizes.of(columns, settings.files)
    n, m, r, method = sizes.n, sizes.m, sizes.r, columns["method"]
    width = np.array([settings.svd.sketch_width(int(rank)) for rank in r.ravel()], dtype=np.float64)
    width, powers = np.minimum(width, sizes.side), settings.svd.power_iterations
    basis = width * (1 + np.minimum(powers, (sizes.side - 1) // width))
    generation = n * n * (GENERATION + PRODUCT * m)
    decomposition = (2 + powers) * generation + 2 * n * n * PRODUCT * (basis + 2 * powers * width)
    needed = (method != "ap") | (settings.ap.initial == "svd")
    shared = np.stack([*(_numbered(columns[axis]) for axis in SHARED), width, needed])
    _, same, count = np.unique(shared, axis=1, return_inverse=True, return_counts=True)
    seconds = 2 * generation + needed * decomposition / count[same.ravel()]  # max norm and error
    for name, chosen, double in (
        ("ap", "ap", settings.ap.precision == "double"),
        ("minimax", settings.minimax.budget, settings.minimax.precision == "double"),
    ):
        steps, of_entries, of_ranks = _PASSED_STEPS[chosen]
        step = n * n * (of_entries + of_ranks * r) * (2 if double else 1)
        seconds = seconds + np.where(method == name, steps * step + 12 * generation, 0.0)
    possible = (sizes.order == 2) & ~sizes.lapack(settings.svd)
    passed = possible & (n * n > PASSED_ENTRIES)
    possible &= method != "random_embedding"
    possible &= (method != "ap") | (passed & (settings.ap.projection == "subspace"))
    possible &= (method != "minimax") | (passed & (settings.minimax.warm_start == "none"))
    held = np.minimum(8 * n * m, HELD_BYTES) * 2 + 4 * 8 * GROUP_ROWS * TILE_COLUMNS
    rows, cols = sizes.rows, sizes.columns
    panel = np.minimum(rows, PANEL_ROWS) * cols
    basis_sent = 2 * basis * rows  # what is sent arrives beside what it is unpacked to
    worker = held + 8 * (basis_sent + basis * GROUP_ROWS + panel + 4 * width * cols) * needed
    worker = np.where(method == "svd", worker, np.maximum(worker, held + 8 * (panel + 7 * r * np.maximum(rows, cols))))
    here = held + 8 * (5 * basis * rows + (basis + 4 * width) * cols) * needed
    here = here + 170 * np.minimum(sizes.side, settings.svd.dense_limit) ** 2
    here = here + np.where(method == "svd", 0.0, 4 * (rows + cols) * r * np.where(method == "ap", 30, 60))
    return SpreadCost(seconds, np.where(possible, worker, np.inf), here)


def _numbered(labels: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Labels as numbers."""
    return np.unique(labels, return_inverse=True)[1].ravel()


def _embedding_error(function: str, sampling: Sampling, columns: Columns) -> FloatArray | float:
    """Relative error of the random embedding of F = A Aᵀ, whose diagonal holds max|F|."""
    if not (sampling.symmetric and is_semidefinite(function, sampling.domain)):
        return math.nan
    return embedding_error(columns["n"], columns["n"], columns["r"])


def _limit_error(function: str, sampling: Sampling, columns: Columns) -> FloatArray | float:
    if not (sampling.symmetric and sampling.domain in ("ball", "sphere")):
        return math.nan
    return limit_error(function, columns["n"], columns["r"])


def settings_used(labels: Mapping[str, Sequence[Label]]) -> set[str]:
    """Groups of settings on which values depend."""
    return {"svd", "certificate", *map(str, labels["method"])}  # the lower bound rests on the decomposition


METHOD = Axis("method", str, "approximation method", "method", check=get_method)
RANK_WITHIN_SIZE = Constraint(
    ("r", "n"),
    "r <= n",
    lambda columns, _: columns["r"] <= columns["n"],
    "lower r, raise n, or add 'where: r <= n'",
)
APPROXIMATION = Experiment(
    name="approximation",
    summary="relative max-norm error of rank-r approximations",
    revision=6,
    axes=(
        FUNCTION,
        SAMPLING,
        DIMENSION,
        SIZE,
        RANK,
        METHOD,
        SEED,
    ),
    shared=SHARED,
    quantities=(
        Quantity(
            "epsilon",
            "relative max-norm error",
            label="relative error ε",
            comment="max|F - G| / max|F|, an upper bound of the best possible",
        ),
        Quantity(
            "lower_bound",
            "certified lower bound of ε",
            comment=f"no G of this rank has a smaller relative max-norm error; {RELIANCE}",
        ),
        Quantity("max_norm", "largest absolute entry of F"),
        Quantity("iterations", "steps of the method", dtype="int32"),
        Quantity("guarantee", "promised bound of ε", comment="by a theorem, for methods that have one", optional=True),
        Quantity(
            "seconds",
            "computing time",
            units="s",
            comment="of the approximation, with a share of the matrix and its decomposition",
        ),
    ),
    main="epsilon",
    settings=ApproximationSettings,
    settings_used=settings_used,
    constraints=(
        RANK_WITHIN_SIZE,
        on_its_domain(),
        Constraint(
            ("function", "method"),
            "the rule that random_embedding is for matrices",
            lambda columns, settings: (
                (orders(columns, settings.files) == 2) | np.isin(columns["method"], list(TRAIN_METHODS))
            ),
            f"use {', '.join(TRAIN_METHODS)} for functions of more than two points, in a block of their own",
        ),
        Constraint(
            ("function", "method"),
            "the rule that minimax.warm_start is for matrices",
            lambda columns, settings: (
                (orders(columns, settings.files) == 2)
                | (columns["method"] != "minimax")
                | (settings.minimax.warm_start == "none")
            ),
            "leave it out, or give functions of more than two points a sweep of their own",
        ),
    ),
    labels_of_file=labels_of_file,
    prepare=_prepare,
    evaluate=_evaluate,
    prepare_cost=_prepare_cost,
    evaluate_cost=_evaluate_cost,
    spread_cost=_spread_cost,
    expectations=(
        Expectation(
            "r",
            "epsilon",
            "power",
            "-1/2 away from r ≈ n and for large m (Budzinskiy, Theorem 1.3 and Figure 3)",
            lambda columns: columns["r"] <= columns["n"] / 4,
        ),
        Expectation(
            "n",
            "epsilon",
            "growth",
            "slow: polylogarithmic, √log n for larger n and r (Budzinskiy, Figure 4 and section 7.5)",
            lambda columns: columns["r"] <= columns["n"] / 2,
        ),
        Expectation(
            "m",
            "epsilon",
            "flat",
            "near 1, for large m (Budzinskiy, Figure 2)",
            lambda columns: columns["m"] >= 100,
        ),
    ),
    theory=(
        Theory(
            "embedding",
            "√(9 log(3n²)/r) (Budzinskiy, Theorem 1.3)",
            "epsilon",
            lambda columns: of_functions(columns, _embedding_error),
        ),
        Theory(
            "identity_limit",
            "lower bound as m → ∞, that of the identity",
            "epsilon",
            lambda columns: of_functions(columns, _limit_error),
        ),
    ),
)
