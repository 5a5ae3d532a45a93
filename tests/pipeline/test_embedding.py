"""Random embeddings: the theorem's promise, spectral measures, unbiasedness, the r^(-1/2) law, and exact cases."""

from dataclasses import dataclass
from functools import cache
from math import ceil, exp, log, sqrt

import numpy as np
import pytest

from pipeline.embedding import EmbeddingSettings, promised_epsilon, random_embedding
from pipeline.errors import InputError
from pipeline.functions import BUILT_IN, GeneratingFunction
from pipeline.matrix import FunctionMatrix, function_matrix
from pipeline.svd import Decomposition, lapack_svd

KERNELS = ["exponential", "gaussian", "cauchy"]
CLOSED_FORMS = [
    ("exponential", "fourier"),
    ("gaussian", "fourier"),
    ("cauchy", "fourier"),
    ("attention", "fourier"),
    ("inner_product", "taylor"),
    ("attention", "taylor"),
    ("gaussian", "taylor"),
]


@dataclass(frozen=True)
class Unreadable:
    """A matrix of which only the shape may be looked at."""

    shape: tuple[int, int]

    def block(self, rows: slice, cols: slice) -> np.ndarray:
        raise AssertionError("the matrix was read")


def no_decomposition() -> Decomposition:
    raise AssertionError("the matrix was decomposed")


def from_points(matrix, rank, features="auto", seed=0, **settings):
    """Embed a function-generated matrix without its entries."""
    chosen = EmbeddingSettings(features=features, **settings)
    return random_embedding(Unreadable(matrix.shape), rank, chosen, seed, no_decomposition, matrix)


def from_entries(values, rank, seed=0, **settings):
    """Embed a matrix that nothing but its entries is known of."""
    return random_embedding(values, rank, EmbeddingSettings(**settings), seed, lambda: lapack_svd(values))


def error(values, left, right):
    return float(np.abs(values - left @ right.T).max())


def spread_points(name, m, size=6, scale=1.0):
    random = np.random.default_rng(m)
    x, y = (random.uniform(-scale, scale, (size, m)) / sqrt(m) for _ in range(2))
    return FunctionMatrix(BUILT_IN[name], (x, y))


RANDOM = np.random.default_rng(11)
PLAIN = {
    "identity": np.eye(120),
    "triangle of ones": np.tril(np.ones((150, 150))),
    "noise": RANDOM.standard_normal((150, 200)),
    "columns of many sizes": RANDOM.standard_normal((150, 140)) * np.exp(2 * RANDOM.standard_normal(140)),
    "a row and a column of zeros": np.pad(RANDOM.uniform(0, 1, (140, 130)), ((1, 0), (0, 1))),
    "noise with outliers": RANDOM.standard_cauchy((140, 140)),
    "quartic": function_matrix("quartic_gaussian", "ball-independent", 5, 180).to_numpy(),
}


# --- the promise


@pytest.mark.parametrize(("n", "rank"), [(10**5, 21713), (10**7, 30002), (10**9, 38291)])
def test_epsilon_is_a_tenth_at_the_ranks_printed_in_the_paper(n, rank):
    """Budzinskiy, section 1.3."""
    assert promised_epsilon(n, n, rank) <= 0.1 < promised_epsilon(n, n, rank - 1)


@pytest.mark.parametrize(("n1", "n2"), [(1, 1), (400, 400), (30, 5000)])
def test_failure_is_as_improbable_as_promised_at_every_rank(n1, n2):
    threshold = 9 * log(3 * n1 * n2)
    epsilons = [promised_epsilon(n1, n2, rank) for rank in range(1, 4 * ceil(threshold))]
    assert epsilons == sorted(epsilons, reverse=True)
    for rank, epsilon in enumerate(epsilons, start=1):
        assert (epsilon < 1) == (rank > threshold)
        failure = 2 * n1 * n2 * exp(-rank * (epsilon - log(1 + epsilon)) / 2)
        assert failure <= 2 / 3 * (3 * n1 * n2) ** -0.38 < 0.44


