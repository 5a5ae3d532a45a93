"""Diagnostics of factors: angles that are known, Wedin's theorem, ranks and non-negative ranks of the literature."""

import math

import numpy as np
import pytest
import scipy.linalg
from scipy.stats import ortho_group

from pipeline import approximate, function_matrix
from pipeline.diagnostics import (
    SpectralGap,
    compression,
    leading_subspace_angles,
    mean_sine,
    nonnegative_error,
    principal_angles,
    singular_value_gap,
)
from pipeline.errors import InputError
from pipeline.functions import BUILT_IN
from pipeline.sampling import SAMPLINGS
from pipeline.tensor_train import random_train

RIGHT_ANGLE = math.pi / 2


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def at_angles(angles, n, seed=0):
    """Orthonormal bases of two subspaces of R^n with the given principal angles."""
    k = len(angles)
    basis = ortho_group(n, seed=seed).rvs()
    return basis[:, :k], basis[:, :k] * np.cos(angles) + basis[:, k : 2 * k] * np.sin(angles)


# --- angles

KNOWN_ANGLES = {
    "moderate": [0.1, 0.5, 1.0],
    "equal": [0.7, 0.7, 0.7],
    "small": [1e-15, 1e-12, 1e-9],
    "near right": [1.2, RIGHT_ANGLE - 1e-9, RIGHT_ANGLE - 1e-12],
    "small beside large": [1e-12, 1e-9, 1.5],
    "both extremes": [1e-12, 0.8, RIGHT_ANGLE - 1e-12],
    "same and orthogonal": [0.0, 0.0, RIGHT_ANGLE],
}


@pytest.mark.parametrize("name", KNOWN_ANGLES)
def test_angles_that_are_known_are_found_to_rounding(name):
    angles = np.array(KNOWN_ANGLES[name])
    a, b = at_angles(angles, 9)
    np.testing.assert_allclose(principal_angles(a, b), angles, rtol=0, atol=3e-15)
    np.testing.assert_allclose(principal_angles(b, a), angles, rtol=0, atol=3e-15)


@pytest.mark.parametrize(("ra", "rb"), [(1, 1), (4, 4), (5, 2), (2, 5), (12, 11)])
def test_angles_are_those_of_scipy(ra, rb):
    a, b = gaussian(20, ra, seed=1), gaussian(20, rb, seed=2)
    angles = principal_angles(a, b)
    assert angles.shape == (min(ra, rb),)
    assert np.all(np.diff(angles) >= 0)
    np.testing.assert_allclose(angles, scipy.linalg.subspace_angles(a, b)[::-1], atol=1e-7)


def test_angles_belong_to_the_spaces_and_not_to_their_bases():
    angles = np.array([0.2, 0.9])
    a, b = at_angles(angles, 7)
    turned = ortho_group(7, seed=5).rvs()
    skew = np.array([[1.0, 300.0], [0.0, 1e-3]])
    np.testing.assert_allclose(principal_angles(turned @ a @ skew, 1e6 * turned @ b), angles, atol=1e-9)


def test_a_space_has_no_angle_with_one_that_contains_it():
    a = gaussian(30, 8)
    np.testing.assert_allclose(principal_angles(a, a @ gaussian(8, 3)), 0, atol=1e-14)


def test_more_columns_than_half_the_rows_meet():
    """Dimensions 6 and 7 in R^10 share at least three."""
    angles = principal_angles(gaussian(10, 6), gaussian(10, 7, seed=1))
    np.testing.assert_allclose(angles[:3], 0, atol=1e-14)
    assert np.all(angles[3:] > 0.01)


@pytest.mark.parametrize(("angles", "expected"), [([0.0] * 4, 0), ([RIGHT_ANGLE] * 4, 1), ([math.pi / 6] * 2, 0.5)])
def test_mean_sine_runs_from_the_same_space_to_orthogonal_ones(angles, expected):
    assert mean_sine(angles) == pytest.approx(expected)


# --- leading subspaces of different draws


