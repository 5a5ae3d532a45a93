"""Lower bounds: known optima and figures, and never above an error that is reached or known."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import approximate, certificates, function_matrix, lower_bound
from pipeline.certificates import CertificateSettings, certified_bound, tail_bound
from pipeline.errors import InputError
from pipeline.experiments import EXPERIMENTS
from pipeline.hadamard_bounds import Certificate, HadamardPolynomial
from pipeline.passes import max_error
from pipeline.svd import Decompositions, SVDSettings, lapack_svd

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
REFERENCE = json.loads((BENCHMARKS / "reference_figures.json").read_text(encoding="utf-8"))["function_matrices"]


def bound_of(matrix, rank, **options):
    return certified_bound(Decompositions(matrix), rank, CertificateSettings(**options))


def tail_of(matrix, rank):
    return tail_bound(lapack_svd(np.asarray(matrix, dtype=float)), rank)


# --- ten kinds of small random matrices


def gaussian(random, n1, n2, rank):
    return random.standard_normal((n1, n2))


def uniform(random, n1, n2, rank):
    return random.uniform(0, 1, (n1, n2))


def signs(random, n1, n2, rank):
    return random.choice([-1.0, 1.0], (n1, n2))


def integers_and_noise(random, n1, n2, rank):
    low_rank = random.integers(-4, 5, (n1, rank)) @ random.integers(-4, 5, (rank, n2))
    return low_rank + 0.01 * random.standard_normal((n1, n2))


def kernel(random, n1, n2, rank):
    points = random.standard_normal((n1, 3))
    return np.exp(-np.linalg.norm(points[:, np.newaxis] - points, axis=-1))


def identity_and_noise(random, n1, n2, rank):
    return np.eye(n1) + 0.05 * random.uniform(-1, 1, (n1, n1))


def nearly_of_the_rank(random, n1, n2, rank):
    return random.standard_normal((n1, rank)) @ random.standard_normal((rank, n2)) + 1e-7 * random.standard_normal(
        (n1, n2)
    )


def sparse(random, n1, n2, rank):
    return random.standard_normal((n1, n2)) * (random.uniform(0, 1, (n1, n2)) < 0.15)


def wildly_scaled(random, n1, n2, rank):
    return random.standard_normal((n1, n2)) * 10.0 ** random.uniform(-6, 6, (n1, 1))


def permuted_blocks(random, n1, n2, rank):
    groups = random.integers(0, 4, n1)[:, np.newaxis] == random.integers(0, 4, n2)
    return groups * random.uniform(0.5, 1.5, (n1, n2))


KINDS = [
    gaussian,
    uniform,
    signs,
    integers_and_noise,
    kernel,
    identity_and_noise,
    nearly_of_the_rank,
    sparse,
    wildly_scaled,
    permuted_blocks,
]


@pytest.mark.parametrize("kind", KINDS)
def test_bound_is_never_above_an_error_that_is_reached(kind):
    for seed in range(200):
        random = np.random.default_rng([KINDS.index(kind), seed])
        n1, n2 = (int(n) for n in random.integers(5, 31, 2))
        rank = int(random.integers(1, 6))
        matrix = kind(random, n1, n2, rank)
        rank = min(rank, *matrix.shape)
        bound = bound_of(matrix, rank, iterations=12)
        assert tail_of(matrix, rank) <= bound
        assert bound <= max_error(matrix, *lapack_svd(matrix).balanced_factors(rank))
        if seed % 8 == 0 and matrix.any():
            assert bound <= approximate(matrix, rank, "ap", max_projections=150).max_error


@pytest.mark.parametrize("kind", KINDS)
def test_bound_is_never_above_a_planted_perturbation(kind):
    """Integer factors and a perturbation by signs times a power of two: its max norm is known without rounding."""
    for seed in range(40):
        random = np.random.default_rng([100 + KINDS.index(kind), seed])
        n1, n2 = (int(n) for n in random.integers(5, 31, 2))
        rank = int(random.integers(1, 4))
        size = kind(random, n1, n2, rank).shape
        left, right = random.integers(-4, 5, (size[0], rank)), random.integers(-4, 5, (rank, size[1]))
        if seed % 2:
            left[:, 0] = right[0] = 8  # pivots of one sign
        known = 2.0 ** -int(random.integers(0, 40))
        matrix = left @ right + known * random.choice([-1.0, 1.0], size)
        assert bound_of(matrix, rank, iterations=12) <= known


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("shifted", [False, True])
def test_every_polynomials_box_holds_every_low_rank_matrix_near(degree, shifted):
    """G itself is known: p(G), computed naively, lies in the box up to its own rounding, and has the stated rank."""
    for seed in range(30):
        random = np.random.default_rng([degree, shifted, seed])
        rank = 2
        exact = random.standard_normal((40, rank)) @ random.standard_normal((rank, 40))
        level = 0.2 * float(np.abs(exact).max(axis=1).min())
        matrix = exact + level * random.uniform(-1, 1, exact.shape)
        polynomial = HadamardPolynomial(degree, 0.3 * shifted, 0.7)
        box = polynomial.box(matrix, level)
        if box is None:
            continue
        inner = exact
        if degree > 0:
            pivots = np.abs(matrix).argmax(axis=1)
            inner = exact / np.take_along_axis(exact, pivots[:, np.newaxis], axis=1)
        chebyshev = np.polynomial.Chebyshev.basis(max(degree, 1))
        moved = -polynomial.centre / polynomial.width
        values = chebyshev(inner / 0.7 + moved) - chebyshev(moved) if degree > 0 else inner
        slack = 1e-12 * np.abs(values).max()
        assert np.all(box.low - slack <= values)
        assert np.all(values <= box.high + slack)
        s = np.linalg.svd(values, compute_uv=False)
        assert np.all(s[polynomial.rank(rank) :] <= 1e-12 * s[0])


def test_certificates_tail_is_below_a_known_one_and_near_it():
    """Orthogonal factors of exact entries: a Hadamard matrix over 16, a diagonal of powers of two."""
    hadamard = np.ones((1, 1))
    for _ in range(8):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    values = 2.0 ** -np.repeat(np.arange(16), 16)
    target = hadamard @ np.diag(values / 256) @ hadamard
    ones = np.ones(256)
    for rank in (1, 16, 100, 200):
        known = np.sqrt(np.sum(values[rank:] ** 2))
        tail = Certificate(HadamardPolynomial(), ones, ones, target).tail(rank)
        assert tail <= known
        assert tail == pytest.approx(known, rel=1e-8)


# --- known optima and figures


@pytest.mark.parametrize(("n", "rank"), [(6, 3), (16, 6), (28, 7), (36, 15), (276, 23), (10, 5)])
def test_identity_has_its_optimum_where_a_tight_frame_exists(n, rank):
    w = np.sqrt((n - rank) / (rank * (n - 1)))
    assert lower_bound(np.eye(n), rank) == pytest.approx(w / (1 + w), rel=1e-9)
    assert lower_bound(np.eye(n), rank) <= w / (1 + w)


@pytest.mark.parametrize(("n", "rank", "known"), [(256, 8, 0.36), (256, 16, 0.24995), (256, 32, 0.1421)])
def test_identity_reaches_the_known_bounds(n, rank, known):
    assert bound_of(np.eye(n), rank, iterations=80) >= known


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("exp_m10_ind_n400", 1.42),
        ("exp_m10_sym_n400", 1.50),
        ("exp_m300_ind_n400", 1.54),
        ("exp_m300_sym_n400", 1.36),
        ("quart_m10_ind_n400", 1.52),
        ("quart_m300_sym_n400", 1.24),
    ],
)
def test_reference_matrices_have_the_known_bounds(name, ratio):
    with np.load(BENCHMARKS / "reference_matrices.npz") as stored:
        matrix = stored[name].astype(np.float64)
    reached = REFERENCE[name]["minimax_prototype"]["thorough"]
    bound = lower_bound(matrix, REFERENCE[name]["r"])
    assert 0.97 * reached / ratio <= bound <= reached


# --- properties


@pytest.mark.parametrize("exponent", [-900, -40, 7, 900])
def test_bound_scales_exactly_with_powers_of_two(exponent):
    matrix = np.random.default_rng(2).standard_normal((20, 15))
    assert lower_bound(matrix * 2.0**exponent, 4) == pytest.approx(
        lower_bound(matrix, 4) * 2.0**exponent, rel=1e-12, abs=0
    )


@pytest.mark.parametrize("factor", [1e-300 / 3, -7.3, 1e299])
def test_bound_scales_with_any_factor(factor):
    matrix = np.random.default_rng(3).uniform(-1, 1, (20, 15))
    assert lower_bound(matrix * factor, 4) == pytest.approx(lower_bound(matrix, 4) * abs(factor), rel=1e-6, abs=0)


@pytest.mark.parametrize("shape", [(12, 30), (25, 25)])
def test_bound_is_that_of_the_transpose(shape):
    matrix = np.random.default_rng(4).standard_normal(shape)
    assert lower_bound(matrix.T, 3) == pytest.approx(lower_bound(matrix, 3), rel=2e-3)


def test_bound_is_the_same_again():
    matrix = function_matrix("exponential", "ball-symmetric", 100, 80).to_numpy()
    shared = Decompositions(matrix)
    best = [certified_bound(shared, rank, CertificateSettings()) for rank in (4, 8, 4)]
    assert best[0] == best[2] == lower_bound(matrix, 4)
    assert best[1] == lower_bound(matrix, 8)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([1e-300, 1e-150, 1.0, 1e150, 1e300]))
def test_entries_of_any_size_are_bounded_without_warnings(seed, rank, large):
    random = np.random.default_rng(seed)
    matrix = random.uniform(-1, 1, (8, 9)) * random.choice([1e-300, large], (8, 9))
    assert 0 <= lower_bound(matrix, rank) <= approximate(matrix, rank, "svd").max_error


def test_smallest_numbers_give_no_bound_above_them():
    assert 0 <= lower_bound(5e-324 * np.eye(3), 1) <= 5e-324


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("shape", [(7, 9), (60, 50), (200, 30)])
def test_matrix_of_exactly_that_rank_has_bound_zero(shape, rank):
    random = np.random.default_rng(rank)
    matrix = random.integers(-9, 10, (shape[0], rank)) @ random.integers(-9, 10, (rank, shape[1]))
    assert lower_bound(matrix, rank) == 0


@pytest.mark.parametrize("matrix", [np.zeros((4, 6)), np.full((5, 5), 0.3), np.arange(7.0)[np.newaxis], [[2.0]]])
def test_zero_constant_and_one_row_matrices_have_bound_zero(matrix):
    assert lower_bound(matrix, 1) == lower_bound(np.transpose(matrix), 1) == 0


def test_bound_falls_with_the_rank_to_zero():
    matrix = function_matrix("exponential", "ball-independent", 10, 40).to_numpy()
    bounds = [lower_bound(matrix, rank) for rank in range(1, 43)]
    assert all(high > low for high, low in pairwise(bounds[:40]))
    assert bounds[39:] == [0, 0, 0]


# --- settings


@pytest.mark.parametrize(("n", "rank"), [(2, 1), (6, 3), (16, 6), (100, 37)])
def test_identity_has_the_known_tail(n, rank):
    known = np.sqrt(n - rank) / n
    found = bound_of(np.eye(n), rank, bound="tail")
    assert found == pytest.approx(known, rel=1e-11)
    assert found <= known


def test_cheap_bound_and_no_iterations_are_the_tail():
    matrix = function_matrix("gaussian", "ball-independent", 5, 50).to_numpy()
    tail = bound_of(matrix, 5, bound="tail")
    assert tail == tail_of(matrix, 5) == bound_of(matrix, 5, iterations=0)
    assert tail < bound_of(matrix, 5, iterations=3) < bound_of(matrix, 5, iterations=30)


def test_automatic_iterations_follow_from_the_shape():
    plans = [CertificateSettings().plan((400, 400), rank) for rank in (1, 5, 10, 20, 200)]
    assert all(rows == columns and iterations >= 15 for rows, columns, iterations in plans)
    assert [rows for rows, _, _ in plans] == sorted(rows for rows, _, _ in plans)
    assert plans[0][0] < 400 == plans[2][0]
    assert CertificateSettings().plan((30, 20), 20)[2] == 0
    assert CertificateSettings(iterations=7).plan((400, 300), 1) == (400, 300, 7)


def test_small_rank_of_a_large_matrix_is_bounded_by_a_block():
    matrix = function_matrix("exponential", "ball-independent", 10, 300).to_numpy()
    rows, columns, iterations = CertificateSettings().plan(matrix.shape, 1)
    block = bound_of(matrix[:rows, :columns], 1, iterations=iterations)
    assert lower_bound(matrix, 1) == max(block, tail_of(matrix, 1)) == block


@pytest.mark.parametrize("iterations", ["auto", 7])
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((100, 10_000), (100, 10_000)),
        ((100, 90_000), (100, 22_500)),
        ((90_000, 100), (22_500, 100)),
        ((1500, 4000), (1500, 1500)),
        ((1600, 2000), (1600, 1600)),
        ((2000, 2000), (2000, 2000)),
    ],
)
def test_block_of_a_wide_or_tall_matrix_is_as_large_as_that_of_order_1500(shape, block, iterations):
    rows, columns, count = CertificateSettings(iterations=iterations).plan(shape, 99)
    assert count == 7 or count >= 15
    assert (rows, columns) == block
    assert rows * columns <= max(1500**2, min(shape) ** 2)


@pytest.mark.parametrize("tall", [False, True])
def test_wide_matrix_is_bounded_by_its_block_or_its_tail(monkeypatch, tall):
    """A long matrix's perturbation is larger in its first columns, or in the others."""
    random = np.random.default_rng(6)
    low_rank = random.integers(-4, 5, (12, 2)) @ random.integers(-4, 5, (2, 300))
    signs = random.choice([-1.0, 1.0], (12, 300))
    for first, others in ((1, 1 / 8), (1 / 8, 1)):
        sizes = np.where(np.arange(300) < 40, first, others)
        matrix = low_rank + sizes * signs
        with monkeypatch.context() as patch:
            patch.setattr(certificates, "_MOST_ENTRIES", 12 * 40)
            found = lower_bound(matrix.T if tall else matrix, 2)
        block, tail = lower_bound(matrix[:, :40], 2), tail_of(matrix, 2)
        assert found == pytest.approx(max(block, tail), rel=2e-3)
        assert (block > tail) == (first > others)
        assert tail <= found <= 1


