"""Bounds of the literature: printed values, the proofs' inequalities, constants against derivatives, matrices."""

import math
from functools import partial

import numpy as np
import pytest

from pipeline import approximate, function_matrix
from pipeline.embedding import promised_epsilon
from pipeline.errors import InputError
from pipeline.functions import BUILT_IN
from pipeline.growth import Growth, constants
from pipeline.sampling import SAMPLINGS
from pipeline.theory import (
    BUILT_IN_BOUNDS,
    TAYLOR_EMBEDDING_THRESHOLD,
    analytical_rank,
    distance_bound,
    embedding_error,
    embedding_rank,
    hadamard_power_rank,
    identity_error,
    inner_product_bound,
    is_kernel,
    is_semidefinite,
    kernel_rank,
    latent_constants,
    latent_variable_rank,
    latent_variable_threshold,
    least_analytical_rank,
    limit_error,
    localized_distance_bound,
    multilinear_bound,
    polynomial_rank,
    second_stage,
    spectral_norm_rank,
    taylor_embedding_error,
    taylor_embedding_rank,
    taylor_factorization_rank,
    tensor_embedding_rank,
    third_stage,
    three_stages,
)

SIZES = np.array([1, 2, 10, 1e3, 1e6, 1e9, 1e100])
UNIT = Growth(1.0, 1.0)


def square(epsilon):
    return lambda n: embedding_rank(n, n, epsilon)


# --- values in print


def test_ranks_printed_for_the_inner_product():
    """Budzinskiy, section 1.3."""
    sizes = [10**5, 10**7, 10**9]
    assert embedding_rank(sizes, sizes, 0.1).tolist() == [21713, 30002, 38291]


def test_second_stage_of_the_inner_product():
    """Section 1.3 prints 18964; its own formula gives 18694, with two digits exchanged, and so less than n there."""
    assert second_stage(square(0.1)) == 18694
    assert square(0.1)(np.array([18692, 18693, 18694, 18695, 18964])).tolist() == [18694, 18694, 18694, 18694, 18720]


@pytest.mark.parametrize(("epsilon", "first"), [(0.9, 637), (0.5, 2448), (0.1, 86872), (0.01, 12250227)])
def test_any_matrix_is_approximated_only_when_n_is_extremely_large(epsilon, first):
    """Udell and Townsend on Theorem 1.0: "we need r < n, which only occurs when n is extremely large"."""
    rank = partial(spectral_norm_rank, epsilon=epsilon)
    assert second_stage(lambda n: rank(n) + 1) == first
    assert rank(first) < first
    assert rank(first - 1) >= first - 1


def test_theorem_4_2_says_nothing_until_n_is_large():
    """Udell and Townsend, remark after it: the bound is trivial until n exceeds it."""
    first = second_stage(lambda n: latent_variable_rank(n, n, 0.5, *latent_constants(1, UNIT)))
    ranks = latent_variable_rank([first - 1, first], [first - 1, first], 0.5, *latent_constants(1, UNIT))
    assert ranks[0] > first - 1
    assert ranks[1] <= first
    assert 240_000 < first < 250_000


def test_thresholds_of_appendix_b():
    rate = TAYLOR_EMBEDDING_THRESHOLD
    assert 1.596 < rate < 1.597
    assert math.exp(rate**2) == pytest.approx(1 + math.e**2 * rate)
    assert latent_variable_threshold([1, 2, 10]) == pytest.approx([-0.0855, 0.0638, 4.8434], abs=1e-4)


@pytest.mark.parametrize("epsilon", [0.001, 0.1, 0.9])
@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_theorem_2_1_is_worse_below_its_threshold(epsilon, factor):
    """Appendix B.1, already with C_u = C² mᵐ and C_v = 0, which are too small."""
    for m in range(2, 41):
        for share in (0.01, 0.5, 0.999):
            growth = Growth(factor, share * latent_variable_threshold(m))
            analytical = analytical_rank(epsilon, m, growth)
            least = latent_variable_rank(SIZES, SIZES, epsilon, factor**2 * float(m) ** m, 0)
            real = latent_variable_rank(SIZES, SIZES, epsilon, *latent_constants(m, growth))
            assert np.all((least > analytical) & (real >= least) | np.isinf(least))