def test_parallel_rows_fail_no_more_often_than_by_chernoff():
    """The worst case of one entry: a Gaussian R of 20 columns on equal vectors."""
    matrix = function_matrix("inner_product", "sphere-symmetric", 40, 1)
    failures = 0
    for seed in range(1000):
        left, right, guarantee = from_points(matrix, 20, seed=seed)
        failures += error(matrix.to_numpy(), left, right) > guarantee
    epsilon = promised_epsilon(1, 1, 20)
    assert 0 < failures / 1000 <= 2 * exp(-10 * (epsilon - log(1 + epsilon)))


def promised_share(n1, n2, rank):
    epsilon = promised_epsilon(n1, n2, rank)
    return 1 - 2 * n1 * n2 * exp(-rank * (epsilon - log(1 + epsilon)) / 2)


@pytest.mark.parametrize("epsilon", [0.95, 0.7])
@pytest.mark.parametrize("m", [2, 20, 500])
@pytest.mark.parametrize(("name", "features"), CLOSED_FORMS)
def test_guarantee_of_features_holds_at_the_theorems_rank(name, features, m, epsilon):
    """n = 300, where the theorem promises at least 99.5 %."""
    matrix = function_matrix(name, "ball-independent", m, 300, seed=m)
    values = matrix.to_numpy()
    rank = ceil(9 * log(3 * 300 * 300) / epsilon**2)
    held = []
    for seed in range(3):
        left, right, guarantee = from_points(matrix, rank, features, seed)
        constant = exp(sqrt(m)) if name == "attention" else 1.0
        assert guarantee <= epsilon * constant
        held.append(error(values, left, right) <= guarantee + 1e-13 * constant)
    assert np.mean(held) >= promised_share(300, 300, rank) > 0.99


@pytest.mark.parametrize("rank", [1, 2, 25, 120])
@pytest.mark.parametrize("name", PLAIN)
def test_guarantee_of_factorizations_holds_at_every_rank(name, rank):
    values = PLAIN[name]
    held = []
    for seed in range(5):
        left, right, guarantee = from_entries(values, rank, seed)
        held.append(error(values, left, right) <= guarantee + 1e-13 * np.abs(values).max())
    assert np.mean(held) >= promised_share(*values.shape, rank)


# --- the features


def standard_deviation(matrix, rank):
    """Of cosine and sine at r/2 frequencies: sqrt((1 + κ(2z) − 2κ(z)²)/r)."""
    once, twice = matrix.to_numpy(), matrix.function(2 * matrix.x, 2 * matrix.y)
    return np.sqrt((1 + twice - 2 * once**2) / rank)


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
@pytest.mark.parametrize("m", [1, 3, 40])
@pytest.mark.parametrize("name", KERNELS)
def test_spectral_measure_is_the_kernels(name, m, scale):
    """Fifty thousand frequencies, at small and at large distances."""
    matrix = spread_points(name, m, scale=scale)
    left, right, _ = from_points(matrix, 100_000, "fourier")
    deviation = (left @ right.T - matrix.to_numpy()) / standard_deviation(matrix, 100_000)
    assert np.abs(deviation).max() < 5
    assert np.sqrt(np.mean(deviation**2)) > 0.2


@pytest.mark.parametrize("name", KERNELS)
def test_variance_of_fourier_features_is_the_stated_one_and_less_than_others(name):
    matrix = spread_points(name, 4)
    values = matrix.to_numpy()
    draws = np.stack(
        [np.matmul(left, right.T) for left, right, _ in (from_points(matrix, 8, "fourier", s) for s in range(2000))]
    )
    assert np.mean((draws - values) ** 2, axis=0) == pytest.approx(standard_deviation(matrix, 8) ** 2, rel=0.2)
    random_phase = (1 + matrix.function(2 * matrix.x, 2 * matrix.y) / 2 - values**2) / 8
    gaussian = (1 + values**2) / 8
    assert np.all(np.var(draws, axis=0) < np.minimum(random_phase, gaussian))