# --- the leading block of a matrix too large for LAPACK


@pytest.mark.parametrize(
    ("function", "m", "rank"), [("exponential", 100, 10), ("gaussian", 3, 10), ("attention", 20, 5)]
)
def test_bound_from_the_leading_block_is_the_blocks_own(function, m, rank):
    matrix = function_matrix(function, "ball-independent", m, 200).to_numpy()
    shared = Decompositions(matrix, SVDSettings(driver="randomized", dense_limit=60))
    found = certified_bound(shared, rank, CertificateSettings())
    assert 0 < found == lower_bound(matrix[:60, :60], rank)
    assert found <= approximate(matrix, rank, "ap", max_projections=400).max_error


def test_bound_from_the_leading_block_stays_below_the_known_optimum():
    """276 equiangular lines in R^23: the best max error of rank 23 of the identity is 1/6."""
    shared = Decompositions(np.eye(276), SVDSettings(driver="randomized", dense_limit=100))
    assert np.sqrt(77) / 100 < certified_bound(shared, 23, CertificateSettings()) <= 1 / 6
    assert certified_bound(shared, 100, CertificateSettings()) == 0


# --- what is refused


@pytest.mark.parametrize("rank", [0, -1, 2.5, "3", None, float("nan")])
def test_rank_that_is_not_a_positive_integer_is_refused(rank):
    with pytest.raises(InputError, match=f"^rank: {rank!r} is not"):
        lower_bound(np.eye(3), rank)


