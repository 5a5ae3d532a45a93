"""Alternating projections against a plain implementation of the published algorithm, and their own properties."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from pipeline import approximate, function_matrix, lower_bound
from pipeline.projections import APSettings, alternating_projections
from pipeline.svd import lapack_svd


def kernel(function: str, sampling: str, m: int, n: int) -> np.ndarray:
    return function_matrix(function, sampling, m, n, seed=0).to_numpy()


RANDOM = np.random.default_rng(5)
MATRICES = {
    "exponential, m = 2": (kernel("exponential", "ball-independent", 2, 60), 8),
    "exponential, m = 30": (kernel("exponential", "ball-independent", 30, 60), 10),
    "exponential symmetric, m = 3": (kernel("exponential", "ball-symmetric", 3, 60), 6),
    "exponential symmetric, m = 100": (kernel("exponential", "ball-symmetric", 100, 60), 12),
    "quartic, m = 2": (kernel("quartic_gaussian", "ball-independent", 2, 60), 6),
    "quartic, m = 20": (kernel("quartic_gaussian", "ball-independent", 20, 60), 10),
    "quartic symmetric, m = 5": (kernel("quartic_gaussian", "ball-symmetric", 5, 60), 10),
    "gaussian on the sphere": (kernel("gaussian", "sphere-independent", 50, 70), 8),
    "gaussian, m = 2": (kernel("gaussian", "ball-independent", 2, 80), 10),
    "gaussian, m = 3": (kernel("gaussian", "ball-independent", 3, 60), 10),
    "attention": (kernel("attention", "sphere-independent", 10, 60), 6),
    "cauchy": (kernel("cauchy", "ball-independent", 3, 60), 6),
    "identity": (np.eye(60), 20),
    "uniform noise": (RANDOM.uniform(-1, 1, (60, 60)), 10),
    "rectangular noise": (RANDOM.standard_normal((50, 70)), 15),
}
STARTS = range(2)
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
REFERENCE_FIGURES = json.loads((BENCHMARKS / "reference_figures.json").read_text())["function_matrices"]


def published(matrix: np.ndarray, rank: int, random: np.random.Generator) -> float:
    """Smallest error met by the algorithm of Budzinskiy, section 7.1, with a full decomposition each step."""
    scale = np.abs(matrix).max()
    target = matrix / scale
    left, right = (random.standard_normal((size, rank)) / np.sqrt(rank) for size in target.shape)
    iterate = left @ right.T
    err = np.abs(iterate - target).max()
    lo, hi, err_pre = 0.0, err, err
    while hi - lo >= 0.01 * hi:
        gap = hi - lo
        epsilon = (lo + hi) / 2
        while True:
            u, s, vt = np.linalg.svd(target + np.clip(iterate - target, -epsilon, epsilon), full_matrices=False)
            iterate = (u[:, :rank] * s[:rank]) @ vt[:rank]
            err = np.abs(iterate - target).max()
            hi = min(hi, err)
            if err > err_pre * (1 - 0.001):
                if err > lo + 2 / 3 * gap:
                    lo += 0.02 * gap
                break
            err_pre = err
    return float(hi * scale)


@cache
def published_errors(name: str) -> list[float]:
    matrix, rank = MATRICES[name]
    return [published(matrix, rank, np.random.default_rng(start)) for start in STARTS]


@cache
def errors(name: str, **settings: str) -> list[float]:
    matrix, rank = MATRICES[name]
    return [approximate(matrix, rank, "ap", seed=start, bound="tail", **settings).max_error for start in STARTS]


# --- oracles


def test_error_is_that_of_the_published_algorithm_or_less():
    ratios = {name: median(errors(name)) / median(published_errors(name)) for name in MATRICES}
    assert median(ratios.values()) <= 1.03, ratios
    assert max(ratios.values()) <= 1.15, ratios


def test_published_settings_reproduce_the_published_errors():
    """With exact projections and the memory of the run only the random starts differ."""
    ratios = {
        name: median(errors(name, projection="exact", precision="double", stagnation_memory="run"))
        / median(published_errors(name))
        for name in MATRICES
    }
    assert 0.93 <= median(ratios.values()) <= 1.03, ratios


def test_subspace_projection_reaches_what_the_exact_one_does():
    ratios = {name: median(errors(name)) / median(errors(name, projection="exact")) for name in MATRICES}
    assert 0.97 <= median(ratios.values()) <= 1.03, ratios


@pytest.mark.parametrize(
    "name", ["exponential, m = 2", "exponential symmetric, m = 100", "gaussian, m = 3", "attention"]
)
def test_start_from_the_truncated_svd_is_no_worse_than_random_ones_or_itself(name):
    matrix, rank = MATRICES[name]
    (left, right), found, _ = from_svd(name)
    error = np.abs(matrix - left @ right.T).max()
    assert error <= 1.03 * median(errors(name))
    assert error <= approximate(matrix, rank, "svd", bound="tail").max_error
    assert min(found) == pytest.approx(error, rel=1e-4)


def test_start_from_the_truncated_svd_is_the_same_for_every_seed():
    first, other = (from_svd("quartic, m = 2", seed=seed) for seed in (0, 1))
    assert first[0][0].tobytes() == other[0][0].tobytes()
    assert first[1:] == other[1:]


def test_start_from_the_truncated_svd_can_be_asked_for_at_the_front_door():
    matrix, rank = MATRICES["quartic, m = 2"]
    assert np.array_equal(approximate(matrix, rank, "ap", initial="svd").left, from_svd("quartic, m = 2")[0][0])


def from_svd(name: str, seed: int = 0):
    matrix, rank = MATRICES[name]
    start = lapack_svd(matrix).balanced_factors(rank)
    return alternating_projections(matrix, rank, APSettings(initial="svd"), seed, start)


def test_ways_of_stopping_are_told():
    matrix, rank = MATRICES["uniform noise"]
    assert approximate(matrix, rank, "ap").stopped == "the bounds on ε meet"
    assert approximate(matrix, rank, "ap", max_projections=9).stopped == "max_projections are used up"
    assert approximate(np.outer([1.0, 2.0], [3.0, 5.0, 7.0]), 1, "ap").stopped == "the error is at rounding level"


@pytest.mark.parametrize("settings", [{}, {"projection": "exact"}, {"precision": "double"}])
def test_history_holds_the_error_of_every_projection(settings):
    matrix, rank = MATRICES["rectangular noise"]
    found = approximate(3 * matrix, rank, "ap", **settings)
    assert len(found.history) == found.iterations
    assert found.history.min() == pytest.approx(found.max_error, rel=1e-5)


@pytest.mark.parametrize("name", MATRICES)
def test_no_start_of_the_subspace_projection_goes_astray(name):
    """Every start comes within a third of what exact projections reach from the worst of theirs."""
    assert max(errors(name)) <= 4 / 3 * max(errors(name, projection="exact"))


def test_single_precision_reaches_what_double_does():
    ratios = {name: median(errors(name)) / median(errors(name, precision="double")) for name in MATRICES}
    assert all(0.99 <= ratio <= 1.01 for ratio in ratios.values()), ratios


@pytest.mark.parametrize(
    ("n", "rank", "optimum"), [(6, 3, 1 / (1 + 5**0.5)), (10, 5, 0.25), (16, 6, 0.25), (28, 7, 0.25)]
)
@pytest.mark.parametrize("projection", ["exact", "subspace"])
def test_identity_comes_near_the_optimum_of_equiangular_lines_and_never_below(n, rank, optimum, projection):
    found = [approximate(np.eye(n), rank, "ap", seed=start, projection=projection).max_error for start in range(4)]
    assert min(found) >= optimum - 1e-9
    assert min(found) <= 1.15 * optimum
    assert max(found) <= 1.2 * optimum


@pytest.mark.parametrize("name", MATRICES)
def test_error_is_below_that_of_the_truncated_svd_and_above_the_bound(name):
    matrix, rank = MATRICES[name]
    for error in errors(name):
        assert lower_bound(matrix, rank) <= error <= approximate(matrix, rank, "svd").max_error


# --- properties


@pytest.mark.parametrize(
    "settings", [{}, {"projection": "exact"}, {"precision": "double"}, {"stagnation_memory": "run"}]
)
@pytest.mark.parametrize("name", ["exponential, m = 2", "rectangular noise"])
def test_error_is_the_true_one_of_the_returned_factors(name, settings):
    matrix, rank = MATRICES[name]
    found = approximate(matrix, rank, "ap", **settings)
    assert (found.left.shape, found.right.shape) == ((matrix.shape[0], rank), (matrix.shape[1], rank))
    assert found.left.dtype == found.right.dtype == np.float64
    exact = np.abs(matrix - found.left.astype(np.longdouble) @ found.right.astype(np.longdouble).T).max()
    assert found.max_error == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("projection", ["exact", "subspace"])
def test_same_seed_gives_the_same_factors_bit_for_bit_and_another_seed_others(projection):
    matrix, rank = MATRICES["quartic, m = 2"]
    first, again, other = (approximate(matrix, rank, "ap", seed=s, projection=projection) for s in (3, 3, 4))
    assert first.left.tobytes() == again.left.tobytes()
    assert first.right.tobytes() == again.right.tobytes()
    assert first.left.tobytes() != other.left.tobytes()


@pytest.mark.parametrize("exponent", [-900, -30, 1, 20, 900])
@pytest.mark.parametrize("method", ["ap", "svd"])
def test_error_scales_with_the_matrix(method, exponent):
    matrix, rank = MATRICES["uniform noise"]
    scaled = approximate(matrix * 2.0**exponent, rank, method).max_error
    assert scaled == pytest.approx(approximate(matrix, rank, method).max_error * 2.0**exponent, rel=1e-6, abs=0)


EXACT_RANKS = [((50, 40), 3), ((30, 60), 5), ((4, 6), 1), ((1, 5), 1), ((7, 1), 1), ((2, 9), 2)]


@pytest.mark.parametrize("projection", ["exact", "subspace"])
@pytest.mark.parametrize(("shape", "rank"), EXACT_RANKS)
def test_matrix_of_exactly_that_rank_is_found_up_to_rounding(shape, rank, projection):
    random = np.random.default_rng(rank)
    matrix = random.integers(-5, 6, (shape[0], rank)) @ random.integers(1, 6, (rank, shape[1]))
    for start in STARTS:
        found = approximate(matrix, rank, "ap", seed=start, projection=projection)
        assert found.max_error <= 1e-12 * np.abs(matrix).max()


@pytest.mark.parametrize("shape", [(5, 7), (1, 1)])
def test_zero_matrix_has_error_zero(shape):
    found = approximate(np.zeros(shape), 1, "ap")
    assert (found.max_error, found.lower_bound, found.iterations) == (0, 0, 0)
    assert (found.left.shape, found.right.shape) == ((shape[0], 1), (shape[1], 1))


def test_one_number_is_found_exactly_in_few_projections():
    found = approximate([[3.0]], 1, "ap")
    assert found.max_error <= 1e-15
    assert found.iterations < 1000


@pytest.mark.parametrize("limit", [1, 2, 17, 100])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_no_more_projections_than_allowed(limit, precision):
    matrix, rank = MATRICES["gaussian, m = 2"]
    found = approximate(matrix, rank, "ap", max_projections=limit, precision=precision)
    assert found.iterations == limit


def test_longer_runs_never_end_worse():
    matrix, rank = MATRICES["exponential, m = 2"]
    found = [approximate(matrix, rank, "ap", max_projections=limit).max_error for limit in (1, 5, 25, 125, 625)]
    assert all(longer <= shorter for shorter, longer in pairwise(found))
    assert found[-1] < found[0] / 3


def test_errors_below_single_precision_are_pursued():
    """A kernel whose best error of rank 30 is below 1e-6 of its entries."""
    matrix = kernel("gaussian", "ball-independent", 2, 80)
    assert approximate(matrix, 30, "ap").max_error < approximate(matrix, 30, "svd").max_error < 1e-5


@pytest.mark.parametrize("tolerance", [0.2, 0.01])
def test_coarser_tolerance_ends_sooner(tolerance):
    matrix, rank = MATRICES["uniform noise"]
    fine = approximate(matrix, rank, "ap", tolerance=tolerance / 4)
    assert approximate(matrix, rank, "ap", tolerance=tolerance).iterations < fine.iterations


@pytest.mark.parametrize("name", REFERENCE_FIGURES)
def test_error_on_reference_matrices_is_at_most_that_of_the_authors_program(name):
    """Within 4 % from above for each of two starts; the figures were measured with the author's Fortran program."""
    figures = REFERENCE_FIGURES[name]
    matrix = np.load(BENCHMARKS / "reference_matrices.npz")[name].astype(np.float64)
    for seed in range(2):
        found = approximate(matrix, figures["r"], "ap", seed, bound="tail").max_error
        assert found <= 1.04 * figures["alternating_projections"]