@pytest.mark.parametrize("size", [1e-8, 1e-3, 0.1])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_wedins_theorem_bounds_the_largest_angle(rank, size):
    """sin θ ≤ ‖E‖/(σ_r(F + E) − σ_{r+1}(F)), for matrices with a gap after each rank tried."""
    left, right = ortho_group(30, seed=1).rvs(), ortho_group(30, seed=2).rvs()
    matrix = left @ np.diag(np.r_[50, 30, 28, 15, 14, 12, np.linspace(3, 0.1, 24)]) @ right
    for seed in range(20):
        noise = gaussian(30, 30, seed=seed) * size
        bound = np.linalg.norm(noise, 2) / (
            scipy.linalg.svdvals(matrix + noise)[rank - 1] - scipy.linalg.svdvals(matrix)[rank]
        )
        largest = math.sin(leading_subspace_angles(matrix, matrix + noise, rank)[-1])
        assert 0.01 * bound < largest <= bound < 1


def drawn_columns(function, m, seeds, n=150):
    """F(X, Y) for the same X and independently drawn Y."""
    ball = SAMPLINGS["ball-independent"]
    rows = ball.points(0, m, 0, 0, n)
    return [BUILT_IN[function](rows, ball.points(1, m, seed, 0, n)) for seed in seeds]


def test_inner_products_identify_the_space_of_the_points():
    """X Yᵀ has the column space of X, whatever Y."""
    first, second = drawn_columns("inner_product", 4, (1, 2))
    angles = leading_subspace_angles(first, second, 4)
    np.testing.assert_allclose(angles, 0, atol=1e-13)
    np.testing.assert_allclose(
        principal_angles(SAMPLINGS["ball-independent"].points(0, 4, 0, 0, 150), first[:, :4]), 0, atol=1e-12
    )


def test_few_dimensions_identify_more_than_many():
    few, many = (mean_sine(leading_subspace_angles(*drawn_columns("exponential", m, (1, 2)), 5)) for m in (2, 300))
    assert few < 0.2 < 0.6 < many


def test_dense_noise_identifies_nothing():
    """Two independent spaces of dimension r in R^n, n much above r: the mean squared cosine is r/n."""
    cosines = np.cos(leading_subspace_angles(gaussian(400, 50), gaussian(400, 60, seed=1), 10))
    assert np.mean(cosines**2) == pytest.approx(10 / 400, abs=0.01)


def test_angles_of_a_matrix_with_itself_are_zero():
    matrix = function_matrix("exponential", "ball-independent", 5, 80)
    np.testing.assert_allclose(leading_subspace_angles(matrix, matrix.to_numpy(), 7), 0, atol=1e-13)


# --- compression and gap


@pytest.mark.parametrize(("shape", "rank"), [((30, 20), 7), ((9, 9, 9), 4), ((4, 5, 6), 6), ((3, 3, 3, 3), 9)])
def test_compression_counts_the_entries_of_factors(shape, rank):
    cores = random_train(shape, rank, np.random.default_rng(0))
    assert compression(shape, rank) == pytest.approx(math.prod(shape) / sum(core.size for core in cores))


def test_compression_of_a_matrix_is_the_formula():
    assert compression((300, 200), 6) == pytest.approx(300 * 200 / (6 * 500))
    assert compression((10, 10), 10) == 0.5
    found = approximate(function_matrix("exponential", "ball-independent", 3, 60), 4, "svd", bound="tail")
    assert compression((60, 60), 4) == 60 * 60 / (found.left.size + found.right.size)


def test_compression_of_more_entries_than_a_float_holds_exactly():
    assert compression((10**9, 10**9), 1000) == pytest.approx(5e5, rel=1e-15)


def test_gaps_of_a_known_spectrum():
    values = [8.0, 8.0, 2.0, 0.0, 0.0]
    gaps = [singular_value_gap(values, rank) for rank in range(1, 6)]
    assert [gap.absolute for gap in gaps] == [0, 6, 2, 0, 0]
    assert [gap.relative for gap in gaps] == [0, 0.75, 1, 0, 0]
    assert singular_value_gap([3.0], 1) == SpectralGap(3.0, 1.0)


