"""Smoothed minimax against exact optima and recorded figures, and the properties of its answers."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pipeline import function_matrix
from pipeline.approximation import Approximation, approximate
from pipeline.errors import InputError
from pipeline.minimax import extended

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FIGURES = json.loads((BENCHMARKS / "reference_figures.json").read_text())


def kernel(function: str, sampling: str, m: int, n: int) -> np.ndarray:
    return function_matrix(function, sampling, m, n, seed=0).to_numpy()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape[0]).standard_normal(shape)


def gaussian_orthogonal(n: int) -> np.ndarray:
    return noise(n, n) + noise(n, n).T


def distances(n: int, m: int) -> np.ndarray:
    return cdist(noise(n, m), noise(n, m))


MATRICES = {
    "exponential": (kernel("exponential", "ball-independent", 5, 60), 6),
    "exponential symmetric": (kernel("exponential", "ball-symmetric", 5, 60), 6),
    "exponential symmetric, m = 100": (kernel("exponential", "ball-symmetric", 100, 60), 10),
    "quartic": (kernel("quartic_gaussian", "ball-independent", 2, 50), 5),
    "attention": (kernel("attention", "sphere-independent", 10, 50), 6),
    "identity": (np.eye(40), 8),
    "minus identity": (-np.eye(20), 5),
    "wide noise": (noise(20, 50), 5),
    "tall noise": (noise(50, 20), 5),
    "two rows": (noise(2, 100), 1),
    "signs": (np.sign(noise(30, 30)), 4),
    "sparse": (noise(30, 30) * (np.abs(noise(30, 31)[:, :30]) > 1.9), 5),
    "distances": (distances(40, 3), 5),
    "gaussian orthogonal": (gaussian_orthogonal(60), 10),
}
LOW_RANK = {
    "rank one": (np.outer(noise(20, 1), noise(30, 1)), 1),
    "rank one at three": (np.outer(noise(20, 1), noise(30, 1)), 3),
    "rank four": (noise(40, 4) @ noise(4, 30), 4),
    "indefinite of rank four": ((noise(40, 4) * [1, -1, 1, -1]) @ noise(40, 4).T, 4),
    "a row": (noise(1, 20), 1),
    "a column": (noise(20, 1), 1),
    "a number": (np.array([[-3.0]]), 1),
    "constant": (np.full((20, 30), 2.5), 2),
    "constant symmetric": (np.full((20, 20), -2.5), 2),
    "one entry": (np.diag([0.0] * 19 + [7.0]), 3),
    "full rank": (noise(12, 12), 12),
}


@cache
def solved(name: str, **settings: object) -> Approximation:
    matrix, rank = (MATRICES | LOW_RANK)[name]
    return approximate(matrix, rank, bound="tail", **settings)


def error(matrix: np.ndarray, rank: int, method: str = "minimax", **settings: object) -> float:
    return approximate(matrix, rank, method, bound="tail", **settings).max_error


def reference(name: str) -> np.ndarray:
    return np.load(BENCHMARKS / "reference_matrices.npz")[name].astype(np.float64)


# --- oracles


@pytest.mark.parametrize(
    ("n", "rank", "optimum"), [(6, 3, 1 / (1 + 5**0.5)), (10, 5, 1 / 4), (16, 6, 1 / 4), (28, 7, 1 / 4)]
)
def test_thorough_budget_finds_the_equiangular_lines_of_the_identity(n, rank, optimum):
    assert error(np.eye(n), rank, budget="thorough") == pytest.approx(optimum, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_thorough_budget_finds_the_optimum_of_the_identity_at_both_ends(n):
    assert error(np.eye(n), 1, budget="thorough") == pytest.approx(1 / 2, abs=1e-9)
    assert error(np.eye(n), n - 1, budget="thorough") == pytest.approx(1 / n, abs=1e-9)


@pytest.mark.parametrize("n", [2, 9, 30])
def test_default_budget_comes_near_the_optimum_of_the_identity_at_both_ends(n):
    assert 1 / 2 <= error(np.eye(n), 1) <= 1.005 / 2
    assert (1 - 1e-12) / n <= error(np.eye(n), n - 1) <= 1.005 / n


@pytest.mark.parametrize("name", FIGURES["function_matrices"])
def test_default_budget_keeps_the_recorded_error_on_reference_matrices(name):
    figures = FIGURES["function_matrices"][name]
    assert error(reference(name), figures["r"]) <= 1.01 * figures["minimax_prototype"]["default"]


@pytest.mark.parametrize("name", ["exp_m300_ind_n400", "quart_m300_sym_n400"])
def test_thorough_budget_keeps_the_recorded_error_on_reference_matrices(name):
    figures = FIGURES["function_matrices"][name]
    assert error(reference(name), figures["r"], budget="thorough") <= 1.01 * figures["minimax_prototype"]["thorough"]


def test_recorded_error_of_a_large_identity_is_kept():
    (figures,) = [case for case in FIGURES["identity"] if (case["n"], case["r"]) == (256, 16)]
    assert error(np.eye(256), 16) <= 1.01 * figures["minimax_prototype"]["default"]


def test_recorded_error_of_uniform_noise_is_kept():
    (figures,) = [case for case in FIGURES["uniform_noise"] if case["r"] == 50]
    matrix = np.random.default_rng(0).uniform(-1, 1, (500, 500))
    assert error(matrix, 50) <= 1.01 * figures["minimax_prototype"]


# --- what every answer is


@pytest.mark.parametrize("name", MATRICES | LOW_RANK)
@pytest.mark.parametrize("budget", ["quick", "default"])
def test_error_is_the_true_one_and_lies_between_the_bound_and_its_rivals(name, budget):
    matrix, rank = (MATRICES | LOW_RANK)[name]
    found = solved(name, budget=budget)
    true = np.abs(matrix - found.left.astype(np.longdouble) @ found.right.astype(np.longdouble).T).max()
    rounding = 1e-14 * np.abs(matrix).max()
    assert found.max_error == pytest.approx(float(true), rel=1e-12, abs=rounding)
    assert (found.left.shape, found.right.shape) == ((len(matrix), rank), (matrix.shape[1], rank))
    assert found.left.dtype == found.right.dtype == np.float64
    assert found.lower_bound <= found.max_error
    assert found.max_error <= min(error(matrix, rank, "svd"), np.abs(matrix).max()) + rounding


@pytest.mark.parametrize("name", MATRICES | LOW_RANK)
@pytest.mark.parametrize("budget", ["quick", "default"])
def test_history_falls_to_the_error(name, budget):
    found = solved(name, budget=budget)
    matrix = (MATRICES | LOW_RANK)[name][0]
    assert found.iterations == len(found.history) > 0
    assert all(later <= earlier for earlier, later in pairwise(found.history))
    assert found.history[-1] == pytest.approx(found.max_error, rel=1e-6, abs=1e-14 * np.abs(matrix).max())
    assert found.guarantee is None


@pytest.mark.parametrize("name", LOW_RANK)
@pytest.mark.parametrize("settings", [{}, {"budget": "quick"}, {"precision": "double"}, {"symmetric": False}])
def test_matrix_of_at_most_that_rank_is_found_up_to_rounding(name, settings):
    assert solved(name, **settings).max_error <= 1e-14 * max(LOW_RANK[name][0].shape) * np.abs(LOW_RANK[name][0]).max()


def test_signs_that_no_matrix_of_the_rank_matches_are_left_at_zero():
    """An error below 1 would be a matrix of rank 4 with these signs."""
    assert solved("signs").max_error == 1


@pytest.mark.parametrize("settings", [{}, {"budget": "quick"}, {"warm_start": "rank"}, {"symmetric": False}])
def test_same_seed_gives_the_same_bits_and_another_seed_others(settings):
    matrix, rank = MATRICES["exponential symmetric"]
    first, again, other = (approximate(matrix, rank, seed=s, bound="tail", **settings) for s in (3, 3, 4))
    assert first.left.tobytes() == again.left.tobytes()
    assert first.right.tobytes() == again.right.tobytes()
    assert np.array_equal(first.history, again.history)
    assert first.left.tobytes() != other.left.tobytes()
    assert other.max_error == pytest.approx(first.max_error, rel=0.03)


def test_ways_of_stopping_are_told():
    told = {
        "the steps are used up": approximate(*MATRICES["exponential"], bound="tail", budget="quick").stopped,
        "the smooth maximum no longer falls": approximate(np.eye(6), 3, bound="tail").stopped,
        "the error is at rounding level": solved("rank one").stopped,
        "no step lowers the error to first order": approximate(np.eye(6), 3, bound="tail", budget="thorough").stopped,
        "the matrix is zero": approximate(np.zeros((4, 3)), 2).stopped,
    }
    assert all(sentence == stopped for sentence, stopped in told.items()), told


# --- what should not matter


@pytest.mark.parametrize("name", ["exponential", "exponential symmetric", "attention", "identity", "wide noise"])
def test_order_orientation_and_sign_hardly_matter(name):
    matrix, rank = MATRICES[name]
    rows, columns = (np.random.default_rng(size).permutation(size) for size in matrix.shape)
    for variant in (matrix.T, matrix[rows], matrix[:, columns], -matrix):
        assert error(variant, rank) == pytest.approx(solved(name).max_error, rel=0.03)


@pytest.mark.parametrize("name", ["exponential", "identity", "wide noise"])
def test_error_scales_with_the_matrix(name):
    matrix, rank = MATRICES[name]
    assert error(2.0**-40 * matrix, rank) == pytest.approx(2.0**-40 * solved(name).max_error, rel=1e-6, abs=0)
    assert error(3.7 * matrix, rank) == pytest.approx(3.7 * solved(name).max_error, rel=0.01)


@pytest.mark.parametrize("largest", [1e-300, 1e300])
@pytest.mark.parametrize("name", ["exponential", "identity", "gaussian orthogonal"])
def test_tiny_and_huge_entries_are_taken(name, largest):
    matrix, rank = MATRICES[name]
    factor = largest / np.abs(matrix).max()
    found = approximate(np.clip(matrix * factor, -largest, largest), rank, bound="tail")
    assert found.max_error == pytest.approx(factor * solved(name).max_error, rel=0.02, abs=0)
    assert np.isfinite(found.left).all()
    assert np.isfinite(found.right).all()


@pytest.mark.parametrize("name", [name for name in MATRICES if name != "signs"])
def test_single_precision_reaches_what_double_does(name):
    assert solved(name).max_error == pytest.approx(solved(name, precision="double").max_error, rel=0.01)


@pytest.mark.parametrize("name", ["exponential symmetric", "exponential symmetric, m = 100", "identity"])
def test_symmetric_factorization_reaches_what_the_general_one_does(name):
    found = solved(name)
    assert found.max_error <= 1.02 * solved(name, symmetric=False).max_error
    assert not np.array_equal(found.left, solved(name, symmetric=False).left)


def test_symmetric_factorization_of_an_indefinite_matrix_costs_little():
    """Its signs are those of the leading eigenvalues, which need not be the best: over draws the loss is small."""
    ratios = []
    for seed in range(5):
        half = np.random.default_rng(seed).standard_normal((60, 60))
        ratios.append(error(half + half.T, 10) / error(half + half.T, 10, symmetric=False))
    assert np.median(ratios) <= 1.02
    assert max(ratios) <= 1.05


# --- budgets and starts


@pytest.mark.parametrize("name", ["exponential", "exponential symmetric", "two rows"])
def test_larger_budgets_reach_smaller_errors(name):
    quick, default, thorough = (solved(name, budget=b).max_error for b in ("quick", "default", "thorough"))
    assert default <= 1.005 * quick
    assert thorough <= 1.005 * default


@pytest.mark.parametrize("m", [1, 2])
def test_errors_below_single_precision_are_no_worse_than_the_truncated_svd(m):
    for rank in (8, 10, 40):
        matrix = kernel("gaussian", "ball-independent", m, 60)
        svd = error(matrix, rank, "svd")
        assert error(matrix, rank) <= svd
        assert error(matrix, rank, precision="double") <= svd


FAST_DECAY = [(1, 8), (1, 10), (2, 20), (2, 30)]


@pytest.mark.parametrize(("m", "rank"), FAST_DECAY)
def test_errors_of_fast_decay_are_below_those_of_alternating_projections(m, rank):
    """Singular values that fall to 1e-4 … 1e-9 of the first within the rank."""
    matrix = kernel("gaussian", "ball-independent", m, 60)
    assert error(matrix, rank) <= 1.1 * error(matrix, rank, "ap") < error(matrix, rank, "svd")


@pytest.mark.parametrize("name", ["exponential", "exponential symmetric", "identity", "wide noise", "tall noise"])
@pytest.mark.parametrize("settings", [{}, {"budget": "quick"}, {"perturbation": 1.0}])
def test_error_is_never_above_that_of_the_start(name, settings):
    matrix, rank = MATRICES[name]
    best = solved(name, precision="double")
    for share in (1, 1.001):
        start = share * best.left, best.right
        assert error(matrix, rank, start=start, **settings) <= np.abs(matrix - start[0] @ start[1].T).max() * (
            1 + 1e-12
        )


def test_optimal_start_is_kept():
    best = approximate(np.eye(6), 3, budget="thorough", bound="tail")
    for budget in ("quick", "default"):
        assert error(np.eye(6), 3, budget=budget, start=(best.left, best.right)) <= best.max_error * (1 + 1e-12)


@pytest.mark.parametrize("k1", [1, 3, 15, 30])
@pytest.mark.parametrize(("k2", "columns"), [(25, 4), (4, 4), (2, 1)])
def test_extension_of_exact_factors_is_exact(k1, k2, columns):
    """Where the rows determine the rest; further columns come from the residual."""
    left, right = noise(30, 4), noise(25, 4)
    matrix = left @ right.T
    extended_left, extended_right = extended(matrix, 4, left[:k1, :columns], right[:k2, :columns])
    assert (extended_left.shape, extended_right.shape) == ((30, 4), (25, 4))
    if k2 >= 4 == columns:
        assert np.abs(matrix - extended_left @ extended_right.T).max() <= 1e-12 * np.abs(matrix).max()
    if k2 == 25:
        assert np.array_equal(extended_left[:k1, :columns], left[:k1, :columns])
    assert error(matrix, 4, start=(left[:k1, :columns], right[:k2, :columns])) <= 1e-13 * np.abs(matrix).max()


def test_extension_by_rank_alone_adds_the_best_directions():
    matrix, left, right = noise(20, 15), noise(20, 2), noise(15, 2)
    more = extended(matrix, 5, left, right)
    values = np.linalg.svd(matrix - left @ right.T, compute_uv=False)
    rest = np.linalg.svd(matrix - more[0] @ more[1].T, compute_uv=False)
    assert rest[:12] == pytest.approx(values[3:], rel=1e-9)
    assert rest[12:] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["exponential", "exponential symmetric", "wide noise"])
def test_start_of_smaller_rank_or_size_leads_as_far(name):
    matrix, rank = MATRICES[name]
    half, block = [size // 2 for size in matrix.shape], rank // 2
    for smaller in (
        approximate(matrix, block, bound="tail"),
        approximate(matrix[: half[0], : half[1]], rank, bound="tail"),
        approximate(matrix[: half[0]], block, bound="tail"),
    ):
        assert error(matrix, rank, start=(smaller.left, smaller.right)) <= 1.02 * solved(name).max_error


@pytest.mark.parametrize("warm_start", ["rank", "size"])
@pytest.mark.parametrize("name", ["exponential", "exponential symmetric", "identity", "tall noise", "rank four"])
def test_warm_start_is_no_worse_than_where_it_begins(name, warm_start):
    matrix, rank = (MATRICES | LOW_RANK)[name]
    found = solved(name, warm_start=warm_start)
    rounding = 1e-13 * np.abs(matrix).max()
    assert found.max_error <= 1.02 * solved(name).max_error + rounding
    assert found.iterations > solved(name).iterations or found.stopped == "the error is at rounding level"
    if warm_start == "rank":
        smaller = approximate(matrix, rank // 2, bound="tail")
        begin = extended(matrix, rank, smaller.left, smaller.right)
        assert found.max_error <= np.abs(matrix - begin[0] @ begin[1].T).max() + rounding


def test_warm_start_from_a_block_of_zeros_is_done_without():
    matrix = np.zeros((20, 20))
    matrix[10:, 10:] = noise(10, 10)
    assert error(matrix, 3, warm_start="size") == error(matrix, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"budget": "fast"},
        {"budget": None},
        {"precision": "half"},
        {"perturbation": -0.1},
        {"perturbation": 2},
        {"perturbation": float("nan")},
        {"warm_start": "cold"},
        {"symmetric": "perhaps"},
        {"budgets": "quick"},
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(settings):
    with pytest.raises(InputError) as caught:
        approximate(np.eye(3), 1, **settings)
    ((name, value),) = settings.items()
    assert str(caught.value).startswith(f"{name}: {value!r} will not do for method 'minimax'")
    assert "\n" not in str(caught.value)