@pytest.mark.parametrize("rank", [1, 5, 6])
@pytest.mark.parametrize(("name", "features"), [*CLOSED_FORMS, ("quartic_gaussian", "factorization")])
def test_mean_over_seeds_tends_to_the_matrix_at_the_monte_carlo_rate(name, features, rank):
    matrix = function_matrix(name, "ball-independent", 7, 8)
    values = matrix.to_numpy()
    draws = []
    for seed in range(1600):
        if features == "factorization":
            left, right, _ = from_entries(values, rank, seed)
        else:
            left, right, _ = from_points(matrix, rank, features, seed)
        draws.append(left @ right.T)
    means = np.mean(np.reshape(draws, (16, 100, 8, 8)), axis=1)
    of_hundred = sqrt(np.mean((means - values) ** 2))
    of_all = sqrt(np.mean((means.mean(axis=0) - values) ** 2))
    single = sqrt(np.mean((np.array(draws) - values) ** 2))
    assert single / of_hundred == pytest.approx(10, rel=0.3)
    assert single / of_all == pytest.approx(40, rel=0.5)


LAW = {
    "exponential": function_matrix("exponential", "ball-independent", 50, 150),
    "gaussian": function_matrix("gaussian", "sphere-symmetric", 1000, 150),
    "cauchy": function_matrix("cauchy", "ball-symmetric", 10, 150),
    "inner_product": function_matrix("inner_product", "sphere-independent", 1500, 150),
}


@pytest.mark.parametrize("name", [*LAW, "noise"])
def test_error_falls_with_the_square_root_of_the_rank(name):
    ranks = [8, 16, 32, 64, 128] if name == "noise" else [8, 32, 128, 512, 1024]
    values = PLAIN["noise"] if name == "noise" else LAW[name].to_numpy()
    medians = []
    for rank in ranks:
        found = [
            from_entries(values, rank, s) if name == "noise" else from_points(LAW[name], rank, seed=s) for s in range(7)
        ]
        medians.append(np.median([error(values, left, right) for left, right, _ in found]))
    slope = np.polyfit(np.log(ranks), np.log(medians), 1)[0]
    assert -0.58 < slope < -0.42


@pytest.mark.parametrize("sampling", ["ball-independent", "sphere-symmetric"])
@pytest.mark.parametrize("name", ["attention", "gaussian"])
def test_low_degrees_of_the_taylor_series_are_exact(name, sampling):
    """Columns that hold more of the series leave less to embed: 3, 5 and 9 degrees in two dimensions, then all."""
    matrix = function_matrix(name, sampling, 2, 100)
    errors = []
    for rank in (10, 20, 50, 250):
        left, right, guarantee = from_points(matrix, rank, "taylor")
        errors.append(error(matrix.to_numpy(), left, right))
        assert errors[-1] <= guarantee + 1e-12
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 30
    assert errors[3] < 1e-13


# --- exact cases


@pytest.mark.parametrize("rank", [6, 7, 50])
@pytest.mark.parametrize("sampling", ["ball-independent", "sphere-symmetric"])
def test_inner_product_of_few_dimensions_is_exact(sampling, rank):
    matrix = function_matrix("inner_product", sampling, 6, 70)
    left, right, guarantee = from_points(matrix, rank)
    assert (left.shape, right.shape, guarantee) == ((70, rank), (70, rank), 0)
    assert error(matrix.to_numpy(), left, right) < 1e-15


@pytest.mark.parametrize("rank", [4, 9])
def test_matrix_of_that_rank_keeps_its_own_factors(rank):
    random = np.random.default_rng(rank)
    values = random.standard_normal((50, 4)) @ random.standard_normal((4, 60))
    left, right, guarantee = from_entries(values, rank)
    assert guarantee == 0
    assert error(values, left, right) < 1e-13
    assert left.shape == (50, rank)


def test_zero_matrix_is_exact():
    left, right, guarantee = from_entries(np.zeros((4, 5)), 2)
    assert (error(np.zeros((4, 5)), left, right), guarantee) == (0, 0)