def test_gap_is_the_distance_to_the_matrices_without_one():
    """Moving two singular values to their mean takes a change of half the gap in the spectral norm."""
    matrix = function_matrix("gaussian", "ball-independent", 4, 40).to_numpy()
    u, s, vt = scipy.linalg.svd(matrix)
    gap = singular_value_gap(s, 5)
    s[4:6] = s[4:6].mean()
    assert np.linalg.norm(matrix - (u * s) @ vt, 2) == pytest.approx(gap.absolute / 2, rel=1e-9)


# --- non-negative factors

CYCLE = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]])
MATRICES = {
    "exponential": function_matrix("exponential", "ball-independent", 5, 60).to_numpy(),
    "gaussian": function_matrix("gaussian", "ball-symmetric", 3, 50).to_numpy(),
    "uniform": np.random.default_rng(1).uniform(size=(40, 25)),
    "sparse": np.random.default_rng(2).poisson(0.3, (30, 45)).astype(float),
    "cycle": CYCLE,
}


def test_rank_one_is_exact():
    matrix = np.outer(np.arange(1.0, 30), np.random.default_rng(0).uniform(size=17))
    found = nonnegative_error(matrix, 1)
    assert found.converged
    assert found.epsilon < 1e-13
    assert found.frobenius_error < 1e-13
    np.testing.assert_allclose(found.left @ found.right.T, matrix, atol=1e-12)


def test_rank_two_is_as_good_as_exact():
    """Non-negative matrices of rank 2 have non-negative factors of rank 2 (Cohen and Rothblum, 1993)."""
    random = np.random.default_rng(3)
    matrix = random.uniform(size=(30, 2)) @ random.uniform(size=(2, 20))
    found = nonnegative_error(matrix, 2, max_iter=20_000, tol=1e-8)
    assert found.converged
    assert found.frobenius_error < 1e-4


def test_rank_three_that_needs_four_non_negative_factors():
    """The smallest matrix whose non-negative rank is above its rank (Cohen and Rothblum, 1993)."""
    three, four = (nonnegative_error(CYCLE, rank, max_iter=5000, tol=1e-8) for rank in (3, 4))
    assert three.svd_epsilon < 1e-14
    assert three.epsilon > 0.1
    assert three.frobenius_error > 0.1
    assert four.frobenius_error < 1e-4


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("name", MATRICES)
def test_frobenius_error_is_at_least_the_tail_of_the_spectrum(name, rank):
    matrix = MATRICES[name]
    found = nonnegative_error(matrix, rank)
    tail = math.sqrt(np.sum(scipy.linalg.svdvals(matrix)[rank:] ** 2)) / np.linalg.norm(matrix)
    assert found.svd_frobenius_error == pytest.approx(tail, abs=1e-13)
    assert found.frobenius_error >= tail - 1e-13


@pytest.mark.parametrize("name", MATRICES)
def test_errors_are_those_of_the_factors_that_come_back(name):
    matrix = MATRICES[name]
    found = nonnegative_error(matrix, 3)
    assert found.left.shape == (matrix.shape[0], 3)
    assert found.right.shape == (matrix.shape[1], 3)
    assert min(found.left.min(), found.right.min()) >= 0
    errors = matrix - found.left @ found.right.T
    assert found.epsilon == pytest.approx(np.abs(errors).max() / matrix.max(), abs=1e-14)
    assert found.frobenius_error == pytest.approx(np.linalg.norm(errors) / np.linalg.norm(matrix), abs=1e-14)
    by_svd = approximate(matrix, 3, "svd", bound="tail")
    assert found.svd_epsilon == pytest.approx(by_svd.max_error / matrix.max(), abs=1e-12)


def test_the_first_vectors_are_non_negative_without_being_asked():
    """Perron and Frobenius: at rank 1 the truncated SVD is the best non-negative factorization."""
    for matrix in MATRICES.values():
        found = nonnegative_error(matrix, 1, tol=1e-8)
        assert found.frobenius_error == pytest.approx(found.svd_frobenius_error, rel=1e-6)


def test_an_answer_comes_again_and_scales_with_the_matrix():
    matrix = MATRICES["exponential"]
    found, again = nonnegative_error(matrix, 4, seed=2), nonnegative_error(matrix, 4, seed=2)
    assert np.array_equal(found.left, again.left)
    assert np.array_equal(found.right, again.right)
    for scale in (2.0**-40, 2.0**40):
        scaled = nonnegative_error(scale * matrix, 4, seed=2)
        assert (scaled.epsilon, scaled.iterations) == (found.epsilon, found.iterations)
        assert np.array_equal(scaled.left, scale * found.left)


