"""Lower bounds: known values, never above any error that is reached, never above an optimum that is known."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import approximate, function_matrix, lower_bound
from pipeline.errors import InputError


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    data=st.data(),
    scale=st.sampled_from([1e-6, 1.0, 1e5]),
)
def test_bound_is_never_above_the_error_of_any_approximation(seed, shape, data, scale):
    random = np.random.default_rng(seed)
    matrix = scale * random.standard_normal(shape) * random.uniform(0, 1, shape) ** 3
    rank = data.draw(st.integers(1, min(shape)))
    bound = lower_bound(matrix, rank)
    assert bound >= 0
    for method in ("svd", "ap"):
        options = {} if method == "svd" else {"max_projections": 60}
        found = approximate(matrix, rank, method, **options)
        assert found.lower_bound == bound
        assert bound <= found.max_error


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    rank=st.integers(1, 4),
    exponent=st.integers(0, 40),
)
def test_bound_is_never_above_an_error_that_is_known_without_rounding(seed, shape, rank, exponent):
    """Integer factors and a perturbation by powers of two: F − E has rank r and max |E| = 2^−exponent exactly."""
    random = np.random.default_rng(seed)
    low_rank = random.integers(-4, 5, (shape[0], rank)) @ random.integers(-4, 5, (rank, shape[1]))
    perturbation = random.choice([-1.0, 1.0], shape) * 2.0**-exponent
    assert lower_bound(low_rank + perturbation, rank) <= 2.0**-exponent


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("shape", [(7, 9), (60, 50), (200, 30)])
def test_matrix_of_exactly_that_rank_has_bound_zero(shape, rank):
    random = np.random.default_rng(rank)
    matrix = random.integers(-9, 10, (shape[0], rank)) @ random.integers(-9, 10, (rank, shape[1]))
    assert lower_bound(matrix, rank) == 0


@pytest.mark.parametrize(("n", "rank"), [(2, 1), (6, 3), (16, 6), (28, 7), (100, 37)])
def test_identity_has_the_known_tail(n, rank):
    known = np.sqrt(n - rank) / n
    assert lower_bound(np.eye(n), rank) == pytest.approx(known, rel=1e-11)
    assert lower_bound(np.eye(n), rank) <= known


@pytest.mark.parametrize("rank", [1, 4, 20])
@pytest.mark.parametrize("shape", [(30, 30), (25, 60), (60, 25)])
def test_bound_is_the_root_mean_square_of_the_tail(shape, rank):
    matrix = np.random.default_rng(1).standard_normal(shape)
    tail = scipy.linalg.svdvals(matrix, check_finite=True)[rank:]
    known = np.sqrt(np.sum(tail**2) / (shape[0] * shape[1]))
    assert lower_bound(matrix, rank) == pytest.approx(known, rel=1e-9)


def test_bound_falls_with_the_rank_to_zero():
    matrix = function_matrix("exponential", "ball-independent", 10, 40).to_numpy()
    bounds = [lower_bound(matrix, rank) for rank in range(1, 43)]
    assert all(high > low for high, low in pairwise(bounds[:40]))
    assert bounds[39:] == [0, 0, 0]


@pytest.mark.parametrize("exponent", [-600, -40, 7, 600])
def test_bound_scales_with_the_matrix(exponent):
    matrix = np.random.default_rng(2).standard_normal((20, 15))
    scaled = lower_bound(matrix * 2.0**exponent, 4)
    assert scaled == pytest.approx(lower_bound(matrix, 4) * 2.0**exponent, rel=1e-9, abs=0)


def test_zero_matrix_has_bound_zero():
    assert lower_bound(np.zeros((4, 6)), 2) == 0


# --- the leading block of a matrix too large for LAPACK


@pytest.mark.parametrize(
    ("function", "m", "rank"), [("exponential", 100, 10), ("gaussian", 3, 10), ("attention", 20, 5)]
)
def test_bound_from_the_leading_block_is_the_blocks_own(function, m, rank):
    matrix = function_matrix(function, "ball-independent", m, 200).to_numpy()
    found = approximate(matrix, rank, "svd", driver="randomized", dense_limit=60)
    assert 0 < found.lower_bound == lower_bound(matrix[:60, :60], rank)
    assert found.lower_bound <= approximate(matrix, rank, "ap", max_projections=400).max_error


def test_bound_from_the_leading_block_stays_below_the_known_optimum():
    """276 equiangular lines in R^23: the best max error of rank 23 of the identity is 1/6."""
    found = approximate(np.eye(276), 23, "svd", driver="randomized", dense_limit=100)
    assert found.lower_bound == pytest.approx(np.sqrt(77) / 100, rel=1e-9)
    assert found.lower_bound <= 1 / 6 <= found.max_error


def test_rank_beyond_the_leading_block_has_bound_zero():
    matrix = np.random.default_rng(0).standard_normal((150, 150))
    assert approximate(matrix, 40, "svd", driver="randomized", dense_limit=30).lower_bound == 0


# --- what is refused


@pytest.mark.parametrize("rank", [0, -1, 2.5, "3", None, float("nan")])
def test_rank_that_is_not_a_positive_integer_is_refused(rank):
    with pytest.raises(InputError, match=f"^rank: {rank!r} is not"):
        lower_bound(np.eye(3), rank)


@pytest.mark.parametrize("matrix", [[1.0, 2.0], np.zeros((0, 3)), [[np.nan]], [[1j]], np.zeros((2, 2, 2))])
def test_what_is_not_a_real_finite_matrix_is_refused(matrix):
    with pytest.raises(InputError, match=r"^matrix: "):
        lower_bound(matrix, 1)