@pytest.mark.parametrize("name", KERNELS)
def test_pairs_of_cosine_and_sine_are_exact_at_equal_points(name):
    matrix = function_matrix(name, "ball-symmetric", 12, 40)
    left, right, _ = from_points(matrix, 10, "fourier")
    assert np.diagonal(left @ right.T) == pytest.approx(np.ones(40), abs=1e-14)


# --- factorizations with short rows


def constant(values, **settings):
    """The product of largest row norms: what the guarantee is a multiple of."""
    return from_entries(values, 8, **settings)[2] / promised_epsilon(*values.shape, 8)


@pytest.mark.parametrize("name", PLAIN)
def test_reweighting_never_lengthens_the_rows(name):
    values = PLAIN[name]
    balanced = lapack_svd(values).balanced_factors(min(values.shape))
    lengths = [float(np.prod([np.linalg.norm(factor, axis=1).max() for factor in balanced]))]
    lengths += [constant(values, reweightings=steps) for steps in (0, 1, 4, 30)]
    assert lengths[1] == pytest.approx(lengths[0], rel=1e-12)
    assert lengths[1:] == sorted(lengths[1:], reverse=True)
    assert lengths[-1] >= np.abs(values).max() * (1 - 1e-12)


def test_rows_come_near_the_factorization_norm_where_it_is_known():
    """It is 1 for a correlation matrix and √n for an orthogonal matrix of signs, rows and columns scaled or not."""
    signs = np.ones((1, 1))
    for _ in range(6):
        signs = np.block([[signs, signs], [signs, -signs]])
    correlation = function_matrix("cauchy", "ball-symmetric", 3, 64).to_numpy()
    scales = np.exp(-np.random.default_rng(0).exponential(1, (64, 1)))
    scales[0] = 1
    for values, norm in ((signs, 8), (correlation, 1), (np.eye(64), 1)):
        assert constant(values, reweightings=0) == pytest.approx(norm)
        assert constant(np.vstack([values, values * scales]), reweightings=100) == pytest.approx(norm, rel=0.02)


def test_triangle_of_ones_needs_shorter_rows_than_the_balanced():
    values = PLAIN["triangle of ones"]
    assert constant(values) < constant(values, reweightings=0) / 1.4


# --- which features


@pytest.mark.parametrize(
    ("name", "taken"),
    [*((kernel, "fourier") for kernel in KERNELS), ("inner_product", "taylor"), ("attention", "taylor")],
)
def test_auto_takes_the_functions_own_features(name, taken):
    matrix = function_matrix(name, "ball-independent", 9, 30)
    for auto, named in zip(from_points(matrix, 5), from_points(matrix, 5, taken), strict=True):
        assert np.array_equal(auto, named)


def test_auto_factorizes_any_other_matrix(user_module):
    name = user_module("def f(X, Y):\n    return X @ Y.T\n") + ":f"
    namesake = GeneratingFunction("gaussian", "-", "-", BUILT_IN["cauchy"].entries)
    for function in ("quartic_gaussian", name, namesake):
        matrix = function_matrix(function, "ball-independent", 9, 30)
        values = matrix.to_numpy()
        plain = from_entries(values, 5)
        found = random_embedding(matrix, 5, EmbeddingSettings(), 0, lambda values=values: lapack_svd(values), matrix)
        assert all(np.array_equal(one, other) for one, other in zip(found, plain, strict=True))


def test_attention_on_too_many_points_takes_fourier_features():
    matrix = function_matrix("attention", "ball-independent", 5, 40)
    fits, auto, fourier = (
        from_points(matrix, 6, gram_limit=80)[0],
        from_points(matrix, 6, gram_limit=79)[0],
        from_points(matrix, 6, "fourier")[0],
    )
    assert np.array_equal(auto, fourier)
    assert not np.array_equal(auto, fits)
    symmetric = function_matrix("attention", "ball-symmetric", 5, 40)
    assert np.array_equal(from_points(symmetric, 6, gram_limit=40)[0], from_points(symmetric, 6, "taylor")[0])