def test_any_seed_of_the_project_will_do():
    found = [nonnegative_error(MATRICES["uniform"], 3, seed).frobenius_error for seed in (0, 1, 2**40)]
    assert max(found) < 1.02 * min(found)


def test_too_few_iterations_are_told_and_warn_of_nothing():
    found = nonnegative_error(MATRICES["uniform"], 4, max_iter=2)
    assert not found.converged
    assert found.iterations == 2
    assert nonnegative_error(MATRICES["uniform"], 4).converged


def test_a_matrix_known_by_blocks_is_factored():
    blocks = function_matrix("exponential", "ball-independent", 5, 60)
    assert nonnegative_error(blocks, 2).epsilon == nonnegative_error(MATRICES["exponential"], 2).epsilon


def test_empty_rows_and_columns_stay_empty():
    matrix = np.pad(MATRICES["uniform"], 2)
    found = nonnegative_error(matrix, 3)
    assert found.epsilon == pytest.approx(nonnegative_error(MATRICES["uniform"], 3).epsilon, rel=0.1)


# --- bad input

BASIS = np.eye(4)[:, :2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compression((5,), 1), "shape: (5,) is not that of a matrix or tensor; give two or more sizes"),
        (lambda: compression((5, 0), 1), "shape: (5, 0) is not that of a matrix or tensor"),
        (
            lambda: compression((5, 6), 6),
            "rank: 6 is not an integer between 1 and the largest rank of shape (5, 6) = 5",
        ),
        (lambda: compression((5, 6), 0), "rank: 0 is not an integer between 1"),
        (lambda: singular_value_gap([1.0, 2.0], 1), "values: [1.0, 2.0] are not singular values; give numbers of at"),
        (lambda: singular_value_gap([1.0, -1.0], 1), "values: [1.0, -1.0] are not singular values"),
        (lambda: singular_value_gap([1.0, math.nan], 1), "values: entry [0, 1] is nan; every entry must be finite"),
        (lambda: singular_value_gap(BASIS, 1), "values: array("),
        (lambda: singular_value_gap([2.0, 1.0], 3), "rank: 3 is not an integer between 1 and the number of values = 2"),
        (lambda: principal_angles([1.0, 2.0], BASIS), "a: shape (2,) is not that of a non-empty matrix"),
        (lambda: principal_angles(BASIS, BASIS[:3]), "b: 3 rows do not fit the 4 of a; pass as many"),
        (lambda: principal_angles(BASIS, np.ones((4, 2))), "b: its 2 columns span 1 dimensions; pass independent"),
        (lambda: principal_angles(np.zeros((4, 1)), BASIS), "a: its 1 columns span 0 dimensions; pass independent"),
        (lambda: leading_subspace_angles(BASIS, BASIS[1:], 1), "f2: 3 rows do not fit the 4 of f1; pass as many"),
        (lambda: leading_subspace_angles(BASIS, BASIS, 3), "rank: 3 is not an integer between 1 and min((4, 2) and"),
        (lambda: leading_subspace_angles(BASIS, np.full((4, 2), math.inf), 1), "f2: entry [0, 0] is inf"),
        (lambda: nonnegative_error([[1.0, -2.0]], 1), "matrix: entry [0, 1] is -2.0; non-negative factors need"),
        (lambda: nonnegative_error(np.zeros((2, 2)), 1), "matrix: all entries are 0, which leaves relative errors"),
        (lambda: nonnegative_error(BASIS, 3), "rank: 3 is not an integer between 1 and min(4, 2) = 2"),
        (lambda: nonnegative_error(BASIS, 1, seed=-1), "seed: -1 is not a non-negative integer"),
        (lambda: nonnegative_error(BASIS, 1, max_iter=0), "max_iter: 0 is out of range; give a whole number of at"),
        (lambda: nonnegative_error(BASIS, 1, tol=0.0), "tol: 0.0 is out of range; give a number strictly between 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(InputError) as refusal:
        call()
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