@pytest.mark.parametrize("epsilon", [0.001, 0.1, 0.9])
@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_theorem_a_1_is_worse_above_its_threshold(epsilon, factor):
    """Appendix B.2; far below the threshold it can be better."""
    for rate in (TAYLOR_EMBEDDING_THRESHOLD, 1.7, 3.0):
        for m in range(1, 41):
            growth = Growth(factor, rate)
            embedded = taylor_embedding_rank(SIZES, SIZES, epsilon, m, growth)
            assert np.all(embedded > analytical_rank(epsilon, m, growth))
    assert taylor_embedding_rank(1e9, 1e9, 0.1, 50, UNIT) < analytical_rank(0.1, 50, UNIT)


# --- formulas


def test_analytical_rank_is_the_exact_binomial():
    for m in (1, 2, 3, 7, 20, 60):
        for rate in (0.01, 0.1, 1.0, 3.0):
            for epsilon in (0.5, 1e-3, 1e-9):
                terms = math.ceil(max(math.log(2 / epsilon), math.e**2 * m * rate))
                exact = math.comb(m + terms - 1, m)
                found = analytical_rank(epsilon, m, Growth(2.0, rate))
                assert found == float(exact)
                assert found <= math.e**m * max(2 / epsilon, (1 + math.e**2 * rate) ** m) * (1 + 1e-12)