@pytest.mark.parametrize(
    ("name", "features", "told"),
    [
        ("exponential", "taylor", "function exponential; use fourier or factorization"),
        ("inner_product", "fourier", "function inner_product; use taylor or factorization"),
        ("quartic_gaussian", "fourier", "function quartic_gaussian; use factorization"),
        ("quartic_gaussian", "taylor", "function quartic_gaussian; use factorization"),
        ("attention", "taylor", "(60 points are more than gram_limit = 59 for 'taylor'); use fourier or factorization"),
        (None, "fourier", "a matrix without generating function; use factorization"),
        (None, "taylor", "a matrix without generating function; use factorization"),
    ],
)
def test_features_that_the_matrix_does_not_have_are_refused_in_one_line(name, features, told):
    matrix = name and function_matrix(name, "ball-independent", 3, 30)
    chosen = EmbeddingSettings(features=features, gram_limit=59)
    with pytest.raises(InputError, match=f"^features: '{features}'") as caught:
        random_embedding(Unreadable((30, 30)), 4, chosen, 0, no_decomposition, matrix)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("features", ["fourier", "taylor"])
def test_features_that_overflow_are_refused(features):
    with pytest.raises(InputError, match=r"^features: .*overflow.*use features = .factorization"):
        from_points(spread_points("attention", 4, scale=40.0), 3, features)


# --- properties


@pytest.mark.parametrize("rank", [1, 2, 7, 12])
@pytest.mark.parametrize("sampling", ["ball-independent", "sphere-symmetric"])
@pytest.mark.parametrize(("name", "features"), CLOSED_FORMS)
def test_factors_are_finite_and_have_their_shape_and_type(name, features, sampling, rank):
    matrix = function_matrix(name, sampling, 9, 25)
    left, right, guarantee = from_points(matrix, rank, features)
    assert left.shape == right.shape == (25, rank)
    assert left.dtype == right.dtype == np.float64
    assert np.isfinite(left).all()
    assert np.isfinite(right).all()
    assert isinstance(guarantee, float)
    assert np.linalg.matrix_rank(left @ right.T) <= rank
    assert np.array_equal(left, right) == (sampling == "sphere-symmetric")


@pytest.mark.parametrize("shape", [(5, 30), (30, 5), (1, 6), (6, 1)])
def test_rectangular_matrices_have_their_own_shapes(shape):
    random = np.random.default_rng(0)
    values = random.standard_normal(shape)
    left, right, _ = from_entries(values, 1)
    assert (left.shape, right.shape) == ((shape[0], 1), (shape[1], 1))
    points = FunctionMatrix(BUILT_IN["attention"], (random.random((shape[0], 4)), random.random((shape[1], 4))))
    for features in ("fourier", "taylor"):
        left, right, _ = from_points(points, 3, features)
        assert (left.shape, right.shape) == ((shape[0], 3), (shape[1], 3))


@cache
def drawn(features, rank, seed):
    matrix = function_matrix("gaussian", "ball-independent", 6, 30)
    found = from_entries(matrix.to_numpy(), rank, seed) if features == "factorization" else None
    return (found or from_points(matrix, rank, features, seed))[0]


@pytest.mark.parametrize("features", ["factorization", "fourier", "taylor"])
def test_same_seed_gives_the_same_bits_and_another_seed_or_rank_others(features):
    first = drawn(features, 12, 3)
    assert first.tobytes() == drawn.__wrapped__(features, 12, 3).tobytes()
    embedded = slice(-1, None)  # Taylor features begin with exact columns
    assert not np.allclose(first[:, embedded], drawn(features, 12, 4)[:, embedded])
    longer = drawn(features, 13, 3) * sqrt(13 / 12)
    assert not any(np.allclose(first[:, embedded], longer[:, [column]]) for column in range(13))


@pytest.mark.parametrize("exponent", [-900, -30, 30, 900])
def test_factorization_scales_with_the_matrix(exponent):
    values = PLAIN["noise"][:40, :50]
    _, _, guarantee = from_entries(values, 6)
    left, right, scaled = from_entries(values * 2.0**exponent, 6)
    assert scaled == pytest.approx(guarantee * 2.0**exponent, rel=1e-9, abs=0)
    assert error(values * 2.0**exponent, left, right) <= scaled