@pytest.mark.parametrize("matrix", [[1.0, 2.0], np.zeros((0, 3)), [[np.nan]], [[1j]], np.zeros((2, 2, 2))])
def test_what_is_not_a_real_finite_matrix_is_refused(matrix):
    with pytest.raises(InputError, match=r"^matrix: "):
        lower_bound(matrix, 1)


@pytest.mark.parametrize("options", [{"bound": "welch"}, {"iterations": -1}, {"iterations": 2.5}, {"effort": 1}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValidationError):
        CertificateSettings(**options)


@pytest.mark.parametrize("size", [5e-324, 7 * 5e-324, 1e-310, 2.0**-1060])
def test_nothing_is_claimed_where_singular_values_underflow(size):
    """The best error of the identity of order four at rank three is a quarter, and a multiple's is its quarter."""
    assert lower_bound(size * np.eye(4), 3) <= size / 4


# --- what the tail bound rests on


@pytest.mark.parametrize("name", ["exponential", "graded", "signs", "tall"])
def test_tail_bound_is_what_a_verified_decomposition_proves(name):
    """LAPACK's stability is trusted for the singular values; residual and orthogonality bear it out."""
    random = np.random.default_rng(5)
    matrix = {
        "exponential": function_matrix("exponential", "ball-symmetric", 10, 120).to_numpy(),
        "graded": random.standard_normal((90, 90)) * np.logspace(0, -12, 90),
        "signs": np.sign(random.standard_normal((80, 80))),
        "tall": random.uniform(-1, 1, (200, 40)),
    }[name]
    matrix = np.ldexp(matrix, -np.frexp(np.abs(matrix).max())[1])
    verified = Certificate(HadamardPolynomial(), np.ones(len(matrix)), np.ones(matrix.shape[1]), matrix)
    for rank in (1, 5, 20):
        trusted = tail_bound(lapack_svd(matrix), rank) * np.sqrt(matrix.size)
        assert trusted == pytest.approx(verified.tail(rank), abs=1e-11 * np.linalg.norm(matrix))


@pytest.mark.parametrize(
    ("experiment", "quantity"),
    [("approximation", "lower_bound"), ("attention", "epsilon_bound"), ("epsilon_rank", "lower_bound")],
)
def test_stored_bounds_name_what_they_trust(experiment, quantity):
    text = EXPERIMENTS[experiment].quantity(quantity)
    assert "LAPACK's backward stability is trusted" in " ".join(map(str, vars(text).values()))