def test_analytical_rank_is_infinite_exactly_where_it_overflows():
    finite = []
    for m in range(225, 245):
        terms = math.ceil(math.e**2 * m)
        finite.append(math.log2(math.comb(m + terms - 1, m)) < 1024)
        assert np.isfinite(analytical_rank(0.1, m, UNIT)) == finite[-1]
    assert set(finite) == {True, False}
    assert np.isinf(analytical_rank(0.1, [1000, 10**6], UNIT)).all()


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.5, 1.0, 1.5])
def test_latent_constants_are_the_series_of_the_proof(m, rate):
    terms = range(150)
    c_u = 4 * sum((m + s) ** m * rate ** (2 * s) / math.factorial(s // m) for s in terms)
    c_v = sum((m + s) ** m * 0.8 ** (2 * s) / math.factorial(s) for s in terms)
    assert latent_constants(m, Growth(2.0, rate), 0.8) == pytest.approx((c_u, c_v))
    assert c_u > 4 * m**m
    assert c_v > m**m


def test_latent_constants_overflow_to_infinity():
    c_u, c_v = latent_constants([5, 144, 10**6], Growth(1.0, [4.0, 0.1, 0.1]))
    assert np.isinf(c_u).all()
    assert np.isinf(c_v).tolist() == [False, True, True]
    assert np.isinf(latent_variable_rank(10, 10, 0.1, c_u, c_v)).all()


def test_latent_variable_rank_is_that_of_the_embedding_in_its_proof():
    """ε_JL = (ε/2)/(C_u + C_v + 1 + ε/2) in ⌈8 log(n1 + n2 + 1)/ε_JL²⌉."""
    for n1, n2, epsilon, c_u, c_v in ((5, 9, 0.5, 3.0, 2.0), (10**6, 10, 0.01, 1.0, 40.0)):
        embedded = epsilon / 2 / (c_u + c_v + 1 + epsilon / 2)
        assert latent_variable_rank(n1, n2, epsilon, c_u, c_v) == math.ceil(8 * math.log(n1 + n2 + 1) / embedded**2)


def test_taylor_factorization_is_never_below_the_analytical_rank_of_its_own_terms():
    for m in (1, 2, 3, 5):
        for epsilon in (0.5, 0.01):
            terms = math.ceil(max(2 * math.e * m * 0.3, math.log2(2 / epsilon)))
            rank = taylor_factorization_rank(epsilon, m, Growth(2.0, 0.3))
            assert rank == (terms + 1) * m**terms >= math.comb(m + terms, m)
            assert taylor_factorization_rank(epsilon, m, Growth(2.0, 0.6), 0.5) == rank


def recursion(r: int, t: int, p: int) -> int:
    """Lemma 4.1 of Budzinskiy, as it stands there."""
    if p == 0:
        return r if t else 1
    return 1 + sum(recursion(r, s, p - 1) for s in range(1, t + 1))


@pytest.mark.parametrize("p", range(5))
def test_hadamard_powers_have_the_rank_of_the_recursion(p):
    for r in (1, 7, 1000):
        assert hadamard_power_rank(r, range(9), p).tolist() == [recursion(r, t, p) for t in range(9)]


def test_taylor_bounds_are_those_of_the_theorems():
    growth = Growth(3.0, 0.7)
    for bound, reach, spread, rank in (
        (inner_product_bound(0.5, 2.0), 2.0, 2.0, lambda r, t: 1 + (t - 1) * r),
        (distance_bound(0.5, 2.0), 8.0, 8.0, lambda r, t: recursion(r, t - 1, 3)),
        (localized_distance_bound(3.0, 0.5, 2.0), 1.5, 16.0, lambda r, t: recursion(r, t - 1, 4)),
        (multilinear_bound(3, 2.0), 8.0, 8.0, lambda r, t: 1 + (t - 1) * r),
    ):
        t = math.ceil(math.e**2 * 0.7 * reach)
        assert bound.terms(growth) == t
        assert bound.error(0.2, t, growth) == pytest.approx(3 * (math.exp(-t) + 0.2 * (math.exp(0.7 * spread) - 1)))
        assert bound.rank(50, t) == rank(50, t)
        with pytest.raises(InputError, match=f"^t: {t - 1}.0 is out of range; give {t} to inf$"):
            bound.error(0.2, t - 1, growth)


def test_cut_series_are_polynomials_of_so_many_monomials():
    """Degree below t, in m products or in m + 2 (section 4: ρ = t − 1); numerically the rank is no larger."""
    growth, random = Growth(2.0, 0.3), np.random.default_rng(0)
    x, y = random.standard_normal((2, 60, 2)) / 3
    distances = ((x[:, None] - y) ** 2).sum(axis=-1)
    for bound, argument, added in ((inner_product_bound(), x @ y.T, 0), (distance_bound(), distances, 2)):
        for error in (1.0, 1e-3, 1e-6):
            t = max(int(bound.terms(growth)), math.ceil(math.log(2 / error)))
            monomials = math.comb(2 + added + t - 1, t - 1)
            assert bound.analytical_rank(error, 2, growth) == monomials
            cut = np.polynomial.polynomial.polyval(argument, 1 / np.arange(1.0, t + 1))
            assert np.linalg.matrix_rank(cut) <= monomials


def test_remainder_falls_as_claimed_from_the_first_t_on():
    """Stirling's formula in Corollary 3.7: (M a)ᵗ/t! ≤ e^−t for t ≥ e² M a."""
    for rate in (0.01, 0.3, 1.0, 4.0, 21.9):
        first = int(BUILT_IN_BOUNDS["Theorem 4.5"].terms(Growth(1.0, rate)))
        for t in range(first, first + 50):
            assert t * math.log(4 * rate) - math.lgamma(t + 1) <= -t


@pytest.mark.parametrize("bound", BUILT_IN_BOUNDS.values(), ids=BUILT_IN_BOUNDS)
@pytest.mark.parametrize("error", [1e-6, 0.01, 0.5])
def test_rank_for_an_error_is_the_least_over_t(bound, error):
    growth, n = Growth(2.0, 0.3), 10**6
    found = bound.rank_for_error(error, partial(embedding_rank, n, n), growth)
    ranks = []
    for t in range(int(bound.terms(growth)), 400):
        epsilon = (error / 2 - math.exp(-t)) / math.expm1(0.3 * bound.spread)
        if 0 < epsilon < 1:
            assert bound.error(epsilon, t, growth) == pytest.approx(error)
            ranks.append(float(bound.rank(embedding_rank(n, n, epsilon), t)))
    assert found == min(ranks)


def test_a_multilinear_product_of_two_is_an_inner_product():
    assert multilinear_bound(2, 1.3) == inner_product_bound(1.0, 1.3)
    assert tensor_embedding_rank([100, 200], 0.3, 9) == math.ceil(9 * math.log(2 * math.e * 20000) / 0.3**2)


def test_embedding_rank_inverts_the_promise_of_the_embedding():
    for n1, n2, rank in ((400, 300, 200), (10**5, 10**5, 21713), (7, 10**9, 5000)):
        assert embedding_rank(n1, n2, promised_epsilon(n1, n2, rank) * (1 + 1e-12)) == rank


def test_theorem_a_1_in_both_forms():
    growth = Growth(2.0, 0.5)
    wanted = taylor_embedding_error(0.1, 4, growth)  # above 1: the rank is that of a smaller ε
    assert wanted == pytest.approx(0.1 * 2 * math.exp(2.5))
    assert taylor_embedding_rank(50, 60, 0.1, 4, growth) == embedding_rank(50, 60, 0.01 / wanted)


# --- shape of the curves


def test_ranks_grow_with_n_and_fall_with_epsilon():
    tolerances = np.array([0.01, 0.1, 0.5, 0.99])
    for rank in (
        embedding_rank(SIZES[:, None], SIZES[:, None], tolerances),
        spectral_norm_rank(SIZES[:, None], tolerances),
        latent_variable_rank(SIZES[:, None], 5, tolerances, 3.0, 2.0),
        taylor_embedding_rank(SIZES[:, None], 5, tolerances, 3, UNIT),
        tensor_embedding_rank([SIZES[:, None]] * 3, tolerances, 27),
        *(
            bound.rank_for_error(tolerances, partial(embedding_rank, SIZES[:, None], 9), Growth(1.0, 0.2))
            for bound in BUILT_IN_BOUNDS.values()
        ),
    ):
        assert rank.shape == (7, 4)
        assert np.all(np.diff(rank, axis=0) >= 0)
        assert np.all(np.diff(rank, axis=1) <= 0)
        assert np.isfinite(rank).all()
        assert np.all(rank == np.ceil(rank))


def test_vectors_equal_scalars():
    n, epsilon, m = np.array([[5.0], [1e4], [1e12]]), np.array([0.9, 0.03]), np.array([[[1]], [[6]]])

    def log_ranks(n, epsilon, m):
        growth = constants("attention", "Theorem 3.8", m)
        yield inner_product_bound().rank_for_error(epsilon, partial(embedding_rank, n, n), growth)
        yield inner_product_bound().analytical_rank(epsilon, m, growth) + 0 * n
        yield analytical_rank(epsilon, m, growth) + 0 * n
        yield taylor_embedding_rank(n, n, epsilon, m, growth)
        yield taylor_factorization_rank(epsilon, m, growth) + 0 * n
        yield latent_variable_rank(n, n, epsilon, *latent_constants(m, growth))

    for ranks, *scalars in zip(
        log_ranks(n, epsilon, m), *(log_ranks(a, b, c) for c in (1, 6) for a in n[:, 0] for b in epsilon), strict=True
    ):
        assert ranks.shape == (2, 3, 2)
        assert ranks.ravel().tolist() == scalars


def test_three_stages_follow_each_other():
    rank, analytical = square(0.1), 25000.0
    second, third = second_stage(rank), third_stage(rank, analytical)
    n = np.array([1, second - 1, second, third - 1, third, 1e300])
    assert 18694 == second < third
    assert three_stages(n, rank, analytical).tolist() == [1, second - 1, second, rank(third - 1), 25000, 25000]
    assert rank(third - 1) <= 25000 < rank(third)


def test_crossovers_of_many_tolerances_at_once_are_those_of_each():
    tolerances = np.array([0.9, 0.3, 0.01])
    second, third = second_stage(square(tolerances)), third_stage(square(tolerances), 5000.0)
    for k, epsilon in enumerate(tolerances):
        assert second[k] == second_stage(square(epsilon))
        assert square(epsilon)(second[k] - 1) > second[k] - 1
        assert third[k] == third_stage(square(epsilon), 5000.0)


def test_crossovers_may_not_exist():
    assert second_stage(lambda n: n + np.inf) == np.inf
    assert third_stage(square(0.1), np.inf) == np.inf


LABELS = [
    *(name for name, function in BUILT_IN.items() if function.order == 2),
    "gaussian(scale=0.5)",
    "exponential(scale=3)",
    "polynomial(degree=3,offset=-0.5)",
    "polynomial(degree=3,offset=0)",
    "exponential_polynomial(offset=-0.5)",
    "exponential_polynomial(degree=3,offset=0.5)",
    "block_graphon(between=0.9)",
]


@pytest.mark.parametrize("label", LABELS)
def test_semidefinite_functions_are_so_and_no_others(label):
    """With the largest entry on the diagonal, which is 1 for a kernel."""
    draws = {name: SAMPLINGS[name].domain for name in ("ball-symmetric", "sphere-symmetric", "cube-symmetric")}
    for name, domain in draws.items():
        values = function_matrix(label, name, m=3, n=60, seed=1).to_numpy()
        largest = np.abs(values).max()
        definite = np.allclose(values, values.T) and np.linalg.eigvalsh(values / largest).min() > -1e-12
        if is_semidefinite(label, domain):
            assert definite
            assert np.diag(values).max() == largest
        if is_kernel(label):
            assert is_semidefinite(label, domain)
            assert np.all(np.diag(values) == 1)
    definite = {label for label in LABELS if is_semidefinite(label, "ball")}
    assert {label for label in LABELS if is_kernel(label)} < definite
    assert not definite & {"polynomial(degree=3,offset=-0.5)", "block_graphon(between=0.9)", "minimum_graphon", "tanh"}
    assert not is_semidefinite("gaussian(1).npy", "ball")  # the name of a file


@pytest.mark.parametrize("label", ["inner_product", "square", "cube", "polynomial", "polynomial(degree=3,offset=0)"])
def test_polynomials_have_the_rank_of_their_monomials(label):
    for m in (1, 2, 4):
        values = function_matrix(label, "ball-independent", m=m, n=60).to_numpy()
        assert np.linalg.matrix_rank(values) == polynomial_rank(label, m)
    assert np.isinf(polynomial_rank("gaussian", [1, 2])).all()


def test_least_analytical_rank_is_the_least_of_those_that_apply():
    growth = constants("gaussian", "Theorem 3.8", 2, "sphere")
    assert least_analytical_rank("gaussian", 2, 0.1, "sphere") == min(
        inner_product_bound().analytical_rank(0.1, 2, growth),
        analytical_rank(0.1, 2, growth),
    )
    ranks = least_analytical_rank("attention", [1, 2, 3], [[0.1], [1e-6]])
    assert ranks.shape == (2, 3)
    assert np.all(np.diff(ranks, axis=1) > 0)
    assert least_analytical_rank("identity", 7, 0.1) == 7
    assert np.isinf(least_analytical_rank("exponential", 7, 0.1))
    # few terms do for a function that hardly varies, more than the fewest for which its constants hold
    assert least_analytical_rank("quartic_gaussian(scale=10)", 2, 0.1) < 100


def test_embedding_error_inverts_the_rank_and_says_nothing_from_1_on():
    assert embedding_rank(1000, 50, embedding_error(1000, 50, 700)) == pytest.approx(700, abs=1)
    assert np.isnan(embedding_error(1000, 1000, [100, 134])).all()
    assert embedding_error(1000, 1000, 135) < 1


# --- what is promised is attained


@pytest.mark.parametrize("name", ["cauchy", "exponential", "gaussian"])
def test_random_embedding_attains_the_error_of_a_kernel_at_its_rank(name):
    n, epsilon = 400, 0.75
    rank = int(kernel_rank(n, n, epsilon))
    assert rank < n / 1.8
    found = approximate(function_matrix(name, "sphere-independent", m=50, n=n), rank, "random_embedding", bound="tail")
    assert found.lower_bound <= found.max_error <= epsilon


def test_construction_of_theorem_3_8_attains_its_error_at_its_rank():
    """h(z) = exp(z/5) cut after two terms, the linear one embedded."""
    n, epsilon, bound, growth = 400, 0.8, inner_product_bound(), Growth(math.exp(0.2), 0.2)
    rank = int(embedding_rank(n, n, epsilon))
    products = function_matrix("inner_product", "sphere-independent", m=600, n=n)
    found = approximate(products, rank, "random_embedding", bound="tail")
    assert 1 + rank == bound.rank(rank, 2) < n / 2
    error = np.abs(np.exp(products.to_numpy() / 5) - 1 - found.left @ found.right.T / 5).max()
    assert 0.02 < error <= bound.error(epsilon, 2, growth) < 0.4


@pytest.mark.parametrize("epsilon", [0.1, 1e-4, 1e-9])
def test_truncated_svd_attains_the_error_of_the_analytical_ranks(epsilon):
    for m in (1, 2):
        matrix = function_matrix("attention", "ball-independent", m=m, n=250)
        growth = constants("attention", "Example 1.2", m)
        exponential = constants("attention", "Theorem 3.8", m)
        norm = math.exp(math.sqrt(m))
        for rank in (
            analytical_rank(epsilon, m, growth),
            inner_product_bound().analytical_rank(epsilon, m, exponential),
        ):
            assert rank < 250
            assert approximate(matrix, int(rank), "svd", bound="tail").max_error <= epsilon * norm


def test_ranks_are_above_what_the_identity_needs():
    """It is the limit of kernels; a rank r has error at least 1/(1 + √(r(n − 1)/(n − r))) (Welch)."""
    for epsilon in (0.03, 0.1, 0.3, 0.9):
        n = np.geomspace(second_stage(square(epsilon)) + 1, 1e12, 30).round()
        rank = kernel_rank(n, n, epsilon)
        assert np.all(1 / (1 + np.sqrt(rank * (n - 1) / (n - rank))) <= epsilon)


@pytest.mark.parametrize(("n", "rank"), [(6, 3), (16, 6), (28, 7)])
def test_equiangular_tight_frames_attain_the_error_of_the_identity(n, rank):
    assert approximate(np.eye(n), rank, budget="thorough").max_error == pytest.approx(identity_error(n, rank), rel=1e-6)


def test_error_of_the_identity_falls_to_zero_at_full_rank():
    errors = identity_error(40, np.arange(1, 43))
    assert errors[0] == pytest.approx(1 / 2)
    assert (np.diff(errors[:40]) < 0).all()
    assert errors[39:].tolist() == [0, 0, 0]
    assert identity_error(1, 1) == 0


@pytest.mark.parametrize(
    "label", ["exponential", "gaussian(scale=2)", "quartic_gaussian", "cos", "polynomial(degree=3)"]
)
@pytest.mark.parametrize("sampling", ["ball-symmetric", "sphere-symmetric"])
def test_limit_is_a_lower_bound_in_many_dimensions_and_not_a_wide_one(label, sampling):
    n, rank, m = 40, 6, 30_000
    matrix = function_matrix(label, sampling, n=n, m=m, seed=3).to_numpy()
    beside = matrix[~np.eye(n, dtype=bool)]
    distance = np.ptp(beside) / np.abs(matrix).max()
    assert distance < 0.1
    found = approximate(matrix, rank).max_error / np.abs(matrix).max()
    limit = limit_error(label, n, rank)
    assert limit - distance < found < 1.45 * limit


@pytest.mark.parametrize("label", ["sign", "step", "attention", "minimum_graphon", "piecewise", "own:function"])
def test_functions_that_jump_or_change_with_m_have_no_limit(label):
    assert np.isnan(limit_error(label, [10, 20], 5)).all()


def test_theorems_for_the_gaussian_in_order_of_strength():
    """Theorem 5.2 needs no series; on the sphere the inner product, in the ball the distance costs more."""
    n = np.geomspace(10, 1e15, 6).round()
    ranks = [kernel_rank(n, n, 0.1)]
    for theorem, domain in (("Theorem 3.8", "sphere"), ("Theorem 3.8", "ball"), ("Corollary 4.8", "ball")):
        growth = constants("gaussian", theorem, 1, domain)
        ranks.append(BUILT_IN_BOUNDS[theorem].rank_for_error(0.1, partial(embedding_rank, n, n), growth))
    assert np.all(np.diff(ranks, axis=0) > 0)


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: embedding_rank(10, 10, 1.0), "epsilon: 1.0 is out of range; give a number strictly between 0 and 1"),
        (lambda: embedding_rank(10, 10, [0.5, 0.0]), "epsilon: 0.0 is out of range"),
        (lambda: embedding_rank(10, 10, math.nan), "epsilon: nan is out of range"),
        (lambda: kernel_rank(0, 10, 0.1), "n1: 0.0 is out of range; give a whole number of at least 1"),
        (lambda: embedding_rank(10, 2.5, 0.1), "n2: 2.5 is out of range; give a whole number of at least 1"),
        (lambda: spectral_norm_rank("many", 0.1), "n: 'many' is not a number; give a whole number of at least 1"),
        (lambda: spectral_norm_rank(math.inf, 0.1), "n: inf is out of range"),
        (lambda: tensor_embedding_rank([5, 5, -1], 0.1, 27), "n3: -1.0 is out of range"),
        (lambda: tensor_embedding_rank([5, 5], 0.1, 0), "constant: 0.0 is out of range; give a positive finite number"),
        (lambda: analytical_rank(0.1, 0, UNIT), "m: 0.0 is out of range; give a whole number of at least 1"),
        (lambda: analytical_rank(0.1, 1, Growth(0.5, 1)), "factor: 0.5 is out of range; give a C of at least 1"),
        (lambda: latent_variable_rank(1, 1, 0.1, -1, 1), "c_u: -1.0 is out of range; give a number of at least 0"),
        (lambda: latent_constants(2, UNIT, 0), "radius: 0.0 is out of range; give a positive finite number"),
        (lambda: Growth(1.0, math.nan), "rate: nan is out of range; give a positive finite number"),
        (lambda: hadamard_power_rank(3, -1, 2), "t: -1.0 is out of range; give a whole number of at least 0"),
        (lambda: inner_product_bound(norm=-1), "norm: -1.0 is out of range; give a positive finite number"),
        (lambda: inner_product_bound().rank_for_error(0, square(0.1), UNIT), "error: 0.0 is out of range"),
        (lambda: three_stages(0, square(0.1), 5), "n: 0.0 is out of range; give a whole number of at least 1"),
        (lambda: three_stages(5, square(0.1), -5), "analytical: -5.0 is out of range; give a number of at least 0"),
        (lambda: third_stage(square(0.1), math.nan), "analytical: nan is out of range"),
        (lambda: hadamard_power_rank(-5, 2, 1), "rank: -5.0 is out of range; give a number of at least 0"),
        (lambda: hadamard_power_rank("a", 2, 1), "rank: 'a' is not a number"),
        (lambda: hadamard_power_rank(3, 2, [1, 2]), "p: [1.0, 2.0] is not one number; call once for each"),
        (lambda: inner_product_bound([1, 2]), "norm: [1.0, 2.0] is not one number"),
        (lambda: tensor_embedding_rank([], 0.1, 27), "shape: [] is not a list of two sizes or more"),
        (lambda: tensor_embedding_rank(5, 0.1, 27), "shape: 5 is not a list of two sizes or more"),
        (lambda: analytical_rank(0.1, 5, Growth(1, 1, order=3)), "order: 3 is finite; this bound takes derivatives of"),
        (lambda: latent_constants(2, Growth(1, 1, order=3)), "order: 3 is finite"),
        (lambda: taylor_embedding_error(0.1, 2, Growth(1, 1, order=3)), "order: 3 is finite"),
        (lambda: taylor_factorization_rank(0.1, 2, Growth(1, 1, order=3)), "order: 3 is finite"),
        (lambda: Growth(1, 1, order=math.nan), "order: nan is out of range; give a number of at least 1, or inf"),
        (lambda: Growth(1, 1, order=-3), "order: -3.0 is out of range"),
        (lambda: Growth(1, 1, order="x"), "order: 'x' is not a number"),
        (lambda: identity_error(5, 0), "rank: 0.0 is out of range; give a whole number of at least 1"),
        (lambda: limit_error("gaussian", 5, "all"), "rank: 'all' is not a number"),
    ],
)
def test_bad_numbers_are_refused_in_one_line(call, message):
    with pytest.raises(InputError) as refusal:
        call()
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
